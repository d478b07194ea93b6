//! What a kernel's stop path does right and wrong, in plain words.

use std::collections::BTreeSet;

use super::Report;
use crate::oracle::{ROWS, Row};

/// Says it of the one kernel that a report is of.
pub fn of_kernel(report: &Report) -> String {
    let judged = || report.cells.iter().flat_map(|cell| cell.judged());
    let Some((_, first)) = judged().next() else {
        return "This kernel was not judged.\n".to_owned();
    };
    let protocols: BTreeSet<&str> = judged().map(|(_, judged)| &*judged.protocol).collect();
    let mut text = match protocols.len() {
        1 if first.protocol == "unknown" => {
            "By which protocol this kernel stops its CPUs, its symbols do not tell.\n".to_owned()
        }
        1 => format!(
            "This kernel stops its CPUs by the protocol {}.\n",
            first.protocol
        ),
        _ => {
            let protocols: Vec<&str> = protocols.into_iter().collect();
            format!(
                "This kernel was judged by several protocols: {}.\n",
                protocols.join(", ")
            )
        }
    };
    let (mut wrong, mut right, mut untold) = (String::new(), String::new(), Vec::new());
    for row in &ROWS {
        let rule = row.rule.name();
        let broken = report.broken(row.rule);
        let kept = report.cells.iter().filter(|cell| {
            let said = cell.judged().flat_map(|(_, judged)| &judged.rules);
            said.into_iter()
                .any(|said| said.rule == rule && said.verdict == "upheld")
        });
        let kept = kept.count();
        if let Some((cell, run, said)) = broken.first() {
            wrong += &format!("  {}", owes(row));
            wrong += &format!(
                "    It broke that in {} of {} cells; in {}:\n      {}\n      {}\n",
                broken.len(),
                broken.len() + kept,
                cell.name,
                said.breach(),
                run.repeat
            );
        } else if kept > 0 {
            right += &format!("  {}    It kept that in {kept} cells.\n", owes(row));
        } else {
            untold.push(rule);
        }
    }
    if !wrong.is_empty() {
        text += &format!("What it does wrong:\n{wrong}");
    }
    if !right.is_empty() {
        text += &format!("What it does right:\n{right}");
    }
    if !untold.is_empty() {
        text += &format!("Nothing put to the test: {}.\n", untold.join(", "));
    }
    text
}

fn owes(row: &Row) -> String {
    format!("{}: {}\n", row.rule, row.owes)
}
