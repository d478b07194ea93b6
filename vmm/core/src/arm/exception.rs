//! Taking an exception to EL1, as the processor does (Arm ARM DDI 0487, AArch64.TakeException).

/// What an exception that is taken to EL1 from AArch64 makes of a CPU. `ELR_EL1` and `SPSR_EL1` get what was before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Taken {
    /// The processor state.
    pub pstate: u64,
    /// Where it goes on: bytes from `VBAR_EL1`, for a synchronous exception (D1.4.1.2).
    pub vector: u64,
}

/// `PSTATE.M` of EL1 on its own stack pointer, and its mask (C5.2.19).
const EL1H: u64 = 0b0101;
const MODE: u64 = 0b1111;
/// D, A, I and F.
const DAIF: u64 = 0b1111 << 6;
const SSBS: u64 = 1 << 12;
const PAN: u64 = 1 << 22;
const DIT: u64 = 1 << 24;
const NZCV: u64 = 0b1111 << 28;

/// `SCTLR_EL1.SPAN` and `SCTLR_EL1.DSSBS` (D24.2.134).
const SPAN: u64 = 1 << 23;
const DSSBS: u64 = 1 << 44;

/// Takes a synchronous exception at EL1 or EL0 to EL1. The guest has no memory tags, so that TCO stays clear.
pub fn take_to_el1(pstate: u64, sctlr: u64) -> Taken {
    let mut new = pstate & (NZCV | DIT | PAN) | DAIF | EL1H;
    if sctlr & SPAN == 0 {
        new |= PAN;
    }
    if sctlr & DSSBS != 0 {
        new |= SSBS;
    }
    let vector = match pstate & MODE {
        EL1H => 0x200,
        // EL1t.
        0b0100 => 0,
        _ => 0x400,
    };
    Taken {
        pstate: new,
        vector,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_el1_and_el0_it_goes_to_the_vectors_of_each() {
        let vector = |mode| take_to_el1(mode, SPAN).vector;
        assert_eq!(
            [vector(0b0100), vector(0b0101), vector(0)],
            [0, 0x200, 0x400]
        );
    }

    #[test]
    fn interrupts_are_masked_and_the_flags_stay() {
        let taken = take_to_el1(0b0110 << 28 | DIT, SPAN);
        assert_eq!(taken.pstate, 0b0110 << 28 | DIT | 0x3c5);
    }

    #[test]
    fn what_a_step_or_a_branch_has_left_is_gone() {
        let (step, illegal, branch, uao) = (1 << 21, 1 << 20, 0b11 << 10, 1 << 23);
        let taken = take_to_el1(step | illegal | branch | uao | EL1H, SPAN);
        assert_eq!(taken.pstate, 0x3c5);
    }

    #[test]
    fn pan_and_ssbs_are_as_sctlr_says() {
        assert_eq!(take_to_el1(PAN | EL1H, SPAN).pstate, PAN | 0x3c5);
        assert_eq!(take_to_el1(EL1H, 0).pstate, PAN | 0x3c5);
        assert_eq!(take_to_el1(SSBS | EL1H, SPAN).pstate, 0x3c5);
        assert_eq!(take_to_el1(EL1H, SPAN | DSSBS).pstate, SSBS | 0x3c5);
    }
}
