//! Guests that mean harm (guest/src/hostile.rs): the VMM outlives them, ends as it was asked to, within its memory, and
//! says no more than a person can read.

use std::fs;

use e2e::{Lab, Outcome, Vmm, payload};
use libtest_mimic::Trial;

use crate::SharedLab;

pub(crate) fn trials(lab: &SharedLab) -> Vec<Trial> {
    vec![
        lab.trial("hostile::any_access_anywhere", any_access_anywhere),
        lab.trial("hostile::a_flood_on_the_console", a_flood_on_the_console),
        lab.trial("hostile::cpus_up_and_down", cpus_up_and_down),
        lab.trial("hostile::resets_without_end", resets_without_end),
        lab.trial("hostile::within_its_memory", within_its_memory),
    ]
}

fn hostile(lab: &Lab, deed: &str, cpus: &str, more: &[&str]) -> Vmm {
    let kernel = payload();
    let cmdline = format!("hostile.do={deed}");
    let arguments = [
        "boot",
        "--cpus",
        cpus,
        "--memory",
        "64M",
        "--cmdline",
        &cmdline,
    ];
    let kernel = ["--kernel", kernel.to_str().unwrap()];
    lab.vmm(arguments.iter().chain(&kernel).chain(more))
}

/// What a log may grow to by the guest's doing: ten strays and ten resets, each with a line that there were more and
/// one with their number.
const STRAY_LINES: usize = 12;
const RESET_LINES: usize = 12;

fn says_little(outcome: &Outcome, most: usize) {
    let lines = outcome.stderr.lines().count();
    assert!(lines <= most, "{lines} lines:\n{}", outcome.story());
}

/// The number before these words on the guest's last line.
fn figure(outcome: &Outcome, words: &str) -> u64 {
    let last = outcome.stdout.trim_end().lines().last().unwrap_or_default();
    let figure = last
        .split(words)
        .next()
        .and_then(|text| text.trim_end().rsplit(' ').next()?.parse().ok());
    figure.unwrap_or_else(|| panic!("no figure before {words:?}:\n{}", outcome.story()))
}

fn any_access_anywhere(lab: &Lab) {
    for cpus in ["1", "4"] {
        let outcome = hostile(lab, "accesses", cpus, &[])
            .run()
            .exits(0)
            .complains("stray accesses in all");
        let (done, faulted) = (
            figure(&outcome, "accesses"),
            figure(&outcome, "of them faulted"),
        );
        assert!(
            done > 2000 && faulted > 1000 && faulted < done,
            "{}",
            outcome.story()
        );
        says_little(&outcome, STRAY_LINES);
    }
}

fn a_flood_on_the_console(lab: &Lab) {
    let outcome = hostile(lab, "flood", "4", &[]).run().exits(0);
    let poured = figure(&outcome, "bytes poured out");
    let arrived = outcome
        .stdout
        .bytes()
        .filter(|byte| (b'a'..=b'd').contains(byte))
        .count() as u64;
    // It never looks whether there is room, so some may be lost; but not because the VMM gave up.
    assert!(
        arrived > poured / 2,
        "{arrived} of {poured}: {}",
        outcome.stderr
    );
    says_little(&outcome, 0);
}

fn cpus_up_and_down(lab: &Lab) {
    for cpus in ["1", "2", "4"] {
        let outcome = hostile(lab, "cpus", cpus, &[]).run().exits(0);
        let starts = figure(&outcome, "starts");
        assert_eq!(starts > 0, cpus != "1", "{}", outcome.story());
        says_little(&outcome, 0);
    }
}

/// Lives of a guest that resets itself.
fn lives(outcome: &Outcome) -> usize {
    outcome.stdout.matches("hostile: reset").count()
}

fn resets_without_end(lab: &Lab) {
    let more = ["--on-reset", "restart", "--timeout", "15"];
    let outcome = hostile(lab, "reset", "2", &more)
        .run()
        .exits(4)
        .complains("the guest reset itself")
        .complains("stray accesses in all")
        .complains("had not ended when its time was up");
    assert!(lives(&outcome) > 3, "{}", outcome.story());
    // And where each vCPU stood in the end.
    says_little(&outcome, STRAY_LINES + RESET_LINES + 3);
}

/// An address space that holds the guest's 64 MiB, eight threads' stacks of 2 MiB, the program and little else. A life of the
/// guest that is not given back, or a buffer that grows with the guest's doings, does not fit.
const ADDRESS_SPACE_KIB: usize = (64 + 48) << 10;

fn within_its_memory(lab: &Lab) {
    let script = format!(
        "cat > /tmp/hostile.$$ && ulimit -v {ADDRESS_SPACE_KIB} || exit 99
        # The C library would reserve 64 MiB for each thread, which are not memory but address space.
        export MALLOC_ARENA_MAX=1
        boot() {{ \"$VMM\" boot --kernel /tmp/hostile.$$ --cpus 4 --memory 64M \"$@\" < /dev/null; }}
        for deed in accesses flood cpus; do boot --cmdline hostile.do=$deed || exit; done
        boot --cmdline hostile.do=reset --on-reset restart --timeout 15
        code=$?
        rm /tmp/hostile.$$
        exit $code"
    );
    let mut running = lab.shell(&script).with_input().start();
    running.type_in(&fs::read(payload()).unwrap());
    running.end_input();
    let outcome = running
        .end()
        .exits(4)
        .says("of them faulted")
        .says("poured out")
        .says("starts");
    assert!(lives(&outcome) > 3, "{}", outcome.story());
}
