//! A report for people.

use super::{Came, CellReport, Judged, Report, Run, Standing};

/// A cell in one line, as it is said when it is finished.
pub fn line(cell: &CellReport, strict: bool) -> String {
    let mut line = format!(
        "{:<15} {}  {:.1} s",
        cell.standing.name(),
        cell.name,
        cell.seconds()
    );
    if let Some(first) = why(cell, strict).first() {
        line += "  ";
        line += first;
    }
    line
}

/// What there is to say of a cell that is not as it should be: a sentence a line.
pub(super) fn why(cell: &CellReport, strict: bool) -> Vec<String> {
    if cell.standing == Standing::AsExpected {
        return Vec::new();
    }
    let mut lines = Vec::new();
    for run in &cell.runs {
        for line in said_of(run, strict) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let line = words.join(" ");
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}

/// The run that shows why a cell is not as it should be: the first that has something to say.
pub(super) fn telling(cell: &CellReport, strict: bool) -> Option<&Run> {
    let says = |run: &&Run| !said_of(run, strict).is_empty();
    cell.runs.iter().find(says).or(cell.runs.last())
}

fn said_of(run: &Run, strict: bool) -> Vec<String> {
    let judged = match &run.came {
        Came::Judged(judged) => judged,
        Came::CannotRun(why) | Came::Failed(why) => return vec![why.clone()],
    };
    let mut lines: Vec<String> = surprising(judged, strict).collect();
    if !strict {
        let broken = judged.broken();
        let missing = judged
            .expected
            .iter()
            .filter(|rule| !broken.contains(&***rule));
        lines.extend(missing.map(|rule| format!("{rule}: was expected to be broken, and was not")));
    }
    let untested = judged.untested.iter();
    lines.extend(untested.map(|rule| format!("{rule}: was to be put to the test, and was not")));
    let open = judged.rules.iter().filter(|said| said.is_inconclusive());
    let open = open.filter_map(|said| said.text.clone());
    for why in open {
        let why = format!("inconclusive: {why}");
        if !lines.contains(&why) {
            lines.push(why);
        }
    }
    lines
}

/// What was broken and not expected to be.
fn surprising(judged: &Judged, strict: bool) -> impl Iterator<Item = String> {
    let broken = judged.rules.iter().filter(|said| said.is_broken());
    let unexpected = broken.filter(move |said| strict || !judged.expected.contains(&said.rule));
    unexpected.map(super::RuleSaid::breach)
}

/// How two runs part, if that is known.
pub(super) fn parted(cell: &CellReport) -> Vec<String> {
    let Some(parted) = &cell.parted else {
        return Vec::new();
    };
    let [first, second] = parted.runs;
    let mut lines = vec![format!(
        "runs {first} and {second} part at event {}",
        parted.event
    )];
    for (run, events) in [(first, &parted.first), (second, &parted.second)] {
        lines.push(format!("run {run}:"));
        lines.extend(events.iter().map(|event| format!("    {event}")));
    }
    lines
}

/// The cells that somebody has to look at, the worst first, and the counts.
pub fn summary(report: &Report) -> String {
    let mut text = String::new();
    let mut worst: Vec<&CellReport> = report
        .cells
        .iter()
        .filter(|cell| cell.standing != Standing::AsExpected && cell.standing != Standing::NotRun)
        .collect();
    worst.sort_by_key(|cell| cell.standing);
    for cell in worst {
        text += &format!("{}: {}\n", cell.standing.name(), cell.name);
        for line in why(cell, report.strict).iter().chain(&parted(cell)) {
            text += &format!("    {line}\n");
        }
        if !cell.standing.is_good()
            && let Some(run) = telling(cell, report.strict)
        {
            text += &format!("    repeat: {}\n", run.repeat);
        }
    }
    let counts = Standing::ALL.into_iter().rev().filter_map(|standing| {
        let count = report.count(standing);
        let many = if standing == Standing::Surprise && count > 1 {
            "s"
        } else {
            ""
        };
        (count > 0).then(|| format!("{count} {}{many}", standing.name()))
    });
    let counts: Vec<String> = counts.collect();
    let cells = match report.cells.len() {
        1 => "1 cell".to_owned(),
        cells => format!("{cells} cells"),
    };
    text += &format!("{cells}: {}", counts.join(", "));
    let left_out: usize = report.left_out.iter().map(|left| left.count).sum();
    if left_out > 0 {
        text += &format!("; {left_out} combinations cannot be (--list says why)");
    }
    text += "\n";
    for covered in &report.coverage {
        text += &format!(
            "pairwise: {} of {} cells cover all {} pairs of values that can be\n",
            covered.cells, covered.of, covered.pairs
        );
    }
    text
}
