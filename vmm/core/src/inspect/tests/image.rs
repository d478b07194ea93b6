//! A small guest's RAM to write into.

use std::ops::Range;

use crate::arm::PhysicalAddress;
use crate::inspect::{Memory, OutsideOfRam};

/// Where its RAM begins.
pub(super) const RAM: u64 = 0x4000_0000;

/// RAM in one piece.
#[derive(Clone)]
pub(super) struct Image(pub(super) Vec<u8>);

impl Image {
    pub(super) fn new(bytes: usize) -> Self {
        Self(vec![0; bytes])
    }

    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        let at = (at - RAM) as usize;
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn u64(&self, at: u64) -> u64 {
        let mut word = [0; 8];
        self.read(PhysicalAddress(at), &mut word).unwrap();
        u64::from_le_bytes(word)
    }

    /// The note as `append_elf_note()` writes it.
    pub(super) fn write_vmcoreinfo(&mut self, at: u64, text: &str) {
        for (at, word) in (at..).step_by(4).zip([11, text.len() as u32, 0]) {
            self.write(at, &word.to_le_bytes());
        }
        self.write(at + 12, b"VMCOREINFO\0\0");
        self.write(at + 24, text.as_bytes());
    }
}

/// What a read gives that found these bytes, or none.
pub(super) fn hand_over(
    at: PhysicalAddress,
    found: Option<&[u8]>,
    into: &mut [u8],
) -> Result<(), OutsideOfRam> {
    let bytes = into.len();
    into.copy_from_slice(found.ok_or(OutsideOfRam { at, bytes })?);
    Ok(())
}

impl Memory for Image {
    fn read(&self, at: PhysicalAddress, into: &mut [u8]) -> Result<(), OutsideOfRam> {
        let bytes = at.0.checked_sub(RAM).and_then(|from| {
            let from = usize::try_from(from).ok()?;
            self.0.get(from..from.checked_add(into.len())?)
        });
        hand_over(at, bytes, into)
    }

    fn ram(&self) -> Vec<Range<PhysicalAddress>> {
        let end = RAM + self.0.len() as u64;
        vec![PhysicalAddress(RAM)..PhysicalAddress(end)]
    }
}
