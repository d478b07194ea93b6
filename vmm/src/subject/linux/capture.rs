//! The capture kernel of a guest: what init needs to load it, and what it hands over when it is up (images/init/src/vmcore.rs).

use std::collections::BTreeMap;
use std::io::{self, Write as _};

use cpio::newc::{self, Builder, ModeFileType};
use guest_abi::handover::{HEAD_BYTES, Head, PAGE_BYTES, sum};
use guest_abi::note::NOTE_BYTES;
use vmm_core::arm::{CpuId, PhysicalAddress};
use vmm_core::evidence::Note;
use vmm_core::inspect::Memory;

/// The initramfs with a capture kernel and its own initramfs in it: the kernel unpacks archives that follow one another into one tree
/// (Documentation/driver-api/early-userspace/buffer-format.rst).
pub(super) fn with_capture(initramfs: &[u8], kernel: &[u8]) -> io::Result<Vec<u8>> {
    const FOLDER: &str = "capture";
    let mut archive = initramfs.to_vec();
    // An archive starts at a multiple of 4.
    archive.resize(archive.len().next_multiple_of(4), 0);
    Builder::new(FOLDER)
        .mode(0o755)
        .set_mode_file_type(ModeFileType::Directory)
        .write(&mut archive, 0)
        .finish()?;
    for (name, bytes) in [("Image", kernel), ("initrd", initramfs)] {
        let size = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut entry = Builder::new(&format!("{FOLDER}/{name}"))
            .mode(0o444)
            .set_mode_file_type(ModeFileType::Regular)
            .write(&mut archive, size);
        entry.write_all(bytes)?;
        entry.finish()?;
    }
    newc::trailer(&mut archive)?;
    Ok(archive)
}

/// What a capture kernel hands over in pages.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Handed {
    /// The register notes of its vmcore, in their order.
    pub(super) notes: Vec<Note>,
    /// The log in its vmcore.
    pub(super) dmesg: Vec<u8>,
}

impl Handed {
    /// Finds its pages, wherever they lie in RAM, and reads them; what is wrong, if it cannot.
    pub(super) fn find<M: Memory>(memory: &M) -> Result<Self, String> {
        let mut pages: BTreeMap<u32, (Head, Vec<u8>)> = BTreeMap::new();
        for range in memory.ram() {
            for at in (range.start.0..range.end.0).step_by(PAGE_BYTES) {
                let mut head = [0; HEAD_BYTES];
                let read = |at, into: &mut [u8]| memory.read(PhysicalAddress(at), into);
                let Some(head) = (read(at, &mut head).ok()).and_then(|()| Head::from_bytes(&head))
                else {
                    continue;
                };
                let mut bytes = vec![0; head.bytes as usize];
                read(at + HEAD_BYTES as u64, &mut bytes).map_err(|error| error.to_string())?;
                if sum(&bytes) != head.sum {
                    continue;
                }
                if pages.insert(head.number, (head, bytes)).is_some() {
                    return Err(format!("its page {} is there twice", head.number));
                }
            }
        }
        let count = pages.len();
        let text: Vec<u8> = pages
            .values()
            .filter(|(head, _)| head.of as usize == count)
            .flat_map(|(_, bytes)| bytes.clone())
            .collect();
        if text.is_empty() {
            return Err(format!("{count} pages are not all of them"));
        }
        Self::parse(&text)
    }

    /// Reads what the pages hold; the line that is none, if there is one.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(text);
        let mut handed = Self::default();
        let mut rest = &*text;
        while let Some((line, behind)) = rest.split_once('\n') {
            rest = behind;
            if line == "dmesg" {
                handed.dmesg = rest.into();
                return Ok(handed);
            }
            handed
                .line(line)
                .ok_or_else(|| line.escape_debug().to_string())?;
        }
        Err(format!("{rest}: no log follows"))
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let (word, value) = line.split_once(' ')?;
        if word != "note" {
            return None;
        }
        self.notes.push(note(value)?);
        Some(())
    }
}

/// What it says of the CPUs that it brings online, as far as it has come: whether each has come, and why not. The last one may not have
/// come back yet.
pub(super) fn brought(text: &[u8]) -> Vec<(CpuId, Option<Result<(), String>>)> {
    let mut brought: Vec<(CpuId, Option<Result<(), String>>)> = Vec::new();
    for line in String::from_utf8_lossy(text).lines() {
        let mut words = line.splitn(3, ' ');
        let (word, cpu) = (words.next(), words.next().and_then(|cpu| cpu.parse().ok()));
        let (Some(word), Some(cpu)) = (word, cpu) else {
            continue;
        };
        match (word, brought.last_mut()) {
            ("try", _) => brought.push((CpuId(cpu), None)),
            ("online", Some((last, outcome))) if last.0 == cpu => *outcome = Some(Ok(())),
            ("offline", Some((last, outcome))) if last.0 == cpu => {
                *outcome = Some(Err(words.next().unwrap_or_default().to_owned()));
            }
            _ => {}
        }
    }
    brought
}

/// A note in hexadecimal digits, which ends with its registers; in memory zeroes follow that end the notes.
fn note(hex: &str) -> Option<Note> {
    let mut bytes = [0; NOTE_BYTES];
    let pairs = hex.as_bytes().chunks(2);
    if pairs.len() > NOTE_BYTES {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Note(bytes))
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use vmm_core::inspect::OutsideOfRam;

    use super::*;

    #[test]
    fn what_it_hands_over_is_read() {
        let text = b"note 0500\ndmesg\n[    1.0] note ff\n[    2.0] last\n";
        let handed = Handed::parse(text).unwrap();
        assert_eq!(handed.notes[0].0[..3], [5, 0, 0]);
        assert_eq!(handed.dmesg, b"[    1.0] note ff\n[    2.0] last\n");
    }

    #[test]
    fn what_is_no_line_of_it_is_named() {
        let wrong = |text: &[u8]| Handed::parse(text).unwrap_err();
        assert_eq!(wrong(b"nota 00\ndmesg\n"), "nota 00");
        assert_eq!(wrong(b"note 0g\ndmesg\n"), "note 0g");
        assert_eq!(wrong(b"hello\x02\n"), "hello\\u{2}");
        assert!(wrong(b"note 05\n").ends_with("no log follows"));
    }

    #[test]
    fn each_cpu_has_come_or_not_or_is_still_awaited() {
        let text = b"try 2\nonline 2\ntry 1\noffline 1 Device or resource busy\ntry 3\n";
        let busy = Err("Device or resource busy".to_owned());
        let expected = [
            (CpuId(2), Some(Ok(()))),
            (CpuId(1), Some(busy)),
            (CpuId(3), None),
        ];
        assert_eq!(brought(text), expected);
        assert!(brought(b"").is_empty());
    }

    /// RAM from address 0 on.
    struct Ram(Vec<u8>);

    impl Memory for Ram {
        fn read(&self, at: PhysicalAddress, into: &mut [u8]) -> Result<(), OutsideOfRam> {
            let (start, bytes) = (at.0 as usize, into.len());
            let there = self.0.get(start..start + bytes);
            into.copy_from_slice(there.ok_or(OutsideOfRam { at, bytes })?);
            Ok(())
        }

        fn ram(&self) -> Vec<Range<PhysicalAddress>> {
            vec![PhysicalAddress(0)..PhysicalAddress(self.0.len() as u64)]
        }
    }

    #[test]
    fn pages_are_found_wherever_they_lie() {
        let mut ram = Ram(vec![0; 8 * PAGE_BYTES]);
        let put = |ram: &mut Ram, at: usize, number: u32, text: &[u8]| {
            let bytes = text.len() as u32;
            let head = Head {
                number,
                of: 2,
                bytes,
                sum: sum(text),
            };
            let page = &mut ram.0[at * PAGE_BYTES..];
            page[..HEAD_BYTES].copy_from_slice(&head.to_bytes());
            page[HEAD_BYTES..HEAD_BYTES + text.len()].copy_from_slice(text);
        };
        let wrong = |ram: &Ram| Handed::find(ram).unwrap_err();
        assert_eq!(wrong(&ram), "0 pages are not all of them");
        put(&mut ram, 5, 0, b"note 05\ndme");
        assert_eq!(wrong(&ram), "1 pages are not all of them");
        put(&mut ram, 2, 1, b"sg\nlog\n");
        assert_eq!(Handed::find(&ram).unwrap().dmesg, b"log\n");
        // A head without what it is of, as a stack may have it at the beginning of a page.
        let head: Vec<u8> = ram.0[2 * PAGE_BYTES..][..HEAD_BYTES].to_vec();
        ram.0[6 * PAGE_BYTES..][..HEAD_BYTES].copy_from_slice(&head);
        assert_eq!(Handed::find(&ram).unwrap().dmesg, b"log\n");
        put(&mut ram, 7, 0, b"");
        assert_eq!(wrong(&ram), "its page 0 is there twice");
    }

    #[test]
    fn the_archive_follows_the_initramfs() {
        let archive = with_capture(b"12345", b"kernel").unwrap();
        assert_eq!(&archive[..8], b"12345\0\0\0");
        let mut entries = Vec::new();
        let mut rest = &archive[8..];
        loop {
            let mut entry = newc::Reader::new(rest).unwrap();
            if entry.entry().is_trailer() {
                break;
            }
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            entries.push((entry.entry().name().to_owned(), bytes));
            rest = entry.finish().unwrap();
        }
        let file = |name: &str, bytes: &[u8]| (format!("capture{name}"), bytes.to_vec());
        let expected = [
            file("", b""),
            file("/Image", b"kernel"),
            file("/initrd", b"12345"),
        ];
        assert_eq!(entries, expected);
    }
}
