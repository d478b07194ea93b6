//! KTAP, version 1 (Linux Documentation/dev-tools/ktap.rst): a test a scenario, with a subtest a cell.

use super::text::{parted, telling, why};
use super::{CellReport, Report, Standing};

/// The report in KTAP.
pub fn ktap(report: &Report) -> String {
    let scenarios = report.scenarios();
    let mut text = format!("KTAP version 1\n1..{}\n", scenarios.len());
    for (number, (scenario, cells)) in (1..).zip(&scenarios) {
        text += &format!(
            "  KTAP version 1\n  # Subtest: {scenario}\n  1..{}\n",
            cells.len()
        );
        for (number, cell) in (1..).zip(cells) {
            for line in why(cell, report.strict).iter().chain(&parted(cell)) {
                text += &diagnosis(line);
            }
            if !cell.standing.is_good()
                && let Some(run) = telling(cell, report.strict)
            {
                text += &diagnosis(&format!("repeat: {}", run.repeat));
            }
            let name = cell.name.strip_prefix(&format!("{scenario}/"));
            let name = plain(name.unwrap_or(&cell.name));
            text += &format!("  {} {number} {name}{}\n", ok(cell), directive(cell));
        }
        let good = cells.iter().all(|cell| passes(cell));
        let ok = if good { "ok" } else { "not ok" };
        let all = |standing| cells.iter().all(|cell| cell.standing == standing);
        let skipped = all(Standing::CannotRun) || all(Standing::NotRun);
        let skip = if skipped { " # SKIP" } else { "" };
        text += &format!("{ok} {number} {}{skip}\n", plain(scenario));
    }
    text
}

/// A number sign would begin a directive.
pub(super) fn plain(name: &str) -> String {
    name.replace('#', "_")
}

fn diagnosis(line: &str) -> String {
    format!("  # {line}\n")
}

pub(super) fn passes(cell: &CellReport) -> bool {
    cell.standing.is_good() || cell.standing == Standing::NotRun
}

pub(super) fn ok(cell: &CellReport) -> &'static str {
    if passes(cell) { "ok" } else { "not ok" }
}

/// What stands behind the name of a cell that was not run.
pub(super) fn directive(cell: &CellReport) -> String {
    match cell.standing {
        Standing::CannotRun => {
            let why = why(cell, false).join("; ");
            format!(" # SKIP {why}")
        }
        Standing::NotRun => " # SKIP not run".to_owned(),
        _ => String::new(),
    }
}
