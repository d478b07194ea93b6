//! The parts of a capture kernel for kexec_load(2), and where they go.

use std::ops::Range;
use std::path::Path;

use super::tree::{self, Chosen};
use super::{Error, INITRD, KERNEL, elfcorehdr, read};
use crate::sys::Segment;

/// An Image starts at a multiple of this, plus its text_offset (Documentation/arch/arm64/booting.rst, 3).
const IMAGE_ALIGN: u64 = 2 << 20;

/// The parts, each with its address.
pub(super) struct Parts {
    page: u64,
    entry: u64,
    parts: Vec<(u64, Vec<u8>)>,
}

impl Parts {
    /// Reads what they are made of, and makes them.
    pub(super) fn make(cmdline: &str) -> Result<Self, Error> {
        let page = rustix::param::page_size() as u64;
        let map = String::from_utf8_lossy(&read(IOMEM)?).into_owned();
        let reserved = ranges(&map, "Crash kernel").pop();
        let room =
            reserved.ok_or_else(|| Error::Room(", which has reserved nothing".to_owned()))?;
        let kernel = read(KERNEL)?;
        let initrd = read(INITRD)?;
        let image = Image::of(&kernel)?;

        let start = room.start.next_multiple_of(IMAGE_ALIGN) + image.text_offset;
        let mut at = start + image.size;
        let mut place = |bytes: usize| {
            let start = at.next_multiple_of(page);
            at = start + bytes as u64;
            start..at
        };
        let header = elfcorehdr::write(&notes()?, &ram(&map, &room));
        let header_at = place(header.len());
        let initrd_at = place(initrd.len());
        let chosen = Chosen {
            cmdline,
            initrd: initrd_at.clone(),
            elfcorehdr: header_at.start..header_at.end.next_multiple_of(page),
            usable: room.clone(),
        };
        let tree = tree::with_chosen(Path::new(TREE), &chosen).map_err(|source| Error::Read {
            path: TREE.to_owned(),
            source,
        })?;
        let tree_at = place(tree.len());
        let entry = enters(start, tree_at.start);
        let entry_at = place(entry.len());
        let needs = at.next_multiple_of(page) - room.start;
        if needs > room.end - room.start {
            let has = room.end - room.start;
            return Err(Error::Room(format!(
                ": it needs {} KiB and has {} KiB",
                needs >> 10,
                has >> 10
            )));
        }
        Ok(Self {
            page,
            entry: entry_at.start,
            parts: vec![
                (start, kernel),
                (header_at.start, header),
                (initrd_at.start, initrd),
                (tree_at.start, tree),
                (entry_at.start, entry),
            ],
        })
    }

    /// Where the kernel jumps to.
    pub(super) fn entry(&self) -> u64 {
        self.entry
    }

    pub(super) fn segments(&self) -> Vec<Segment<'_>> {
        let parts = self.parts.iter();
        parts
            .map(|(at, bytes)| Segment::new(bytes, *at, self.page))
            .collect()
    }
}

const IOMEM: &str = "/proc/iomem";
const TREE: &str = "/sys/firmware/devicetree/base";
const VMCOREINFO: &str = "/sys/kernel/vmcoreinfo";

/// What an Image says of itself (booting.rst, 3).
struct Image {
    text_offset: u64,
    /// With what is zeroed at its end.
    size: u64,
}

impl Image {
    fn of(file: &[u8]) -> Result<Self, Error> {
        let word = |at: usize| Some(u64::from_le_bytes(*file.get(at..)?.first_chunk()?));
        let marked = file.get(56..60) == Some(b"ARM\x64");
        match (word(8), word(16)) {
            (Some(text_offset), Some(size)) if marked && size >= file.len() as u64 => {
                Ok(Self { text_offset, size })
            }
            _ => Err(Error::Kernel("it is no Image".to_owned())),
        }
    }
}

/// Instructions that enter the Image there as booting.rst has it (4: x0 is the device tree, x1 to x3 are zero). kexec_load(2) has no
/// place to say where the tree is.
fn enters(image: u64, tree: u64) -> Vec<u8> {
    const CODE: [u32; 6] = [
        0x5800_00c0, // ldr x0, .+24
        0xaa1f_03e1, // mov x1, xzr
        0xaa1f_03e2, // mov x2, xzr
        0xaa1f_03e3, // mov x3, xzr
        0x5800_0084, // ldr x4, .+16
        0xd61f_0080, // br x4
    ];
    let code = CODE
        .iter()
        .flat_map(|instruction| instruction.to_le_bytes());
    let words = [tree, image];
    code.chain(words.iter().flat_map(|word| word.to_le_bytes()))
        .collect()
}

/// The lines of /proc/iomem with this name.
fn ranges(map: &str, name: &str) -> Vec<Range<u64>> {
    let range = |line: &str| {
        let (range, what) = line.trim().split_once(" : ")?;
        let (first, last) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        (what == name).then_some(number(first)?..number(last)? + 1)
    };
    map.lines().filter_map(range).collect()
}

/// The RAM without what the capture kernel lies in.
fn ram(map: &str, room: &Range<u64>) -> Vec<Range<u64>> {
    let without = |range: Range<u64>| {
        let before = range.start..range.end.min(room.start);
        let behind = range.start.max(room.end)..range.end;
        [before, behind]
    };
    let ram = ranges(map, "System RAM").into_iter().flat_map(without);
    ram.filter(|range| !range.is_empty()).collect()
}

/// Where this kernel's notes will be: those of each CPU, and VMCOREINFO.
fn notes() -> Result<Vec<Range<u64>>, Error> {
    let strange = |path: &str, text: &str| Error::Strange {
        path: path.to_owned(),
        what: text.to_owned(),
    };
    let text = |path: &str| Ok(String::from_utf8_lossy(&read(path)?).trim().to_owned());
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let mut notes = Vec::new();
    for cpu in 0.. {
        let file = |name: &str| format!("/sys/devices/system/cpu/cpu{cpu}/{name}");
        let at = match text(&file("crash_notes")) {
            Ok(at) => hex(&at).ok_or_else(|| strange(&file("crash_notes"), &at))?,
            Err(Error::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound && cpu > 0 =>
            {
                break;
            }
            Err(error) => return Err(error),
        };
        let size = text(&file("crash_notes_size"))?;
        let bytes: u64 = size
            .parse()
            .map_err(|_| strange(&file("crash_notes_size"), &size))?;
        notes.push(at..at + bytes);
    }
    let info = text(VMCOREINFO)?;
    let (at, bytes) = info.split_once(' ').unwrap_or_default();
    match (hex(at), hex(bytes)) {
        (Some(at), Some(bytes)) => notes.push(at..at + bytes),
        _ => return Err(strange(VMCOREINFO, &info)),
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "09000000-09000fff : pl011@9000000\n40000000-5fffffff : System RAM\n  40210000-40ffffff : Kernel code\n  \
                       50000000-57ffffff : Crash kernel\n60000000-6fffffff : System RAM\n";

    #[test]
    fn the_memory_map_says_what_is_reserved_and_what_is_left() {
        let room = ranges(MAP, "Crash kernel").pop().unwrap();
        assert_eq!(room, 0x5000_0000..0x5800_0000);
        let left = [
            0x4000_0000..0x5000_0000,
            0x5800_0000..0x6000_0000,
            0x6000_0000..0x7000_0000,
        ];
        assert_eq!(ram(MAP, &room), left);
        assert!(ranges(MAP, "Crash").is_empty());
    }

    #[test]
    fn the_instructions_end_with_what_they_load() {
        let code = enters(0x1122, 0x3344);
        assert_eq!(code.len(), 40);
        assert_eq!(code[24..32], 0x3344u64.to_le_bytes());
        assert_eq!(code[32..], 0x1122u64.to_le_bytes());
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert!(Image::of(b"text").is_err());
        let mut image = vec![0; 64];
        image[16] = 128;
        assert!(Image::of(&image).is_err());
        image[56..60].copy_from_slice(b"ARM\x64");
        assert_eq!(Image::of(&image).unwrap().size, 128);
    }
}
