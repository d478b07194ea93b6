//! What a capture kernel finds of the one that crashed, handed over on the console.
//!
//! Single bytes that no record of a log holds say how far it is: STX (0x02) that this kernel is up, ETX (0x03) that its memory has the
//! pages of [`guest_abi::handover`], and EOT (0x04) that all is done. Between the last two `try CPU` and `online CPU` or `offline CPU WHY`
//! come for each CPU that is to be brought online, a line each. CPUs are numbered as they stand in the device tree: this kernel's own
//! numbers begin with the one that it booted on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use guest_abi::handover::{HEAD_BYTES, Head, PAGE_BYTES, sum};
use object::elf::{FileHeader64, NT_PRSTATUS, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{LittleEndian, elf};
use vmm_core::arm::PhysicalAddress;
use vmm_core::inspect::{
    InspectError, KernelSpace, LogRing, Memory, OutsideOfRam, RecordState, Vmcoreinfo,
};

use crate::cpus::Cpus;
use crate::{Error as InitError, console};

const UP: u8 = 0x02;
const WRITTEN: u8 = 0x03;
const DONE: u8 = 0x04;

const VMCORE: &str = "/proc/vmcore";

/// Why it cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}; a capture kernel needs CONFIG_PROC_VMCORE")]
    Read(#[from] io::Error),
    #[error("it is damaged: {0}")]
    Elf(#[from] object::read::Error),
    #[error("it has no VMCOREINFO")]
    NoVmcoreinfo,
    #[error("its VMCOREINFO: {0}")]
    Vmcoreinfo(String),
    #[error("its log: {0}")]
    Log(#[from] InspectError),
}

/// Says that this kernel is up, hands over notes and log, and brings the CPUs online.
pub(crate) fn hand_over(online: &Cpus) -> Result<(), InitError> {
    console::raw(|console| console.write_all(&[UP]))?;
    let mut text = String::new();
    Vmcore::open()?.describe(&mut text)?;
    let pages = pages(text.as_bytes());
    console::raw(|console| {
        console.write_all(&[WRITTEN])?;
        for &cpu in &online.0 {
            bring_online(cpu, console)?;
        }
        console.write_all(&[DONE])
    })?;
    drop(pages);
    Ok(())
}

/// A page that says what it is.
#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

/// A text as pages. They are found as long as they live.
fn pages(text: &[u8]) -> Vec<Page> {
    let parts = text.chunks(PAGE_BYTES - HEAD_BYTES);
    let of = parts.len() as u32;
    // They are filled where they are to stay: one that was moved there would be found on the stack as well.
    let mut pages = Vec::new();
    pages.resize_with(parts.len(), || Page([0; PAGE_BYTES]));
    for ((number, part), page) in (0..).zip(parts).zip(&mut pages) {
        let bytes = part.len() as u32;
        let (head, rest) = page.0.split_at_mut(HEAD_BYTES);
        rest[..part.len()].copy_from_slice(part);
        let sum = sum(part);
        head.copy_from_slice(
            &Head {
                number,
                of,
                bytes,
                sum,
            }
            .to_bytes(),
        );
    }
    pages
}

/// Brings a CPU online, and says what comes of it.
fn bring_online(cpu: u32, console: &mut File) -> io::Result<()> {
    // Said before, for it may not come back.
    writeln!(console, "try {cpu}")?;
    let brought = number_here(cpu)
        .and_then(|here| fs::write(format!("/sys/devices/system/cpu/cpu{here}/online"), "1"));
    match brought {
        Ok(()) => writeln!(console, "online {cpu}"),
        Err(error) => writeln!(console, "offline {cpu} {error}"),
    }
}

/// This kernel's number of the CPU that stands in that place in the device tree. Its `reg` is its MPIDR.
fn number_here(cpu: u32) -> io::Result<u32> {
    let mut cpus = Vec::new();
    for here in 0.. {
        match fs::read(format!("/sys/devices/system/cpu/cpu{here}/of_node/reg")) {
            Ok(reg) => cpus.push((reg, here)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    cpus.sort();
    let found = cpus.get(cpu as usize).map(|(_, here)| *here);
    found.ok_or_else(|| io::Error::other("this kernel does not know it"))
}

/// The memory of the kernel that crashed.
struct Vmcore {
    file: File,
    /// Where RAM is, and where in the file.
    ram: Vec<(Range<u64>, u64)>,
    notes: Vec<u8>,
    /// Pages that have been read, by their offset in the file: each read maps the old memory anew, and a walk of the page tables looks at
    /// the same pages again and again.
    pages: RefCell<BTreeMap<u64, Box<[u8]>>>,
}

/// What is read at a time.
const PAGE: u64 = 4096;

impl Vmcore {
    fn open() -> Result<Self, Error> {
        let file = File::open(VMCORE)?;
        let mut head = vec![0; size_of::<FileHeader64<LittleEndian>>()];
        file.read_exact_at(&mut head, 0)?;
        let endian = LittleEndian;
        let header = FileHeader64::<LittleEndian>::parse(&*head)?;
        let entries = usize::from(header.e_phentsize(endian)) * usize::from(header.e_phnum(endian));
        let mut head = vec![0; header.e_phoff(endian) as usize + entries];
        file.read_exact_at(&mut head, 0)?;
        let header = FileHeader64::<LittleEndian>::parse(&*head)?;
        let mut vmcore = Self {
            file,
            ram: Vec::new(),
            notes: Vec::new(),
            pages: RefCell::default(),
        };
        for segment in header.program_headers(endian, &*head)? {
            let (at, bytes) = segment.file_range(endian);
            match segment.p_type(endian) {
                PT_LOAD => {
                    let start = segment.p_paddr(endian);
                    vmcore.ram.push((start..start + bytes, at));
                }
                PT_NOTE => {
                    vmcore.notes = vec![0; bytes as usize];
                    vmcore.file.read_exact_at(&mut vmcore.notes, at)?;
                }
                _ => {}
            }
        }
        vmcore.ram.sort_by_key(|(range, _)| range.start);
        Ok(vmcore)
    }

    /// Reads from the file.
    fn read_at(&self, into: &mut [u8], mut offset: u64) -> io::Result<()> {
        let mut pages = self.pages.borrow_mut();
        let mut rest = into;
        while !rest.is_empty() {
            let within = (offset % PAGE) as usize;
            let start = offset - within as u64;
            let page = match pages.entry(start) {
                Entry::Occupied(page) => page.into_mut(),
                Entry::Vacant(place) => {
                    let mut page = vec![0; PAGE as usize];
                    self.file.read_exact_at(&mut page, start)?;
                    place.insert(page.into())
                }
            };
            let part = rest.len().min(page.len() - within);
            let (now, later) = rest.split_at_mut(part);
            now.copy_from_slice(&page[within..within + part]);
            (rest, offset) = (later, offset + part as u64);
        }
        Ok(())
    }

    fn describe(&self, text: &mut String) -> Result<(), Error> {
        const ALIGN: u64 = 4;
        let mut info = None;
        let mut notes = object::read::elf::NoteIterator::<FileHeader64<LittleEndian>>::new(
            LittleEndian,
            ALIGN,
            &self.notes,
        )?;
        while let Some(note) = notes.next()? {
            match note.name() {
                elf::ELF_NOTE_CORE if note.n_type(LittleEndian) == NT_PRSTATUS => {
                    // As it lies in memory: header, name and registers.
                    let mut bytes = Vec::new();
                    for word in [
                        note.n_namesz(LittleEndian),
                        note.desc().len() as u32,
                        NT_PRSTATUS.0,
                    ] {
                        bytes.extend(word.to_le_bytes());
                    }
                    bytes.extend(b"CORE\0\0\0\0");
                    bytes.extend(note.desc());
                    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    *text += &format!("note {hex}\n");
                }
                b"VMCOREINFO" => info = Some(String::from_utf8_lossy(note.desc()).into_owned()),
                _ => {}
            }
        }
        let info = info.ok_or(Error::NoVmcoreinfo)?;
        let info = Vmcoreinfo::parse(info.trim_end_matches('\0')).map_err(Error::Vmcoreinfo)?;
        let space = KernelSpace::new(self, &info)?;
        let log = LogRing::read(&space, &info)?;
        *text += "dmesg\n";
        for record in &log.records {
            if record.state != RecordState::Finalized {
                continue;
            }
            let (s, us) = (
                record.ts_nsec / 1_000_000_000,
                record.ts_nsec / 1000 % 1_000_000,
            );
            for line in String::from_utf8_lossy(&record.text).lines() {
                let plain = |c: char| if c.is_control() { '?' } else { c };
                let line: String = line.chars().map(plain).collect();
                // Writing to a string cannot fail.
                let _ = writeln!(text, "[{s:5}.{us:06}] {line}");
            }
        }
        Ok(())
    }
}

impl Memory for Vmcore {
    fn read(&self, at: PhysicalAddress, into: &mut [u8]) -> Result<(), OutsideOfRam> {
        let bytes = into.len();
        let outside = OutsideOfRam { at, bytes };
        let end = at.0.checked_add(bytes as u64).ok_or(outside)?;
        let holds = |(range, _): &&(Range<u64>, u64)| range.contains(&at.0) && end <= range.end;
        let (range, offset) = self.ram.iter().find(holds).ok_or(outside)?;
        self.read_at(into, offset + (at.0 - range.start))
            .map_err(|_| outside)
    }

    fn ram(&self) -> Vec<Range<PhysicalAddress>> {
        let range = |(range, _): &(Range<u64>, u64)| {
            PhysicalAddress(range.start)..PhysicalAddress(range.end)
        };
        self.ram.iter().map(range).collect()
    }
}
