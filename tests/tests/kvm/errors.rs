//! What users do wrong, and what hosts lack: one clear line, exit 2, nothing left behind.

use std::fs;

use e2e::{Lab, payload};
use libtest_mimic::Trial;

use crate::SharedLab;

pub(crate) fn trials(lab: &SharedLab) -> Vec<Trial> {
    vec![
        lab.trial("errors::kernels_that_are_none", kernels_that_are_none),
        lab.trial("errors::what_does_not_fit", what_does_not_fit),
        lab.trial(
            "errors::outputs_that_cannot_be_written",
            outputs_that_cannot_be_written,
        ),
    ]
}

/// Runs `vmm boot` with these arguments: it must fail with one line that has the words.
fn fails(lab: &Lab, folder: &std::path::Path, arguments: &[&str], words: &str) {
    let outcome = lab
        .vmm(std::iter::once("boot").chain(arguments.iter().copied()))
        .within(folder)
        .run()
        .exits(2);
    let outcome = outcome.complains(words);
    assert_eq!(
        outcome.stderr.lines().count(),
        1,
        "one line:\n{}",
        outcome.story()
    );
    assert!(outcome.stderr.starts_with("vmm: "), "{}", outcome.story());
    assert_eq!(outcome.stdout, "");
}

fn kernels_that_are_none(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("empty"), "").unwrap();
    fs::write(at.join("text"), "not a kernel ".repeat(100)).unwrap();
    let elf = fs::read(payload()).unwrap();
    fs::write(at.join("cut"), &elf[..elf.len() / 2]).unwrap();
    fs::copy("/proc/self/exe", at.join("foreign")).unwrap();
    fails(
        lab,
        at,
        &["--kernel", "missing"],
        "cannot read kernel missing: No such file or directory",
    );
    fails(
        lab,
        at,
        &["--kernel", "."],
        "cannot read kernel .: Is a directory",
    );
    fails(
        lab,
        at,
        &["--kernel", "empty"],
        "kernel empty is cut off: 0 bytes",
    );
    fails(
        lab,
        at,
        &["--kernel", "text"],
        "kernel text is neither an arm64 Image nor an ELF file",
    );
    fails(lab, at, &["--kernel", "cut"], "kernel cut is");
    if cfg!(target_arch = "x86_64") {
        fails(
            lab,
            at,
            &["--kernel", "foreign"],
            "kernel foreign is an ELF file for another machine",
        );
    }
}

fn what_does_not_fit(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let kernel = payload();
    let kernel = kernel.to_str().unwrap();
    fs::write(at.join("initrd"), vec![0; 20 << 20]).unwrap();
    fails(
        lab,
        at,
        &["--kernel", kernel, "--memory", "16M", "--initrd", "initrd"],
        "initrd initrd does not fit",
    );
    fails(
        lab,
        at,
        &["--kernel", kernel, "--initrd", "none"],
        "cannot read initrd none",
    );
    fails(
        lab,
        at,
        &["--kernel", kernel, "--cpus", "0"],
        "--cpus 0: a guest has 1 to",
    );
    fails(
        lab,
        at,
        &["--kernel", kernel, "--cpus", "10000"],
        "--cpus 10000: a guest has 1 to",
    );
    fails(
        lab,
        at,
        &["--kernel", kernel, "--memory", "1M"],
        "a guest has 4 MiB to 255 GiB",
    );
    // More than a machine of ours has: refused before anything is booted, on the way into the lab or by KVM's host.
    fails(lab, at, &["--kernel", kernel, "--memory", "255G"], "memory");
    fails(
        lab,
        at,
        &["--kernel", kernel, "--cmdline", &"x".repeat(2048)],
        "the command line has 2048 bytes",
    );
}

fn outputs_that_cannot_be_written(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let kernel = payload();
    let kernel = kernel.to_str().unwrap();
    fails(
        lab,
        at,
        &["--kernel", kernel, "--dump-dtb", "no/such/folder"],
        "cannot write the device tree to no/such/folder",
    );
    fails(
        lab,
        at,
        &["--kernel", kernel, "--console", "file:no/such/folder"],
        "cannot create console file no/such/folder",
    );
}
