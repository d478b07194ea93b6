//! TAP, version 13 (https://testanything.org/tap-version-13-specification.html): a test a cell, and what there is to say of it as YAML.

use super::Report;
use super::ktap::{directive, ok, plain};
use super::text::{parted, telling, why};

/// The report in TAP 13.
pub fn tap13(report: &Report) -> String {
    let mut text = format!("TAP version 13\n1..{}\n", report.cells.len());
    for (number, cell) in (1..).zip(&report.cells) {
        let (ok, name, directive) = (ok(cell), plain(&cell.name), directive(cell));
        text += &format!("{ok} {number} - {name}{directive}\n");
        if cell.standing.is_good() || cell.runs.is_empty() {
            continue;
        }
        text += "  ---\n";
        text += &format!("  standing: {}\n", cell.standing.name());
        text += "  message:\n";
        for line in why(cell, report.strict).iter().chain(&parted(cell)) {
            text += &format!("    - {}\n", quoted(line));
        }
        if let Some(run) = telling(cell, report.strict) {
            text += &format!("  repeat: {}\n", quoted(&run.repeat));
        }
        text += "  ...\n";
    }
    text
}

/// As a double-quoted scalar of YAML, of which a JSON string is one.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted += &format!("\\u{:04x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}
