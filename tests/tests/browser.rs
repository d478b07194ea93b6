//! The HTML report, looked at in a real browser: Debian's Chromium, by tests/readers/browser.py.

use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::{Vmm, root};
use serde_json::Value;

/// By the model, which is at once done with it. One of the cells is expected to break nothing, and does.
const DECLARATION: &str = r#"format = 1
[[set]]
scenarios = ["./mistaken.toml", "console-locked-forever", "e4-nmi-at-the-door", "v1-4-two-panics"]
subjects = ["model"]
"#;

const BROKEN: &str = "console-locked/model/nmi-only/4cpus-nmi-crash";

/// A report in a folder of its own.
fn report() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let own = fs::read_to_string(root().join("tests/scenarios/console-locked.toml")).unwrap();
    let right = "nmi-only = [\"spared\", \"console-intact\"]";
    assert!(own.contains(right));
    let wrong = own.replace(right, "nmi-only = []");
    fs::write(folder.path().join("mistaken.toml"), wrong).unwrap();
    fs::write(folder.path().join("m.toml"), DECLARATION).unwrap();
    Vmm::new(["matrix", "m.toml", "--report", "report.html"])
        .within(folder.path())
        .run()
        .exits(1)
        .says("24 cells: 23 as expected, 1 surprise");
    folder
}

/// What the browser has seen.
fn looked_at(folder: &Path) -> Value {
    let output = Command::new("/usr/bin/python3")
        .arg(root().join("tests/readers/browser.py"))
        .args([&folder.join("report.html"), folder])
        .output()
        .unwrap_or_else(|error| panic!("/usr/bin/python3: {error}; `make test` installs it"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    serde_json::from_slice(&output.stdout).expect("what it prints is JSON")
}

fn texts(value: &Value) -> Vec<&str> {
    let texts = value.as_array().unwrap().iter();
    texts.map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn a_report_can_be_read_in_a_browser() {
    let folder = report();
    let seen = looked_at(folder.path());
    assert_eq!(
        seen["title"],
        "24 cells: 1 surprise, 23 as expected · m.toml"
    );
    assert_eq!(texts(&seen["complaints"]), [""; 0]);
    assert_eq!(texts(&seen["requests"]), [""; 0], "nothing is fetched");

    // The first screen, at three widths, light and dark.
    let screens = seen["screens"].as_array().unwrap();
    assert_eq!(screens.len(), 6);
    for screen in screens {
        let what = format!("{} {}", screen["width"], screen["scheme"]);
        assert_eq!(
            screen["beyond"], 0,
            "{what}: nothing reaches beyond the page"
        );
        assert_eq!(
            screen["whole"], true,
            "{what}: it is seen without scrolling"
        );
        let says = screen["says"].as_str().unwrap();
        let repeat = "vmm explore ./mistaken.toml --subject model:nmi-only --strategy directed";
        for words in [BROKEN, "spared, CPU 1, event 10 at 0 µs: ", repeat] {
            assert!(says.contains(words), "{what}: {words:?} is not in {says}");
        }
        has_contrast(screen, &what);
    }
    let papers: Vec<&Value> = screens.iter().map(|screen| &screen["paper"]).collect();
    assert_ne!(papers[0], papers[1], "dark is another colour");

    // The broken cell, opened by keyboard.
    assert_eq!(seen["open_at_first"], 0);
    assert_eq!(
        seen["steps"], 1,
        "it is the first that the tabulator key comes to"
    );
    let opened = &seen["opened"];
    assert_eq!(opened["cell"], BROKEN);
    for key in ["open", "in_view", "visible"] {
        assert_eq!(opened[key], true, "{key}");
    }
    let lanes = [
        "ladder 0", "CPU 0", "CPU 1", "CPU 2", "CPU 3", "to stop", "online", "notes",
    ];
    assert_eq!(texts(&opened["lanes"]), lanes);
    let bars = texts(&opened["bars"]);
    for bar in [
        "CPU 1 held: stall: event 3, 0 µs to event 10, 0 µs",
        "CPU 1 in NMI: event 10, 0 µs to event 14, 0 µs",
        "CPU 1 off: event 14, 0 µs to the end",
    ] {
        assert!(bars.contains(&bar), "{bar}: {bars:#?}");
    }
    assert_eq!(texts(&opened["arrows"]).len(), 3);
    assert_eq!(
        texts(&opened["broken"]),
        ["spared, CPU 1", "console-intact, CPU 0"]
    );
    let lines = opened["console"].as_array().unwrap();
    assert_eq!((lines.len(), &lines[0]["cut"]), (1, &Value::Bool(true)));
    assert_eq!(opened["notes"], 4);
    for (at, look) in seen["opened_looks"].as_array().unwrap().iter().enumerate() {
        assert_eq!(look["beyond"], 0, "opened, look {at}");
        has_contrast(look, &format!("opened, look {at}"));
    }
    assert_eq!(
        (&seen["before"], &seen["closed_again"]),
        (&"SUMMARY".into(), &true.into())
    );

    // A picture of each of them, which is no blank page.
    for screen in ["first", "opened"] {
        for look in [
            "360-light",
            "360-dark",
            "768-light",
            "768-dark",
            "1280-light",
            "1280-dark",
        ] {
            let path = folder.path().join(format!("{screen}-{look}.png"));
            let length = fs::metadata(&path).unwrap().len();
            assert!(length > 10_000, "{}: {length} bytes", path.display());
        }
    }
}

/// As much as WCAG asks of text.
fn has_contrast(look: &Value, what: &str) {
    let least = &look["contrast"];
    assert!(least["ratio"].as_f64().unwrap() >= 4.5, "{what}: {least}");
}
