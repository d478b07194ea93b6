//! The timeline of a story as SVG: a lane a CPU, the ladder above, what memory held below.
//!
//! From left to right it goes by events, not by time: the whole stop of a payload may take no guest time, and half of that of a Linux
//! is a second of waiting. Where guest time goes on by a millisecond or more there is a gap that says how late it is then.

use std::fmt::Write as _;

use guest_abi::protocol::Request;
use maud::{Markup, PreEscaped, html};

use crate::arm::CpuId;
use crate::evidence::NoteState;
use crate::story::{Arrow, Doing, Lane, Span, Story};

/// Widths of an event, of one that is of the console alone, and of a gap in time. A short story takes the room that there is.
const EVENT: std::ops::RangeInclusive<usize> = 16..=32;
const OF_CONSOLE: usize = 3;
const GAP: usize = 18;
const ROOM: usize = 1000;
/// From here on time is worth a gap.
const LATER_US: u64 = 1000;

const RULER: usize = 18;
const LADDER: usize = 20;
const LANE: usize = 26;
const BAR: usize = 16;
const BIT: usize = 5;
const BITS_GAP: usize = 12;
const BREACH: usize = 16;
/// Of a letter, nearly.
const LETTER: usize = 7;

/// Guest time as a person would say it.
pub(super) fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", round(us as f64 / 1e3)),
        _ => format!("{} s", round(us as f64 / 1e6)),
    }
}

fn round(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What all timelines share.
pub(super) fn definitions() -> Markup {
    html! {
        svg.definitions aria-hidden="true" width="0" height="0" {
            defs {
                @for word in ["irq", "nmi", "sdei"] {
                    marker.(word) id={ "head-" (word) } viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse" {
                        path d="M0 0L8 4L0 8z" {}
                    }
                }
            }
        }
    }
}

fn class(doing: Doing) -> &'static str {
    match doing {
        Doing::Runs => "runs",
        Doing::IrqsOff => "irqs-off",
        Doing::Held(_) => "held",
        Doing::Stops => "stops",
        Doing::Nmi => "in-nmi",
        Doing::Stopped => "stopped",
        Doing::Off => "off",
    }
}

/// What a bar says if there is room.
fn short(doing: Doing) -> String {
    match doing {
        Doing::Runs | Doing::Stopped | Doing::Off => String::new(),
        Doing::IrqsOff => "irqs off".to_owned(),
        Doing::Stops => "stop".to_owned(),
        Doing::Nmi => "NMI".to_owned(),
        Doing::Held(_) => doing.name(),
    }
}

/// How a timeline is read.
pub(super) fn legend() -> Markup {
    html! {
        details.more.legend {
            summary { "How to read a timeline" }
            p {
                "A lane a CPU, from left to right the events of the run in their order. Where guest time goes on by a millisecond or more "
                "there is a gap, and the ruler says how late it is then. The narrow steps are events of the console."
            }
            ul.swatches {
                @for doing in Doing::ALL {
                    li {
                        svg width="34" height="16" aria-hidden="true" { (bar(class(doing), 1, 32, 0)) }
                        " " (doing.name())
                    }
                }
                li { svg width="34" height="16" aria-hidden="true" { line.section x1="1" x2="33" y1="8" y2="8" {} } " in the console's critical section" }
                @for (word, said) in [("irq", "asked to stop by IRQ"), ("nmi", "by NMI"), ("sdei", "by SDEI")] {
                    li { svg width="34" height="16" aria-hidden="true" { path.ipi.(word) d="M1 8H32" marker-end={ "url(#head-" (word) ")" } {} } " " (said) ", dashed if it is never taken" }
                }
                li { svg width="34" height="16" aria-hidden="true" { path.breach d="M16 0V16" {} } " a rule is broken" }
            }
            p {
                "Below the lanes, a line a CPU: who is still to be stopped, as the sender has read it, without those that have acked since; "
                "whose bit is in the online mask; and the note, thin while it is torn."
            }
        }
    }
}

/// Where each event is drawn, and the end; and where time has gone on.
struct Axis {
    event: usize,
    x: Vec<usize>,
    gaps: Vec<(usize, u64)>,
}

fn is_later(before: u64, at_us: u64) -> bool {
    at_us.saturating_sub(before) >= LATER_US
}

impl Axis {
    fn of(story: &Story) -> Self {
        let of_console = story.moments.iter().filter(|moment| moment.is_console);
        let of_console = of_console.count();
        let later = story
            .moments
            .windows(2)
            .filter(|two| is_later(two[0].at_us, two[1].at_us));
        let taken = of_console * OF_CONSOLE + later.count() * GAP;
        let events = (story.moments.len() - of_console).max(1);
        let room = ROOM.saturating_sub(taken) / events;
        let event = room.clamp(*EVENT.start(), *EVENT.end());
        let (mut x, mut gaps) = (Vec::new(), Vec::new());
        let mut at = 8;
        let mut before: Option<u64> = None;
        for moment in &story.moments {
            if before.is_none_or(|before| is_later(before, moment.at_us)) {
                if before.is_some() {
                    at += GAP;
                }
                gaps.push((at, moment.at_us));
            }
            before = Some(moment.at_us);
            x.push(at);
            at += if moment.is_console { OF_CONSOLE } else { event };
        }
        x.push(at);
        Self { event, x, gaps }
    }

    fn end(&self) -> usize {
        *self.x.last().expect("the end is there")
    }
}

pub(super) fn timeline(story: &Story) -> Markup {
    if story.moments.is_empty() {
        return html! {};
    }
    let axis = Axis::of(story);
    let cpus = story.lanes.len();
    let senders = story.senders();
    let lanes_at = RULER + senders.len() * LADDER + 4;
    let bits = cpus * BIT + BITS_GAP;
    let bits_at = lanes_at + cpus * LANE;
    let breaches_at = bits_at + 3 * bits;
    let height = breaches_at + story.broken.len() * BREACH + 4;
    // The last label of the ruler may reach beyond the last event.
    let width = axis.end() + 60;
    let lane_y = |cpu: CpuId| lanes_at + cpu.index() * LANE + (LANE - BAR) / 2;
    html! {
        h4 { "Timeline" }
        figure.timeline role="group" aria-label={ (story.title) ": " (story.moments.len()) " events on " (cpus) " CPUs; all events are listed below" } {
            svg.names width="62" height=(height) aria-hidden="true" {
                @for (at, sender) in senders.iter().enumerate() { text x="0" y=(RULER + at * LADDER + 12) { "ladder " (sender) } }
                @for lane in &story.lanes { text x="0" y=(lane_y(lane.cpu) + 12) { "CPU " (lane.cpu) } }
                @for (at, name) in ["to stop", "online", "notes"].iter().enumerate() {
                    text x="0" y=(bits_at + at * bits + BITS_GAP + (cpus * BIT).div_ceil(2) + 3) { (name) }
                }
            }
            div.scroll tabindex="0" role="region" aria-label="timeline" {
                svg width=(width) height=(height) role="img" aria-label={ "timeline of " (story.title) } {
                    (ruler(&axis, bits_at))
                    @for (at, sender) in senders.iter().enumerate() { (ladder(story, &axis, *sender, RULER + at * LADDER)) }
                    @for lane in &story.lanes { (lane_bars(story, &axis, lane, lane_y(lane.cpu))) }
                    @for lane in &story.lanes {
                        @let y = |at: usize| bits_at + at * bits + BITS_GAP + lane.cpu.index() * BIT;
                        (lines("to-stop", &axis, &lane.mask, y(0)))
                        (lines("online", &axis, &lane.online, y(1)))
                        (note_lines(&axis, lane, y(2)))
                    }
                    (dots(story, &axis, lanes_at))
                    @for arrow in &story.arrows { (ipi(story, &axis, arrow, lane_y(arrow.sender) + BAR / 2, lane_y(arrow.to))) }
                    @for (at, (rule, breach)) in story.broken.iter().enumerate() {
                        @let x = axis.x[breach.event.unwrap_or(story.moments.len())];
                        @let y = breaches_at + at * BREACH;
                        @let words = format!("{rule}, CPU {}", breach.cpu);
                        @let flips = x + words.len() * LETTER + 8 > width;
                        path.breach d={ "M" (x) " " (RULER) "V" (y + 12) } {}
                        text.breach x=(if flips { x.saturating_sub(4) } else { x + 4 }) y=(y + 12) text-anchor=(if flips { "end" } else { "start" }) { (words) }
                    }
                }
            }
        }
    }
}

fn ruler(axis: &Axis, bottom: usize) -> Markup {
    // Of labels that would cover each other the first is kept.
    let mut free = 0;
    let mut labels = Vec::new();
    for (x, us) in &axis.gaps {
        let words = time(*us);
        if *x >= free {
            free = x + (words.chars().count() + 1) * LETTER;
            labels.push((*x, words));
        }
    }
    html! {
        @for (x, _) in axis.gaps.iter().skip(1) {
            path.gap d={ "M" (x - GAP / 2) " " (RULER - 4) "V" (bottom) } {}
        }
        @for (x, words) in labels { text.time x=(x) y="12" { (words) } }
    }
}

fn ladder(story: &Story, axis: &Axis, sender: CpuId, y: usize) -> Markup {
    html! {
        @for rung in story.rungs.iter().filter(|rung| rung.is.sender == sender) {
            @let (x, to) = (axis.x[rung.from], axis.x[rung.to]);
            @let length = rung.is.us.map_or(String::new(), |us| format!(" {}", time(us)));
            @let words = format!("{}{length}", rung.is.word());
            @let end = if rung.is.ran_out { "which runs out" } else { "which is enough, or is left" };
            g.rung.(rung.is.word()) {
                rect x=(x) y=(y) width=(to - x) height="15" { title { "CPU " (sender) ": rung " (words) ", " (end) } }
                @if words.len() * LETTER < to - x { text x=(x + 4) y=(y + 11) { (words) } }
                @if rung.is.ran_out { path d={ "M" (to) " " (y - 2) "v19" } {} }
            }
        }
    }
}

fn bar(class: &str, x: usize, width: usize, y: usize) -> Markup {
    let (y, height) = match class {
        "stopped" => (y + BAR / 2 - 2, 4),
        _ => (y, BAR),
    };
    html! { rect.(class) x=(x) y=(y) width=(width) height=(height) {} }
}

fn lane_bars(story: &Story, axis: &Axis, lane: &Lane, y: usize) -> Markup {
    let when = |at: usize| match story.moments.get(at) {
        Some(moment) => format!("event {at}, {}", time(moment.at_us)),
        None => "the end".to_owned(),
    };
    html! {
        @for span in &lane.doing {
            @let (x, to) = (axis.x[span.from], axis.x[span.to]);
            @let words = short(span.is);
            g {
                title { "CPU " (lane.cpu) " " (span.is.name()) ": " (when(span.from)) " to " (when(span.to)) }
                (bar(class(span.is), x, to - x, y))
                @if !words.is_empty() && words.len() * LETTER + 6 < to - x {
                    text.on.(class(span.is)) x=(x + 4) y=(y + 12) { (words) }
                }
            }
        }
        @for span in &lane.section {
            line.section x1=(axis.x[span.from]) x2=(axis.x[span.to]) y1=(y + BAR + 2) y2=(y + BAR + 2) {}
        }
    }
}

fn lines<T>(class: &str, axis: &Axis, spans: &[Span<T>], y: usize) -> Markup {
    let mut path = String::new();
    for span in spans {
        let _ = write!(path, "M{} {y}H{}", axis.x[span.from], axis.x[span.to]);
    }
    html! { @if !path.is_empty() { path.bits.(class) d=(path) {} } }
}

fn note_lines(axis: &Axis, lane: &Lane, y: usize) -> Markup {
    let of = |wanted: NoteState| -> Vec<Span<()>> {
        let spans = lane.note.iter().filter(|span| span.is == wanted);
        spans
            .map(|span| Span {
                from: span.from,
                to: span.to,
                is: (),
            })
            .collect()
    };
    html! {
        (lines("torn", axis, &of(NoteState::Torn), y))
        (lines("complete", axis, &of(NoteState::Complete), y))
    }
}

/// The events that are not of the console alone.
fn dots(story: &Story, axis: &Axis, lanes_at: usize) -> Markup {
    html! {
        @for (at, moment) in story.moments.iter().enumerate().filter(|(_, moment)| !moment.is_console) {
            circle.dot cx=(axis.x[at] + 1) cy=(lanes_at + moment.cpu.index() * LANE + 2) r="2" {
                title { (at) ", " (time(moment.at_us)) ": CPU " (moment.cpu) " " (moment.said) }
            }
        }
    }
}

fn ipi(story: &Story, axis: &Axis, arrow: &Arrow, from: usize, top: usize) -> Markup {
    let x = axis.x[arrow.sent];
    let sender_above = arrow.sender < arrow.to;
    let to = if sender_above { top } else { top + BAR };
    let end = arrow.taken.map_or(x + axis.event, |taken| axis.x[taken]);
    let class = match arrow.via {
        Request::Irq => "irq",
        Request::Nmi => "nmi",
        Request::Sdei => "sdei",
    };
    let lost = arrow.taken.is_none();
    let taken = match arrow.taken.and_then(|at| story.moments.get(at)) {
        Some(moment) => format!("taken at {}", time(moment.at_us)),
        None => "never taken".to_owned(),
    };
    html! {
        path.ipi.(class).lost[lost] d=(PreEscaped(format!("M{x} {from}L{end} {to}"))) marker-end={ "url(#head-" (class) ")" } {
            title { "CPU " (arrow.sender) " asks CPU " (arrow.to) " to stop by " (arrow.word()) ", " (taken) }
        }
    }
}
