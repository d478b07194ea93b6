//! Readers in another language of what `vmm` writes for machines.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::root;

/// What tools/checkers.txt names.
pub fn checkers() -> PathBuf {
    root().join("target/checkers")
}

/// What a reader of tests/readers makes of what is printed for machines.
///
/// # Panics
///
/// When it refuses that.
pub fn read(reader: &str, arguments: &[&str], text: &str) -> String {
    let mut child = Command::new("/usr/bin/python3")
        .env("PYTHONPATH", checkers())
        .arg(root().join("tests/readers").join(reader))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("/usr/bin/python3: {error}; `make test` installs it"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{reader} refuses:\n{text}");
    String::from_utf8(output.stdout).unwrap()
}
