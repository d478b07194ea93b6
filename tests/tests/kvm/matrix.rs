//! `vmm matrix`: what is kept of it, what it says, and who can read that.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use e2e::{Lab, OnTerminal, Running, Vmm, checkers, payload, read, root};
use libtest_mimic::Trial;
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::{SharedLab, alone};

pub(crate) fn trials(lab: &SharedLab) -> Vec<Trial> {
    vec![
        alone("matrix::what_is_wrong_with_it_is_told", what_is_wrong),
        alone("matrix::machines_read_it", machines_read_it),
        lab.trial(
            "matrix::killed_and_resumed_it_is_as_if_unbroken",
            killed_and_resumed,
        ),
        lab.trial(
            "matrix::a_wrong_expectation_turns_its_cells_red",
            a_wrong_expectation,
        ),
        lab.trial(
            "matrix::a_disk_that_takes_no_more_loses_nothing",
            a_full_disk,
        ),
        lab.trial("matrix::on_a_terminal_it_is_alive", on_a_terminal),
        lab.trial("matrix::a_broken_table_turns_its_cells_red", a_broken_table),
        lab.trial("matrix::its_parts_merged_are_the_whole", merged),
        lab.trial("matrix::as_an_array_of_slurm_s", slurm),
        lab.trial("matrix::ctrl_c_keeps_what_is_finished", ctrl_c),
        lab.trial("matrix::it_runs_where_kvm_is", where_kvm_is),
        lab.trial("matrix::of_a_kernel_it_says_right_and_wrong", of_a_kernel),
        lab.trial("matrix::git_bisect_finds_what_mended_it", bisected),
        alone("matrix::a_lab_that_dies_is_told", a_lab_that_dies),
        lab.trial(
            "matrix::a_broken_kernel_turns_its_cells_red",
            a_broken_kernel,
        )
        .with_ignored_flag(true),
        lab.trial("matrix::the_whole", the_whole)
            .with_ignored_flag(true),
        lab.trial(
            "matrix::the_whole_killed_ten_times_is_as_if_unbroken",
            killed_ten_times,
        )
        .with_ignored_flag(true),
    ]
}

/// Twelve cells of the payload.
const SMALL: &str = r#"format = 1
[[set]]
scenarios = ["console-locked", "idle-crash"]
subjects = ["payload"]
"#;

/// A folder with this declaration in it.
fn declared(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("m.toml"), text).unwrap();
    folder
}

fn report(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("report.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A report without how long it took.
fn timeless(mut report: Value) -> Value {
    for cell in report["cells"].as_array_mut().unwrap() {
        for run in cell["runs"].as_array_mut().unwrap() {
            assert!(run["seconds"].take().is_number());
        }
    }
    report
}

/// How many cells stand how, by the report.
fn standings(report: &Value) -> BTreeMap<String, Vec<String>> {
    let mut standings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for cell in report["cells"].as_array().unwrap() {
        let word = |key: &str| cell[key].as_str().unwrap().to_owned();
        let cells = standings.entry(word("standing")).or_default();
        cells.push(word("name"));
    }
    standings
}

/// The cells of a journal, each of which is there once.
fn journal(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("journal.jsonl")).unwrap();
    let lines = text.lines().skip(1).map(|line| {
        let line: Value = serde_json::from_str(line).expect("a whole line");
        line["cell"].as_str().unwrap().to_owned()
    });
    let mut cells: Vec<String> = lines.collect();
    cells.sort();
    let all = cells.len();
    cells.dedup();
    assert_eq!(cells.len(), all, "nothing is run twice");
    cells
}

fn killed_and_resumed(lab: &Lab) {
    let folder = declared(SMALL);
    let at = folder.path();
    let matrix = |more: &[&str]| {
        let arguments = ["matrix", "m.toml"].iter().chain(more);
        lab.vmm(arguments).within(at)
    };
    matrix(&["--out", "whole"]).run().exits(0);
    let mut running = matrix(&["--out", "cut", "--jobs", "1"]).start();
    for _ in 0..3 {
        running.wait_for("as expected ");
    }
    running.signal(Signal::KILL);
    running.end().exits(137);
    let kept = journal_of_whole_lines(&at.join("cut"));
    assert!((3..12).contains(&kept), "{kept}");
    // As if its last line had not come to its end on the disk.
    let path = at.join("cut/journal.jsonl");
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"cell\":\"idle-cr").unwrap();
    drop(file);
    matrix(&["--out", "cut"])
        .run()
        .exits(2)
        .complains("--resume goes on with it");
    let resumed = matrix(&["--out", "cut", "--resume"]).run().exits(0);
    let finished = resumed.stdout.lines();
    let finished = finished.filter(|line| line.starts_with("as expected "));
    assert_eq!(finished.count(), 12 - kept, "{}", resumed.story());
    assert_eq!(journal(&at.join("cut")), journal(&at.join("whole")));
    assert_eq!(
        timeless(report(&at.join("cut"))),
        timeless(report(&at.join("whole")))
    );
    // Each run's evidence is there, and says the same.
    for cell in report(&at.join("cut"))["cells"].as_array().unwrap() {
        let evidence = cell["runs"][0]["evidence"].as_str().unwrap();
        let folder = at.join("cut").join(evidence);
        Vmm::new(["judge", folder.to_str().unwrap(), "--quiet"])
            .run()
            .exits(0);
    }
    // There is nothing left to be done, and nothing is.
    let again = matrix(&["--out", "cut", "--resume"]).run().exits(0);
    assert!(
        again.stdout.starts_with("12 cells: 12 as expected"),
        "{}",
        again.story()
    );
    matrix(&["--out", "cut", "--resume", "--seed", "2"])
        .run()
        .exits(2)
        .complains("--seed differ");
}

fn merged(lab: &Lab) {
    let folder = declared(SMALL);
    let at = folder.path();
    let matrix = |more: &[&str]| {
        let arguments = ["matrix", "m.toml", "--out"].iter().chain(more);
        lab.vmm(arguments).within(at).run()
    };
    let merge = |parts: &[&str]| {
        let arguments = ["report", "merge"].iter().chain(parts);
        Vmm::new(arguments).within(at).run()
    };
    matrix(&["whole"]).exits(0);
    matrix(&["1", "--shard", "1/3"]).exits(0);
    matrix(&["3", "--shard", "3/3"]).exits(0);
    merge(&["3", "1", "--out", "merged"])
        .exits(2)
        .complains("part 2/3 is missing");
    merge(&["whole", "1"])
        .exits(2)
        .complains("whole is of a whole matrix");
    matrix(&["2", "--shard", "2/3", "--repeat", "2"]).exits(0);
    merge(&["3", "1", "2"])
        .exits(2)
        .complains("1 and 2 are not parts of one matrix: --repeat differ");
    fs::remove_dir_all(at.join("2")).unwrap();
    matrix(&["2", "--shard", "2/3"]).exits(0);
    fs::rename(at.join("2/report.json"), at.join("2/later")).unwrap();
    merge(&["3", "1", "2", "--out", "merged"])
        .exits(2)
        .complains("2 has no report.json: its matrix was broken off; the same command with --resume goes on with it");
    assert!(!at.join("merged").exists());
    fs::rename(at.join("2/later"), at.join("2/report.json")).unwrap();
    merge(&["3", "1", "2", "--out", "merged", "--report", "page.html"])
        .exits(0)
        .says("12 cells: 12 as expected");
    let page = fs::read_to_string(at.join("page.html")).unwrap();
    assert_eq!(page.matches("<details class=\"cell").count(), 12);
    assert_eq!(
        timeless(report(&at.join("merged"))),
        timeless(report(&at.join("whole")))
    );
    let said = Vmm::new(["report", "merge", "1", "2", "3", "--format", "json"])
        .within(at)
        .run()
        .exits(0)
        .stdout;
    let kept = fs::read_to_string(at.join("merged/report.json")).unwrap();
    assert_eq!(said, kept);
    // To the matrix it is a folder of its own, in which everything is finished, with its evidence.
    let again = matrix(&["merged", "--resume"]).exits(0);
    assert!(
        again.stdout.starts_with("12 cells: 12 as expected"),
        "{}",
        again.story()
    );
    for cell in report(&at.join("merged"))["cells"].as_array().unwrap() {
        let evidence = cell["runs"][0]["evidence"].as_str().unwrap();
        let folder = at.join("merged").join(evidence);
        Vmm::new(["judge", folder.to_str().unwrap(), "--quiet"])
            .run()
            .exits(0);
    }
}

/// What Slurm sets for each task of an array is all that examples/slurm.sh knows of it.
fn slurm(lab: &Lab) {
    let folder = declared(SMALL);
    let script = root().join("examples/slurm.sh");
    let programs = std::env::var("PATH").unwrap();
    let programs = format!("{}:{programs}", root().join("target/release").display());
    let task = |id: &str| {
        lab.lend(Vmm::at(&script, ["kept", "m.toml", "--quiet"]))
            .within(folder.path())
            .env("PATH", &programs)
            .env("SLURM_ARRAY_TASK_ID", id)
            .env("SLURM_ARRAY_TASK_COUNT", "2")
            .run()
            .exits(0)
    };
    task("1").says("6 cells: 6 as expected");
    task("2").says("6 cells: 6 as expected");
    // Queued again, it finds everything done.
    task("2").says("6 cells: 6 as expected");
    Vmm::new(["report", "merge", "kept/part-1", "kept/part-2"])
        .within(folder.path())
        .run()
        .exits(0)
        .says("12 cells: 12 as expected");
}

/// No file may grow beyond 41 KiB, which the journal does near its end, and no evidence of the payload's.
fn a_full_disk(lab: &Lab) {
    let folder = declared(SMALL);
    let at = folder.path();
    let vmm = root().join("target/release/vmm");
    let vmm = vmm.to_str().unwrap();
    let limited = r#"trap '' XFSZ; ulimit -f 82; exec "$@""#;
    let matrix = ["matrix", "m.toml", "--repeat", "3", "--out", "out"];
    let shell = ["-c", limited, "sh", vmm];
    let outcome = lab
        .lend(Vmm::at(Path::new("sh"), shell.iter().chain(&matrix)))
        .within(at)
        .run()
        .exits(2)
        .complains("vmm: cannot write out/journal.jsonl: File too large")
        .complains(" of 36 runs are finished and kept in out; the same with --resume goes on");
    let kept = journal_of_whole_lines(&at.join("out"));
    assert!((1..36).contains(&kept), "{kept}");
    outcome.complains(&format!("; {kept} of 36 runs are finished"));
    assert!(!at.join("out/report.json").exists());
    assert!(!at.join("out/report.json.new").exists());
    lab.vmm(matrix.iter().chain(&["--resume"]))
        .within(at)
        .run()
        .exits(0)
        .says("12 cells: 12 as expected");
    let mut runs: Vec<u64> = Vec::new();
    for cell in report(&at.join("out"))["cells"].as_array().unwrap() {
        runs.extend(
            cell["runs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|run| run["run"].as_u64().unwrap()),
        );
    }
    assert_eq!(runs, [1, 2, 3].repeat(12));
}

/// The finished runs that are whole in a journal whose writer was killed.
fn journal_of_whole_lines(folder: &Path) -> usize {
    let text = fs::read(folder.join("journal.jsonl")).unwrap();
    text.iter().filter(|byte| **byte == b'\n').count() - 1
}

/// The scenario with another expectation under one protocol.
fn mistaken(folder: &Path) {
    let own = fs::read_to_string(root().join("tests/scenarios/console-locked.toml")).unwrap();
    let right = "nmi-only = [\"spared\", \"console-intact\"]";
    assert!(own.contains(right));
    let wrong = own.replace(right, "nmi-only = []");
    fs::write(folder.join("mistaken.toml"), wrong).unwrap();
}

fn a_wrong_expectation(lab: &Lab) {
    let folder = declared(&SMALL.replace("\"console-locked\"", "\"./mistaken.toml\""));
    mistaken(folder.path());
    let outcome = lab
        .vmm(["matrix", "m.toml", "--out", "out"])
        .within(folder.path())
        .run()
        .exits(1)
        .says("surprise: console-locked/payload/nmi-only/4cpus-nmi-crash\n    spared: CPU 1, ")
        .says("    repeat: vmm run ./mistaken.toml --subject payload:nmi-only --seed 1 --schedule ")
        .says("12 cells: 11 as expected, 1 surprise");
    let standings = standings(&report(&folder.path().join("out")));
    assert_eq!(
        standings["surprise"],
        ["console-locked/payload/nmi-only/4cpus-nmi-crash"],
        "{}",
        outcome.story()
    );
    assert_eq!(standings["as-expected"].len(), 11);
    // Strictly, all that is broken is wrong.
    lab.vmm(["matrix", "m.toml", "--strict", "--filter", "idle-crash"])
        .within(folder.path())
        .run()
        .exits(1)
        .says("6 cells: 5 as expected, 1 surprise")
        .says("surprise: idle-crash/payload/v1-proposal/");
}

/// The payload saves its registers behind the ack wherever a protocol has these two steps there, and is judged by the table as it is.
fn a_broken_table(lab: &Lab) {
    let folder = declared(&SMALL.replace("\"idle-crash\"", "\"idle-crash\", \"idle-plain\""));
    let outcome = lab
        .vmm(["matrix", "m.toml", "--swap", "crash:2", "--out", "out"])
        .within(folder.path())
        .run()
        .exits(1)
        .says("    ack-after-save: CPU ")
        .says(" --swap crash:2 --schedule ")
        .says("18 cells: 12 as expected, 6 surprises");
    let standings = standings(&report(&folder.path().join("out")));
    let red = [
        "console-locked/payload/v1-corrected/4cpus-nmi-crash",
        "console-locked/payload/irq-then-nmi/4cpus-nmi-crash",
        "console-locked/payload/irq-nmi-sdei/4cpus-nmi-crash",
        "idle-crash/payload/v1-corrected/4cpus-nmi-crash",
        "idle-crash/payload/irq-then-nmi/4cpus-nmi-crash",
        "idle-crash/payload/irq-nmi-sdei/4cpus-nmi-crash",
    ];
    assert_eq!(standings["surprise"], red, "{}", outcome.story());
}

/// Linux 7.2 with a fix undone (`make kernel-nbcon`), which shows where a thread has lost its console, and nowhere else.
fn a_broken_kernel(lab: &Lab) {
    let folder = declared(
        r#"format = 1
[[set]]
scenarios = ["idle-plain", "idle-crash", "console-locked", "console-nbcon-lost", "console-nbcon-lost-no-nmi"]
subjects = ["linux"]
kernels = ["nbcon", "nbcon-unfixed"]
"#,
    );
    let outcome = lab
        .vmm(["matrix", "m.toml", "--out", "out"])
        .within(folder.path())
        .run()
        .exits(1)
        .says("    spared: CPU 1, ")
        .says("    repeat: vmm run console-nbcon-lost --subject linux:nbcon-unfixed --seed 1")
        .says("10 cells: 8 as expected, 2 surprises");
    let standings = standings(&report(&folder.path().join("out")));
    let red = [
        "console-nbcon-lost/linux/nbcon-unfixed/4cpus-nmi-crash",
        "console-nbcon-lost-no-nmi/linux/nbcon-unfixed/4cpus-no-nmi-crash",
    ];
    assert_eq!(standings["surprise"], red, "{}", outcome.story());
}

/// What somebody has to look at stays, what nobody has to is counted, and in the end there is the summary.
fn on_a_terminal(lab: &Lab) {
    let folder = declared(&SMALL.replace("\"console-locked\"", "\"./mistaken.toml\""));
    mistaken(folder.path());
    let mut matrix = OnTerminal::start(lab.vmm(["matrix", "m.toml"]).within(folder.path()));
    matrix
        .terminal
        .wait_for("0 of 12, no surprise, time left not known yet");
    matrix
        .terminal
        .wait_for("surprise: console-locked/payload/nmi-only/");
    let outcome = matrix.end().exits(1);
    let said = &outcome.stdout;
    assert!(said.contains(" left after "), "{}", outcome.story());
    assert!(!said.contains("as expected  "), "{}", outcome.story());
    // Behind it the live view is gone.
    let (_, end) = said.rsplit_once('\u{1b}').unwrap();
    assert!(
        end.contains("12 cells: 11 as expected, 1 surprise"),
        "{end:?}"
    );
}

fn ctrl_c(lab: &Lab) {
    let folder = declared(SMALL);
    let at = folder.path();
    let mut running = lab
        .vmm(["matrix", "m.toml", "--out", "out", "--jobs", "1"])
        .within(at)
        .start();
    let mark = running.mark();
    running.wait_for("as expected ");
    running.signal(Signal::INT);
    let outcome = running.end().exits(130).complains("--resume goes on");
    mark.wait_until_gone(30).expect("no process is left");
    let kept = journal(&at.join("out")).len();
    assert!((1..12).contains(&kept), "{}", outcome.story());
    lab.vmm(["matrix", "m.toml", "--out", "out", "--resume"])
        .within(at)
        .run()
        .exits(0)
        .says("12 cells: 12 as expected");
}

/// As on a machine with KVM of its own: each run is a process of that machine.
fn where_kvm_is(lab: &Lab) {
    let mut running = lab
        .shell(
            "cat > payload; $VMM matrix --payload payload --filter idle-crash --filter by=nmi-only \
             --filter payload --jobs 2 --quiet",
        )
        .with_input()
        .start();
    running.type_in(&fs::read(payload()).unwrap());
    running.end_input();
    running.end().exits(0).says(" as expected");
}

/// Its own: the kernels that were built with a fault, and without it.
fn of_a_kernel(lab: &Lab) {
    let image = |kernel: &str| root().join(format!("target/guests/{kernel}/Image"));
    let matrix = |kernel: &str, more: &[&str]| {
        let image = image(kernel);
        let arguments = ["matrix", "--kernel", image.to_str().unwrap()];
        let filter = ["--filter", "scenario=console-locked"];
        lab.vmm(arguments.iter().chain(&filter).chain(more)).run()
    };
    matrix("nmi-only", &[])
        .exits(1)
        .says("This kernel stops its CPUs by the protocol nmi-only.")
        .says("What it does wrong:\n  spared: ")
        .says("What it does right:\n");
    matrix("nmi-only", &["--no-strict", "--quiet"]).exits(0);
    matrix("nmi-only", &["--bisect"]).exits(1);
    matrix("irq-then-nmi", &["--bisect"]).exits(0);
    // One that does not boot tells nothing of the stop path.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Image");
    fs::write(&path, "not a kernel ".repeat(100)).unwrap();
    let arguments = ["matrix", "--bisect", "--kernel", path.to_str().unwrap()];
    lab.vmm(arguments.iter().chain(&["--filter", "idle-plain"]))
        .run()
        .exits(125);
}

/// A history in which each commit builds another of our kernels, and docs/matrix.md's way to ask it.
fn bisected(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let identity = [
            "-c",
            "user.name=nobody",
            "-c",
            "user.email=nobody@localhost",
        ];
        lab.lend(Vmm::at(Path::new("git"), identity.iter().chain(arguments)))
            .within(folder.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .run()
            .exits(0)
    };
    git(&["init", "--quiet"]);
    let row = [
        "nmi-only",
        "nmi-only",
        "none",
        "v1-proposal",
        "v1-corrected",
        "irq-then-nmi",
        "irq-then-nmi",
    ];
    for (at, kernel) in row.iter().enumerate() {
        fs::write(folder.path().join("kernel"), kernel).unwrap();
        fs::write(folder.path().join("commit"), at.to_string()).unwrap();
        git(&["add", "."]);
        git(&["commit", "--quiet", "--message", &format!("{at}: {kernel}")]);
    }
    git(&[
        "bisect",
        "start",
        "--term-old=broken",
        "--term-new=mended",
        "HEAD",
        "HEAD~6",
    ]);
    // "none" is a kernel that cannot be had: git goes round it.
    let ask = format!(
        r#"kernel={}/$(cat kernel)/Image
           {} matrix --bisect --kernel "$kernel" --filter scenario=console-locked
           case $? in 0) exit 1;; 1) exit 0;; *) exit 125;; esac"#,
        root().join("target/guests").display(),
        root().join("target/release/vmm").display(),
    );
    let outcome = git(&["bisect", "run", "sh", "-c", &ask]);
    let found = git(&["log", "--format=%s", "--max-count=1", "refs/bisect/mended"]);
    assert_eq!(found.stdout, "4: v1-corrected\n", "{}", outcome.story());
}

fn a_lab_that_dies() {
    let folder = declared(SMALL);
    let at = folder.path();
    let mut running = Vmm::new(["matrix", "m.toml", "--out", "out", "--jobs", "1", "--lab"])
        .within(at)
        .start();
    running.wait_for("as expected ");
    let mark = running.mark();
    let emulator = mark.alive().into_iter().find(|pid| {
        let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
        name.unwrap_or_default().starts_with("qemu")
    });
    kill_process(emulator.expect("the lab runs in QEMU"), Signal::KILL).unwrap();
    running
        .end()
        .exits(2)
        .complains("the lab is lost")
        .complains("are finished and kept in out; the same with --resume goes on");
    mark.wait_until_gone(30).expect("no process is left");
    assert!(!journal(&at.join("out")).is_empty());
}

fn what_is_wrong() {
    let folder = declared(SMALL);
    let at = folder.path();
    let matrix = |text: &str, more: &[&str]| {
        fs::write(at.join("m.toml"), text).unwrap();
        let arguments = ["matrix", "m.toml"].iter().chain(more);
        Vmm::new(arguments).within(at).run().exits(2)
    };
    matrix(&SMALL.replace("\"payload\"", "\"paylod\""), &[])
        .complains("m.toml:4: set[0].subjects[0]: `paylod` is not known; is `payload` meant?");
    let set = SMALL.trim_start_matches("format = 1\n");
    matrix(&format!("{SMALL}{set}"), &[])
        .complains("the cell console-locked/payload/irq-only/4cpus-nmi-crash is there twice");
    matrix(&format!("{SMALL}cpus = [9]\n"), &[])
        .complains("the matrix is empty: 12 combinations were left out")
        .complains("console-locked does not say what is expected under such conditions");
    matrix(SMALL, &["--filter", "wedged"]).complains("--filter wants none of its 12 cells");
    matrix(SMALL, &["--filter", "cpu=4"]).complains("there is no axis `cpu`");
    matrix(SMALL, &["--shard", "3/2"]).complains("I/N is meant");
    matrix(SMALL, &["--repeat", "2"]).complains("--repeat needs --out");
    matrix(SMALL, &["--out", "/proc/out"]).complains("cannot write /proc/out");
    // Before a cell is run: nothing is said of any.
    let refused = matrix(SMALL, &["--report", "no-such/report.html"]).complains(
        "cannot write the report no-such/report.html: No such file or directory (os error 2)",
    );
    assert_eq!(refused.stdout, "", "{}", refused.story());
    let linux = SMALL.replace("[\"payload\"]", "[\"linux\"]\nkernels = [\"no-such\"]");
    matrix(&linux, &[]).complains("there is no guest `no-such`");
}

/// By the model alone, which makes twelve verdicts at once, one of them a surprise.
fn machines_read_it() {
    let declaration = SMALL
        .replace("\"console-locked\"", "\"./mistaken.toml\"")
        .replace("\"payload\"", "\"model\"");
    let folder = declared(&declaration);
    mistaken(folder.path());
    let formatted = |format: &str| {
        Vmm::new(["matrix", "m.toml", "--format", format])
            .within(folder.path())
            .run()
            .exits(1)
            .stdout
    };
    let schema = root().join("docs/matrix.schema.json");
    let json = formatted("json");
    read("schema.py", &[schema.to_str().unwrap()], &json);
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["counts"]["as-expected"], 11);
    assert_eq!(report["counts"]["surprise"], 1);
    let kunit = root().join("target/kunit");
    let ktap = read("ktap.py", &[kunit.to_str().unwrap()], &formatted("ktap"));
    let ktap: Value = serde_json::from_str(&ktap).unwrap();
    assert_eq!((&ktap["passed"], &ktap["failed"]), (&11.into(), &1.into()));
    assert_eq!((&ktap["errors"], &ktap["crashed"]), (&0.into(), &0.into()));
    let red = "console-locked model/nmi-only/4cpus-nmi-crash";
    let failed = serde_json::json!([red, "FAILURE"]);
    assert!(
        ktap["tests"].as_array().unwrap().contains(&failed),
        "{ktap:#}"
    );
    let schema = checkers().join("junit-10.xsd");
    let junit = read("junit.py", &[schema.to_str().unwrap()], &formatted("junit"));
    let junit: Value = serde_json::from_str(&junit).unwrap();
    assert_eq!(junit, serde_json::json!({ "passed": 11, "failure": 1 }));
    let tap = formatted("tap13");
    assert!(tap.starts_with("TAP version 13\n1..12\n"), "{tap}");
    let lines = |start: &str| tap.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!((lines("ok "), lines("not ok ")), (11, 1), "{tap}");
    // A disk that is full when the report is written.
    Vmm::new(["matrix", "m.toml", "--report", "/dev/full"])
        .within(folder.path())
        .run()
        .exits(2)
        .says("12 cells: 11 as expected, 1 surprise")
        .complains("cannot write the report /dev/full: No space left on device (os error 28)");
}

/// The project's own set, on the payload, the model, and the kernels that are built.
fn the_whole(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let running = lab.vmm(["matrix", "--out", "out"]).within(folder.path());
    followed(running.start(), cells_of_the_whole());
    let standings = standings(&report(&folder.path().join("out")));
    assert_eq!(standings.keys().collect::<Vec<_>>(), ["as-expected"]);
}

fn cells_of_the_whole() -> usize {
    let listed = Vmm::new(["matrix", "--list"]).run().exits(0).stdout;
    let cells = listed.lines().find_map(|line| line.split_once(" cells, "));
    cells.expect("how many").0.parse().unwrap()
}

/// To its end, a finished cell after the other: all of them take longer than a test waits for anything.
fn followed(mut running: Running, cells: usize) {
    for _ in 0..cells {
        running.wait_for("as expected ");
    }
    running.end().exits(0);
}

fn killed_ten_times(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let matrix = |out: &str| {
        let command = ["matrix", "--resume", "--out", out];
        lab.vmm(command).within(folder.path()).start()
    };
    let cut = folder.path().join("cut");
    let finished = || match cut.join("journal.jsonl").exists() {
        true => journal_of_whole_lines(&cut),
        false => 0,
    };
    let all = cells_of_the_whole();
    let state = RandomState::new();
    let random = |what: &str, leg: u64, below: u64| state.hash_one((what, leg)) % below;
    for leg in 0..10 {
        let mut running = matrix("cut");
        let cells = random("cells", leg, all as u64 / 15);
        for _ in 0..cells {
            running.wait_for("as expected ");
        }
        // Not for anything to come: at any moment it is to be as good.
        let then = Duration::from_millis(random("milliseconds", leg, 3000));
        std::thread::sleep(then);
        running.signal(Signal::KILL);
        running.end().exits(137);
        eprintln!(
            "killed {then:?} after {cells} more cells, {} of {all} finished",
            finished()
        );
    }
    let kept = finished();
    assert!(kept < all, "{kept}");
    followed(matrix("cut"), all - kept);
    followed(matrix("whole"), all);
    let whole = folder.path().join("whole");
    assert_eq!(journal(&cut), journal(&whole));
    let comparable = |folder| momentless(timeless(report(folder)));
    assert_eq!(comparable(&cut), comparable(&whole));
}

/// A report without when it was that a rule was broken in a run of Linux, which is another moment in each run.
fn momentless(mut report: Value) -> Value {
    for cell in report["cells"].as_array_mut().unwrap() {
        if !cell["name"].as_str().unwrap().contains("/linux/") {
            continue;
        }
        for run in cell["runs"].as_array_mut().unwrap() {
            let rules = run["came"]["judged"]["rules"].as_array_mut();
            for rule in rules.into_iter().flatten() {
                let rule = rule.as_object_mut().unwrap();
                for moment in ["at_us", "event", "text"] {
                    rule.remove(moment);
                }
            }
        }
    }
    report
}
