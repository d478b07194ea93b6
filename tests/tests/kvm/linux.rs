//! Scenarios on real Linux kernels, those that were built for each stop protocol (`make kernels`), and for their console (`make
//! kernel-nbcon`).

use std::fs;
use std::path::Path;

use e2e::{Guest, Lab, RESET, SPIN, Vmm, flat, image, payload, root};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::SharedLab;

/// Named after the protocols that they stop by.
const KERNELS: [&str; 4] = ["nmi-only", "irq-then-nmi", "v1-proposal", "v1-corrected"];

/// What `make soak` runs on each of them.
const SOAKED: [&str; 17] = [
    "all-masked",
    "console-locked",
    "console-locked-forever",
    "console-write-anyway",
    "e4-nmi-at-the-door",
    "idle-crash",
    "idle-plain",
    "lockup-found",
    "no-pseudo-nmi",
    "not-run-in-section",
    "restart-stalled",
    "retry-for-nobody",
    "save-held",
    "three-panics",
    "v1-2a-nested-nmi",
    "v1-4-two-panics",
    "wedged-anywhere",
];

/// What `make soak` runs once on each of them: nothing directs these, so that a kernel may break whatever some order breaks.
const FREE: [&str; 8] = [
    "any-crash-3",
    "any-crash-4",
    "any-give-up-3",
    "any-plain-3",
    "any-plain-4",
    "any-restart-3",
    "any-two-panics-3",
    "any-two-talk-3",
];

/// What `make soak` runs on Linux 7.2, whose PL011 has an nbcon console (`make kernel-nbcon`).
const NBCON: [&str; 8] = [
    "idle-plain",
    "idle-crash",
    "console-locked",
    "console-locked-forever",
    "console-nbcon",
    "console-nbcon-reset",
    "console-nbcon-lost",
    "console-nbcon-lost-no-nmi",
];

/// What shows that Linux commit 571c1ea91a73 ("printk: nbcon: Allow reacquire during panic") is undone, and what the kernel says then.
const UNFIXED: [(&str, &str); 2] = [
    (
        "console-nbcon-lost",
        "SMP: retry stop with NMI for CPUs 1\"",
    ),
    (
        "console-nbcon-lost-no-nmi",
        "SMP: failed to stop secondary CPUs 1\"",
    ),
];

/// What each `make test` runs beside `console-locked`: a fault of each kind, on the kernel that has it.
const SMOKE: [(&str, &str); 6] = [
    ("idle-plain", "irq-then-nmi"),
    ("e4-nmi-at-the-door", "irq-then-nmi"),
    ("v1-4-two-panics", "irq-then-nmi"),
    ("v1-2a-nested-nmi", "v1-proposal"),
    ("lockup-found", "nmi-only"),
    ("restart-stalled", "v1-corrected"),
];

pub(crate) fn trials(lab: &SharedLab) -> Vec<Trial> {
    let mut trials = vec![
        lab.trial("linux::symbols_of_another_build", symbols_of_another_build),
        lab.trial("linux::what_cannot_be_run", what_cannot_be_run),
        lab.trial("linux::pstore_has_what_the_wire_lost", |lab| {
            pstore_has_what_the_wire_lost(lab, 1);
        }),
        lab.trial("linux::twenty_times_pstore_has_what_the_wire_lost", |lab| {
            for seed in 1..=20 {
                pstore_has_what_the_wire_lost(lab, seed);
            }
        })
        .with_ignored_flag(true),
        lab.trial("linux::a_kernel_without_ramoops", a_kernel_without_ramoops),
        lab.trial(
            "linux::kernels_that_tell_lies_of_themselves",
            kernels_that_tell_lies_of_themselves,
        ),
        lab.trial(
            "linux::kernels_that_come_not_as_far_as_init",
            kernels_that_come_not_as_far_as_init,
        ),
    ];
    for (scenario, kernel) in SMOKE {
        trials.push(
            lab.trial(format!("linux::{scenario}_{kernel}"), move |lab| {
                as_expected(lab, scenario, kernel, 1);
            }),
        );
    }
    for guest in Guest::all()
        .into_iter()
        .filter(|guest| guest.kernel.is_ok())
    {
        let name = format!("linux::idle-plain_{}", guest.name);
        trials.push(lab.trial(name, move |lab| {
            as_expected(lab, "idle-plain", &guest.name, 1);
        }));
    }
    for scenario in NBCON {
        let test = move |lab: &Lab| {
            for seed in 1..=20 {
                let folder = as_expected(lab, scenario, "nbcon", seed);
                let events = events(folder.path());
                let words = UNFIXED.iter().find(|(unfixed, _)| *unfixed == scenario);
                assert!(!words.is_some_and(|(_, words)| events.contains(words)));
            }
        };
        let trial = lab.trial(format!("linux::twenty_times_{scenario}_nbcon"), test);
        trials.push(trial.with_ignored_flag(true));
    }
    for (scenario, words) in UNFIXED {
        let name = format!("linux::twenty_times_{scenario}_nbcon-unfixed");
        let trial = lab.trial(name, move |lab| {
            a_thread_waits_for_ever(lab, scenario, words)
        });
        trials.push(trial.with_ignored_flag(true));
    }
    for kernel in KERNELS {
        let test = move |lab: &Lab| the_kernel_stops_by_its_protocol(lab, kernel);
        trials.push(lab.trial(format!("linux::console-locked_{kernel}"), test));
        for scenario in SOAKED {
            let test = move |lab: &Lab| {
                for seed in 1..=20 {
                    as_expected(lab, scenario, kernel, seed);
                }
            };
            let trial = lab.trial(format!("linux::twenty_times_{scenario}_{kernel}"), test);
            trials.push(trial.with_ignored_flag(true));
        }
        for scenario in FREE {
            let test = move |lab: &Lab| drop(as_expected(lab, scenario, kernel, 1));
            let trial = lab.trial(format!("linux::once_{scenario}_{kernel}"), test);
            trials.push(trial.with_ignored_flag(true));
        }
    }
    trials
}

/// Runs a scenario as its file expects it, and has the evidence judged again; the evidence.
pub(crate) fn as_expected(lab: &Lab, scenario: &str, kernel: &str, seed: u32) -> tempfile::TempDir {
    judged_alike(lab, scenario, kernel, seed, &[], 0).0
}

/// Runs a scenario, and has the evidence judged again; the evidence, and what is said of it. Exit code 1 is a surprise.
fn judged_alike(
    lab: &Lab,
    scenario: &str,
    kernel: &str,
    seed: u32,
    more: &[&str],
    code: i32,
) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let (subject, seed) = (format!("linux:{kernel}"), seed.to_string());
    let arguments = ["run", scenario, "--subject", &subject, "--seed", &seed];
    let run = lab
        .vmm(
            arguments
                .iter()
                .chain(&["--json", "--out", "evidence"])
                .chain(more),
        )
        .within(folder.path())
        .run()
        .exits(code);
    let judged = Vmm::new(["judge", "evidence", "--json"])
        .within(folder.path())
        .run()
        .exits(code);
    assert_eq!(run.stdout, judged.stdout);
    (folder, run.stdout)
}

/// The report of June 2025: the thread that lost the console to the CPU that panics waits for it with interrupts masked, and its CPU is
/// stopped by nothing but an NMI.
fn a_thread_waits_for_ever(lab: &Lab, scenario: &str, words: &str) {
    for seed in 1..=20 {
        let (folder, said) = judged_alike(lab, scenario, "nbcon-unfixed", seed, &[], 1);
        let verdicts: Value = serde_json::from_str(&said).unwrap();
        let rules = verdicts["rules"].as_array().unwrap().iter();
        let broken: Vec<&Value> = rules
            .filter(|rule| rule["verdict"] == "broken")
            .map(|rule| &rule["rule"])
            .collect();
        assert_eq!(broken, ["spared"], "seed {seed}: {said}");
        let events = events(folder.path());
        assert!(events.contains(words), "seed {seed}:\n{events}");
    }
}

fn events(folder: &Path) -> String {
    fs::read_to_string(folder.join("evidence/events.txt")).unwrap()
}

/// What it does tells by which protocol it stops, and it breaks what that breaks. The two v1 kernels have the same symbols.
fn the_kernel_stops_by_its_protocol(lab: &Lab, kernel: &str) {
    let folder = as_expected(lab, "console-locked", kernel, 1);
    let setting = fs::read_to_string(folder.path().join("evidence/evidence.toml")).unwrap();
    let protocol = format!("\n[protocol]\nname = \"{kernel}\"\n");
    assert!(setting.contains(&protocol), "{setting}");
    met_whole_or_cut(folder.path(), kernel);
    // The GIC and the stack say so, too: what is active, and what the interrupted code had masked (Linux 6.12's priorities).
    let events = events(folder.path());
    let (took, active) = match kernel {
        "nmi-only" => ("0/c0 takes by=nmi", "active sgi=3 priority=128"),
        _ => ("0/e0 takes by=irq", "active sgi=2 priority=192"),
    };
    for (seen, words) in [("trapped", took), ("quiesce", active)] {
        let of_cpu_1 = format!(" 1 {seen} ");
        let found = |line: &str| line.contains(&of_cpu_1) && line.contains(words);
        assert!(events.lines().any(found), "CPU 1 {words}:\n{events}");
    }
}

/// The record that CPU 1 was held in comes whole where the stop gives it time, and is cut by an NMI.
fn met_whole_or_cut(folder: &Path, kernel: &str) {
    let outcome = Vmm::new(["judge", "evidence", "--quiet"])
        .within(folder)
        .run();
    let line = outcome
        .stdout
        .lines()
        .find_map(|line| line.split_once("the line that the stop met: CPU 1 \""))
        .unwrap_or_else(|| panic!("no line was met:\n{}", outcome.story()))
        .1;
    let whole = line.ends_with(" more]|\"");
    let by_one = !line.contains(", then CPU 0 \"");
    assert_eq!((whole && by_one), kernel != "nmi-only", "{line}");
}

/// A vmlinux is believed only if it is of the kernel that runs.
fn symbols_of_another_build(lab: &Lab) {
    let run = |of: &str| {
        let vmlinux = format!("target/guests/{of}/vmlinux");
        let (subject, option) = ("linux:nmi-only", "--vmlinux");
        let arguments = ["run", "idle-plain", "--subject", subject, option, &vmlinux];
        lab.vmm(arguments).within(&root()).run()
    };
    run("irq-then-nmi")
        .exits(2)
        .complains("it is of another build");
    run("nmi-only").exits(0);
}

fn what_cannot_be_run(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("text"), "not a kernel ".repeat(100)).unwrap();
    fs::write(at.join("flat"), flat(&[SPIN])).unwrap();
    fs::copy(payload(), at.join("payload")).unwrap();
    let built = "linux:irq-then-nmi";
    let no_image = "is not an arm64 Image";
    for (scenario, subject, more, words) in [
        ("idle-plain", "linux:no-such", &[][..], "no guest `no-such`"),
        (
            "idle-plain",
            "linux:./no",
            &[],
            "there is no kernel at ./no",
        ),
        ("idle-plain", "linux:./text", &[], no_image),
        ("idle-plain", "linux:./flat", &[], no_image),
        ("idle-plain", "linux:./payload", &[], no_image),
        ("late-stores", built, &[], "stores that become visible late"),
        (
            "idle-plain",
            built,
            &["--swap", "plain:1"],
            "--swap is for the payload",
        ),
    ] {
        let arguments = ["run", scenario, "--subject", subject];
        let outcome = lab
            .vmm(arguments.iter().chain(more))
            .within(at)
            .run()
            .exits(2)
            .complains(words);
        let lines = outcome.stderr.lines().count();
        assert_eq!(lines, 1, "one line:\n{}", outcome.story());
    }
}

fn kernels_that_come_not_as_far_as_init(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("resets"), image(&[RESET])).unwrap();
    fs::write(folder.path().join("spins"), image(&[SPIN])).unwrap();
    for (subject, why) in [
        ("linux:./resets", "it reset itself"),
        ("linux:./spins", "it took longer than it may (--timeout)"),
    ] {
        let arguments = ["run", "idle-plain", "--subject", subject, "--timeout", "3"];
        let why = format!("did not come as far as our init: {why}; it said: nothing");
        lab.vmm(arguments)
            .within(folder.path())
            .run()
            .exits(2)
            .complains(&why);
    }
}

/// The formats by which a kernel writes its VMCOREINFO, and the names of its symbols there, are text in its Image: other text makes it
/// say less, or something else, about a memory that is as ever.
fn kernels_that_tell_lies_of_themselves(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let image = fs::read(root().join("target/guests/irq-then-nmi/Image")).unwrap();
    let vmlinux = root().join("target/guests/irq-then-nmi/vmlinux");
    let run = |told: &str, instead: &str, more: &[&str]| {
        let lies = replaced(&image, told.as_bytes(), instead.as_bytes());
        fs::write(folder.path().join("lies"), lies).unwrap();
        let arguments = ["run", "idle-plain", "--subject", "linux:./lies"];
        let arguments = arguments.iter().chain(more);
        lab.vmm(arguments).within(folder.path()).run()
    };
    let no_kallsyms = ["kallsyms_names\0", "kallsyms_namez\0"];
    for [told, instead, words] in [
        [
            "OSRELEASE=%s\n",
            "OSRELEASX=%s\n",
            "no VMCOREINFO in 131072 pages of RAM",
        ],
        [
            "SYMBOL(%s)=%lx\n",
            "SYMBOX(%s)=%lx\n",
            "VMCOREINFO has no line SYMBOL(swapper_pg_dir)=",
        ],
        [
            "SYMBOL(%s)=%lx\n",
            "SYMBOL(%s)=%ld\n",
            "which is not an address of the kernel",
        ],
        [
            "PAGESIZE=%ld\n",
            "PAGESIZE=3%d\n",
            "VMCOREINFO says PAGESIZE=34096",
        ],
        [
            no_kallsyms[0],
            no_kallsyms[1],
            "where the kernel's own symbols are missing, --vmlinux FILE gives them",
        ],
        [
            "kallsyms_relative_base\0",
            "kallsyms_relative_bass\0",
            "not mapped",
        ],
        // The numbers become hexadecimal ones.
        [
            "OFFSET(%s.%s)=%lu\n",
            "OFFSET(%s.%s)=%lx\n",
            "the printk ring is damaged",
        ],
        [
            "SIZE(%s)=%lu\n",
            "SIZE(%s)=%lx\n",
            "descriptors belong to other records",
        ],
    ] {
        run(told, instead, &[]).exits(2).complains(words);
    }
    let symbols = ["--vmlinux", vmlinux.to_str().unwrap()];
    run(no_kallsyms[0], no_kallsyms[1], &symbols).exits(0);
}

/// The image with other bytes wherever these are.
fn replaced(image: &[u8], told: &[u8], instead: &[u8]) -> Vec<u8> {
    assert_eq!(told.len(), instead.len());
    let mut image = image.to_vec();
    let places: Vec<usize> = image
        .windows(told.len())
        .enumerate()
        .filter_map(|(at, bytes)| (bytes == told).then_some(at))
        .collect();
    assert!(!places.is_empty(), "the Image has no {told:?}");
    for at in places {
        image[at..][..told.len()].copy_from_slice(instead);
    }
    image
}

/// The seed: "After rebooting, the pstore-based console looked fine though."
fn pstore_has_what_the_wire_lost(lab: &Lab, seed: u32) {
    let witnesses = |kernel: &str| {
        let (_, said) = judged_alike(lab, "console-locked", kernel, seed, &["--warm-reset"], 0);
        let said: Value = serde_json::from_str(&said).unwrap();
        said["witnesses"].clone()
    };
    let said = witnesses("nmi-only");
    let records = said["records"].as_u64().unwrap();
    assert!(records > 10, "{said}");
    let whole = json!({ "wire": records - 1, "pstore": records, "pstore-after-reset": records });
    assert_eq!(said["whole"], whole, "{said}");
    let cut = &said["not_whole"][0];
    let text = cut["text"].as_str().unwrap();
    assert!(text.starts_with("CPU 1 talks, record "), "{said}");
    let has = json!({ "wire": "cut", "pstore": "whole", "pstore-after-reset": "whole" });
    assert_eq!(cut["has"], has, "{said}");
    let said = witnesses("irq-then-nmi");
    assert_eq!(said["not_whole"], json!([]), "{said}");
}

/// A stock kernel has ramoops as a module. The verdict comes all the same.
fn a_kernel_without_ramoops(lab: &Lab) {
    let stock = ["run", "idle-plain", "--subject", "linux:debian-6.12"];
    let outcome = lab
        .vmm(stock.iter().chain(&["--warm-reset"]))
        .run()
        .exits(2);
    assert!(
        outcome.stdout.contains("as expected: nothing broken"),
        "{}",
        outcome.story()
    );
    outcome.complains("has set up no ramoops");
}
