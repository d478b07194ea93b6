//! Kernels: what kind of file it is, and which bytes go where.
//!
//! Why not linux-loader: its Image loader compiles on arm64 only and its ELF loader on x86 only, so neither could be
//! tested where the other runs (docs/decisions/0002-own-image-header.md).

use std::io::Read;
use std::ops::Range;

use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::read::pe::PeFile64;
use object::{Endian, Endianness, FileKind, Object, ObjectSection, elf};

use super::map::{self, GIB};

/// What a kernel file can be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Format {
    /// An arm64 Linux Image, plain or gzip
    Image,
    /// An ELF64 file for aarch64, loaded by its physical addresses
    Elf,
    /// A headerless binary, loaded 512 KiB into RAM
    Flat,
}

/// Why a file is not a kernel that can be booted.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Too few bytes for its own header.
    #[error("is cut off: {have} bytes, where its header says {want}")]
    Truncated {
        /// Bytes there are.
        have: u64,
        /// Bytes there should be.
        want: u64,
    },
    /// A compressed file that can't be unpacked.
    #[error("cannot be unpacked: {0}")]
    Gzip(String),
    /// A compressed file that unpacks to more than any kernel needs.
    #[error("unpacks to more than {} MiB, more than a kernel needs", UNPACKED_MOST >> 20)]
    GzipBomb,
    /// For another machine.
    #[error("is {0}, not an arm64 kernel")]
    Foreign(String),
    /// An EFI zboot image.
    #[error(
        "is an EFI zboot image; give the Image inside it (arch/arm64/boot/Image in the kernel's build)"
    )]
    Zboot,
    /// None of the formats.
    #[error("is neither an arm64 Image nor an ELF file; a headerless binary wants --format flat")]
    Unknown,
    /// Not of the format that was asked for.
    #[error("is not {0}")]
    NotOfFormat(&'static str),
    /// A broken ELF file.
    #[error("is a broken ELF file: {0}")]
    Elf(String),
    /// An entry point that is not loaded.
    #[error(
        "starts at {0:#x}, where none of its segments lies by their physical addresses; for Linux its Image instead of its \
         vmlinux may help"
    )]
    Entry(u64),
    /// A segment outside RAM or over the device tree.
    #[error(
        "has a segment at {:#x} to {:#x}, outside the {:#x} to {:#x} that a kernel may fill; more --memory, or for Linux \
         its Image instead of its vmlinux, may help",
        segment.start, segment.end, room.start, room.end
    )]
    Segment {
        /// Where it wants to lie.
        segment: Range<u64>,
        /// Where kernels may lie.
        room: Range<u64>,
    },
    /// More kernel than RAM.
    #[error(
        "needs the guest's RAM up to {needs:#x}, and may have it up to {end_most:#x}; give it more --memory"
    )]
    TooLarge {
        /// End of what it needs, its zeroed data included.
        needs: u64,
        /// Where it must end.
        end_most: u64,
    },
}

/// A Linux Image of 5.8 and later is some 60 MiB with everything in it.
const UNPACKED_MOST: u64 = GIB;

/// A kernel, placed.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Kernel {
    /// Bytes and their guest physical addresses.
    pub(crate) segments: Vec<(u64, Vec<u8>)>,
    /// Where CPU 0 starts.
    pub(crate) entry: u64,
    /// The end of what it needs before it has looked at the device tree.
    pub(crate) end: u64,
}

impl Kernel {
    /// Recognises the file, unless its format is given, and places it in RAM below `end_most`.
    pub(crate) fn place(
        file: Vec<u8>,
        format: Option<Format>,
        end_most: u64,
    ) -> Result<Self, Error> {
        let file = unpack(file)?;
        let kernel = match format {
            Some(Format::Flat) => flat(file),
            Some(Format::Elf) if !file.starts_with(&elf::ELFMAG) => {
                return Err(Error::NotOfFormat("an ELF file"));
            }
            Some(Format::Image) if !Header::marks(&file) => {
                return Err(Error::NotOfFormat("an arm64 Image"));
            }
            _ if Header::marks(&file) => image(file)?,
            _ if file.starts_with(&elf::ELFMAG) => by_segments(&file, end_most)?,
            _ => return Err(strange(&file)),
        };
        if kernel.end > end_most {
            return Err(Error::TooLarge {
                needs: kernel.end,
                end_most,
            });
        }
        Ok(kernel)
    }
}

pub(super) fn unpack(file: Vec<u8>) -> Result<Vec<u8>, Error> {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    if !file.starts_with(&GZIP) {
        return Ok(file);
    }
    let mut unpacked = Vec::new();
    flate2::read::MultiGzDecoder::new(file.as_slice())
        .take(UNPACKED_MOST + 1)
        .read_to_end(&mut unpacked)
        .map_err(|error| Error::Gzip(error.to_string()))?;
    if unpacked.len() as u64 > UNPACKED_MOST {
        return Err(Error::GzipBomb);
    }
    Ok(unpacked)
}

/// The header of an Image (Documentation/arch/arm64/booting.rst, 3): 64 bytes, little-endian.
struct Header {
    text_offset: u64,
    image_size: u64,
    flags: u64,
}

impl Header {
    const SIZE: usize = 64;
    const MAGIC: Range<usize> = 56..60;

    fn marks(file: &[u8]) -> bool {
        file.get(Self::MAGIC) == Some(b"ARM\x64")
    }

    fn read(file: &[u8]) -> Option<Self> {
        let header: &[u8; Self::SIZE] = file.first_chunk()?;
        let field = |at: usize| {
            let bytes = header[at..]
                .first_chunk()
                .expect("three fields before the 64th byte");
            u64::from_le_bytes(*bytes)
        };
        Some(Self {
            text_offset: field(8),
            image_size: field(16),
            flags: field(24),
        })
    }
}

fn image(file: Vec<u8>) -> Result<Kernel, Error> {
    let have = file.len() as u64;
    let header = Header::read(&file).ok_or(Error::Truncated {
        have,
        want: Header::SIZE as u64,
    })?;
    if header.flags & 1 == 1 {
        return Err(Error::Foreign("a big-endian arm64 Image".into()));
    }
    let want = end_of_sections(&file);
    if want > have {
        return Err(Error::Truncated { have, want });
    }
    // Before Linux 3.17 image_size was zero and text_offset, not yet in the header's byte order, 0x80000 (booting.rst).
    let (offset, size) = match header.image_size {
        0 => (0x8_0000, have),
        size => (header.text_offset, size.max(have)),
    };
    let start = map::IMAGE_BASE.saturating_add(offset);
    Ok(Kernel {
        segments: vec![(start, file)],
        entry: start,
        end: start.saturating_add(size),
    })
}

/// An Image with an EFI stub is a PE file too, and that header knows how long the file should be. Zero where it has none.
fn end_of_sections(file: &[u8]) -> u64 {
    let Ok(pe) = PeFile64::<&[u8]>::parse(file) else {
        return 0;
    };
    pe.sections()
        .filter_map(|section| section.file_range())
        .map(|(start, size)| start.saturating_add(size))
        .max()
        .unwrap_or(0)
}

fn by_segments(file: &[u8], end_most: u64) -> Result<Kernel, Error> {
    let broken = |error: object::Error| Error::Elf(error.to_string());
    let have = file.len() as u64;
    match FileKind::parse(file) {
        Ok(FileKind::Elf64) => {}
        Ok(_) => return Err(Error::Foreign("a 32-bit ELF file".into())),
        Err(_) => {
            return Err(Error::Truncated {
                have,
                want: size_of::<elf::FileHeader64<Endianness>>() as u64,
            });
        }
    }
    let elf = ElfFile64::<Endianness>::parse(file).map_err(broken)?;
    let order = elf.endian();
    if elf.elf_header().e_machine(order) != elf::EM_AARCH64 || order.is_big_endian() {
        return Err(Error::Foreign(
            "an ELF file for another machine or byte order".into(),
        ));
    }
    let room = map::DTB.end..end_most;
    let mut end = 0;
    let mut placed: Vec<(u64, &[u8])> = Vec::new();
    let mut covered = Vec::new();
    for header in elf
        .elf_program_headers()
        .iter()
        .filter(|header| header.p_type(order) == elf::PT_LOAD)
    {
        let (start, size) = (header.p_paddr(order), header.p_memsz(order));
        if size == 0 {
            continue;
        }
        let segment = start..start.saturating_add(size);
        if segment.start < room.start || segment.end > room.end {
            return Err(Error::Segment { segment, room });
        }
        let stored = header.p_filesz(order);
        if stored > size {
            return Err(Error::Elf(format!(
                "its segment at {start:#x} has {stored} bytes for the {size} that it fills"
            )));
        }
        let want = header.p_offset(order).saturating_add(stored);
        let bytes = header
            .data(order, file)
            .map_err(|()| Error::Truncated { have, want })?;
        end = end.max(segment.end);
        covered.push(segment);
        if !bytes.is_empty() {
            placed.push((start, bytes));
        }
    }
    if placed.is_empty() {
        return Err(Error::Elf("it has no segment to load".into()));
    }
    // Headers are cheap: thousands of them over the same bytes would be copied thousands of times. What is only zeroed
    // may overlap, as it does where a linker script gives load addresses to sections that have no bytes.
    placed.sort_by_key(|(start, _)| *start);
    if let Some(pair) = placed
        .windows(2)
        .find(|pair| pair[0].0 + pair[0].1.len() as u64 > pair[1].0)
    {
        return Err(Error::Elf(format!(
            "its segments at {:#x} and {:#x} overlap",
            pair[0].0, pair[1].0
        )));
    }
    let entry = elf.elf_header().e_entry(order);
    if !covered.iter().any(|segment| segment.contains(&entry)) {
        return Err(Error::Entry(entry));
    }
    Ok(Kernel {
        segments: placed
            .into_iter()
            .map(|(start, bytes)| (start, bytes.to_vec()))
            .collect(),
        entry,
        end,
    })
}

fn flat(file: Vec<u8>) -> Kernel {
    let end = map::FLAT + file.len() as u64;
    Kernel {
        segments: vec![(map::FLAT, file)],
        entry: map::FLAT,
        end,
    }
}

/// Names what people are known to give by mistake.
fn strange(file: &[u8]) -> Error {
    let at = |offset: usize, magic: &[u8]| file.get(offset..offset + magic.len()) == Some(magic);
    if file.len() < Header::SIZE {
        Error::Truncated {
            have: file.len() as u64,
            want: Header::SIZE as u64,
        }
    } else if at(4, b"zimg") {
        // drivers/firmware/efi/libstub/zboot-header.S
        Error::Zboot
    } else if at(0x202, b"HdrS") {
        // Documentation/arch/x86/boot.rst, 1.1
        Error::Foreign("an x86 bzImage".into())
    } else if at(0x24, &0x016f_2818_u32.to_le_bytes()) {
        // arch/arm/boot/compressed/head.S
        Error::Foreign("a 32-bit Arm zImage".into())
    } else {
        Error::Unknown
    }
}
