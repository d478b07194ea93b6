//! The rules of the house that the compiler does not keep (ARCHITECTURE.md, Invariants).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use e2e::root;

/// Every Rust file of the tree, by its path from the top.
fn sources() -> BTreeMap<String, String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            let name = entry.file_name().unwrap().to_string_lossy().into_owned();
            if entry.is_dir() && name != "target" && !name.starts_with('.') {
                walk(&entry, found);
            } else if name.ends_with(".rs") {
                found.push(entry);
            }
        }
    }
    let top = root();
    let mut files = Vec::new();
    walk(&top, &mut files);
    assert!(files.len() > 30, "the tree has been found");
    let path = |file: &Path| {
        file.strip_prefix(&top)
            .unwrap()
            .to_string_lossy()
            .into_owned()
    };
    files
        .iter()
        .map(|file| (path(file), fs::read_to_string(file).unwrap()))
        .collect()
}

/// The text without its comments and without what stands in plain string literals.
fn code(text: &str) -> String {
    let mut code = String::new();
    for line in text.lines() {
        let mut rest = line;
        loop {
            let comment = rest.find("//");
            let quote = rest.find('"').filter(|&at| !rest[..at].ends_with('\''));
            match (comment, quote) {
                (Some(at), quote) if quote.is_none_or(|quote| at < quote) => {
                    code.push_str(&rest[..at]);
                    break;
                }
                (_, Some(open)) => {
                    code.push_str(&rest[..=open]);
                    let literal = &rest[open + 1..];
                    let mut escaped = false;
                    let close = literal.find(|c: char| {
                        let ends = c == '"' && !escaped;
                        escaped = c == '\\' && !escaped;
                        ends
                    });
                    match close {
                        Some(close) => rest = &literal[close..],
                        None => break,
                    }
                    code.push('"');
                    rest = &rest[1..];
                }
                _ => {
                    code.push_str(rest);
                    break;
                }
            }
        }
        code.push('\n');
    }
    code
}

fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        let before = code[..at].chars().next_back().is_some_and(part);
        let after = code[at + word.len()..].chars().next().is_some_and(part);
        !before && !after
    })
}

/// The rooms that may hold unsafe code.
const UNSAFE_ROOMS: [&str; 4] = [
    "vmm/src/kvm/",
    "vmm/src/sys/",
    "guest/src/arch/",
    "images/init/src/sys/",
];

#[test]
fn unsafe_lives_in_its_rooms() {
    for (path, text) in sources() {
        if UNSAFE_ROOMS.iter().any(|room| path.starts_with(room)) {
            continue;
        }
        assert!(
            !has_word(&code(&text), "unsafe"),
            "{path}: unsafe outside of {UNSAFE_ROOMS:?}"
        );
    }
}

/// What each room of the crate `vmm` may import of the others. A room that is not here is one that nobody has placed.
const VMM_ROOMS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &[
            "conductor",
            "console",
            "gdb",
            "host",
            "kvm",
            "lab",
            "machine",
            "subject",
            "vcpu",
        ],
    ),
    ("conductor", &["machine", "vcpu"]),
    ("console", &[]),
    ("deadline", &[]),
    ("gdb", &["conductor", "console", "kvm", "machine", "vcpu"]),
    ("host", &["kvm"]),
    ("kvm", &["vcpu"]),
    ("lab", &["console", "gdb", "kvm", "sys"]),
    ("machine", &["kvm", "vcpu"]),
    ("subject", &["conductor", "gdb", "kvm", "machine", "vcpu"]),
    ("sys", &[]),
    ("vcpu", &[]),
];

/// The same for `vmm-core`.
const CORE_ROOMS: &[(&str, &[&str])] = &[
    ("arm", &[]),
    ("choose", &["arm"]),
    ("console", &["pl011"]),
    ("document", &[]),
    ("era", &["evidence", "inspect"]),
    ("evidence", &["arm"]),
    ("host", &[]),
    ("inspect", &["arm", "evidence"]),
    ("matrix", &["document", "evidence", "model", "scenario"]),
    (
        "model",
        &["arm", "choose", "evidence", "oracle", "scenario"],
    ),
    ("oracle", &["arm", "evidence"]),
    ("pl011", &[]),
    ("report", &["arm", "evidence", "matrix", "oracle", "story"]),
    ("scenario", &["arm", "document", "evidence", "oracle"]),
    ("story", &["arm", "evidence", "oracle"]),
];

fn imports_keep_to(crate_folder: &str, rooms: &[(&str, &[&str])]) {
    for (path, text) in sources() {
        let Some(inside) = path.strip_prefix(crate_folder) else {
            continue;
        };
        let room = inside.split(['/', '.']).next().unwrap();
        if room == "lib" {
            continue;
        }
        let Some((_, allowed)) = rooms.iter().find(|(name, _)| *name == room) else {
            panic!("{path}: the room {room} has no place in the table of tests/tests/tidy.rs");
        };
        // Tests of a room may bring what they need to stand it up.
        let code = code(&text);
        let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
        if path.ends_with("/tests.rs") || path.contains("/tests/") {
            continue;
        }
        for (at, _) in code.match_indices("crate::") {
            let target = &code[at + "crate::".len()..];
            let target: String = target
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if rooms.iter().any(|(name, _)| *name == target) && target != room {
                assert!(
                    allowed.contains(&target.as_str()),
                    "{path}: {room} may not import {target}"
                );
            }
        }
    }
}

#[test]
fn imports_point_downwards() {
    imports_keep_to("vmm/src/", VMM_ROOMS);
    imports_keep_to("vmm/core/src/", CORE_ROOMS);
}

#[test]
fn what_decides_does_no_input_or_output_and_reads_no_clock() {
    for (path, text) in sources() {
        if !path.starts_with("vmm/core/src/") && !path.starts_with("guest/abi/src/") {
            continue;
        }
        let code = code(&text);
        for word in [
            "std::fs",
            "std::net",
            "std::process",
            "std::env",
            "std::thread",
            "Instant",
            "SystemTime",
        ] {
            assert!(!code.contains(word), "{path}: {word}");
        }
        for word in ["print", "println", "eprint", "eprintln"] {
            assert!(
                !has_word(&code, &format!("{word}!")) && !code.contains(&format!("{word}!")),
                "{path}: {word}!"
            );
        }
    }
}

#[test]
fn one_room_prints_and_exits() {
    for (path, text) in sources() {
        if !path.starts_with("vmm/src/") || path.starts_with("vmm/src/cli/") {
            continue;
        }
        let code = code(&text);
        for word in ["print!", "println!", "process::exit"] {
            assert!(
                !code.contains(word),
                "{path}: {word} belongs into vmm/src/cli"
            );
        }
    }
}

/// What sleeps for another reason than to wait: it spaces out what it sends, or kills at any moment.
const PACED: [&str; 2] = ["tests/tests/kvm/matrix.rs", "vmm/src/lab/agent/verb.rs"];

#[test]
fn nobody_sleeps_to_wait_for_a_state() {
    for (path, text) in sources() {
        if PACED.contains(&path.as_str()) {
            continue;
        }
        assert!(
            !code(&text).contains("thread::sleep"),
            "{path}: wait for the state itself, with a deadline"
        );
    }
}

#[test]
fn every_crate_says_which_compiler_it_needs() {
    for manifest in [
        "guest",
        "guest/abi",
        "images/init",
        "tests",
        "vmm",
        "vmm/core",
    ] {
        let path = root().join(manifest).join("Cargo.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("rust-version.workspace = true"),
            "{}",
            path.display()
        );
    }
}

#[test]
fn a_file_can_be_read_in_one_sitting() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= 900, "{path}: {lines} lines");
    }
}

#[test]
fn the_reader_of_code_sees_through_comments_and_strings() {
    assert!(!has_word(
        &code("let a = \"unsafe\"; // unsafe\n"),
        "unsafe"
    ));
    assert!(has_word(
        &code("let a = \"\\\"\"; unsafe { b() }\n"),
        "unsafe"
    ));
    assert!(has_word(&code("let a = '\"'; unsafe { b() }\n"), "unsafe"));
    assert!(!has_word(&code("#![forbid(unsafe_code)]\n"), "unsafe"));
}
