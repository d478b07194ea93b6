//! The ELF header of /proc/vmcore, which who loads a capture kernel writes: where the crashed kernel's notes and RAM are
//! (Documentation/admin-guide/kdump/kdump.rst).

use std::ops::Range;

use object::elf::{EM_AARCH64, ET_CORE, PT_LOAD, PT_NOTE, ProgramType};

/// Bytes of `Elf64_Ehdr` and of `Elf64_Phdr` (elf(5)).
const HEADER: u16 = 64;
const SEGMENT: u16 = 56;

/// The header of a core with these notes and this RAM, by physical address. Virtual ones are for debuggers, which ours is none.
pub(super) fn write(notes: &[Range<u64>], ram: &[Range<u64>]) -> Vec<u8> {
    // Of 64 bits, little-endian, version 1.
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    let segments = (notes.len() + ram.len()) as u16;
    bytes.extend([ET_CORE.0, EM_AARCH64.0].map(u16::to_le_bytes).concat());
    bytes.extend(1u32.to_le_bytes());
    // The entry, the first segment, the first section.
    bytes.extend([0, HEADER.into(), 0u64].map(u64::to_le_bytes).concat());
    bytes.extend(0u32.to_le_bytes());
    let sizes = [HEADER, SEGMENT, segments, 0, 0, 0];
    bytes.extend(sizes.map(u16::to_le_bytes).concat());
    for range in notes {
        bytes.extend(segment(PT_NOTE, range));
    }
    for range in ram {
        bytes.extend(segment(PT_LOAD, range));
    }
    bytes
}

fn segment(kind: ProgramType, range: &Range<u64>) -> Vec<u8> {
    let mut bytes = [kind.0, 0].map(u32::to_le_bytes).concat();
    let size = range.end - range.start;
    // Of a vmcore the offset is the physical address, too.
    let words = [range.start, 0, range.start, size, size, 0];
    bytes.extend(words.map(u64::to_le_bytes).concat());
    bytes
}

#[cfg(test)]
mod tests {
    use object::LittleEndian;
    use object::read::elf::{FileHeader as _, ProgramHeader as _};

    use super::*;

    #[test]
    fn it_is_read_as_a_core() {
        let (note, low, high) = (0x1000..0x11a8, 0..0x8000, 0x10000..0x20000);
        let bytes = write(&[note.clone(), note.clone()], &[low.clone(), high.clone()]);
        let header = object::elf::FileHeader64::<LittleEndian>::parse(&*bytes).unwrap();
        assert_eq!(header.e_type(LittleEndian), ET_CORE);
        assert_eq!(header.e_machine(LittleEndian), EM_AARCH64);
        let segments = header.program_headers(LittleEndian, &*bytes).unwrap();
        let read: Vec<_> = segments
            .iter()
            .map(|segment| {
                let at = segment.p_paddr(LittleEndian);
                let size = segment.p_memsz(LittleEndian);
                (segment.p_type(LittleEndian), at..at + size)
            })
            .collect();
        let expected = [
            (PT_NOTE, note.clone()),
            (PT_NOTE, note),
            (PT_LOAD, low),
            (PT_LOAD, high),
        ];
        assert_eq!(read, expected);
    }
}
