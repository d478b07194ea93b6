//! `vmm boot`: stock kernels, the payload, the machine they see.

use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::{Guest, Lab, RESET, SAY_R, Vmm, flat, initrd, payload};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::SharedLab;

pub(crate) fn trials(lab: &SharedLab) -> Vec<Trial> {
    let mut trials = Vec::new();
    for guest in Guest::all() {
        let kernel = match guest.kernel {
            Ok(kernel) => kernel,
            Err(reason) => {
                eprintln!("{} is skipped: {reason}", guest.name);
                continue;
            }
        };
        for cpus in [1, 2, 4, 16] {
            let kernel = kernel.clone();
            let name = format!("boot::{}_reaches_user_space_with_{cpus}_vcpus", guest.name);
            let test = move |lab: &Lab| reaches_user_space(lab, &kernel, cpus);
            trials.push(lab.trial(name, test).with_ignored_flag(cpus == 16));
        }
    }
    for cpus in [1, 2, 8, 64] {
        let test = move |lab: &Lab| payload_passes(lab, cpus);
        trials.push(lab.trial(format!("boot::payload_with_{cpus}_vcpus"), test));
    }
    trials.push(
        lab.trial(
            "boot::a_payload_on_124_vcpus_finds_the_high_redistributors",
            |lab| payload_passes(lab, 124),
        )
        .with_ignored_flag(true),
    );
    trials.push(lab.trial("boot::a_reset_stops_or_restarts", a_reset_stops_or_restarts));
    trials.push(lab.trial(
        "boot::a_guest_that_ends_not_is_ended",
        a_guest_that_ends_not_is_ended,
    ));
    trials.push(lab.trial("boot::the_device_tree_is_dumped", the_device_tree_is_dumped));
    trials.push(lab.trial("boot::the_console_can_be_a_file", the_console_can_be_a_file));
    trials.push(lab.trial(
        "boot::the_seed_places_the_kernel",
        the_seed_places_the_kernel,
    ));
    trials.push(lab.trial(
        "boot::init_panics_on_the_cpu_of_its_trigger_while_another_talks",
        init_panics_on_the_cpu_of_its_trigger_while_another_talks,
    ));
    trials.push(lab.trial(
        "boot::init_pulls_no_trigger_before_it_is_answered",
        init_pulls_no_trigger_before_it_is_answered,
    ));
    trials
}

pub(crate) fn debian_6_12() -> std::path::PathBuf {
    let guest = Guest::all()
        .into_iter()
        .find(|guest| guest.name == "debian-6.12")
        .expect("the manifest has it");
    guest.kernel.expect("every suite that is supported has it")
}

/// `vmm boot` of a Linux whose init runs a command.
pub(crate) fn linux(lab: &Lab, kernel: &Path, cmdline: &str, command: &str, more: &[&str]) -> Vmm {
    let cmdline = format!("console=ttyAMA0 panic=-1 {cmdline} init.run=\"{command}\"");
    let mut arguments = vec![
        "boot".into(),
        "--kernel".into(),
        kernel.to_owned(),
        "--initrd".into(),
        initrd(),
    ];
    arguments.extend(["--cmdline".into(), cmdline.into()]);
    arguments.extend(more.iter().map(Into::into));
    lab.vmm(arguments)
}

fn reaches_user_space(lab: &Lab, kernel: &Path, cpus: usize) {
    // Loud with few vCPUs, as people boot; with many the console would take most of the time.
    let cmdline = if cpus > 4 { "quiet" } else { "" };
    let command = "echo there are $(nproc) CPUs and 6 times 7 is $((6 * 7))";
    linux(
        lab,
        kernel,
        cmdline,
        command,
        &["--cpus", &cpus.to_string()],
    )
    .run()
    .exits(0)
    .says(&format!("there are {cpus} CPUs and 6 times 7 is 42"))
    .says("init: exit 0");
}

fn payload_passes(lab: &Lab, cpus: usize) {
    let (kernel, count) = (payload(), cpus.to_string());
    lab.vmm([
        "boot",
        "--kernel",
        kernel.to_str().unwrap(),
        "--cpus",
        &count,
    ])
    .run()
    .exits(0)
    .says(&format!("payload: {cpus} CPUs, all checks passed"));
}

fn a_reset_stops_or_restarts(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("resets"), flat(&[SAY_R, RESET])).unwrap();
    let arguments = ["boot", "--format", "flat", "--kernel", "resets"];
    lab.vmm(arguments)
        .within(folder.path())
        .run()
        .exits(3)
        .says("R")
        .complains("the guest reset itself");

    let again = arguments.iter().chain(&["--on-reset", "restart"]);
    let mut running = lab.vmm(again).within(folder.path()).start();
    for _ in 0..5 {
        running.wait_for("R");
    }
    running.signal(Signal::INT);
    running.end().exits(130);
}

fn a_guest_that_ends_not_is_ended(lab: &Lab) {
    let kernel = debian_6_12();
    // A kernel without a console and with its init waiting for ever says nothing more.
    let outcome = linux(
        lab,
        &kernel,
        "quiet",
        "sleep 100000",
        &["--cpus", "2", "--timeout", "8"],
    )
    .run()
    .exits(4);
    let outcome = outcome.complains("had not ended when its time was up");
    for vcpu in 0..2 {
        assert!(
            outcome.stderr.contains(&format!("vCPU {vcpu}: ")),
            "{}",
            outcome.story()
        );
    }
}

fn the_device_tree_is_dumped(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let dtb = folder.path().join("guest.dtb");
    lab.vmm([
        "boot",
        "--cpus",
        "2",
        "--dump-dtb",
        "guest.dtb",
        "--kernel",
        payload().to_str().unwrap(),
    ])
    .within(folder.path())
    .run()
    .exits(0);
    let dtc = Command::new("dtc")
        .args(["-I", "dtb", "-O", "dts"])
        .arg(&dtb)
        .output()
        .unwrap();
    assert!(
        dtc.status.success() && dtc.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&dtc.stderr)
    );
    let source = String::from_utf8(dtc.stdout).unwrap();
    assert!(
        source.contains("cpu@1 {") && !source.contains("cpu@2 {"),
        "{source}"
    );
}

fn the_console_can_be_a_file(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let console = folder.path().join("console.txt");
    // What was there before is gone, as with any other file that a program creates.
    fs::write(&console, "x".repeat(100_000)).unwrap();
    let kernel = payload();
    let outcome = lab
        .vmm([
            "boot",
            "--console",
            "file:console.txt",
            "--kernel",
            kernel.to_str().unwrap(),
        ])
        .within(folder.path())
        .run()
        .exits(0);
    assert_eq!(outcome.stdout, "");
    let text = fs::read_to_string(console).unwrap();
    assert!(
        text.contains("payload: 1 CPUs, all checks passed")
            && !text.contains('x'.to_string().repeat(9).as_str()),
        "{text}"
    );
}

fn init_panics_on_the_cpu_of_its_trigger_while_another_talks(lab: &Lab) {
    let (kernel, initrd) = (debian_6_12(), initrd());
    lab.vmm([
        "boot",
        "--cpus",
        "3",
        "--kernel",
        kernel.to_str().unwrap(),
        "--initrd",
        initrd.to_str().unwrap(),
        "--cmdline",
        "console=ttyAMA0 quiet panic=-1 init.talk=1 init.trigger=exit@2",
    ])
    .run()
    .exits(3)
    .says("CPU 1 talks, record 0: ")
    .says("Kernel panic - not syncing: Attempted to kill init!")
    .says("CPU: 2 UID: 0 PID: 1 Comm: init ");
}

fn init_pulls_no_trigger_before_it_is_answered(lab: &Lab) {
    const PANIC: &str = "Kernel panic - not syncing: ";
    let (kernel, initrd) = (debian_6_12(), initrd());
    let mut running = lab
        .vmm([
            "boot",
            "--cpus",
            "2",
            "--kernel",
            kernel.to_str().unwrap(),
            "--initrd",
            initrd.to_str().unwrap(),
            "--cmdline",
            "console=ttyAMA0 quiet panic=-1 init.talk=1 init.run=\"echo it ran\" init.answer init.trigger=sysrq-c@0,exit@0",
        ])
        .with_input()
        .start();
    running.wait_for("it ran");
    running.wait_for("\x05");
    // A line, Ctrl-C, Ctrl-S, Ctrl-Z: a terminal that is not raw would echo them, send signals, stop its output.
    running.type_in(b"yes\r\n\x03\x13\x1a");
    for _ in 0..3 {
        running.wait_for("CPU 1 talks, record ");
    }
    running.type_in(b"\x06");
    running.wait_for(PANIC);
    let outcome = running.end().exits(3);
    let (before, _) = outcome.stdout.split_once(PANIC).expect("it has come");
    let (early, waiting) = before.split_once('\x05').expect("it has come");
    assert!(
        early.matches("CPU 1 talks, record ").count() > 0
            && waiting.matches("CPU 1 talks, record ").count() > 2,
        "{}",
        outcome.story()
    );
    for echo in ["yes", "^C", "^Z", "^F", "\x06"] {
        assert!(!waiting.contains(echo), "{echo:?}: {}", outcome.story());
    }
}

/// Where Linux says it is, given a seed.
fn kernel_offset(lab: &Lab, seed: &str) -> String {
    let kernel = debian_6_12();
    let outcome = linux(
        lab,
        &kernel,
        "quiet",
        "grep ' _stext$' /proc/kallsyms",
        &["--seed", seed],
    )
    .run()
    .exits(0);
    let line = outcome
        .stdout
        .lines()
        .find(|line| line.ends_with(" _stext"))
        .unwrap_or_else(|| panic!("{}", outcome.story()));
    line.to_owned()
}

fn the_seed_places_the_kernel(lab: &Lab) {
    let first = kernel_offset(lab, "1");
    assert_eq!(
        first,
        kernel_offset(lab, "1"),
        "the same seed, the same place"
    );
    assert_ne!(
        first,
        kernel_offset(lab, "2"),
        "another seed, another place"
    );
}
