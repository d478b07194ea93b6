//! What goes where in one guest's RAM.

use std::ops::Range;

use object::elf::ELFMAG;

use super::kernel::{self, Format, Kernel};
use super::map::{self, MIB};

/// Why a guest can't be laid out.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The kernel.
    #[error("kernel {path} {source}")]
    Kernel {
        /// Its file.
        path: String,
        /// What is wrong with it.
        source: kernel::Error,
    },
    /// The initrd is larger than the RAM that the kernel leaves.
    #[error("initrd {path} does not fit: {size} bytes, and the kernel leaves {room}; give the guest more --memory{}",
        if *room_is_window { " (no more than 1 GiB of it counts)" } else { "" })]
    Initrd {
        /// Its file.
        path: String,
        /// Its bytes.
        size: u64,
        /// Bytes between the kernel and where an initrd must end.
        room: u64,
        /// Whether more memory would not help.
        room_is_window: bool,
    },
    /// A command line that Linux would cut.
    #[error("the command line has {have} bytes; arm64 Linux takes at most {CMDLINE_MOST}")]
    CmdlineTooLong {
        /// Its bytes.
        have: usize,
    },
    /// A command line that is none.
    #[error("the command line can't be passed on: {0}")]
    Cmdline(String),
    /// Too little or too much RAM.
    #[error("--memory {have}: a guest has {} MiB to {} GiB, in whole MiB", MEMORY_LEAST / MIB, MEMORY_MOST >> 30)]
    Memory {
        /// What was asked for, in bytes.
        have: u64,
    },
}

/// COMMAND_LINE_SIZE of arch/arm64/include/uapi/asm/setup.h, less the terminating NUL.
const CMDLINE_MOST: usize = 2047;
const MEMORY_LEAST: u64 = 4 * MIB;
const MEMORY_MOST: u64 = map::RAM.end - map::RAM.start;
const PAGE: u64 = 4096;

/// A file, and what to call it in a message.
#[derive(Clone, Debug)]
pub struct Blob {
    /// As the user named it.
    pub name: String,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// What a person asks to be booted.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The kernel.
    pub kernel: Blob,
    /// Its format, where it shall not be guessed.
    pub format: Option<Format>,
    /// The initrd.
    pub initrd: Option<Blob>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Bytes of RAM.
    pub memory: u64,
    /// Whether the last of them are ramoops', so that pstore keeps the console over a warm reset.
    pub ramoops: bool,
}

impl Guest {
    /// Whether its kernel is an arm64 Image, if it is a kernel at all.
    pub fn is_image(&self) -> bool {
        match self.format {
            Some(format) => format == Format::Image,
            None => !self.kernel.bytes.starts_with(&ELFMAG),
        }
    }
}

/// A guest's RAM, planned.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Layout {
    pub(crate) kernel: Kernel,
    pub(crate) initrd: Option<(Range<u64>, Vec<u8>)>,
    /// Where x0 says that the device tree is.
    pub(crate) dtb: u64,
    pub(crate) cmdline: String,
    pub(crate) memory: u64,
    pub(crate) ramoops: Option<Range<u64>>,
}

impl Layout {
    /// Plans it; nothing is allocated yet but what the files need.
    pub(crate) fn plan(guest: Guest) -> Result<Self, Error> {
        let memory = guest.memory;
        if !(MEMORY_LEAST..=MEMORY_MOST).contains(&memory) || !memory.is_multiple_of(MIB) {
            return Err(Error::Memory { have: memory });
        }
        let cmdline = cmdline(&guest.cmdline)?;
        let ram_end = map::RAM.start + memory;
        let ramoops = (guest.ramoops).then(|| ram_end - map::RAMOOPS_SIZE..ram_end);
        let ram_end = ramoops.as_ref().map_or(ram_end, |range| range.start);
        let Blob { name, bytes } = guest.kernel;
        // A flat binary doesn't say how long its stack and its zeroed data are, and some want the tree behind them all
        // (kvm-unit-tests asserts it): so it is told of a tree at the far end. Other kernels are told of the one at the
        // near end, which a flat binary that ignores x0 finds there too.
        let window_end = ram_end.min(map::WINDOW_END);
        let far = window_end - map::DTB_SIZE;
        let (dtb, kernel_end_most, initrd_end_most) = match guest.format {
            Some(Format::Flat) => (far, far, far),
            _ => (map::DTB.start, ram_end, window_end),
        };
        let kernel = Kernel::place(bytes, guest.format, kernel_end_most)
            .map_err(|source| Error::Kernel { path: name, source })?;
        let initrd = guest
            .initrd
            .map(|blob| place_initrd(blob, kernel.end, initrd_end_most))
            .transpose()?;
        Ok(Self {
            kernel,
            initrd,
            dtb,
            cmdline,
            memory,
            ramoops,
        })
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Layout {
    /// What [`super::build`] relies on when it loads a plan.
    ///
    /// # Panics
    ///
    /// When it could not.
    pub(super) fn check(&self) {
        let ram_end = map::RAM.start + self.memory;
        let ram = map::DTB.end..self.ramoops.as_ref().map_or(ram_end, |range| range.start);
        let inside = |at: u64, len: u64| at >= ram.start && at.checked_add(len) <= Some(ram.end);
        let kernel = &self.kernel;
        let mut bytes = 0;
        for (at, segment) in &kernel.segments {
            bytes += segment.len() as u64;
            assert!(inside(*at, segment.len() as u64), "a segment at {at:#x}");
        }
        assert!(bytes <= self.memory, "{bytes} bytes are held for it");
        assert!(ram.contains(&kernel.entry), "entry {:#x}", kernel.entry);
        assert!(kernel.end <= ram.end, "end {:#x}", kernel.end);
        assert!(
            self.dtb == map::DTB.start || self.dtb >= kernel.end && inside(self.dtb, map::DTB_SIZE),
            "device tree {:#x}",
            self.dtb
        );
        if let Some((range, bytes)) = &self.initrd {
            assert_eq!(range.end - range.start, bytes.len() as u64);
            assert!(
                range.start >= kernel.end && range.end <= ram.end,
                "{range:x?}"
            );
            assert!(
                self.dtb < kernel.end || range.end <= self.dtb,
                "{range:x?} over the device tree"
            );
        }
    }
}

/// What the fuzz target `kernel` runs (fuzz/): whatever is asked for, an error or a plan that can be loaded.
///
/// # Panics
///
/// When it is neither.
#[doc(hidden)]
#[cfg(feature = "fuzzing")]
pub fn fuzz(guest: Guest) {
    if let Ok(layout) = Layout::plan(guest) {
        layout.check();
    }
}

fn cmdline(text: &str) -> Result<String, Error> {
    if text.len() > CMDLINE_MOST {
        return Err(Error::CmdlineTooLong { have: text.len() });
    }
    // The crate knows which characters a kernel's command line can't hold.
    let capacity = CMDLINE_MOST + 1;
    let mut line = linux_loader::cmdline::Cmdline::new(capacity)
        .map_err(|error| Error::Cmdline(error.to_string()))?;
    if !text.is_empty() {
        line.insert_str(text)
            .map_err(|error| Error::Cmdline(error.to_string()))?;
    }
    Ok(text.to_owned())
}

fn place_initrd(blob: Blob, kernel_end: u64, end: u64) -> Result<(Range<u64>, Vec<u8>), Error> {
    let size = blob.bytes.len() as u64;
    let room = end.saturating_sub(kernel_end.next_multiple_of(PAGE));
    if size > room {
        return Err(Error::Initrd {
            path: blob.name,
            size,
            room,
            room_is_window: end >= map::WINDOW_END - map::DTB_SIZE,
        });
    }
    let start = (end - size) / PAGE * PAGE;
    Ok((start..start + size, blob.bytes))
}
