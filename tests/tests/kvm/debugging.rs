//! The session of docs/debugging.md, as it stands there.

use std::fs;

use e2e::{Lab, payload, root};
use libtest_mimic::Trial;

use crate::SharedLab;
use crate::gdb::gdb;

pub(crate) fn trials(lab: &SharedLab) -> Vec<Trial> {
    vec![lab.trial("debugging::the_session_is_true", session)]
}

/// What a user types, and what is said to that.
struct Said<'d> {
    command: &'d str,
    lines: Vec<&'d str>,
}

/// A document's session: what is typed into a shell, what into gdb, and what the first terminal says in the end.
struct Session<'d> {
    shell: Vec<Said<'d>>,
    gdb: Vec<Said<'d>>,
    verdict: Vec<&'d str>,
}

impl<'d> Session<'d> {
    fn of(document: &'d str) -> Self {
        let (_, rest) = document.split_once("\n## A session\n").unwrap();
        let (text, _) = rest.split_once("\n## ").unwrap();
        let mut session = Self {
            shell: Vec::new(),
            gdb: Vec::new(),
            verdict: Vec::new(),
        };
        let mut in_gdb = false;
        let mut block_begins = true;
        for line in text.lines() {
            let Some(line) = line.strip_prefix("    ") else {
                block_begins = true;
                continue;
            };
            let said = |command| Said {
                command,
                lines: Vec::new(),
            };
            if let Some(command) = line.strip_prefix("$ ") {
                in_gdb = false;
                session.shell.push(said(command));
            } else if let Some(command) = line.strip_prefix("(gdb) ") {
                in_gdb = true;
                session.gdb.push(said(command));
            } else if block_begins || !session.verdict.is_empty() {
                // A block that begins without a prompt is the first terminal's.
                session.verdict.push(line);
            } else if in_gdb {
                session.gdb.last_mut().unwrap().lines.push(line);
            } else {
                session.shell.last_mut().unwrap().lines.push(line);
            }
            block_begins = false;
        }
        session
    }
}

/// Whether a text is as a line of the document says, where `…` may be anything.
fn fits(line: &str, text: &str) -> bool {
    let mut parts = line.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    true
}

/// Whether lines are as the document says, where a line that is `…` may be any number of them.
fn all_fit(lines: &[&str], texts: &[&str]) -> bool {
    match lines.split_first() {
        None => texts.is_empty(),
        Some((&"…", lines)) => (0..=texts.len()).any(|skipped| all_fit(lines, &texts[skipped..])),
        Some((line, lines)) => (texts.split_first())
            .is_some_and(|(text, texts)| fits(line, text.trim_end()) && all_fit(lines, texts)),
    }
}

#[track_caller]
fn holds(command: &str, lines: &[&str], text: &str) {
    let texts: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    assert!(
        all_fit(lines, &texts),
        "{command}\n--- the document says\n{}\n--- and it is\n{text}",
        lines.join("\n")
    );
}

fn session(lab: &Lab) {
    let document = fs::read_to_string(root().join("docs/debugging.md")).unwrap();
    let session = Session::of(&document);
    let [debug, debugger] = session.shell.as_slice() else {
        panic!("two terminals");
    };
    assert_eq!(
        debugger.command,
        "gdb-multiarch -q target/guest/aarch64-unknown-none-softfloat/release/guest"
    );
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("gdb");
    let socket = socket.to_str().unwrap();
    let there = format!("unix:{socket}");
    let words = debug.command.strip_prefix("vmm ").unwrap().split(' ');
    let mut running = lab.vmm(words.chain(["--gdb", &there])).start();
    running.wait_for_complaint("debuggers connect to");

    // Each command's answer ends with a mark.
    let typed: Vec<String> = (session.gdb.iter())
        .map(|said| match said.command {
            "target remote :1234" => format!("target remote {socket}"),
            "source docs/holdpoint.gdb" => {
                format!("source {}", root().join("docs/holdpoint.gdb").display())
            }
            command => command.to_owned(),
        })
        .collect();
    let payload = payload();
    let mut arguments = vec![payload.to_str().unwrap()];
    for command in &typed {
        arguments.extend(["-ex", command, "-ex", "echo <that is all>\\n"]);
    }
    let answers = gdb(arguments).run().exits(0).stdout;
    let answers: Vec<&str> = answers.split("<that is all>\n").collect();
    assert_eq!(answers.len(), session.gdb.len() + 1, "{answers:?}");
    for (said, answer) in session.gdb.iter().zip(answers) {
        holds(said.command, &said.lines, answer);
    }
    let ended = running.end().exits(0);
    assert!(
        fits(debug.lines[0], ended.stderr.trim_end()),
        "{}",
        ended.story()
    );
    holds(debug.command, &session.verdict, &ended.stdout);
}
