//! What docs/findings.md shows of a run is what `vmm judge` says of the evidence that is kept of it in docs/findings.

use std::collections::BTreeSet;
use std::fs;

use e2e::{Vmm, root};

const DOCUMENT: &str = "docs/findings.md";
const FOLDERS: &str = "docs/findings";

/// The command in front of which a prompt stands.
fn command(line: &str) -> Option<Vec<&str>> {
    let words: Vec<&str> = line.strip_prefix("$ vmm ")?.split(' ').collect();
    (words.first() == Some(&"judge")).then_some(words)
}

/// The document with the output of each command behind it as it is today, and which folders it names.
fn renewed(text: &str) -> (String, BTreeSet<String>) {
    let (mut out, mut judged) = (Vec::new(), BTreeSet::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        out.push(line.to_owned());
        let Some(words) = command(line) else { continue };
        judged.extend(
            words
                .iter()
                .filter(|word| word.starts_with(FOLDERS))
                .map(|word| word.to_string()),
        );
        let outcome = Vmm::new(words).within(&root()).run();
        assert!(outcome.stderr.is_empty(), "{}", outcome.story());
        out.extend(
            outcome
                .stdout
                .lines()
                .map(|line| line.trim_end().to_owned()),
        );
        out.extend(lines.find(|line| *line == "```").map(str::to_owned));
    }
    (out.join("\n") + "\n", judged)
}

#[test]
fn the_evidence_says_what_the_findings_show() {
    let path = root().join(DOCUMENT);
    let text = fs::read_to_string(&path).unwrap();
    let (renewed, judged) = renewed(&text);
    let kept: BTreeSet<String> = fs::read_dir(root().join(FOLDERS))
        .unwrap()
        .map(|entry| format!("{FOLDERS}/{}", entry.unwrap().file_name().display()))
        .collect();
    assert_eq!(
        judged, kept,
        "what {DOCUMENT} judges, and what {FOLDERS} has"
    );
    if std::env::var_os("HOLDPOINT_UPDATE").is_some() {
        fs::write(&path, renewed).unwrap();
    } else {
        assert!(
            text == renewed,
            "{DOCUMENT} is not what is judged: HOLDPOINT_UPDATE=1 cargo test -p e2e --test findings"
        );
    }
}
