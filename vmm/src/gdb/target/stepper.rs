//! A vCPU's steps, which it takes on its own thread: a range of them costs nobody else's time.

use std::sync::Arc;

use super::super::memory::{Ram, Translation};
use super::super::step::{Exclusive, Masked, Saved, State};
use crate::conductor::Trap;
use crate::vcpu::{Owner, Register, System, Traps, Vcpu};

/// What a step has to look out for.
pub(super) struct Stepper {
    pub(super) ram: Arc<dyn Ram>,
    /// One is not enough: it goes on as long as it is in there.
    pub(super) range: Option<(u64, u64)>,
    /// Whether it may end in an interrupt's vector.
    pub(super) lets_interrupts_in: bool,
    /// What the debugger has trapped besides.
    pub(super) traps: Traps,
    /// The breakpoints that the debug registers have left beside those.
    pub(super) breakpoints_left: usize,
    /// What its debug registers hold of the debugger's.
    pub(super) set: Traps,
    /// It is where it was to be.
    pub(super) is_over: bool,
    begun: Option<Begun>,
}

/// A step that has begun.
struct Begun {
    at: u64,
    /// If interrupts are kept out of it.
    masked: Option<Masked>,
    /// Breakpoints end it, instead of the next instruction's trap.
    ways_out: Vec<u64>,
}

impl Stepper {
    /// One that has begun none yet.
    pub(super) fn new(ram: Arc<dyn Ram>, traps: Traps, set: Traps) -> Self {
        Self {
            ram,
            range: None,
            lets_interrupts_in: false,
            traps,
            breakpoints_left: 0,
            set,
            is_over: false,
            begun: None,
        }
    }

    fn may_stay(&self, pc: u64) -> bool {
        self.range
            .is_some_and(|(start, end)| (start..end).contains(&pc))
    }

    /// Begins a step, of a vCPU that is out of the guest; false if that brought it where it was to be already.
    pub(super) fn begin<V: Vcpu>(&mut self, vcpu: &mut V) -> Result<bool, V::Error> {
        let state = state(vcpu)?;
        self.begin_from(vcpu, state, state.pstate)
    }

    /// Begins a step where it stands so, but for a `PSTATE` that is yet another.
    fn begin_from<V: Vcpu>(
        &mut self,
        vcpu: &mut V,
        mut state: State,
        pstate: u64,
    ) -> Result<bool, V::Error> {
        let translation = Translation::of_vcpu(vcpu)?;
        let ram = Arc::clone(&self.ram);
        let instruction = |pc| {
            let mut bytes = [0; 4];
            let read = translation.read(&*ram, pc, &mut bytes);
            matches!(read, Ok(4)).then(|| u32::from_le_bytes(bytes))
        };
        let mut first = instruction(state.pc);
        let mut masked = Masked::begin(state, first);
        while masked.waits() {
            state.pc = state.pc.wrapping_add(4);
            vcpu.set_register(Register::Pc, state.pc.into())?;
            if !self.may_stay(state.pc) {
                set_pstate(vcpu, pstate, state.pstate)?;
                self.is_over = true;
                return Ok(false);
            }
            first = instruction(state.pc);
            masked = Masked::begin(state, first);
        }
        let mut traps = self.traps.clone();
        let sequence = Exclusive::at(state.pc, instruction)
            .filter(|sequence| sequence.ways_out.len() <= self.breakpoints_left);
        let mut ways_out = Vec::new();
        if let Some(sequence) = sequence {
            masked = Masked::begin_exclusive(state, &sequence);
            ways_out = sequence.ways_out;
            let had = &self.traps.breakpoints;
            let new = ways_out.iter().filter(|way| !had.contains(way));
            traps.breakpoints.extend(new);
        } else {
            traps.step = true;
        }
        if self.set != traps {
            vcpu.trap_on(Owner::Debugger, &traps)?;
            self.set = traps;
        }
        let masked = match self.lets_interrupts_in {
            true => None,
            false => Some(masked),
        };
        let wanted = (masked.as_ref()).map_or(state.pstate, Masked::pstate);
        set_pstate(vcpu, pstate, wanted)?;
        self.begun = Some(Begun {
            at: state.pc,
            masked,
            ways_out,
        });
        Ok(true)
    }

    /// The vCPU is out of the guest, trapped for the debugger; whether it goes on with the next step.
    pub(super) fn goes_on<V: Vcpu>(&mut self, vcpu: &mut V, trap: Trap) -> Result<bool, V::Error> {
        let Some(begun) = &self.begun else {
            return Ok(false);
        };
        let is_over = match trap {
            Trap::Stepped => true,
            Trap::Breakpoint => {
                let pc = vcpu.register(Register::Pc)? as u64;
                begun.ways_out.contains(&pc)
            }
            _ => false,
        };
        if !is_over {
            return Ok(false);
        }
        let (after, pstate) = self.put_right(vcpu)?;
        if self.may_stay(after.pc) {
            return self.begin_from(vcpu, after, pstate);
        }
        set_pstate(vcpu, pstate, after.pstate)?;
        self.is_over = true;
        Ok(false)
    }

    /// Ends what has begun, wherever it has come.
    pub(super) fn end<V: Vcpu>(&mut self, vcpu: &mut V) -> Result<(), V::Error> {
        if let Some(begun) = &self.begun {
            let before = begun.at;
            let (after, pstate) = self.put_right(vcpu)?;
            set_pstate(vcpu, pstate, after.pstate)?;
            self.is_over |= after.pc != before && !self.may_stay(after.pc);
        }
        Ok(())
    }

    /// Puts all right but `PSTATE`: how it is to stand, and what that is.
    fn put_right<V: Vcpu>(&mut self, vcpu: &mut V) -> Result<(State, u64), V::Error> {
        let mut after = state(vcpu)?;
        let pstate = after.pstate;
        let Some(masked) = self.begun.take().and_then(|begun| begun.masked) else {
            return Ok((after, pstate));
        };
        let saved = match masked.may_be_excepted(after) {
            true => Some(Saved {
                elr: vcpu.register(Register::System(System::ElrEl1))? as u64,
                spsr: vcpu.register(Register::System(System::SpsrEl1))? as u64,
            }),
            false => None,
        };
        let repair = masked.end(after, saved);
        if let Some(spsr) = repair.spsr {
            vcpu.set_register(Register::System(System::SpsrEl1), spsr.into())?;
        }
        if let Some(register) = repair.x {
            let read = vcpu.register(Register::X(register))? as u64;
            vcpu.set_register(Register::X(register), masked.put_back(read).into())?;
        }
        after.pstate = repair.pstate.unwrap_or(pstate);
        Ok((after, pstate))
    }
}

fn state<V: Vcpu>(vcpu: &mut V) -> Result<State, V::Error> {
    let mut read = |register| Ok(vcpu.register(register)? as u64);
    Ok(State {
        pc: read(Register::Pc)?,
        pstate: read(Register::Pstate)?,
        vbar: read(Register::System(System::VbarEl1))?,
    })
}

fn set_pstate<V: Vcpu>(vcpu: &mut V, from: u64, to: u64) -> Result<(), V::Error> {
    match from == to {
        true => Ok(()),
        false => vcpu.set_register(Register::Pstate, to.into()),
    }
}
