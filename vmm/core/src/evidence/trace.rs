//! Evidence as a table to read: one event a line, and the state of the stop beside it.

use std::borrow::Cow;
use std::fmt;

use super::{
    Event, Evidence, Hand, Interrupt, NoteState, Places, Setting, StopKind, Until, What, line,
};
use crate::arm::{CpuId, CpuSet};

/// Prints the events in fixed columns; under an event the rules that it broke.
pub struct Trace<'a> {
    evidence: &'a Evidence,
    // By event: what it broke.
    marks: Vec<(usize, String)>,
}

/// Beyond so many CPUs the notes are counted, not drawn.
const DRAWN_NOTES: usize = 8;

/// The state of a stop, as it is behind the events that were seen.
pub(crate) struct Columns {
    /// Who is in the critical section.
    pub(crate) lock: CpuSet,
    /// Who is online.
    pub(crate) online: CpuSet,
    /// Whom the sender has still to stop, as it read last, without those that have acked since.
    pub(crate) mask: CpuSet,
    /// What each CPU's note amounts to.
    pub(crate) notes: Vec<NoteState>,
}

impl<'a> Trace<'a> {
    /// The trace of this evidence.
    pub fn new(evidence: &'a Evidence) -> Self {
        Self {
            evidence,
            marks: Vec::new(),
        }
    }

    /// Marks an event with a rule that it broke.
    pub fn mark(&mut self, event: usize, text: String) {
        self.marks.push((event, text));
    }
}

impl Columns {
    /// Before the first event.
    pub(crate) fn new(setting: &Setting) -> Self {
        Self {
            lock: CpuSet::new(),
            online: setting.online.clone(),
            mask: CpuSet::new(),
            notes: vec![NoteState::Empty; usize::from(setting.cpus)],
        }
    }

    /// Takes the next event.
    pub(crate) fn see(&mut self, event: &Event) {
        let cpu = event.cpu;
        match &event.what {
            What::Enters => self.lock.insert(cpu),
            What::Leaves => self.lock.remove(cpu),
            What::ComesUp => self.online.insert(cpu),
            What::Reads(mask) => self.mask = mask.clone(),
            What::Clears { word, by } => {
                if *word == guest_abi::protocol::Word::OnlineMask {
                    self.online.remove(cpu);
                }
                // The mask shows who is still to stop: what hotplug or a self-stop clears is not in it by
                // that, as long as no sender reads anew.
                if *by == Hand::Handler {
                    self.mask.remove(cpu);
                }
            }
            What::Notes(note) => self.notes[cpu.index()] = note.state(),
            _ => {}
        }
    }

    fn notes(&self) -> String {
        if self.notes.len() > DRAWN_NOTES {
            let complete = self
                .notes
                .iter()
                .filter(|note| **note == NoteState::Complete)
                .count();
            return format!("{complete}/{}", self.notes.len());
        }
        let drawn = self.notes.iter().map(|note| match note {
            NoteState::Empty => '.',
            NoteState::Torn => '~',
            NoteState::Complete => '#',
        });
        drawn.collect()
    }
}

fn or_dash(set: &CpuSet) -> String {
    if set.is_empty() {
        "-".to_owned()
    } else {
        set.to_string()
    }
}

/// A text of which more would not fit into a row, without its middle.
fn short(text: &str) -> Cow<'_, str> {
    const HEAD: usize = 48;
    const TAIL: usize = 24;
    let count = text.chars().count();
    if count <= HEAD + TAIL {
        return text.into();
    }
    let head: String = text.chars().take(HEAD).collect();
    let tail: String = text.chars().skip(count - TAIL).collect();
    format!("{head}[{} more]{tail}", count - HEAD - TAIL).into()
}

/// What happened, in a few words.
pub(crate) fn say(places: &Places, what: &What) -> String {
    let stop_name = |stop: StopKind| match stop {
        StopKind::Plain => "smp_send_stop",
        StopKind::Crash => "crash_smp_send_stop",
    };
    let interrupt = |by: Interrupt| match by {
        Interrupt::Stop(request) => format!("stop {}", line::request_word(request)),
        Interrupt::Foreign => "foreign NMI".to_owned(),
    };
    match what {
        What::Calls(stop) => format!("calls {}", stop_name(*stop)),
        What::Climbs { others, .. } => format!("climbs; others online: {}", or_dash(others)),
        What::Reads(mask) => format!("reads its mask: {}", or_dash(mask)),
        What::Requests { via, to } => {
            format!("sends stop {} to {}", line::request_word(*via), or_dash(to))
        }
        What::RungOut(via) => format!("rung {} has run out", line::request_word(*via)),
        What::Returns => "returns from the stop".to_owned(),
        What::Goes(onward) => format!("goes on to {}", line::onward_word(*onward)),
        What::Logs { text, .. } => format!("logs \"{}\"", short(text)),
        What::Wire(bytes) => {
            let text = String::from_utf8_lossy(bytes).escape_debug().to_string();
            format!("wire {}", short(&text))
        }
        What::Flushed => "the last flush is over".to_owned(),
        What::Takes { by, regs } => match regs {
            Some(regs) => format!("takes {} at {}", interrupt(*by), places.describe(regs.pc)),
            None => format!("takes {}", interrupt(*by)),
        },
        What::Enters => "enters the critical section".to_owned(),
        What::Leaves => "leaves the critical section".to_owned(),
        What::Notes(note) => match note.regs().pc {
            0 => format!("note {}", note.state()),
            pc => format!("note {}: pc {}", note.state(), places.describe(pc)),
        },
        What::Clears { word, by } => {
            let by = match by {
                Hand::Handler => "",
                Hand::SelfStop => " (self-stop)",
                Hand::Hotplug => " (hotplug)",
                Hand::Redirect => " (redirect)",
            };
            format!("clears itself in {word}{by}")
        }
        What::SelfStops => "stops itself".to_owned(),
        What::Parks => "parks".to_owned(),
        What::PowersOff => "powers off".to_owned(),
        What::Pending { sgi } => format!("SGI {sgi} is pending"),
        What::Active { sgi, priority } => format!("SGI {sgi} is active, priority {priority:#x}"),
        What::Unplugs => "is unplugged".to_owned(),
        What::ComesUp => "comes online".to_owned(),
        What::Holds { at, manner, until } => {
            let at = at.map_or(String::new(), |at| format!(" at {at}"));
            let until = match until {
                Until::AfterRequest(us) => format!("request + {us} us"),
                Until::Event => "an event".to_owned(),
                Until::Never => "never".to_owned(),
            };
            format!("held{at} ({}) until {until}", line::manner_word(*manner))
        }
        What::Releases => "let go".to_owned(),
        What::Runs(text) => format!("runs {text}"),
        What::CaptureUp => "the capture kernel is up".to_owned(),
        What::CaptureNote(note) => format!("vmcore note {}", note.state()),
        What::CaptureFails(why) => format!("the capture kernel: {why}"),
    }
}

/// The rows of a trace, one by one as the events come.
pub struct Rows {
    places: Places,
    columns: Columns,
}

impl Rows {
    /// Before the first event.
    pub fn new(setting: &Setting, places: &Places) -> Self {
        Self {
            places: places.clone(),
            columns: Columns::new(setting),
        }
    }

    /// What stands above them.
    pub fn header() -> String {
        row([
            "time (us)",
            "cpu",
            "event",
            "lock",
            "online",
            "mask",
            "notes",
            "D/PMR",
        ])
    }

    /// The row of the next event.
    pub fn row(&mut self, event: &Event) -> String {
        let columns = &mut self.columns;
        columns.see(event);
        let masks = event.masks.map_or("-".to_owned(), |masks| {
            format!("{:x}/{:02x}", masks.daif, masks.pmr)
        });
        let cells = [
            event.at_us.to_string(),
            CpuId::to_string(&event.cpu),
            say(&self.places, &event.what),
            or_dash(&columns.lock),
            or_dash(&columns.online),
            or_dash(&columns.mask),
            columns.notes(),
            masks,
        ];
        row(std::array::from_fn(|at| cells[at].as_str()))
    }
}

fn row(cells: [&str; 8]) -> String {
    let [time, cpu, event, lock, online, mask, notes, masks] = cells;
    format!("{time:>9} {cpu:>4} {event:<56} {lock:>4} {online:>7} {mask:>6} {notes:>8} {masks:>5}")
}

impl fmt::Display for Trace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = Rows::new(&self.evidence.setting, &self.evidence.places);
        writeln!(f, "{}", Rows::header())?;
        for (at, event) in self.evidence.events.iter().enumerate() {
            writeln!(f, "{}", rows.row(event))?;
            for (_, text) in self.marks.iter().filter(|(event, _)| *event == at) {
                writeln!(f, "               ^ {text}")?;
            }
        }
        Ok(())
    }
}
