//! `vmm boot --gdb` and `vmm debug`: what gdb can do with a guest (tests/gdb/battery.py), and who may come in.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use e2e::{Lab, Running, Vmm, built, initrd, payload, root};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::{SharedLab, alone};

pub(crate) fn trials(lab: &SharedLab) -> Vec<Trial> {
    vec![
        lab.trial("gdb::the_battery_on_the_payload", |lab| {
            the_battery(lab, Guest::Payload);
        }),
        lab.trial("gdb::the_battery_on_linux", |lab| {
            the_battery(lab, Guest::Linux);
        }),
        lab.trial("gdb::two_seeds_are_two_offsets", two_seeds),
        lab.trial("gdb::a_kernel_is_had_when_it_is_placed", placed),
        lab.trial("gdb::a_warning_is_the_same", a_warning),
        lab.trial("gdb::lldb_on_the_payload", lldb_on_the_payload),
        lab.trial("gdb::lldb_on_linux", lldb_on_linux),
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
    /// What is booted, and what has its symbols.
    fn boot(self) -> (Vec<String>, PathBuf) {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        match self {
            Self::Payload => {
                let kernel = payload();
                let words = ["--kernel", &text(&kernel), "--cmdline", "debuggee"];
                (words.map(str::to_owned).to_vec(), kernel)
            }
            Self::Linux => {
                let words = linux("echo ready; sleep 1000000");
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

/// What boots Linux, and has a shell there run this.
fn linux(script: &str) -> Vec<String> {
    let cmdline = format!("console=ttyAMA0 init.run=\"{script}\"");
    let (kernel, initrd) = (built("nmi-only", "Image"), initrd());
    let words = [
        "--kernel",
        kernel.to_str().unwrap(),
        "--initrd",
        initrd.to_str().unwrap(),
        "--cmdline",
        &cmdline,
    ];
    words.map(str::to_owned).to_vec()
}

/// A guest at whose socket debuggers may connect.
fn start(lab: &Lab, at: &Path, guest: Guest, more: &[&str]) -> (Running, PathBuf) {
    let (boot, symbols) = guest.boot();
    let more = [&["--cpus", "4"], more].concat();
    (start_this(lab, at, &boot, &more), symbols)
}

fn start_this(lab: &Lab, at: &Path, boot: &[String], more: &[&str]) -> Running {
    let gdb = format!("unix:{}", at.join("gdb").display());
    let arguments = ["boot", "--gdb", &gdb];
    let arguments = arguments.iter().copied().chain(more.iter().copied());
    let running = lab.vmm(arguments.chain(boot.iter().map(String::as_str)));
    running.start()
}

/// Tries a part of the battery, and that all of it is as it should be; the numbers of what was tried (docs/debugging.md).
fn battery(at: &Path, guest: Guest, symbols: &Path, part: &str) -> BTreeSet<u8> {
    let script = root().join("tests/gdb/battery.py");
    let tried = gdb(["-x", script.to_str().unwrap()])
        .env("GUEST", guest.name())
        .env("PART", part)
        .env("SYMBOLS", symbols)
        .env("WHERE", at.join("gdb"))
        .env("ALIASES", root().join("docs/holdpoint.gdb"))
        .run();
    let failed = (tried.stdout.lines()).any(|line| line.starts_with("not ok "));
    let done = tried.stdout.lines().any(|line| line == "detached");
    assert!(done && !failed, "{}", tried.story());
    (tried.stdout.lines())
        .filter_map(|line| line.strip_prefix("ok ")?.split(' ').next())
        .flat_map(|numbers| numbers.split(','))
        .filter(|number| !number.is_empty())
        .map(|number| number.parse().expect("a check's number"))
        .collect()
}

/// All of it: from its reset, while it runs, and when its CPUs have stopped.
fn the_battery(lab: &Lab, guest: Guest) {
    let mut tried = from_reset(lab, guest);
    tried.extend(while_it_runs(lab, guest));
    tried.extend(when_stopped(lab, guest));
    assert_eq!(tried, (1..=25).collect());
}

/// A debugger that has waited for the guest; when it has left, the guest goes on as if there had been none.
fn from_reset(lab: &Lab, guest: Guest) -> BTreeSet<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (mut running, symbols) = start(lab, folder.path(), guest, &["--gdb-wait"]);
    running.wait_for_complaint("debuggers connect to");
    let mut tried = battery(folder.path(), guest, &symbols, "reset");
    guest.wait_until_it_runs(&mut running);
    tried.insert(3);
    running.signal(Signal::TERM);
    running.end().exits(143);
    tried
}

/// Debuggers that come while it runs, one after the other.
fn while_it_runs(lab: &Lab, guest: Guest) -> BTreeSet<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (mut running, symbols) = start(lab, folder.path(), guest, &[]);
    guest.wait_until_it_runs(&mut running);
    let mut tried = battery(folder.path(), guest, &symbols, "running");
    tried.extend(battery(folder.path(), guest, &symbols, "again"));
    running.signal(Signal::TERM);
    let ended = running.end().exits(143);
    // It was looked at for longer than a kernel lets a CPU be silent, but by its own clock that was no time.
    assert!(!ended.stdout.contains("soft lockup"), "{}", ended.story());
    tried
}

/// A debugger that has let a scenario go on to its end. What it has done with the guest is no part of the verdict.
fn when_stopped(lab: &Lab, guest: Guest) -> BTreeSet<u8> {
    let folder = tempfile::tempdir().unwrap();
    let gdb = format!("unix:{}", folder.path().join("gdb").display());
    let subject = format!("{}:nmi-only", guest.name());
    let debug = ["debug", "idle-plain", "--subject", &subject, "--gdb", &gdb];
    let mut running = lab.vmm(debug).start();
    running.wait_for_complaint("debuggers connect to");
    let (_, symbols) = guest.boot();
    let tried = battery(folder.path(), guest, &symbols, "parked");
    running.end().exits(0).says("as expected");
    tried
}

/// gdb, which asks nobody and reads nobody's settings.
pub(crate) fn gdb<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Vmm {
    // What comes from the stub is on standard error; in what order with the rest matters.
    let script = "exec gdb-multiarch -batch -nx \"$@\" 2>&1";
    let arguments = ["-c", script, "gdb"].into_iter().chain(arguments);
    Vmm::at(Path::new("sh"), arguments)
}

/// What gdb says to these commands, with the symbols of the kernel that Linux is here.
fn said(at: &Path, commands: &[&str]) -> String {
    let vmlinux = built("nmi-only", "vmlinux");
    let connect = format!("target remote {}", at.join("gdb").display());
    let first = [vmlinux.to_str().unwrap(), "-ex", &connect];
    let rest = commands.iter().flat_map(|command| ["-ex", command]);
    gdb(first.into_iter().chain(rest)).run().exits(0).stdout
}

/// Whose symbols are known before its first instruction, whatever it has drawn.
fn two_seeds(lab: &Lab) {
    let boot = linux("echo c > /proc/sysrq-trigger");
    let mut offsets = BTreeSet::new();
    for seed in ["5", "6"] {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let mut running = start_this(lab, at, &boot, &["--gdb-wait", "--seed", seed]);
        running.wait_for_complaint("debuggers connect to");
        let commands = ["hbreak panic", "monitor kaslr", "continue", "monitor kaslr"];
        let said = said(at, &commands);
        // Of one vCPU gdb does not say which has hit it.
        assert!(said.contains("\nBreakpoint 1, 0x"), "{said}");
        assert!(said.contains(" in panic ()"), "{said}");
        let told: Vec<&str> = (said.lines())
            .filter(|line| line.contains(" in another boot"))
            .collect();
        let [before, after] = told.as_slice() else {
            panic!("{said}");
        };
        assert!(before.contains("has not come to start_kernel yet"));
        assert!(after.contains("this boot has come to start_kernel there"));
        let offset = before.split(' ').next().unwrap();
        assert_ne!(offset, "0x0");
        assert!(said.contains(&format!("{offset} by VMCOREINFO")), "{said}");
        offsets.insert(offset.to_owned());
        running.signal(Signal::TERM);
        running.end();
    }
    assert_eq!(offsets.len(), 2, "{offsets:?}");
}

/// `--gdb-wait=placed`: at the kernel's first lines of C, at its own addresses.
fn placed(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let (mut running, _) = start(lab, folder.path(), Guest::Linux, &["--gdb-wait=placed"]);
    running.wait_for_complaint("debuggers connect to");
    let said = said(folder.path(), &["info symbol $pc", "print $SCTLR_EL1 & 1"]);
    assert!(said.contains("start_kernel in section"), "{said}");
    assert!(said.contains("$1 = 1"), "{said}");
    Guest::Linux.wait_until_it_runs(&mut running);
    running.signal(Signal::TERM);
    running.end().exits(143);
}

/// A BRK of the kernel's own, where KVM has each BRK leave the guest.
fn a_warning(lab: &Lab) {
    let script = "mount -t debugfs none /sys/kernel/debug; echo WARNING > /sys/kernel/debug/provoke-crash/DIRECT; echo over";
    let boot = linux(script);
    let alone = lab.vmm(["boot"].into_iter().chain(boot.iter().map(String::as_str)));
    let alone = alone.run().exits(0).says("over").stdout;
    let alone = warning(&alone);
    let told = [
        "WARNING: CPU: ",
        "pc : lkdtm_WARNING+",
        "Call trace:",
        "---[ end trace",
    ];
    has(&alone.join("\n"), &told);

    let folder = tempfile::tempdir().unwrap();
    let mut running = start_this(lab, folder.path(), &boot, &["--gdb-wait"]);
    running.wait_for_complaint("debuggers connect to");
    let said = said(folder.path(), &["hbreak panic", "continue"]);
    assert!(said.contains("exited normally"), "{said}");
    let debugged = running.end().exits(0).says("over");
    assert_eq!(warning(&debugged.stdout), alone);
}

/// What a kernel prints of a warning, but for when and what lay on a stack.
fn warning(console: &str) -> Vec<String> {
    let lines = console
        .lines()
        .filter_map(|line| Some(line.split_once("] ")?.1));
    let from = lines.skip_while(|line| !line.contains("cut here"));
    let mut warning = Vec::new();
    for line in from {
        let register = line.split_once(':').is_some_and(|(name, _)| {
            name.trim_end() == "sp"
                || name
                    .strip_prefix('x')
                    .is_some_and(|name| name.trim_end().parse::<u8>().is_ok())
        });
        if !register {
            // Which number its shell has is not the warning's business.
            let words = line.split(' ').collect::<Vec<_>>();
            let number = (words.iter())
                .position(|word| *word == "PID:")
                .map(|at| at + 1);
            let said = words
                .iter()
                .enumerate()
                .filter(|(at, _)| Some(*at) != number);
            warning.push(said.map(|(_, word)| *word).collect::<Vec<_>>().join(" "));
        }
        if line.contains("end trace") {
            break;
        }
    }
    warning
}

/// What LLDB says to these commands, and that it has come to the last one: an error ends a batch.
fn lldb_said(at: &Path, symbols: &Path, commands: &[&str]) -> String {
    let connect = format!(
        "process connect --plugin gdb-remote unix-connect://{}",
        at.join("gdb").display()
    );
    let first = ["--no-lldbinit", "--batch", symbols.to_str().unwrap()];
    let commands = [&connect]
        .into_iter()
        .map(String::as_str)
        .chain(commands.iter().copied());
    let commands = commands
        .chain(["detach"])
        .flat_map(|command| ["-o", command]);
    let outcome = Vmm::at(Path::new("lldb"), first.into_iter().chain(commands)).run();
    outcome.exits(0).says("detached").stdout
}

#[track_caller]
fn has(said: &str, words: &[&str]) {
    for words in words {
        assert!(said.contains(words), "{words:?} is not in\n{said}");
    }
}

/// Threads, registers, memory, a breakpoint that another vCPU comes to, a step, a watchpoint and `monitor`.
fn lldb_on_the_payload(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let (mut running, symbols) = start(lab, folder.path(), Guest::Payload, &[]);
    Guest::Payload.wait_until_it_runs(&mut running);
    let commands = [
        "thread list",
        "register read x0 sp pc cpsr v31 VBAR_EL1",
        "register write x9 0x77",
        "register read x9",
        "breakpoint set -r ::turn$ -x 4",
        "continue",
        "breakpoint delete -f",
        "thread step-inst",
        "register read pc",
        "watchpoint set expression -w write -s 8 -- $sp-16",
        "continue",
        "watchpoint delete -f",
        "process plugin packet monitor time",
    ];
    let said = lldb_said(folder.path(), &symbols, &commands);
    let told = [
        "  thread #4: tid = 0x0004",
        "VBAR_EL1 = 0x000000004020",
        "x9 = 0x0000000000000077",
        "* thread #4, stop reason = breakpoint 1.1",
        "* thread #4, stop reason = instruction step into",
        "guest::debuggee::turn + 4",
        "* thread #4, stop reason = watchpoint 1",
        "CPU 3: CNTVCT_EL0 0x",
    ];
    has(&said, &told);
    running.signal(Signal::TERM);
    running.end().exits(143);
}

/// Its symbols, wherever it lies.
fn lldb_on_linux(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let (mut running, symbols) = start(lab, folder.path(), Guest::Linux, &["--gdb-wait"]);
    running.wait_for_complaint("debuggers connect to");
    let commands = [
        "breakpoint set -H -n start_kernel",
        "continue",
        "breakpoint delete -f",
        "thread step-inst",
        "thread list",
    ];
    let said = lldb_said(folder.path(), &symbols, &commands);
    let told = [
        "vmlinux`start_kernel:\n->",
        "vmlinux`start_kernel + 4, stop reason = instruction step into",
    ];
    has(&said, &told);
    Guest::Linux.wait_until_it_runs(&mut running);
    running.signal(Signal::TERM);
    running.end().exits(143);
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
