//! The console: the caller's terminal and its keys, a pseudo-terminal, a socket; nothing typed is lost.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use e2e::{Lab, Line, OnTerminal, SAY_R, SPIN, Vmm, flat, initrd, payload};
use libtest_mimic::Trial;
use rustix::process::{Signal, kill_process};
use sha2::{Digest, Sha256};

use crate::boot::{debian_6_12, linux};
use crate::{SharedLab, alone};

pub(crate) fn trials(lab: &SharedLab) -> Vec<Trial> {
    let mut trials = vec![
        lab.trial(
            "console::the_terminal_comes_back_after_a_guest_and_after_an_error",
            comes_back_by_itself,
        ),
        lab.trial(
            "console::the_terminal_comes_back_while_it_is_stopped",
            comes_back_while_stopped,
        ),
        alone(
            "console::the_terminal_comes_back_when_the_emulator_is_killed",
            comes_back_when_the_emulator_is_killed,
        ),
        lab.trial(
            "console::the_terminal_comes_back_when_the_labs_side_is_killed",
            comes_back_when_the_labs_side_is_killed,
        ),
        lab.trial("console::keys_on_a_terminal", keys_on_a_terminal),
        lab.trial("console::a_pty", a_pty),
        lab.trial("console::a_socket", a_socket),
        lab.trial(
            "console::what_is_piped_before_the_guest_listens_is_not_lost",
            what_is_piped_early_is_not_lost,
        ),
        lab.trial("console::a_paste_of_64_kib", a_paste_of_64_kib),
    ];
    for (signal, code) in [
        (Signal::INT, 130),
        (Signal::TERM, 143),
        (Signal::HUP, 129),
        (Signal::QUIT, 131),
    ] {
        let name = format!(
            "console::the_terminal_comes_back_after_signal_{}",
            code - 128
        );
        trials.push(lab.trial(name, move |lab| comes_back_after(lab, signal, code)));
    }
    trials
}

/// A Linux with a shell on its console.
fn shell(lab: &Lab, more: &[&str]) -> Vmm {
    let kernel = debian_6_12();
    let initrd = initrd();
    let arguments = [
        "boot",
        "--kernel",
        kernel.to_str().unwrap(),
        "--initrd",
        initrd.to_str().unwrap(),
        "--cmdline",
        "console=ttyAMA0 panic=-1 quiet sysrq_always_enabled",
    ];
    lab.vmm(arguments.iter().chain(more))
}

/// A guest that says `R` and never ends. Its file has this name, and lies in this folder.
fn endless(folder: &Path, name: &str) -> [String; 5] {
    fs::write(folder.join(name), flat(&[SAY_R, SPIN])).unwrap();
    ["boot", "--format", "flat", "--kernel", name].map(str::to_owned)
}

fn keys_on_a_terminal(lab: &Lab) {
    let mut vmm = OnTerminal::start(shell(lab, &[]));
    vmm.terminal.wait_for("vmm: Ctrl-A H for help");
    assert!(vmm.is_raw());
    // Typed long before anybody listens.
    vmm.terminal.type_in(b"echo early $((6 * 7))\r");
    vmm.terminal.wait_for("early 42");
    vmm.terminal.type_in(b"\x01h");
    vmm.terminal.wait_for("Ctrl-A X quits");

    // Ctrl-C and Ctrl-Z are the guest's.
    vmm.terminal.type_in(b"echo sta''rted; cat\r");
    // Before this, the shell has the terminal in a mode of its own, in which nothing is echoed by the terminal.
    vmm.terminal.wait_for("started");
    vmm.terminal.type_in(b"twice\r");
    // By the terminal, and by `cat`.
    vmm.terminal.wait_for("twice");
    vmm.terminal.wait_for("twice");
    vmm.terminal.type_in(b"\x03");
    vmm.terminal.wait_for("^C");
    vmm.terminal.type_in(b"echo interrupted: $?\r");
    vmm.terminal.wait_for("interrupted: 130");

    vmm.terminal
        .type_in(b"stty raw -echo; echo 'rea''dy'; head -c 4 | od -An -tx1; stty sane\r");
    vmm.terminal.wait_for("ready");
    vmm.terminal.type_in(b"\x01\x01\x01c\x1a");
    vmm.terminal.wait_for("01 01 63 1a");

    vmm.terminal.type_in(b"\x01bh");
    vmm.terminal.wait_for("sysrq: HELP");

    assert!(vmm.is_raw());
    vmm.terminal.type_in(b"\x01x");
    vmm.end().exits(130);
}

fn comes_back_by_itself(lab: &Lab) {
    let kernel = payload();
    let kernel = kernel.to_str().unwrap();
    OnTerminal::start(lab.vmm(["boot", "--kernel", kernel]))
        .end()
        .exits(0)
        .says("all checks passed");
    OnTerminal::start(lab.vmm(["boot", "--kernel", kernel, "--memory", "1M"]))
        .end()
        .exits(2)
        .says("a guest has 4 MiB to 255 GiB");
}

fn comes_back_after(lab: &Lab, signal: Signal, code: i32) {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = OnTerminal::start(
        lab.vmm(endless(folder.path(), "spinner"))
            .within(folder.path()),
    );
    vmm.terminal.wait_for("R");
    assert!(vmm.is_raw());
    vmm.signal(signal);
    vmm.end().exits(code);
}

fn comes_back_while_stopped(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = OnTerminal::start(
        lab.vmm(endless(folder.path(), "spinner"))
            .within(folder.path()),
    );
    vmm.terminal.wait_for("R");
    for _ in 0..2 {
        vmm.signal(Signal::TSTP);
        vmm.wait_until_stopped();
        assert!(!vmm.is_raw());
        vmm.signal(Signal::CONT);
        // Without the end of a line: only a raw terminal passes this on.
        vmm.terminal.type_in(b"\x01h");
        vmm.terminal.wait_for("Ctrl-A X quits");
        assert!(vmm.is_raw());
    }
    vmm.terminal.type_in(b"\x01x");
    vmm.end().exits(130);
}

fn comes_back_when_the_emulator_is_killed() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let arguments = endless(folder.path(), "spinner");
    let vmm = Vmm::new(arguments.iter().map(String::as_str).chain(["--lab"]))
        .within(folder.path())
        .env("TMPDIR", scratch.path())
        .env("XDG_RUNTIME_DIR", scratch.path());
    let mut vmm = OnTerminal::start(vmm);
    vmm.terminal.wait_for("R");
    assert!(vmm.is_raw());
    let mark = vmm.mark();
    let emulator = mark.alive().into_iter().find(|pid| {
        let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
        name.is_ok_and(|name| name.starts_with("qemu"))
    });
    kill_process(emulator.expect("the lab runs in QEMU"), Signal::KILL).unwrap();
    vmm.end().exits(2).says("vmm: the lab is lost");
    mark.wait_until_gone(30).expect("no process is left");
}

/// Natively nobody is left to bring the terminal back.
fn comes_back_when_the_labs_side_is_killed(lab: &Lab) {
    if !lab.emulated() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let name = "this-one-is-killed";
    let mut vmm = OnTerminal::start(lab.vmm(endless(folder.path(), name)).within(folder.path()));
    vmm.terminal.wait_for("R");
    assert!(vmm.is_raw());
    // The brackets keep the pattern from finding itself.
    let kill = format!(
        "kill -9 $(ps -o pid,args | awk '/[{}]{}/ {{ print $1 }}')",
        &name[..1],
        &name[1..]
    );
    lab.vmm(["lab", "shell", "--", "sh", "-c", &kill])
        .run()
        .exits(0);
    vmm.end()
        .exits(2)
        .says("vmm: the lab's side of this verb was killed");
}

/// Starts `vmm` on a terminal that is not the guest's; where the guest's console is, as it says.
fn elsewhere(vmm: Vmm) -> (OnTerminal, PathBuf) {
    let mut vmm = OnTerminal::start(vmm);
    vmm.terminal.wait_for("vmm: console on ");
    vmm.terminal.wait_for("\r\n");
    let text = vmm.terminal.text();
    let path = text.split("console on ").nth(1).unwrap();
    let path = path.split("\r\n").next().unwrap().into();
    (vmm, path)
}

fn a_pty(lab: &Lab) {
    let (vmm, path) = elsewhere(shell(lab, &["--console", "pty"]));
    assert!(path.starts_with("/dev/pts"), "{}", path.display());
    let open = || {
        let terminal = File::options().read(true).write(true).open(&path).unwrap();
        Line::new(terminal)
    };
    let mut first = open();
    assert!(!vmm.is_raw());
    first.wait_for("/ # ");
    first.type_in(b"echo by''e; usleep 300000; echo kept $((2 + 3))\r");
    first.wait_for("bye");
    drop(first);
    let mut second = open();
    second.wait_for("kept 5");
    second.type_in(b"exit\r");
    second.wait_for("Power down");
    let outcome = vmm.end().exits(0);
    assert!(!outcome.stdout.contains("kept"), "{}", outcome.story());
}

fn a_socket(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    // As somebody leaves it who was killed.
    drop(UnixListener::bind(&path).unwrap());
    let place = ["--console", "unix:console"];
    let (vmm, told) = elsewhere(shell(lab, &place).within(folder.path()));
    assert_eq!(told, Path::new("console"));
    let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let connect = || Line::new(UnixStream::connect(&path).unwrap());

    let mut first = connect();
    first.wait_for("/ # ");
    assert_eq!(
        connect().to_its_end(),
        "vmm: somebody else is connected to this console\r\n"
    );
    shell(lab, &place)
        .within(folder.path())
        .run()
        .exits(2)
        .complains("somebody serves there already");
    first.type_in(b"echo by''e; usleep 300000; echo kept $((2 + 3))\r");
    first.wait_for("bye");
    drop(first);

    let mut second = connect();
    second.wait_for("kept 5");
    vmm.signal(Signal::TERM);
    vmm.end().exits(143);
    assert!(!path.exists());
}

fn what_is_piped_early_is_not_lost(lab: &Lab) {
    let mut vmm = shell(lab, &[]).with_input().start();
    vmm.type_in(b"echo first $((6 * 7))\nexit 3\n");
    vmm.end_input();
    vmm.end().exits(0).says("first 42").says("init: exit 3");
}

/// 64 KiB of every byte but Ctrl-A, which on a terminal is for `vmm`.
fn much() -> Vec<u8> {
    let bytes = (0..64_u32 << 10).map(|n| (n * 7 + n / 251) as u8);
    bytes.map(|byte| if byte == 1 { 2 } else { byte }).collect()
}

/// A Linux that sums what it is sent.
fn summing(lab: &Lab) -> Vmm {
    let command = "stty raw -echo; echo now type; head -c 65536 | sha256sum; stty sane";
    linux(lab, &debian_6_12(), "quiet", command, &[])
}

fn a_paste_of_64_kib(lab: &Lab) {
    let mut vmm = OnTerminal::start(summing(lab));
    vmm.terminal.wait_for("now type");
    vmm.terminal.type_in(&much());
    vmm.terminal
        .wait_for(&format!("{:x}", Sha256::digest(much())));
    vmm.end().exits(0);
}
