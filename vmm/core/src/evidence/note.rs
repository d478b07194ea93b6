//! Registers and crash notes, as the bytes that lie in guest memory.

use std::fmt;
use std::hash::{Hash, Hasher};

use guest_abi::note::{
    DESC_BYTES, END_AT, NAME_AT, NAME_BYTES, NOTE_BYTES, PC_AT, PSTATE_AT, SP_AT, TYPE_PRSTATUS,
    X0_AT,
};

/// PSTATE.SS (bit 21): set by whoever single-steps, not by the code that is stepped.
const PSTATE_SS: u64 = 1 << 21;
/// PSTATE.M: the exception level and the stack pointer in use.
const PSTATE_MODE: u64 = 0xf;

/// The general registers, as `struct user_pt_regs` has them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Regs {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The stack pointer: SP_EL0 where EL0 was interrupted.
    pub sp: u64,
    /// The program counter.
    pub pc: u64,
    /// PSTATE.
    pub pstate: u64,
}

impl Regs {
    /// Bytes of their binary form: 34 little-endian words.
    pub const BYTES: usize = 34 * 8;

    /// The binary form.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = self.x.iter().chain([&self.sp, &self.pc, &self.pstate]);
        for (at, word) in bytes.chunks_exact_mut(8).zip(words) {
            at.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The registers of a binary form.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |n: usize| word_at(bytes, 8 * n);
        Self {
            x: std::array::from_fn(word),
            sp: word(31),
            pc: word(32),
            pstate: word(33),
        }
    }

    /// The first register in which the two differ, by name; PSTATE.SS does not count.
    pub fn differs_from(&self, other: &Self) -> Option<String> {
        if let Some(n) = (0..31).find(|n| self.x[*n] != other.x[*n]) {
            return Some(format!("x{n} {:#x} against {:#x}", self.x[n], other.x[n]));
        }
        let rest = [
            ("sp", self.sp, other.sp),
            ("pc", self.pc, other.pc),
            (
                "pstate",
                self.pstate & !PSTATE_SS,
                other.pstate & !PSTATE_SS,
            ),
        ];
        rest.iter()
            .find(|(_, a, b)| a != b)
            .map(|(name, a, b)| format!("{name} {a:#x} against {b:#x}"))
    }

    /// Whether they are registers of EL0.
    pub fn is_user(&self) -> bool {
        self.pstate & PSTATE_MODE == 0
    }
}

/// What a note's bytes amount to.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum NoteState {
    /// Never written.
    Empty,
    /// Begun, or damaged.
    Torn,
    /// Header, descriptor and terminator are there.
    Complete,
}

impl fmt::Display for NoteState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoteState::Empty => "empty",
            NoteState::Torn => "torn",
            NoteState::Complete => "complete",
        })
    }
}

/// A crash note's bytes.
#[derive(Clone, Eq, PartialEq)]
pub struct Note(pub [u8; NOTE_BYTES]);

// The hash takes what tells notes of one run apart; equality looks at every byte.
impl Hash for Note {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0[NAME_AT..NAME_AT + 4].hash(state);
        self.0[X0_AT..X0_AT + 8].hash(state);
        self.0[SP_AT..].hash(state);
    }
}

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Note({}, pc {:#x})", self.state(), self.regs().pc)
    }
}

impl Note {
    /// The note that `crash_save_cpu()` leaves for these registers.
    pub fn complete(regs: &Regs) -> Self {
        let mut note = [0; NOTE_BYTES];
        for (at, word) in [NAME_BYTES, DESC_BYTES, TYPE_PRSTATUS]
            .into_iter()
            .enumerate()
        {
            note[4 * at..4 * at + 4].copy_from_slice(&word.to_le_bytes());
        }
        note[NAME_AT..NAME_AT + 4].copy_from_slice(b"CORE");
        note[X0_AT..X0_AT + Regs::BYTES].copy_from_slice(&regs.to_bytes());
        Self(note)
    }

    /// The same caught in the middle of the descriptor, over what lay there before. The header is written
    /// first and the terminator is zero from the start, so that only the registers tell.
    pub fn torn(regs: &Regs, before: Option<&Note>) -> Self {
        let mut note = Self::complete(regs);
        match before {
            Some(before) => note.0[SP_AT..END_AT].copy_from_slice(&before.0[SP_AT..END_AT]),
            None => note.0[SP_AT..END_AT].fill(0),
        }
        note
    }

    /// What the bytes amount to. No CPU is interrupted at address 0: a pc of 0 has not been written yet.
    pub fn state(&self) -> NoteState {
        let word = |at: usize| {
            u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
        };
        let header = [word(0), word(4), word(8)] == [NAME_BYTES, DESC_BYTES, TYPE_PRSTATUS];
        let named = &self.0[NAME_AT..NAME_AT + 8] == b"CORE\0\0\0\0";
        let closed = self.0[END_AT..].iter().all(|byte| *byte == 0);
        if header && named && closed && word_at(&self.0, PC_AT) != 0 {
            NoteState::Complete
        } else if self.0.iter().all(|byte| *byte == 0) {
            NoteState::Empty
        } else {
            NoteState::Torn
        }
    }

    /// The registers at their offsets, whatever the state.
    pub fn regs(&self) -> Regs {
        let word = |n: usize| word_at(&self.0, X0_AT + 8 * n);
        const { assert!(X0_AT + 8 * 31 == SP_AT && SP_AT + 8 == PC_AT && PC_AT + 8 == PSTATE_AT) };
        Regs {
            x: std::array::from_fn(word),
            sp: word(31),
            pc: word(32),
            pstate: word(33),
        }
    }
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn regs() -> impl Strategy<Value = Regs> {
        (any::<[u64; 31]>(), any::<u64>(), any::<u64>(), any::<u64>())
            .prop_map(|(x, sp, pc, pstate)| Regs { x, sp, pc, pstate })
    }

    proptest! {
        #[test]
        fn a_note_gives_its_registers_back(mut regs in regs()) {
            regs.pc |= 4;
            let note = Note::complete(&regs);
            prop_assert_eq!(note.state(), NoteState::Complete);
            prop_assert_eq!(note.regs(), regs.clone());
            prop_assert_eq!(Regs::from_bytes(&regs.to_bytes()), regs);
        }

        #[test]
        fn a_torn_note_is_neither(regs in regs()) {
            prop_assert_eq!(Note::torn(&regs, None).state(), NoteState::Torn);
        }

        #[test]
        fn one_bit_tells_registers_apart(regs in regs(), at in 0usize..34, bit in 0u32..64) {
            let mut bytes = regs.to_bytes();
            bytes[8 * at + bit as usize / 8] ^= 1 << (bit % 8);
            let other = Regs::from_bytes(&bytes);
            let ignored = at == 33 && bit == 21;
            prop_assert_eq!(regs.differs_from(&other).is_none(), ignored);
        }
    }

    #[test]
    fn a_note_torn_over_another_passes_for_complete() {
        let at = |pc| Regs {
            x: [pc; 31],
            sp: 1,
            pc,
            pstate: 0,
        };
        let first = Note::complete(&at(4));
        let over = Note::torn(&at(8), Some(&first));
        assert_eq!(
            (over.state(), over.regs().pc, over.regs().x[0]),
            (NoteState::Complete, 4, 8)
        );
    }

    #[test]
    fn zeros_are_an_empty_note() {
        assert_eq!(Note([0; NOTE_BYTES]).state(), NoteState::Empty);
    }
}
