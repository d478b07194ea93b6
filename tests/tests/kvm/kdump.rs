//! Panics that go on to a capture kernel: real kernels, each of which loads itself.

use std::fs;

use e2e::{Lab, RESET, SPIN, image};
use libtest_mimic::Trial;

use crate::SharedLab;
use crate::linux::as_expected;

/// What each `make test` runs once, and `make soak` twenty times: a full stop, a partial one, a failed one of which a CPU runs late, and
/// CPUs that are brought online again.
const RUNS: [(&str, &str); 5] = [
    ("idle-kexec", "irq-then-nmi"),
    ("kexec-locked-forever", "irq-then-nmi"),
    ("thawed-in-capture", "irq-then-nmi"),
    ("online-again", "irq-then-nmi"),
    ("online-again", "nmi-only"),
];

/// What else `make soak` runs twenty times.
const SOAKED: [(&str, &str); 5] = [
    ("e6-not-run", "irq-then-nmi"),
    ("v1-1-empty-note", "v1-proposal"),
    ("v1-1-empty-note", "irq-then-nmi"),
    ("thawed-in-capture", "nmi-only"),
    ("online-again", "v1-corrected"),
];

pub(crate) fn trials(lab: &SharedLab) -> Vec<Trial> {
    let mut trials = vec![
        lab.trial(
            "kdump::the_vmcore_has_what_no_console_has",
            the_vmcore_has_what_no_console_has,
        ),
        lab.trial(
            "kdump::a_stop_that_is_still_pending_is_taken_by_the_capture_kernel",
            a_stop_that_is_still_pending_is_taken_by_the_capture_kernel,
        ),
        lab.trial(
            "kdump::a_kernel_that_has_kexec_load_alone",
            a_kernel_that_has_kexec_load_alone,
        ),
        lab.trial(
            "kdump::capture_kernels_that_fail",
            capture_kernels_that_fail,
        ),
    ];
    for (scenario, kernel) in RUNS {
        let name = format!("kdump::{scenario}_{kernel}");
        let test = move |lab: &Lab| drop(as_expected(lab, scenario, kernel, 1));
        trials.push(lab.trial(name, test));
    }
    for (scenario, kernel) in RUNS.into_iter().chain(SOAKED) {
        let name = format!("kdump::twenty_times_{scenario}_{kernel}");
        let test = move |lab: &Lab| {
            for seed in 1..=20 {
                as_expected(lab, scenario, kernel, seed);
            }
        };
        trials.push(lab.trial(name, test).with_ignored_flag(true));
    }
    trials
}

/// CPU 1 is frozen in the console's section: nothing of the panic comes to the wire or to pstore, and all of it is in the vmcore.
fn the_vmcore_has_what_no_console_has(lab: &Lab) {
    let folder = as_expected(lab, "thawed-in-capture", "irq-then-nmi", 2);
    let file = |name: &str| {
        let bytes = fs::read(folder.path().join("evidence").join(name)).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let panic = "Kernel panic - not syncing: Attempted to kill init!";
    assert!(file("vmcore-dmesg.txt").contains(panic));
    assert!(!file("wire.bin").contains(panic));
    assert!(!file("pstore.bin").contains(panic));
    // It stopped when the capture kernel was up: too late for that to have its note.
    let events = file("events.txt");
    let at = |words: &str| {
        let found = events.lines().position(|line| line.contains(words));
        found.unwrap_or_else(|| panic!("{words}:\n{events}"))
    };
    let up = at(" 0 told - capture-up");
    assert!(at(" 0 trapped - goes to=kexec") < up && up < at(" 1 trapped - powers-off"));
}

/// KVM keeps what is pending in a redistributor while its CPU is powered off (docs/findings.md).
fn a_stop_that_is_still_pending_is_taken_by_the_capture_kernel(lab: &Lab) {
    let events = |kernel: &str| {
        let folder = as_expected(lab, "online-again", kernel, 2);
        fs::read_to_string(folder.path().join("evidence/events.txt")).unwrap()
    };
    let ladder = events("irq-then-nmi");
    for words in [
        " 2 quiesce - pending sgi=2",
        " 1 told - comes-up",
        " 2 told - capture-fails text=\"CPU 2 is not brought online: it takes the stop that was pending on it (SGI 2); ",
        " 2 quiesce - active sgi=2",
    ] {
        assert!(ladder.contains(words), "{words}:\n{ladder}");
    }
    let at_once = events("nmi-only");
    assert!(!at_once.contains(" pending sgi="), "{at_once}");
    assert!(at_once.contains(" 2 told - comes-up"), "{at_once}");
}

/// Debian's kernels have no kexec_file_load(2): init makes the parts itself.
fn a_kernel_that_has_kexec_load_alone(lab: &Lab) {
    // It boots twice, and takes its time.
    let arguments = [
        "run",
        "idle-kexec",
        "--subject",
        "linux:debian-6.12",
        "--timeout",
        "400",
    ];
    let outcome = lab.vmm(arguments).run().exits(0);
    let verdict = outcome
        .stdout
        .lines()
        .find(|line| line.starts_with("capture-boots "));
    assert!(
        verdict.is_some_and(|line| line.ends_with(" upheld")),
        "{}",
        outcome.story()
    );
}

fn capture_kernels_that_fail(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("resets"), image(&[RESET])).unwrap();
    fs::write(at.join("spins"), image(&[SPIN])).unwrap();
    fs::write(at.join("text"), "not a kernel ".repeat(100)).unwrap();
    let run = |more: &[&str]| {
        let arguments = [
            "run",
            "idle-kexec",
            "--subject",
            "linux:irq-then-nmi",
            "--quiet",
        ];
        lab.vmm(arguments.iter().chain(more)).within(at).run()
    };
    run(&["--crashkernel", "4"]).exits(2).complains(
        "cannot load the capture kernel: it does not fit into what crashkernel= reserves",
    );
    run(&["--capture", "./text"])
        .exits(2)
        .complains("/capture/Image is not a kernel that it can load");
    run(&["--capture", "./no"])
        .exits(2)
        .complains("there is no kernel at ./no");
    let broken = "surprise: capture-boots broken";
    let late = "inconclusive: the capture kernel has not said what it found when the time was up (--timeout)";
    for (more, words) in [
        (
            &["--capture", "./resets"][..],
            [broken, "it reset the machine; it said: "],
        ),
        // Its initramfs does not fit into the rest of what it has.
        (&["--crashkernel", "17"], [broken, "it panicked: "]),
        (
            &["--capture", "./spins", "--timeout", "20"],
            [late, "CPU 0 is in it, and it said: "],
        ),
    ] {
        let outcome = run(more).exits(1);
        for words in words {
            assert!(
                outcome.stdout.contains(words),
                "{words}:\n{}",
                outcome.story()
            );
        }
    }
}
