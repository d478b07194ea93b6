//! ttyAMA0 as Linux's own PL011 driver has it, on a stock kernel: what the driver does to the device must work.

use std::fs;

use e2e::{Lab, Vmm, initrd};
use libtest_mimic::Trial;
use sha2::{Digest, Sha256};

use crate::SharedLab;
use crate::boot::{debian_6_12, linux};

pub(crate) fn trials(lab: &SharedLab) -> Vec<Trial> {
    let mut trials = vec![
        lab.trial("tty::the_baud_rate_changes", the_baud_rate_changes),
        lab.trial("tty::hung_up_and_opened_again", hung_up_and_opened_again),
        lab.trial("tty::xoff_stops_the_guest", xoff_stops_the_guest),
        lab.trial("tty::xon_lets_it_go_on", xon_lets_it_go_on),
        lab.trial("tty::any_byte_gets_out", any_byte_gets_out),
        lab.trial("tty::any_byte_gets_in", any_byte_gets_in),
    ];
    // The ways in which Linux stops a sender when nobody reads: by not emptying the FIFO, by RTS, by XOFF.
    for (name, flow) in [
        ("by_the_fifo", "-crtscts -ixoff"),
        ("by_rts", "crtscts -ixoff"),
        ("by_xoff", "-crtscts ixoff"),
    ] {
        trials.push(lab.trial(format!("tty::input_stops_{name}"), move |lab| {
            input_stops(lab, flow);
        }));
    }
    trials
}

/// Linux that runs a script on ttyAMA0.
fn tty(lab: &Lab, script: &str, more: &[&str]) -> Vmm {
    linux(lab, &debian_6_12(), "quiet", script, more)
}

fn the_baud_rate_changes(lab: &Lab) {
    // 24 MHz gives none of these exactly, and the last is its highest.
    let script = "for speed in 9600 115200 300 1500000; do stty $speed cs7 cstopb; stty -a; stty cs8 -cstopb; \
                  echo still here at $speed; read line; echo read $line; done";
    let mut running = tty(lab, script, &[]).with_input().start();
    for speed in ["9600", "115200", "300", "1500000"] {
        running.wait_for(&format!("speed {speed} baud"));
        running.wait_for(&format!("still here at {speed}"));
        running.type_in(format!("typed at {speed}\n").as_bytes());
        running.wait_for(&format!("read typed at {speed}"));
    }
    running.end().exits(0);
}

fn hung_up_and_opened_again(lab: &Lab) {
    // The console is elsewhere (a virtual terminal that nobody sees), so the last close shuts the port down: the driver takes
    // DTR and RTS back, masks and disables the PL011, and sets it all up again at the next open.
    let script = "for time in 1 2 3 4 5; do \
                  (stty hup -echo; echo open $time; read line; echo read $line) <>/dev/ttyAMA0 >&0 2>&1; done";
    let cmdline = format!("console=tty0 quiet panic=-1 init.run=\"{script}\"");
    let mut arguments = vec!["boot".into(), "--kernel".into(), debian_6_12()];
    arguments.extend([
        "--initrd".into(),
        initrd(),
        "--cmdline".into(),
        cmdline.into(),
    ]);
    let mut running = lab.vmm(arguments).with_input().start();
    for time in 1..=5 {
        running.wait_for(&format!("open {time}"));
        running.type_in(format!("line {time}\n").as_bytes());
        running.wait_for(&format!("read line {time}"));
    }
    running.end().exits(0);
}

/// Says `ready`, and after a line of input many lines more than the driver's buffer holds.
const TALKER: &str = "stty ixon -echo; echo ready; read go; seq 1 2000; echo all said";

/// As `stty` has them: Ctrl-S and Ctrl-Q.
const XOFF: &[u8] = b"\x13";
const XON: &[u8] = b"\x11";

fn xoff_stops_the_guest(lab: &Lab) {
    let mut running = tty(lab, TALKER, &["--timeout", "40"]).with_input().start();
    running.wait_for("ready");
    running.type_in(b"go\n");
    running.wait_for("100");
    running.type_in(XOFF);
    let outcome = running.end().exits(4);
    assert!(!outcome.stdout.contains("all said"), "{}", outcome.story());
}

fn xon_lets_it_go_on(lab: &Lab) {
    let mut running = tty(lab, TALKER, &[]).with_input().start();
    running.wait_for("ready");
    running.type_in(b"go\n");
    running.wait_for("100");
    running.type_in(XOFF);
    running.type_in(XON);
    let outcome = running.end().exits(0).says("all said");
    let said = outcome.stdout.replace('\r', "");
    let lines: String = (1..=2000).map(|n| format!("{n}\n")).collect();
    assert!(said.contains(&lines), "{}", outcome.story());
}

/// 64 KiB in which every byte value comes, in no simple order.
fn bytes() -> Vec<u8> {
    let mut state = 1_u32;
    (0..64 << 10)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

fn any_byte_gets_out(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let script = "stty raw -echo; head -c 65536 /dev/urandom > /said; sha256sum < /said; echo begin; cat /said";
    tty(lab, script, &["--console", "file:console"])
        .within(folder.path())
        .run()
        .exits(0);
    let console = fs::read(folder.path().join("console")).unwrap();
    let begin = b"  -\nbegin\n";
    let at = console
        .windows(begin.len())
        .position(|bytes| bytes == begin)
        .expect("the sum and the word");
    let sum = String::from_utf8_lossy(&console[at - 64..at]).into_owned();
    let said = &console[at + begin.len()..][..64 << 10];
    assert_eq!(format!("{:x}", Sha256::digest(said)), sum);
}

fn any_byte_gets_in(lab: &Lab) {
    let script = "stty raw -echo; echo now type; head -c 65536 | sha256sum; stty sane";
    let mut running = tty(lab, script, &[]).with_input().start();
    running.wait_for("now type");
    let bytes = bytes();
    running.type_in(&bytes);
    running.wait_for(&format!("{:x}", Sha256::digest(&bytes)));
    running.end().exits(0);
}

fn input_stops(lab: &Lab, flow: &str) {
    // Nobody reads until the tty's own 4 KiB are more than full: how long the guest waits changes what is tested, not what
    // comes out.
    let script = format!(
        "stty raw -echo {flow}; echo now type; sleep 3; head -c 20000 | sha256sum; stty sane"
    );
    let mut running = tty(lab, &script, &[]).with_input().start();
    running.wait_for("now type");
    let bytes: Vec<_> = bytes()
        .into_iter()
        .filter(|byte| ![XOFF[0], XON[0]].contains(byte))
        .take(20_000)
        .collect();
    running.type_in(&bytes);
    running.wait_for(&format!("{:x}", Sha256::digest(&bytes)));
    let outcome = running.end().exits(0);
    if flow.ends_with(" ixoff") {
        assert!(
            outcome.stdout.contains('\x13') && outcome.stdout.contains('\x11'),
            "it never asked for a pause: {}",
            outcome.story()
        );
    }
}
