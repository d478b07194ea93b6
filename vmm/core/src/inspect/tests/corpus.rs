//! Bytes of real kernels (tests/corpus/README.md says where they come from).

use std::ops::Range;

use super::image::hand_over;
use crate::arm::{KernelVa, PhysicalAddress};
use crate::evidence::{Note, NoteState};
use crate::inspect::{KernelSpace, Memory, OutsideOfRam, Vmcoreinfo};

const INFO_6_12: &str = include_str!("../../../../../tests/corpus/vmcoreinfo-6.12-52-bit.txt");
const INFO_6_1: &str = include_str!("../../../../../tests/corpus/vmcoreinfo-6.1-48-bit.txt");
const MEMORY_6_12: &str = include_str!("../../../../../tests/corpus/memory-6.12-52-bit.txt");
const MEMORY_6_1: &str = include_str!("../../../../../tests/corpus/memory-6.1-48-bit.txt");

/// The few pieces of a guest's RAM that were kept.
struct Pieces(Vec<(u64, Vec<u8>)>);

impl Pieces {
    fn parse(text: &str) -> Self {
        let byte = |digits: &[u8]| u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap();
        let piece = |line: &str| {
            let (at, bytes) = line.split_once(' ').unwrap();
            let bytes = bytes.as_bytes().chunks_exact(2).map(byte).collect();
            (u64::from_str_radix(at, 16).unwrap(), bytes)
        };
        Self(text.lines().map(piece).collect())
    }
}

impl Memory for Pieces {
    fn read(&self, at: PhysicalAddress, into: &mut [u8]) -> Result<(), OutsideOfRam> {
        let bytes = self.0.iter().find_map(|(start, bytes)| {
            let from = at.0.checked_sub(*start)? as usize;
            bytes.get(from..from.checked_add(into.len())?)
        });
        hand_over(at, bytes, into)
    }

    fn ram(&self) -> Vec<Range<PhysicalAddress>> {
        let end = |start: u64, bytes: &Vec<u8>| PhysicalAddress(start + bytes.len() as u64);
        let range = |(start, bytes): &(u64, Vec<u8>)| PhysicalAddress(*start)..end(*start, bytes);
        self.0.iter().map(range).collect()
    }
}

#[test]
fn a_kernel_of_6_12_with_addresses_of_52_bits() {
    let info = Vmcoreinfo::parse(INFO_6_12).unwrap();
    assert_eq!(info.os_release(), "6.12.117+deb12-cloud-arm64");
    assert_eq!(info.number("VA_BITS"), Ok(52));
    assert_eq!(info.number("TCR_EL1_T1SZ"), Ok(12));
    let memory = Pieces::parse(MEMORY_6_12);
    let space = KernelSpace::new(&memory, &info).unwrap();
    // CPU 2 panicked, the others stopped, saved their registers and went offline.
    let online = space.u64("__cpu_online_mask", KernelVa(0xffff_a746_19a9_eaf8));
    assert_eq!(online, Ok(0b100));
    let notes = [
        (
            0xfff0_0000_0fe2_bc00,
            NoteState::Complete,
            0xffff_a746_189b_ce08,
        ),
        (
            0xfff0_0000_0fe4_dc00,
            NoteState::Complete,
            0xffff_a746_1836_6614,
        ),
        (0xfff0_0000_0fe6_fc00, NoteState::Empty, 0),
    ];
    for (at, state, pc) in notes {
        let note = Note(space.array("crash note", KernelVa(at)).unwrap());
        assert_eq!((note.state(), note.regs().pc), (state, pc));
    }
}

#[test]
fn a_kernel_of_6_1_with_addresses_of_48_bits() {
    let info = Vmcoreinfo::parse(INFO_6_1).unwrap();
    assert_eq!(info.os_release(), "6.1.0-56-cloud-arm64");
    assert_eq!(info.number("TCR_EL1_T1SZ"), Ok(16));
    let memory = Pieces::parse(MEMORY_6_1);
    let space = KernelSpace::new(&memory, &info).unwrap();
    // Its crash stop leaves the mask alone.
    let online = space.u64("__cpu_online_mask", KernelVa(0xffff_b550_7401_e888));
    assert_eq!(online, Ok(0b111));
}
