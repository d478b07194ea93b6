//! Each CPU's crash note next to the registers that the first stop request interrupted.

use crate::arm::CpuId;
use crate::evidence::{Evidence, Interrupt, Note, NoteState, Regs, What};

/// What the first stop request that a CPU took has interrupted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Met {
    /// It took none.
    Nothing,
    /// Registers that were not read.
    Unread,
    /// These registers.
    Registers,
}

/// A register, as it was and as the note has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Register {
    /// Its name.
    pub name: String,
    /// Where the CPU was interrupted.
    pub met: Option<u64>,
    /// In the note.
    pub note: Option<u64>,
    /// The same in words, where it is an address of the guest's text.
    pub places: [Option<String>; 2],
}

impl Register {
    /// Whether both are known, and differ.
    pub fn differs(&self) -> bool {
        matches!((self.met, self.note), (Some(met), Some(note)) if met != note)
    }
}

/// A CPU's note.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NoteStory {
    /// Whose.
    pub cpu: CpuId,
    /// What was interrupted.
    pub met: Met,
    /// What the note amounts to at the end.
    pub state: NoteState,
    /// pc, sp, pstate, and of the others those that differ.
    pub registers: Vec<Register>,
    /// The first difference that counts, if the two differ: where PSTATE alone has SS besides, they do not.
    pub differs: Option<String>,
}

pub(super) fn of(evidence: &Evidence) -> Vec<NoteStory> {
    let any = |event: &crate::evidence::Event| matches!(event.what, What::Notes(_));
    if !evidence.events.iter().any(any) {
        return Vec::new();
    }
    let cpus = (0..evidence.setting.cpus).map(CpuId);
    cpus.map(|cpu| {
        let own = || evidence.events.iter().filter(move |event| event.cpu == cpu);
        let met = own().find_map(|event| match &event.what {
            What::Takes {
                by: Interrupt::Stop(_),
                regs,
            } => Some(regs.as_deref()),
            _ => None,
        });
        let mut notes = own().filter_map(|event| match &event.what {
            What::Notes(note) => Some(&**note),
            _ => None,
        });
        one(evidence, cpu, met, notes.next_back())
    })
    .collect()
}

fn one(
    evidence: &Evidence,
    cpu: CpuId,
    met: Option<Option<&Regs>>,
    note: Option<&Note>,
) -> NoteStory {
    let state = note.map_or(NoteState::Empty, Note::state);
    let noted = note.filter(|_| state != NoteState::Empty).map(Note::regs);
    let interrupted = met.flatten();
    let place = |pc: Option<u64>| {
        let pc = pc.filter(|pc| evidence.places.at(*pc).is_some())?;
        Some(evidence.places.describe(pc))
    };
    let row = |name: &str, of: &dyn Fn(&Regs) -> u64| Register {
        name: name.to_owned(),
        met: interrupted.map(of),
        note: noted.as_ref().map(of),
        places: [None, None],
    };
    let mut pc = row("pc", &|regs| regs.pc);
    pc.places = [place(pc.met), place(pc.note)];
    let mut registers = vec![
        pc,
        row("sp", &|regs| regs.sp),
        row("pstate", &|regs| regs.pstate),
    ];
    let general = (0..31).map(|n| row(&format!("x{n}"), &|regs| regs.x[n]));
    registers.extend(general.filter(Register::differs));
    registers.retain(|register| register.met.is_some() || register.note.is_some());
    NoteStory {
        cpu,
        met: match met {
            None => Met::Nothing,
            Some(None) => Met::Unread,
            Some(Some(_)) => Met::Registers,
        },
        state,
        registers,
        differs: match (&noted, interrupted) {
            (Some(noted), Some(met)) => noted.differs_from(met),
            _ => None,
        },
    }
}
