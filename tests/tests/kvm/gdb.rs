//! `vmm boot --gdb`: what gdb can do with a guest (tests/gdb/battery.py), and who may come in.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Lab, Running, Vmm, built, initrd, payload, root};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::{SharedLab, alone};

pub(crate) fn trials(lab: &SharedLab) -> Vec<Trial> {
    vec![
        lab.trial("gdb::the_payload_from_its_reset", |lab| {
            from_reset(lab, Guest::Payload);
        }),
        lab.trial("gdb::the_payload_while_it_runs", |lab| {
            while_it_runs(lab, Guest::Payload);
        }),
        lab.trial("gdb::linux_from_its_reset", |lab| {
            from_reset(lab, Guest::Linux);
        }),
        lab.trial("gdb::linux_while_it_runs", |lab| {
            while_it_runs(lab, Guest::Linux);
        }),
        lab.trial("gdb::one_debugger_at_a_time", one_at_a_time),
        lab.trial("gdb::rubbish_and_hanging_up_do_no_harm", rubbish),
        alone("gdb::other_machines_only_if_it_is_said", other_machines),
    ]
}

#[derive(Clone, Copy)]
enum Guest {
    /// Four CPUs that take turns (guest/src/debuggee.rs).
    Payload,
    /// Four CPUs that have nothing to do.
    Linux,
}

impl Guest {
    /// What is booted, and what has its symbols. Where the kernel lies is as it was linked.
    fn boot(self) -> (Vec<String>, PathBuf) {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        match self {
            Self::Payload => {
                let kernel = payload();
                let words = ["--kernel", &text(&kernel), "--cmdline", "debuggee"];
                (words.map(str::to_owned).to_vec(), kernel)
            }
            Self::Linux => {
                let cmdline =
                    "console=ttyAMA0 nokaslr init.run=\"echo ready; sleep 1000000\"".to_owned();
                let kernel = text(&built("nmi-only", "Image"));
                let words = [
                    "--kernel",
                    &kernel,
                    "--initrd",
                    &text(&initrd()),
                    "--cmdline",
                ];
                let mut words = words.map(str::to_owned).to_vec();
                words.push(cmdline);
                (words, built("nmi-only", "vmlinux"))
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Payload => "payload",
            Self::Linux => "linux",
        }
    }

    /// What the guest says when it does what it does for ever.
    fn wait_until_it_runs(self, guest: &mut Running) {
        match self {
            Self::Payload => (0..4).for_each(|_| guest.wait_for("takes turns")),
            Self::Linux => guest.wait_for("\nready"),
        }
    }
}

/// A guest at whose socket debuggers may connect.
fn start(lab: &Lab, at: &Path, guest: Guest, more: &[&str]) -> (Running, PathBuf) {
    let (boot, symbols) = guest.boot();
    let gdb = format!("unix:{}", at.join("gdb").display());
    let arguments = ["boot", "--cpus", "4", "--gdb", &gdb];
    let arguments = arguments.iter().copied().chain(more.iter().copied());
    let running = lab
        .vmm(arguments.chain(boot.iter().map(String::as_str)))
        .start();
    (running, symbols)
}

/// Tries a part of the battery, and that all of it is as it should be.
fn battery(at: &Path, guest: Guest, symbols: &Path, part: &str) {
    let output = Command::new("gdb-multiarch")
        .args(["-batch", "-nx", "-x"])
        .arg(root().join("tests/gdb/battery.py"))
        .env("GUEST", guest.name())
        .env("PART", part)
        .env("SYMBOLS", symbols)
        .env("WHERE", at.join("gdb"))
        .output()
        .expect("gdb-multiarch; make installs it");
    let said = String::from_utf8_lossy(&output.stdout);
    let tried = said.lines().filter(|line| line.starts_with("ok ")).count();
    let failed = said.lines().any(|line| line.starts_with("not ok "));
    let done = said.lines().any(|line| line == "detached");
    assert!(
        tried > 0 && done && !failed,
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A debugger that has waited for the guest; when it has left, the guest goes on as if there had been none.
fn from_reset(lab: &Lab, guest: Guest) {
    let folder = tempfile::tempdir().unwrap();
    let (mut running, symbols) = start(lab, folder.path(), guest, &["--gdb-wait"]);
    running.wait_for_complaint("debuggers connect to");
    battery(folder.path(), guest, &symbols, "reset");
    guest.wait_until_it_runs(&mut running);
    running.signal(Signal::TERM);
    running.end().exits(143);
}

/// Debuggers that come while it runs, one after the other.
fn while_it_runs(lab: &Lab, guest: Guest) {
    let folder = tempfile::tempdir().unwrap();
    let (mut running, symbols) = start(lab, folder.path(), guest, &[]);
    guest.wait_until_it_runs(&mut running);
    battery(folder.path(), guest, &symbols, "running");
    battery(folder.path(), guest, &symbols, "again");
    running.signal(Signal::TERM);
    let ended = running.end().exits(143);
    // It was looked at for longer than a kernel lets a CPU be silent, but by its own clock that was no time.
    assert!(!ended.stdout.contains("soft lockup"), "{}", ended.story());
}

fn one_at_a_time(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let (mut running, _) = start(lab, folder.path(), Guest::Payload, &["--gdb-wait"]);
    running.wait_for_complaint("debuggers connect to");
    let socket = folder.path().join("gdb");
    let mode = socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut first = UnixStream::connect(&socket).unwrap();
    first.write_all(b"+$?#3f").unwrap();
    answer(&mut first, "T05");
    let mut second = UnixStream::connect(&socket).unwrap();
    second.write_all(b"+$?#3f").unwrap();
    answer(&mut second, "$E.another debugger is connected#");
    // The first one's death is a second one's chance, and the guest's.
    drop(first);
    Guest::Payload.wait_until_it_runs(&mut running);
    running.signal(Signal::TERM);
    running.end().exits(143);
    assert!(!socket.exists());
}

/// Reads until these bytes have come.
#[track_caller]
fn answer(stream: &mut UnixStream, words: &str) {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains(words) {
        let count = stream.read(&mut byte).unwrap();
        assert_eq!(count, 1, "{words:?}: {:?}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
}

fn rubbish(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let (mut running, symbols) = start(lab, folder.path(), Guest::Payload, &["--gdb-wait"]);
    running.wait_for_complaint("debuggers connect to");
    let socket = folder.path().join("gdb");
    let all: Vec<u8> = (0..=255).cycle().take(1 << 16).collect();
    for bytes in [
        b"\xff\x00$".as_slice(),
        b"+$vCont;c#a8",
        b"$m0,ffffffffffffffff#00",
        &all,
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // It may be hung up on before all is written.
        let _ = stream.write_all(bytes);
    }
    Guest::Payload.wait_until_it_runs(&mut running);
    battery(folder.path(), Guest::Payload, &symbols, "again");
    running.signal(Signal::TERM);
    running.end().exits(143);
}

fn other_machines() {
    let payload = payload();
    let kernel = payload.to_str().unwrap();
    Vmm::new(["boot", "--kernel", kernel, "--gdb", "0.0.0.0:0"])
        .run()
        .exits(2)
        .complains("other machines reach that address");
    Vmm::new(["boot", "--kernel", kernel, "--gdb-wait"])
        .run()
        .exits(2)
        .complains("--gdb <WHERE>");
}
