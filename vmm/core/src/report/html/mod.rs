//! The report as one page of HTML that needs nothing else: no script, no font, no picture, no network.
//!
//! First what somebody has to look at, with the rule, the CPU and the command that repeats it; then the grid; then the cells, each of
//! which opens to its story. That works by links and `<details>` alone: a link to something inside a closed `<details>` opens it (HTML
//! Living Standard, 7.4.6.4, "ancestor revealing").

mod cell;
mod grid;
mod timeline;

use maud::{DOCTYPE, Markup, PreEscaped, html as markup};

use super::text::{telling, why};
use super::{Came, CellReport, Judged, Report, RuleSaid, Run, Standing};
use crate::story::Story;

const STYLE: &str = include_str!("style.css");

/// What there is to tell of a run: nothing if it left no evidence, and otherwise its story, or why that cannot be read.
pub type Tell<'a> = dyn Fn(&CellReport, &Run) -> Result<Option<Story>, String> + 'a;

/// So many cells are told at length on the first screen; the others are named.
const AT_LENGTH: usize = 5;

/// The report as a page of HTML.
pub fn html(report: &Report, tell: &Tell<'_>) -> String {
    let page = markup! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // Whatever stands in a guest's log: nothing is ever loaded or run.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { (counts(report)) " · " (report.matrix) }
                style { (PreEscaped(STYLE)) (PreEscaped(filters(report))) }
            }
            body {
                (timeline::definitions())
                header {
                    p.matrix { "vmm matrix " (report.matrix) }
                    h1 { (counts(report)) }
                    p.about { (about(report)) }
                }
                main {
                    (to_look_at(report))
                    (grid::grid(report))
                    (cells(report, tell))
                    (left_out(report))
                }
            }
        }
    };
    page.into_string()
}

fn plural(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// What the page is called and says first: the worst first.
fn counts(report: &Report) -> String {
    let cells = report.cells.len();
    let counts = Standing::ALL.into_iter().filter_map(|standing| {
        let count = report.count(standing);
        (count > 0).then(|| counted(report, standing))
    });
    let counts: Vec<String> = counts.collect();
    format!("{}: {}", plural(cells, "cell"), counts.join(", "))
}

/// How many cells stand so, in words.
fn counted(report: &Report, standing: Standing) -> String {
    match (standing, report.count(standing)) {
        (Standing::Surprise, count) => plural(count, "surprise"),
        (standing, count) => format!("{count} {}", standing.name()),
    }
}

fn about(report: &Report) -> String {
    let mut words = vec![format!("vmm {}", report.version)];
    words.push(match report.strict {
        true => "strict: no rule may be broken".to_owned(),
        false => "a fault that is known is expected".to_owned(),
    });
    words.extend(report.shard.as_ref().map(|shard| format!("part {shard}")));
    if report.repeat > 1 {
        words.push(format!("{} runs a cell", report.repeat));
    }
    let seconds = report
        .cells
        .iter()
        .fold(0.0, |sum, cell| sum + cell.seconds());
    words.push(format!("{seconds:.0} s of runs"));
    words.join(" · ")
}

/// The word for style sheets, and for JSON.
fn class(standing: Standing) -> &'static str {
    match standing {
        Standing::Surprise => "surprise",
        Standing::Flaky => "flaky",
        Standing::Inconclusive => "inconclusive",
        Standing::Failed => "failed",
        Standing::NotRun => "not-run",
        Standing::CannotRun => "cannot-run",
        Standing::AsExpected => "as-expected",
    }
}

/// What a cell is marked with, beside its colour.
fn mark(cell: &CellReport) -> String {
    match cell.standing {
        Standing::Surprise => "✗".to_owned(),
        Standing::Flaky => "≠".to_owned(),
        Standing::Inconclusive => "?".to_owned(),
        Standing::Failed => "!".to_owned(),
        Standing::NotRun => "·".to_owned(),
        Standing::CannotRun => "–".to_owned(),
        Standing::AsExpected => match known_faults(cell) {
            0 => "✓".to_owned(),
            count => count.to_string(),
        },
    }
}

/// How many rules it breaks that are expected to be.
fn known_faults(cell: &CellReport) -> usize {
    let judged = cell.judged().next();
    judged.map_or(0, |(_, judged)| judged.broken().len())
}

/// The colour of its mark: what breaks rules as expected is not green.
fn shade(cell: &CellReport) -> &'static str {
    match cell.standing {
        Standing::AsExpected if known_faults(cell) > 0 => "known",
        standing => class(standing),
    }
}

/// The fragment that leads to a cell, the same in every report.
fn anchor(cell: &CellReport) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    let name = cell.name.chars();
    name.map(|c| if kept(c) { c } else { '_' }).collect()
}

fn badge(cell: &CellReport) -> Markup {
    let sign = match cell.standing {
        Standing::AsExpected => "✓".to_owned(),
        _ => mark(cell),
    };
    markup! {
        span.badge.(class(cell.standing)) { span aria-hidden="true" { (sign) } " " (cell.standing.name()) }
    }
}

fn command(run: &Run) -> Markup {
    markup! { pre.command tabindex="0" aria-label="the command that repeats it" { code { (run.repeat) } } }
}

/// What breaks a cell's rules in its telling run; those that nobody expected first.
fn breaches<'a>(report: &Report, judged: &'a Judged) -> Vec<(&'a RuleSaid, bool)> {
    let broken = judged.rules.iter().filter(|said| said.is_broken());
    let expected = |said: &RuleSaid| !report.strict && judged.expected.contains(&said.rule);
    let mut broken: Vec<_> = broken.map(|said| (said, expected(said))).collect();
    broken.sort_by_key(|(_, expected)| *expected);
    broken
}

fn breach(said: &RuleSaid, expected: bool) -> Markup {
    markup! {
        b { (said.rule) }
        @if expected { " (expected)" }
        @if let Some(cpu) = said.cpu { ", " b { "CPU " (cpu) } }
        @if let Some(at_us) = said.at_us {
            ", "
            @match said.event {
                Some(event) => { "event " (event) " at " (timeline::time(at_us)) },
                None => "at the end",
            }
        }
        ": " (said.text.as_deref().unwrap_or_default())
    }
}

/// The verdicts of the run that tells of a cell.
fn judged<'a>(report: &Report, cell: &'a CellReport) -> Option<&'a Judged> {
    match &telling(cell, report.strict)?.came {
        Came::Judged(judged) => Some(judged),
        Came::CannotRun(_) | Came::Failed(_) => None,
    }
}

/// Why a cell stands as it does, beside the rules that it breaks.
fn other_reasons(report: &Report, cell: &CellReport) -> Vec<String> {
    let broken = judged(report, cell).map_or_else(Vec::new, |judged| breaches(report, judged));
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let told: Vec<String> = broken
        .iter()
        .map(|(said, _)| words(&said.breach()))
        .collect();
    let mut others = why(cell, report.strict);
    others.retain(|line| !told.contains(line));
    if let Some(parted) = &cell.parted {
        let [first, second] = parted.runs;
        others.push(format!(
            "runs {first} and {second} part at event {}",
            parted.event
        ));
    }
    others
}

/// Why a cell stands as it does.
fn reasons(report: &Report, cell: &CellReport) -> Markup {
    let broken = judged(report, cell).map_or_else(Vec::new, |judged| breaches(report, judged));
    markup! {
        ul.reasons {
            @for (said, _) in broken.iter().filter(|(_, expected)| !expected) { li { (breach(said, false)) } }
            @for line in other_reasons(report, cell) { li { (line) } }
        }
    }
}

fn to_look_at(report: &Report) -> Markup {
    let bad = |cell: &&CellReport| !cell.standing.is_good() && cell.standing != Standing::NotRun;
    let mut worst: Vec<&CellReport> = report.cells.iter().filter(bad).collect();
    worst.sort_by_key(|cell| cell.standing);
    let (first, rest) = worst.split_at(worst.len().min(AT_LENGTH));
    markup! {
        section aria-labelledby="look" {
            h2 #look { "To look at" }
            @if worst.is_empty() {
                p { "Nothing: " @if report.count(Standing::NotRun) > 0 { "what was run is as expected." } @else { "all is as expected." } }
            }
            ol.look {
                @for cell in first {
                    li.(class(cell.standing)) {
                        p.cell-name { (badge(cell)) " " a href={ "#" (anchor(cell)) } { (cell.name) } }
                        (reasons(report, cell))
                        @if let Some(run) = telling(cell, report.strict) { (command(run)) }
                    }
                }
            }
            @if !rest.is_empty() {
                details.more {
                    summary { "and " (plural(rest.len(), "more cell")) }
                    ul {
                        @for cell in rest {
                            li { (badge(cell)) " " a href={ "#" (anchor(cell)) } { (cell.name) } }
                        }
                    }
                }
            }
        }
    }
}

/// The standings that the report has, the worst first.
fn standings(report: &Report) -> impl Iterator<Item = Standing> {
    Standing::ALL
        .into_iter()
        .filter(|standing| report.count(*standing) > 0)
}

/// Takes away the cells whose standing is not ticked.
fn filters(report: &Report) -> String {
    let rule = |standing| {
        let class = class(standing);
        format!("body:has(#show-{class}:not(:checked)) details.cell.{class}{{display:none}}")
    };
    standings(report).map(rule).collect()
}

fn cells(report: &Report, tell: &Tell<'_>) -> Markup {
    markup! {
        section aria-labelledby="cells" {
            h2 #cells { "Cells" }
            @if standings(report).count() > 1 {
                fieldset {
                    legend { "show" }
                    @for standing in standings(report) {
                        label {
                            input type="checkbox" checked id={ "show-" (class(standing)) };
                            " " (counted(report, standing))
                        }
                    }
                }
            }
            (timeline::legend())
            @for (scenario, cells) in report.scenarios() {
                div.scenario {
                    h3 { (scenario) }
                    @if let Some(cell) = cells.first() { p.why { (cell.why) } }
                    @for cell in cells { (cell::cell(report, cell, tell)) }
                }
            }
        }
    }
}

fn left_out(report: &Report) -> Markup {
    let sum: usize = report.left_out.iter().map(|left| left.count).sum();
    markup! {
        footer {
            @for covered in &report.coverage {
                p { "pairwise: " (covered.cells) " of " (covered.of) " cells cover all " (covered.pairs) " pairs of values that can be" }
            }
            @if sum > 0 {
                details.more {
                    summary { (plural(sum, "combination")) " cannot be" }
                    ul { @for left in &report.left_out { li { (left.count) " × " (left.why) } } }
                }
            }
        }
    }
}
