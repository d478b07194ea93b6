//! What `--trace` writes, read by tests/readers/trace.py.

use std::fs;

use e2e::{Vmm, read};
use serde_json::Value;

/// Runs of one sender and of several, with rungs that run out, CPUs that come and go, and holds of each manner.
const DECLARATION: &str = r#"format = 1
[[set]]
scenarios = ["console-locked", "console-locked-forever", "e6-not-run", "v1-3-two-senders", "v1-4-two-panics", "v1-5-unplug", "three-panics"]
subjects = ["model"]
"#;

#[test]
fn a_trace_has_a_track_a_cpu_and_an_end_for_every_begin() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("m.toml"), DECLARATION).unwrap();
    Vmm::new(["matrix", "m.toml", "--out", "out", "--quiet"])
        .within(at)
        .run()
        .exits(0);
    let report: Value =
        serde_json::from_str(&fs::read_to_string(at.join("out/report.json")).unwrap()).unwrap();
    let mut flows = 0;
    for cell in report["cells"].as_array().unwrap() {
        let evidence = format!("out/{}", cell["runs"][0]["evidence"].as_str().unwrap());
        Vmm::new(["judge", &evidence, "--quiet", "--trace", "trace.json"])
            .within(at)
            .run()
            .exits(0);
        let trace = fs::read_to_string(at.join("trace.json")).unwrap();
        let read: Value = serde_json::from_str(&read("trace.py", &[], &trace)).unwrap();
        let tracks = read["tracks"].as_object().unwrap();
        let cpus = tracks.keys().filter(|name| name.starts_with("CPU "));
        assert_eq!(
            cpus.count() as u64,
            cell["cpus"].as_u64().unwrap(),
            "{evidence}"
        );
        flows += read["flows"].as_array().unwrap().len();
        if cell["name"] == "console-locked/model/nmi-only/4cpus-nmi-crash" {
            let track = |name: &str| -> Vec<&str> {
                let slices = tracks[name].as_array().unwrap();
                slices
                    .iter()
                    .map(|slice| slice[0].as_str().unwrap())
                    .collect()
            };
            assert_eq!(
                track("CPU 1"),
                ["running", "IRQs off", "held: stall", "in NMI", "off"]
            );
            assert_eq!(track("ladder of CPU 0"), ["rung nmi"]);
            let flow = |cpu| serde_json::json!(["stop nmi", "CPU 0", cpu]);
            assert_eq!(
                read["flows"].as_array().unwrap()[..],
                ["CPU 1", "CPU 2", "CPU 3"].map(flow)
            );
        }
    }
    assert!(flows > 50, "{flows}");
}

#[test]
fn a_trace_that_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    Vmm::new([
        "explore",
        "console-locked",
        "--subject",
        "model:nmi-only",
        "--strategy",
        "directed",
        "--out",
        "out",
        "--quiet",
    ])
    .within(at)
    .run()
    .exits(0);
    Vmm::new(["judge", "out", "--trace", "/dev/full"])
        .within(at)
        .run()
        .exits(2)
        .complains("cannot write the trace /dev/full: No space left on device (os error 28)");
}
