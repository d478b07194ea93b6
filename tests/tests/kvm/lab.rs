//! The lab itself: what it leaves behind, what it passes on.

use std::fs;
use std::path::Path;

use e2e::{Lab, Running, SAY_R, SPIN, Vmm, flat, payload};
use libtest_mimic::Trial;
use rustix::process::{Signal, kill_process};

use crate::{SharedLab, alone};

/// Where there is arm64 KVM nothing runs in the lab, and these tests force it there.
pub(crate) fn trials(lab: &SharedLab) -> Vec<Trial> {
    vec![
        lab.trial(
            "lab::twenty_verbs_over_one_boot",
            twenty_verbs_over_one_boot,
        ),
        lab.trial(
            "lab::host_says_what_the_lab_has",
            host_says_what_the_lab_has,
        ),
        lab.trial("lab::a_crash_is_told", a_crash_is_told),
        alone("lab::ctrl_c_leaves_nothing", || {
            leaves_nothing(Signal::INT, 130)
        }),
        alone("lab::sigterm_leaves_nothing", || {
            leaves_nothing(Signal::TERM, 143)
        }),
        alone("lab::sigkill_leaves_nothing", || {
            leaves_nothing(Signal::KILL, 137)
        }),
        alone("lab::no_lab_refuses", no_lab_refuses),
        alone("lab::a_missing_image_is_named", a_missing_image_is_named),
        alone(
            "lab::a_dead_emulator_is_the_labs_fault",
            a_dead_emulator_is_the_labs_fault,
        ),
    ]
}

fn twenty_verbs_over_one_boot(lab: &Lab) {
    let boots = |lab: &Lab| lab.vmm(["host", "--json", "--lab"]).run().exits(0).stdout;
    let first = boots(lab);
    for _ in 1..20 {
        assert_eq!(boots(lab), first);
    }
}

fn host_says_what_the_lab_has(lab: &Lab) {
    let json = lab.vmm(["host", "--json", "--lab"]).run().exits(0).stdout;
    let report: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    let kvm = &report["kvm"]["Ok"];
    assert_eq!(kvm["api_version"], 12, "{json}");
    assert_eq!(kvm["gicv3"], true, "{json}");
    assert_eq!(kvm["counter_offset"], true, "{json}");
    assert!(kvm["breakpoints"].as_u64() >= Some(2), "{json}");
}

/// A verb that never ends by itself, in a lab of its own: the guest says `R` and spins.
/// And its caller learns what the lab's kernel logged meanwhile.
fn a_crash_is_told(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("crasher"), flat(&[SAY_R, SPIN])).unwrap();
    let mut running = lab
        .vmm(["boot", "--lab", "--format", "flat", "--kernel", "crasher"])
        .within(folder.path())
        .start();
    running.wait_for("R");
    // Rust's runtime has a handler of its own for SIGSEGV and SIGBUS. The brackets keep the shell's own command line from being found.
    let crash = "echo seen by the kernel > /dev/kmsg
        process=$(grep -l 'crashe[r]' /proc/[0-9]*/cmdline)
        process=${process%/cmdline}
        kill -ILL ${process#/proc/}";
    lab.vmm(["lab", "shell", "--", "sh", "-c", crash])
        .run()
        .exits(0);
    running
        .end()
        .exits(2)
        .complains("the lab's side of this verb crashed (signal 4)")
        .complains("seen by the kernel");
}

fn endless(folder: &Path, scratch: &Path) -> Running {
    fs::write(folder.join("spinner"), flat(&[SAY_R, SPIN])).unwrap();
    let mut running = Vmm::new(["boot", "--lab", "--format", "flat", "--kernel", "spinner"])
        .within(folder)
        .env("TMPDIR", scratch)
        .env("XDG_RUNTIME_DIR", scratch)
        .start();
    running.wait_for("R");
    running
}

fn leaves_nothing(signal: Signal, code: i32) {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let running = endless(folder.path(), scratch.path());
    let mark = running.mark();
    assert!(
        mark.alive().len() >= 2,
        "vmm and the emulator: {:?}",
        mark.alive()
    );
    running.signal(signal);
    running.end().exits(code);
    mark.wait_until_gone(30).expect("no process is left");
    let left: Vec<_> = fs::read_dir(scratch.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

fn no_lab_refuses() {
    let kernel = payload();
    let refused = Vmm::new(["boot", "--no-lab", "--kernel", kernel.to_str().unwrap()]);
    // Where there is KVM there is nothing to refuse.
    if cfg!(not(target_arch = "aarch64")) {
        refused
            .run()
            .exits(77)
            .complains("its KVM runs no arm64 guest");
    }
}

fn a_missing_image_is_named() {
    let kernel = payload();
    let empty = tempfile::tempdir().unwrap();
    Vmm::new(["boot", "--lab", "--kernel", kernel.to_str().unwrap()])
        .env("VMM_LAB_DIR", empty.path())
        .run()
        .exits(2)
        .complains("`make lab` makes it");
}

fn a_dead_emulator_is_the_labs_fault() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let running = endless(folder.path(), scratch.path());
    let mark = running.mark();
    let emulator = mark.alive().into_iter().find(|pid| {
        let name =
            fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
        name.starts_with("qemu")
    });
    kill_process(emulator.expect("the lab runs in QEMU"), Signal::KILL).unwrap();
    running.end().exits(2).complains("the lab is lost");
    mark.wait_until_gone(30).expect("no process is left");
}
