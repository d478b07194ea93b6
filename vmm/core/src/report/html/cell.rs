//! One cell, and the story to which it opens.

use maud::{Markup, html};

use super::{
    Tell, anchor, badge, breach, breaches, class, command, mark, other_reasons, shade, timeline,
};
use crate::arm::CpuId;
use crate::evidence::without_repeats;
use crate::report::text::telling;
use crate::report::{Came, CellReport, Judged, Parted, Report, Run, Standing};
use crate::story::{Line, Met, NoteStory, Record, Register, Story, Wire};

pub(super) fn cell(report: &Report, cell: &CellReport, tell: &Tell<'_>) -> Markup {
    let run = telling(cell, report.strict);
    let inside = cell.name.strip_prefix(&format!("{}/", cell.scenario));
    html! {
        details.cell.(class(cell.standing)) {
            summary {
                span.mark.(shade(cell)) aria-hidden="true" { (mark(cell)) }
                span.cell-name { (inside.unwrap_or(&cell.name)) }
                span.gist { (gist(cell, run)) }
            }
            article id=(anchor(cell)) tabindex="-1" aria-label=(cell.name) {
                p { (badge(cell)) " " b.cell-name { (cell.name) } }
                @let others = other_reasons(report, cell);
                @if !others.is_empty() {
                    ul.reasons { @for line in others { li { (line) } } }
                }
                @if let Some(parted) = &cell.parted { (parting(parted)) }
                @if let Some(run) = run {
                    (command(run))
                    @if let Came::Judged(judged) = &run.came { (verdicts(report, judged)) }
                    @match tell(cell, run) {
                        Ok(Some(told)) => (story(&told)),
                        Ok(None) => p.hint { "There is no evidence of it to tell its story from." },
                        Err(why) => p.hint { "Its story cannot be told: " (why) },
                    }
                    (runs(cell, run))
                }
                p { a href="#grid" { "to the grid" } }
            }
        }
    }
}

/// A cell's outcome in its closed line.
fn gist(cell: &CellReport, run: Option<&Run>) -> String {
    match run.map(|run| &run.came) {
        Some(Came::Judged(judged)) => {
            let broken: Vec<&str> = judged.broken().into_iter().collect();
            let broken = match broken.is_empty() {
                true => "nothing broken".to_owned(),
                false => format!("{} broken", broken.join(", ")),
            };
            match cell.standing {
                Standing::AsExpected => broken,
                standing => format!("{}: {broken}", standing.name()),
            }
        }
        _ => cell.standing.name().to_owned(),
    }
}

fn verdicts(report: &Report, judged: &Judged) -> Markup {
    let broken = breaches(report, judged);
    let rules = |verdict: &str| -> Vec<&str> {
        let said = judged.rules.iter().filter(|said| said.verdict == verdict);
        said.map(|said| &*said.rule).collect()
    };
    let (upheld, untested) = (rules("upheld"), rules("not exercised"));
    html! {
        dl.verdicts {
            dt { "judged by" } dd { (judged.protocol) }
            @for (said, expected) in broken { dt.broken { "broken" } dd { (breach(said, expected)) } }
            @if !upheld.is_empty() { dt { "upheld" } dd { (upheld.join(", ")) } }
            @if !untested.is_empty() { dt { "not put to the test" } dd { (untested.join(", ")) } }
        }
    }
}

/// The runs of a cell that has several.
fn runs(cell: &CellReport, told: &Run) -> Markup {
    html! {
        @if cell.runs.len() > 1 {
            h4 { "Runs" }
            ul.runs {
                @for run in &cell.runs {
                    li {
                        "run " (run.run) @if run.run == told.run { ", told here" } ": "
                        (gist(cell, Some(run))) br;
                        code { (run.repeat) }
                    }
                }
            }
        }
    }
}

fn parting(parted: &Parted) -> Markup {
    html! {
        h4 { "Where its runs part" }
        div.parted {
            @for (run, events) in parted.runs.iter().zip([&parted.first, &parted.second]) {
                div {
                    p { "run " (run) }
                    pre.events tabindex="0" { (events.join("\n")) }
                }
            }
        }
    }
}

fn story(story: &Story) -> Markup {
    html! {
        @if let Some(why) = &story.cut_short { p { b { "cut short" } ": " (why) } }
        (timeline::timeline(story))
        (console(&story.wire))
        (notes(&story.notes))
        (events(story))
    }
}

/// Text colours go round.
fn colour(cpu: CpuId) -> String {
    format!("c{}", cpu.0 % 8)
}

fn console(wire: &Wire) -> Markup {
    html! {
        @if !wire.lines.is_empty() || !wire.missing.is_empty() {
            h4 { "Console" }
            div.console.scroll tabindex="0" role="region" aria-label="the console's wire" {
                @for line in &wire.lines { (console_line(line)) }
            }
        }
        @if !wire.missing.is_empty() {
            p.missing {
                b { "Never whole on the wire: " }
                @for (at, text) in wire.missing.iter().enumerate() {
                    @if at > 0 { ", " }
                    q { (without_repeats(text)) }
                }
            }
        }
    }
}

fn console_line(line: &Line) -> Markup {
    let mut cpus: Vec<String> = Vec::new();
    for (cpu, _) in &line.parts {
        let cpu = cpu.to_string();
        if !cpus.contains(&cpu) {
            cpus.push(cpu);
        }
    }
    let cut = matches!(line.record, Record::Cut(_)) || !line.ended;
    html! {
        div.line.cut[cut] {
            span.who title="the CPU that sent it" { (cpus.join("+")) }
            span.text {
                @for (at, (cpu, text)) in line.parts.iter().enumerate() {
                    @if at > 0 { span.hand title={ "from here CPU " (cpu) } { "▸" (cpu) } }
                    span.(colour(*cpu)) { (without_repeats(text)) }
                }
                @match (&line.record, line.ended) {
                    (Record::Cut(of), _) => span.cut-mark title={ "the record is: " (without_repeats(of)) } { "✂ record cut" },
                    (_, false) => span.cut-mark { "✂ no end of line" },
                    _ => "",
                }
            }
        }
    }
}

fn notes(notes: &[NoteStory]) -> Markup {
    let hex = |value: Option<u64>, place: &Option<String>| match (value, place) {
        (None, _) => "–".to_owned(),
        (Some(value), None) => format!("{value:#x}"),
        (Some(value), Some(place)) => format!("{place} ({value:#x})"),
    };
    html! {
        @if !notes.is_empty() {
            h4 { "Notes against registers" }
            div.scroll tabindex="0" role="region" aria-label="notes against registers" {
                table.notes {
                    thead { tr { th scope="col" { "CPU" } th scope="col" { "note" } th scope="col" { "register" } th scope="col" { "interrupted at" } th scope="col" { "in the note" } } }
                    @for note in notes {
                        tbody {
                            @let rows = note.registers.len().max(1);
                            @for at in 0..rows {
                                tr.differs[note.registers.get(at).is_some_and(Register::differs)] {
                                    @if at == 0 {
                                        th scope="rowgroup" rowspan=(rows) { (note.cpu) }
                                        td rowspan=(rows) { (note.state) br; span.hint { (agreement(note)) } }
                                    }
                                    @match note.registers.get(at) {
                                        Some(register) => {
                                            td { (register.name) }
                                            td { (hex(register.met, &register.places[0])) }
                                            td { (hex(register.note, &register.places[1])) @if register.differs() { " ≠" } }
                                        },
                                        None => td colspan="3" {},
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// How a note and the registers that it is of agree.
fn agreement(note: &NoteStory) -> String {
    match (
        note.met,
        note.registers
            .iter()
            .any(|register| register.note.is_some()),
    ) {
        (Met::Nothing, _) => "not stopped by request".to_owned(),
        (_, false) => "nothing to compare".to_owned(),
        (Met::Unread, true) => "registers were not read".to_owned(),
        (Met::Registers, true) => match &note.differs {
            Some(differs) => format!("differs: {differs}"),
            None => "as interrupted".to_owned(),
        },
    }
}

fn events(story: &Story) -> Markup {
    let mut text = String::new();
    for (at, moment) in story.moments.iter().enumerate() {
        text += &format!(
            "{at:>4} {:>10}  CPU {:<2} {}\n",
            timeline::time(moment.at_us),
            moment.cpu,
            moment.said
        );
        for (rule, breach) in story
            .broken
            .iter()
            .filter(|(_, breach)| breach.event == Some(at))
        {
            text += &format!(
                "                 ^ {rule}: CPU {}: {}\n",
                breach.cpu, breach.text
            );
        }
    }
    html! {
        details.more {
            summary { "All " (story.moments.len()) " events" }
            pre.events tabindex="0" { (text) }
        }
    }
}
