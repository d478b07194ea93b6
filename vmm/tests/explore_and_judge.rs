//! `vmm explore` and `vmm judge` as a user meets them.

use std::process::{Command, Output};

fn vmm(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmm"))
        .args(args)
        .output()
        .expect("the command starts")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("it prints text")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("it prints text")
}

#[test]
fn all_protocols_are_as_expected_and_a_pipe_sees_no_progress() {
    let output = vmm(&["explore", "console-locked"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(err(&output), "");
    assert_eq!(out(&output).lines().count(), 6);
    assert!(out(&output).contains("nmi-only      as expected: spared, console-intact broken"));
}

#[test]
fn the_last_line_of_a_failure_repeats_it() {
    let output = vmm(&["explore", "v1-2b-note-twice", "--protocol", "v1-proposal"]);
    let text = out(&output);
    let command = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("repeat: vmm "))
        .expect("a line to repeat");
    let again = vmm(&command.split(' ').collect::<Vec<_>>());
    assert_eq!(again.status.code(), Some(0));
    assert!(
        out(&again).contains("note-once          broken"),
        "{}",
        out(&again)
    );
}

#[test]
fn a_surprise_is_1_and_nonsense_is_2() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("surprise.toml");
    let text = r#"
        format = 1
        name = "surprise"
        why = "It expects nothing, and v1 breaks something."
        source = "none"
        cpus = 3
        stop = "crash"
        [[trigger]]
        cpu = 0
        does = "panic"
    "#;
    std::fs::write(&path, text).expect("the file is written");
    let path = path.to_str().expect("a path of text");
    let output = vmm(&["explore", path, "--subject", "model:v1-proposal", "-q"]);
    assert_eq!(output.status.code(), Some(1), "{}", out(&output));
    assert!(out(&output).contains("surprise: ack-after-save broken"));
    for nonsense in [
        &["explore", "no-such"][..],
        &["explore", path, "--protocol", "nmi"],
        &["explore", path, "--subject", "linux:x"],
        &[
            "explore",
            path,
            "--protocol",
            "irq-only",
            "--schedule",
            "1:00000000:",
        ],
        &["judge", "/nonexistent"],
    ] {
        let output = vmm(nonsense);
        assert_eq!(output.status.code(), Some(2), "{nonsense:?}");
        assert!(err(&output).starts_with("vmm: "), "{nonsense:?}");
    }
}

#[test]
fn evidence_is_judged_anew_and_never_when_damaged() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("evidence");
    let path = dir.to_str().expect("a path of text");
    let output = vmm(&[
        "explore",
        "console-locked",
        "--protocol",
        "nmi-only",
        "-q",
        "--out",
        path,
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let output = vmm(&["judge", path]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).contains("spared             broken         CPU 1"));
    let json: serde_json::Value =
        serde_json::from_str(&out(&vmm(&["judge", path, "--json"]))).expect("JSON");
    assert_eq!(json["as_expected"], true);
    assert_eq!(json["rules"].as_array().map(Vec::len), Some(13));

    let events = dir.join("events.txt");
    let text = std::fs::read_to_string(&events).expect("events are text");
    std::fs::write(&events, text.replacen("nmi", "irq", 1)).expect("the file is written");
    let output = vmm(&["judge", path]);
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(2), ""));
    assert!(err(&output).contains("events.txt is not what SHA256SUMS says"));
}
