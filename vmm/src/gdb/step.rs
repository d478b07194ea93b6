//! One instruction without a way into an interrupt's vector.
//!
//! A pending interrupt would be taken before the instruction that is to be stepped, and the step end at its vector. So interrupts are
//! masked in the vCPU's own state for the time of the step, and whatever of the guest could see or keep that mask is put right
//! afterwards.

/// I and F of `PSTATE`, and of `DAIF` (Arm ARM DDI 0487, C5.2.19 and C5.2.2).
pub(super) const INTERRUPTS: u64 = 0b11 << 6;

/// What of a vCPU the step may change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct State {
    pub(super) pc: u64,
    pub(super) pstate: u64,
    pub(super) vbar: u64,
}

/// What an exception has saved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Saved {
    pub(super) elr: u64,
    pub(super) spsr: u64,
}

/// A step that has begun.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Masked {
    before: State,
    effect: Effect,
    /// Behind the last of its instructions.
    behind: u64,
}

/// What an instruction has to do with the mask.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Effect {
    None,
    /// It reads `DAIF` into this register.
    Reads(u8),
    /// It decides about both bits itself: MSR DAIF from a register, an exception's return.
    Decides,
    /// It sets those of its bits, or clears them.
    Sets(u64),
    Clears(u64),
    /// It waits, which with nothing to wait for would not end.
    Waits,
}

/// What is left to be done when a step has ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Repair {
    /// `PSTATE` is to be this.
    pub(super) pstate: Option<u64>,
    /// `SPSR_EL1` is to be this.
    pub(super) spsr: Option<u64>,
    /// This register is to be [put right](Masked::put_back).
    pub(super) x: Option<u8>,
}

impl Effect {
    /// C6.2: MRS, MSR (register), MSR (immediate), ERET and its authenticating forms, WFE and WFI.
    fn of(instruction: u32) -> Self {
        let register = (instruction & 0x1f) as u8;
        let immediate = u64::from(instruction >> 8 & 0b11) << 6;
        match instruction {
            i if i & !0x1f == 0xd53b_4220 => Self::Reads(register),
            i if i & !0x1f == 0xd51b_4220 => Self::Decides,
            0xd69f_03e0 | 0xd69f_0bff | 0xd69f_0fff => Self::Decides,
            i if i & !0xf00 == 0xd503_40df => Self::Sets(immediate),
            i if i & !0xf00 == 0xd503_40ff => Self::Clears(immediate),
            0xd503_205f | 0xd503_207f => Self::Waits,
            _ => Self::None,
        }
    }
}

/// Instructions from a load exclusive to its store, which are one step: an exception between them would lose the reservation each time,
/// and the loop around them never end (B2.17.5).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Exclusive {
    /// Behind the store.
    behind: u64,
    /// Where it can be left: there, and where branches lead out of it.
    pub(super) ways_out: Vec<u64>,
}

/// The most instructions between a load exclusive and its store that are looked through, as in gdb.
const LONGEST: u64 = 16;

impl Exclusive {
    /// That which begins here, if one does.
    pub(super) fn at(start: u64, instruction: impl Fn(u64) -> Option<u32>) -> Option<Self> {
        // "Load/store exclusive pair", "Load/store exclusive register" (C4.1.94), whose bit 22 is L.
        let exclusive = |i: u32| i & 0x3f80_0000 == 0x0800_0000;
        let loads = |i: u32| i & 1 << 22 != 0;
        if !instruction(start).is_some_and(|i| exclusive(i) && loads(i)) {
            return None;
        }
        let mut targets = Vec::new();
        for pc in (1..=LONGEST).map(|more| start.wrapping_add(4 * more)) {
            let this = instruction(pc)?;
            match Branch::of(this) {
                Branch::To(distance) => targets.push(pc.wrapping_add_signed(distance)),
                Branch::Anywhere => return None,
                Branch::None if exclusive(this) && !loads(this) => {
                    let behind = pc.wrapping_add(4);
                    targets.push(behind);
                    targets.retain(|target| !(start..behind).contains(target));
                    targets.sort_unstable();
                    targets.dedup();
                    return Some(Self {
                        behind,
                        ways_out: targets,
                    });
                }
                Branch::None => {}
            }
        }
        None
    }
}

/// Where an instruction may lead to other than the next one.
enum Branch {
    None,
    /// So many bytes on.
    To(i64),
    Anywhere,
}

impl Branch {
    /// C4.1.93, "Branches, Exception Generating and System instructions".
    fn of(instruction: u32) -> Self {
        // An immediate counts instructions.
        let immediate = |lowest: u32, bits: u32| {
            let field = i64::from(instruction >> lowest & ((1 << bits) - 1));
            let sign = 64 - bits;
            Self::To((field << sign >> sign) * 4)
        };
        match instruction {
            // B, and not BL: who calls something is no such sequence.
            i if i >> 26 == 0b00_0101 => immediate(0, 26),
            // B.cond, BC.cond; CBZ, CBNZ; TBZ, TBNZ.
            i if i >> 24 == 0x54 => immediate(5, 19),
            i if i & 0x7e00_0000 == 0x3400_0000 => immediate(5, 19),
            i if i & 0x7e00_0000 == 0x3600_0000 => immediate(5, 14),
            // BL; exceptions; branches to a register.
            i if i >> 26 == 0b10_0101 || i >> 24 == 0xd4 || i >> 25 == 0x6b => Self::Anywhere,
            _ => Self::None,
        }
    }
}

impl Masked {
    /// Begins it. Without an instruction (its page is not mapped) there is nothing to be looked out for but the fault.
    pub(super) fn begin(before: State, instruction: Option<u32>) -> Self {
        let effect = instruction.map_or(Effect::None, Effect::of);
        let behind = before.pc.wrapping_add(4);
        Self {
            before,
            effect,
            behind,
        }
    }

    /// As [`begin`](Self::begin), of all of them.
    pub(super) fn begin_exclusive(before: State, sequence: &Exclusive) -> Self {
        Self {
            before,
            effect: Effect::None,
            behind: sequence.behind,
        }
    }

    /// Whether the instruction does nothing but wait: its step is to go past it.
    pub(super) fn waits(&self) -> bool {
        self.effect == Effect::Waits
    }

    /// `PSTATE` for the time of the step.
    pub(super) fn pstate(&self) -> u64 {
        self.before.pstate | INTERRUPTS
    }

    /// The vCPU's own mask in what the instruction may have read or kept.
    pub(super) fn put_back(&self, state: u64) -> u64 {
        state & !INTERRUPTS | self.before.pstate & INTERRUPTS
    }

    /// Whether it is where exceptions lead, so that it matters what one has saved.
    pub(super) fn may_be_excepted(&self, after: State) -> bool {
        let vectors = self.before.vbar..self.before.vbar.wrapping_add(0x800);
        vectors.contains(&after.pc)
    }

    /// What is left to be done, where it was let in and is out again; `saved` is asked for only if it [may be
    /// excepted](Self::may_be_excepted).
    pub(super) fn end(&self, after: State, saved: Option<Saved>) -> Repair {
        let mut repair = Repair::default();
        let excepted = saved.filter(|saved| {
            (self.before.pc..=self.behind).contains(&saved.elr)
                && saved.spsr & INTERRUPTS == INTERRUPTS
                && after.pstate & INTERRUPTS == INTERRUPTS
                && after.pc != self.behind
        });
        if let Some(saved) = excepted {
            repair.spsr = Some(self.put_back(saved.spsr));
            return repair;
        }
        let put_back = self.put_back(after.pstate);
        if after.pc == self.before.pc {
            // It never ran, or it branches to itself.
            repair.pstate = Some(put_back);
            return repair;
        }
        repair.pstate = match self.effect {
            Effect::Decides => None,
            Effect::Sets(bits) => Some(put_back | bits),
            Effect::Clears(bits) => Some(put_back & !bits),
            Effect::None | Effect::Reads(_) | Effect::Waits => Some(put_back),
        };
        if let Effect::Reads(register) = self.effect
            && register != 31
        {
            repair.x = Some(register);
        }
        repair
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: State = State {
        pc: 0x1000,
        pstate: 0x5,
        vbar: 0x8000,
    };

    fn stepped(instruction: u32, before: State, after: impl FnOnce(&mut State)) -> Repair {
        let step = Masked::begin(before, Some(instruction));
        let mut state = State {
            pc: before.pc + 4,
            pstate: step.pstate(),
            ..before
        };
        after(&mut state);
        step.end(state, None)
    }

    fn excepted(step: Masked, elr: u64) -> Repair {
        let after = State {
            pc: 0x8200,
            pstate: 0x3c5,
            ..BEFORE
        };
        assert!(step.may_be_excepted(after));
        step.end(after, Some(Saved { elr, spsr: 0xc5 }))
    }

    #[test]
    fn an_instruction_that_has_nothing_to_do_with_it_gets_its_state_back() {
        let nop = stepped(0xd503_201f, BEFORE, |_| {});
        let expected = Repair {
            pstate: Some(0x5),
            ..Repair::default()
        };
        assert_eq!(nop, expected);
        let masked = State {
            pstate: 0xc5,
            ..BEFORE
        };
        assert_eq!(stepped(0xd503_201f, masked, |_| {}).pstate, Some(0xc5));
    }

    #[test]
    fn mrs_daif_does_not_see_it() {
        // mrs x7, daif; mrs xzr, daif
        let repair = stepped(0xd53b_4227, BEFORE, |_| {});
        assert_eq!(repair.x, Some(7));
        let step = Masked::begin(BEFORE, Some(0xd53b_4227));
        assert_eq!(step.put_back(0x3c0), 0x300);
        assert_eq!(stepped(0xd53b_423f, BEFORE, |_| {}).x, None);
    }

    #[test]
    fn what_decides_has_decided() {
        // msr daif, x0; eret
        assert_eq!(
            stepped(0xd51b_4220, BEFORE, |after| after.pstate = 0x45).pstate,
            None
        );
        assert_eq!(
            stepped(0xd69f_03e0, BEFORE, |after| after.pc = 0).pstate,
            None
        );
    }

    #[test]
    fn immediates_change_their_bits_alone() {
        // msr daifset, #2; msr daifset, #0xf; msr daifclr, #2; msr daifclr, #3
        assert_eq!(stepped(0xd503_42df, BEFORE, |_| {}).pstate, Some(0x85));
        let all = stepped(0xd503_4fdf, BEFORE, |after| after.pstate |= 0x3c0);
        assert_eq!(all.pstate, Some(0x3c5));
        let masked = State {
            pstate: 0xc5,
            ..BEFORE
        };
        let cleared = stepped(0xd503_42ff, masked, |after| after.pstate &= !0x80);
        assert_eq!(cleared.pstate, Some(0x45));
        let both = stepped(0xd503_43ff, masked, |after| after.pstate &= !0xc0);
        assert_eq!(both.pstate, Some(0x5));
    }

    #[test]
    fn an_exception_has_not_kept_it() {
        // svc #0: the return address is the next one; a load that faults: its own; and a brk.
        for (instruction, elr) in [
            (0xd400_0001, 0x1004),
            (0xf940_0000, 0x1000),
            (0xd420_0000, 0x1000),
        ] {
            let step = Masked::begin(BEFORE, Some(instruction));
            let repair = excepted(step, elr);
            let expected = Repair {
                spsr: Some(0x5),
                ..Repair::default()
            };
            assert_eq!(repair, expected);
        }
    }

    #[test]
    fn one_that_never_ran_is_as_before() {
        assert_eq!(
            stepped(0xd51b_4220, BEFORE, |after| after.pc = 0x1000).pstate,
            Some(0x5)
        );
    }

    #[test]
    fn waits_are_told() {
        assert!(Masked::begin(BEFORE, Some(0xd503_207f)).waits());
        assert!(!Masked::begin(BEFORE, None).waits());
    }

    fn exclusive(text: &[u32]) -> Option<Exclusive> {
        let instruction = |pc: u64| text.get((pc - 0x1000) as usize / 4).copied();
        Exclusive::at(0x1000, instruction)
    }

    #[test]
    fn a_sequence_ends_behind_its_store() {
        // ldxr w0, [x1]; nop; stxr w2, w0, [x1]; cbnz w2, .-12
        let counted = exclusive(&[0x885f_7c20, 0xd503_201f, 0x8802_7c20, 0x35ff_ffa2]);
        let expected = Exclusive {
            behind: 0x100c,
            ways_out: vec![0x100c],
        };
        assert_eq!(counted, Some(expected));
        // ldaxp x0, x1, [x2]; stlxp w3, x0, x1, [x2]
        assert!(exclusive(&[0xc87f_8440, 0xc823_8440]).is_some());
    }

    #[test]
    fn a_branch_out_of_it_ends_it_too() {
        // ldaxr w0, [x1]; cbnz w0, .+20; tbz w0, #0, .+8; b.ne .-12; stxr w2, w0, [x1]: the third and fourth stay inside.
        let tried = exclusive(&[
            0x885f_fc20,
            0x3500_00a0,
            0x3600_0040,
            0x54ff_ffa1,
            0x8802_7c20,
        ]);
        let expected = Exclusive {
            behind: 0x1014,
            ways_out: vec![0x1014, 0x1018],
        };
        assert_eq!(tried, Some(expected));
    }

    #[test]
    fn what_has_no_store_is_none() {
        // ldar; stxr first; ldxr with nothing behind it, a ret, a bl, an svc.
        assert_eq!(exclusive(&[0x88df_fc20, 0x8802_7c20]), None);
        assert_eq!(exclusive(&[0x8802_7c20, 0x8802_7c20]), None);
        assert_eq!(exclusive(&[0x885f_7c20]), None);
        for other in [0xd65f_03c0, 0x9400_0001, 0xd400_0001] {
            assert_eq!(exclusive(&[0x885f_7c20, other, 0x8802_7c20]), None);
        }
        assert_eq!(
            exclusive(&[[0x885f_7c20].as_slice(), &[0xd503_201f; 20]].concat()),
            None
        );
    }

    #[test]
    fn a_sequence_that_faults_has_not_kept_the_mask() {
        let sequence = exclusive(&[0x885f_7c20, 0xd503_201f, 0x8802_7c20]).unwrap();
        let step = Masked::begin_exclusive(BEFORE, &sequence);
        assert_eq!(excepted(step, 0x1008).spsr, Some(0x5));
    }
}
