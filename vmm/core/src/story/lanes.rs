//! What each CPU was doing, and what the words of memory held of it.

use guest_abi::protocol::Request;

use super::Span;
use crate::arm::CpuId;
use crate::evidence::{Columns, Event, Evidence, Interrupt, Manner, NoteState, What, manner_word};

/// What a CPU is doing. Of what covers each other, the last to begin is seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Doing {
    /// It runs, or nothing is known to the contrary.
    Runs,
    /// It runs, and takes no IRQ.
    IrqsOff,
    /// It is held.
    Held(Manner),
    /// It is in the handler of a stop that came as an IRQ, or on its own way to stop.
    Stops,
    /// It is in an NMI: a stop that came as one, or by SDEI, or another one.
    Nmi,
    /// It rests in the park loop.
    Stopped,
    /// It is powered off, unplugged, or has not come online yet.
    Off,
}

impl Doing {
    /// All of them, for a legend.
    pub const ALL: [Self; 9] = [
        Self::Runs,
        Self::IrqsOff,
        Self::Held(Manner::Stall),
        Self::Held(Manner::Spin),
        Self::Held(Manner::Freeze),
        Self::Stops,
        Self::Nmi,
        Self::Stopped,
        Self::Off,
    ];

    /// In words.
    pub fn name(self) -> String {
        match self {
            Self::Runs => "running".to_owned(),
            Self::IrqsOff => "IRQs off".to_owned(),
            Self::Held(manner) => format!("held: {}", manner_word(manner)),
            Self::Stops => "in the stop's handler".to_owned(),
            Self::Nmi => "in NMI".to_owned(),
            Self::Stopped => "stopped".to_owned(),
            Self::Off => "off".to_owned(),
        }
    }
}

/// One CPU.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lane {
    /// Which.
    pub cpu: CpuId,
    /// What it is doing; without a gap.
    pub doing: Vec<Span<Doing>>,
    /// When it is in the console's critical section.
    pub section: Vec<Span<()>>,
    /// When its bit is in the online mask.
    pub online: Vec<Span<()>>,
    /// When it is among those that the sender has still to stop.
    pub mask: Vec<Span<()>>,
    /// What its note amounts to, while there is one.
    pub note: Vec<Span<NoteState>>,
}

/// What is known of a CPU.
#[derive(Clone, Default)]
struct Cpu {
    // Later ones cover earlier ones.
    layers: Vec<Layer>,
    irqs_off: bool,
    rest: Option<Doing>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Layer {
    Hold(Manner),
    Handler(Doing),
    Backtrace,
}

impl Cpu {
    fn see(&mut self, event: &Event) {
        // What another NMI asks for is over with the next thing that the CPU does beside saying it.
        if !matches!(event.what, What::Logs { .. } | What::Takes { .. }) {
            self.layers.retain(|layer| *layer != Layer::Backtrace);
        }
        let interrupted = matches!(event.what, What::Takes { .. });
        if let Some(masks) = event.masks.filter(|_| !interrupted) {
            self.irqs_off = masks.irqs_off();
        }
        match &event.what {
            What::Takes { by, .. } => {
                self.rest = None;
                self.layers.push(match by {
                    Interrupt::Stop(Request::Irq) => Layer::Handler(Doing::Stops),
                    Interrupt::Stop(Request::Nmi | Request::Sdei) => Layer::Handler(Doing::Nmi),
                    Interrupt::Foreign => Layer::Backtrace,
                });
            }
            What::SelfStops => self.layers.push(Layer::Handler(Doing::Stops)),
            What::Holds { manner, .. } => self.layers.push(Layer::Hold(*manner)),
            What::Releases => self.layers.retain(|layer| !matches!(layer, Layer::Hold(_))),
            What::Parks => self.rest = Some(Doing::Stopped),
            What::PowersOff | What::Unplugs => self.rest = Some(Doing::Off),
            What::ComesUp => *self = Self::default(),
            _ => {}
        }
    }

    fn doing(&self, in_section: bool) -> Doing {
        match (self.rest, self.layers.last()) {
            (Some(rest), _) => rest,
            (None, Some(Layer::Hold(manner))) => Doing::Held(*manner),
            (None, Some(Layer::Handler(doing))) => *doing,
            (None, Some(Layer::Backtrace)) => Doing::Nmi,
            // The driver's lock is taken with interrupts saved.
            (None, None) if self.irqs_off || in_section => Doing::IrqsOff,
            (None, None) => Doing::Runs,
        }
    }
}

/// Spans, of which the last is still under way.
struct Growing<T> {
    spans: Vec<Span<T>>,
    now: Option<T>,
}

impl<T: Copy + PartialEq> Growing<T> {
    fn new() -> Self {
        Self {
            spans: Vec::new(),
            now: None,
        }
    }

    /// From this event on it is so.
    fn is(&mut self, at: usize, now: Option<T>) {
        if now == self.now {
            return;
        }
        self.end(at);
        self.now = now;
        self.spans.extend(now.map(|is| Span {
            from: at,
            to: at,
            is,
        }));
    }

    fn end(&mut self, at: usize) {
        if let (Some(_), Some(last)) = (self.now, self.spans.last_mut()) {
            last.to = at;
        }
    }

    fn ended(mut self, at: usize) -> Vec<Span<T>> {
        self.end(at);
        self.spans
    }
}

pub(super) fn of(evidence: &Evidence) -> Vec<Lane> {
    let (setting, events) = (&evidence.setting, &evidence.events);
    let cpus = (0..setting.cpus).map(CpuId);
    cpus.map(|cpu| {
        let mut known = Cpu {
            rest: (!setting.online.contains(cpu)).then_some(Doing::Off),
            ..Cpu::default()
        };
        let mut columns = Columns::new(setting);
        let mut doing = Growing::new();
        let (mut section, mut online, mut mask) = (Growing::new(), Growing::new(), Growing::new());
        let mut note = Growing::new();
        for (at, event) in events.iter().enumerate() {
            columns.see(event);
            if event.cpu == cpu {
                known.see(event);
            }
            doing.is(at, Some(known.doing(columns.lock.contains(cpu))));
            section.is(at, columns.lock.contains(cpu).then_some(()));
            online.is(at, columns.online.contains(cpu).then_some(()));
            mask.is(at, columns.mask.contains(cpu).then_some(()));
            let state = columns.notes[cpu.index()];
            note.is(at, (state != NoteState::Empty).then_some(state));
        }
        let end = events.len();
        Lane {
            cpu,
            doing: doing.ended(end),
            section: section.ended(end),
            online: online.ended(end),
            mask: mask.ended(end),
            note: note.ended(end),
        }
    })
    .collect()
}
