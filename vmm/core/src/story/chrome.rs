//! A story as Chrome's trace events, which Perfetto's viewer opens: "Trace Event Format", the JSON object form. docs/trace.md says what
//! each field holds.

use serde::Serialize;

use super::{Lane, Span, Story};
use crate::arm::CpuId;

/// What is written as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct ChromeTrace {
    #[serde(rename = "traceEvents")]
    events: Vec<TraceEvent>,
    #[serde(rename = "displayTimeUnit")]
    unit: &'static str,
    #[serde(rename = "otherData")]
    other: Other,
}

#[derive(Clone, Debug, Serialize)]
struct Other {
    format: u32,
    run: String,
    clock: &'static str,
}

/// One event of the format; the keys are the format's.
#[derive(Clone, Debug, Serialize)]
struct TraceEvent {
    ph: &'static str,
    pid: u32,
    tid: u32,
    /// Microseconds.
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<usize>,
    /// Of a flow's end: it belongs to the slice around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    bp: Option<&'static str>,
    /// Of an instant: it is of its thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    #[serde(skip_serializing_if = "Args::is_empty")]
    args: Args,
}

/// What the viewer shows of a selected event.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
struct Args {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sort_index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl Args {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The version of what the fields hold.
const FORMAT: u32 = 1;
/// The guest is one process of the trace, and its CPUs are threads.
const GUEST: u32 = 1;

fn tid(cpu: CpuId) -> u32 {
    u32::from(cpu.0) + 1
}

/// A trace being made: of each event of the run its place in time.
struct Making<'a> {
    story: &'a Story,
    times: Vec<u64>,
    events: Vec<TraceEvent>,
}

impl Making<'_> {
    fn push(&mut self, ph: &'static str, tid: u32, at: usize) -> &mut TraceEvent {
        // Thousandths are exact enough below 2^53 ns, which are 104 days.
        let ts = self.times[at] as f64 / 1000.0;
        self.events.push(TraceEvent {
            ph,
            pid: GUEST,
            tid,
            ts,
            cat: None,
            name: None,
            id: None,
            bp: None,
            s: None,
            args: Args::default(),
        });
        self.events.last_mut().expect("it has just been put there")
    }

    fn names(&mut self, what: &'static str, tid: u32, name: &str) {
        let event = self.push("M", tid, 0);
        event.name = Some(what.to_owned());
        event.args.name = Some(name.to_owned());
    }

    fn slice<T>(&mut self, tid: u32, cat: &'static str, name: &str, span: &Span<T>) {
        let at_us = self.story.moments.get(span.from).map(|moment| moment.at_us);
        let begin = self.push("B", tid, span.from);
        begin.cat = Some(cat);
        begin.name = Some(name.to_owned());
        begin.args.event = Some(span.from);
        begin.args.at_us = at_us;
        self.push("E", tid, span.to).name = Some(name.to_owned());
    }

    /// Behind the CPUs: several that climb at once have rungs that cross.
    fn ladder(&self, sender: CpuId) -> u32 {
        tid(sender) + self.story.lanes.len() as u32
    }

    fn lane(&mut self, lane: &Lane) {
        let tid = tid(lane.cpu);
        for span in &lane.doing {
            self.slice(tid, "state", &span.is.name(), span);
        }
    }
}

/// The trace of a story.
pub fn chrome_trace(story: &Story) -> ChromeTrace {
    let mut making = Making {
        story,
        times: times(story),
        events: Vec::new(),
    };
    making.names("process_name", 0, &story.title);
    let cpus = story
        .lanes
        .iter()
        .map(|lane| (tid(lane.cpu), format!("CPU {}", lane.cpu)));
    let ladders = story.senders().into_iter().map(|sender| {
        let track = making.ladder(sender);
        (track, format!("ladder of CPU {sender}"))
    });
    let tracks: Vec<(u32, String)> = cpus.chain(ladders).collect();
    for (track, name) in tracks {
        making.names("thread_name", track, &name);
        let event = making.push("M", track, 0);
        event.name = Some("thread_sort_index".to_owned());
        event.args.sort_index = Some(track);
    }
    let named = making.events.len();
    for lane in &story.lanes {
        making.lane(lane);
    }
    for rung in &story.rungs {
        let track = making.ladder(rung.is.sender);
        making.slice(track, "rung", &format!("rung {}", rung.is.word()), rung);
    }
    for (at, moment) in story.moments.iter().enumerate() {
        let event = making.push("i", tid(moment.cpu), at);
        event.cat = Some(if moment.is_console {
            "console"
        } else {
            "event"
        });
        event.name = Some(moment.said.clone());
        event.s = Some("t");
        event.args.event = Some(at);
        event.args.at_us = Some(moment.at_us);
    }
    for (rule, breach) in &story.broken {
        let at = breach.event.unwrap_or(story.moments.len());
        let event = making.push("i", tid(breach.cpu), at);
        event.cat = Some("broken");
        event.name = Some(format!("{rule} is broken"));
        event.s = Some("t");
        event.args.text = Some(breach.text.clone());
        event.args.event = breach.event;
    }
    let taken = story
        .arrows
        .iter()
        .filter_map(|arrow| Some((arrow, arrow.taken?)));
    for (id, (arrow, taken)) in taken.enumerate() {
        let name = format!("stop {}", arrow.word());
        for (ph, tid, at) in [
            ("s", tid(arrow.sender), arrow.sent),
            ("f", tid(arrow.to), taken),
        ] {
            let event = making.push(ph, tid, at);
            event.cat = Some("ipi");
            event.name = Some(name.clone());
            event.id = Some(id);
            event.bp = (ph == "f").then_some("e");
        }
    }
    // In the order of time; of one time, ends before begins, so that slices of a track never cross, and what points into a slice behind.
    let rank = |event: &TraceEvent| match event.ph {
        "E" => 0,
        "B" => 1,
        _ => 2,
    };
    making.events[named..].sort_by(|a, b| {
        (a.ts, rank(a))
            .partial_cmp(&(b.ts, rank(b)))
            .expect("times are numbers")
    });
    ChromeTrace {
        events: making.events,
        unit: "ns",
        other: Other {
            format: FORMAT,
            run: story.title.clone(),
            clock: "guest",
        },
    }
}

/// In nanoseconds: when each event was, and the end. Events of one microsecond lie a nanosecond apart, so that the order is kept.
fn times(story: &Story) -> Vec<u64> {
    let mut times = Vec::new();
    let mut next = 0;
    for moment in &story.moments {
        let time = next.max(moment.at_us.saturating_mul(1000));
        times.push(time);
        next = time + 1;
    }
    times.push(next);
    times
}
