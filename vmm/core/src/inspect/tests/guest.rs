//! A guest with a kernel image of 1 MiB, mapped and described by a VMCOREINFO: the other tests lay their objects into it.

use super::image::{Image, RAM};
use super::tables::Mapper;
use crate::inspect::{Granule, InspectError, KernelSpace, Vmcoreinfo};

/// Where the image is mapped.
pub(super) const KERNEL: u64 = 0xffff_8000_8000_0000;
const IMAGE_BYTES: u64 = 0x10_0000;
/// `swapper_pg_dir` lies behind the read-only data; objects go between it and the image's start.
const SWAPPER: u64 = 0x7_0000;

pub(super) struct Guest {
    pub(super) image: Image,
    lines: String,
    /// Where the next object goes.
    free: u64,
}

impl Guest {
    pub(super) fn new() -> Self {
        let mut image = Image::new(0x20_0000);
        let mut mapper = Mapper {
            granule: Granule::K4,
            input_bits: 48,
            lpa2: false,
            root: RAM + SWAPPER,
            free: RAM + IMAGE_BYTES,
        };
        for page in (0..IMAGE_BYTES).step_by(4096) {
            mapper.map(&mut image, KERNEL + page, RAM + page, 0);
        }
        Self {
            image,
            lines: format!(
                "OSRELEASE=6.12.0\nPAGESIZE=4096\nNUMBER(VA_BITS)=48\nSYMBOL(swapper_pg_dir)={:x}\n\
                 SYMBOL(_stext)={KERNEL:x}\nNUMBER(kimage_voffset)={:#x}\n",
                KERNEL + SWAPPER,
                KERNEL - RAM
            ),
            free: KERNEL + 0x1000,
        }
    }

    /// A line of VMCOREINFO.
    pub(super) fn line(&mut self, line: &str) {
        self.lines += line;
        self.lines += "\n";
    }

    /// Lays an object into the image.
    pub(super) fn put(&mut self, align: u64, bytes: &[u8]) -> u64 {
        let at = self.free.next_multiple_of(align);
        self.free = at + bytes.len() as u64;
        self.write(at, bytes);
        at
    }

    pub(super) fn write(&mut self, va: u64, bytes: &[u8]) {
        self.image.write(va - KERNEL + RAM, bytes);
    }

    pub(super) fn info(&self) -> Vmcoreinfo {
        Vmcoreinfo::parse(&self.lines).unwrap()
    }

    /// Writes the VMCOREINFO to where a scan finds it.
    pub(super) fn describe(&mut self, at: u64) {
        self.image.write_vmcoreinfo(at, &self.lines);
    }

    pub(super) fn with<T>(
        &self,
        read: impl FnOnce(&KernelSpace<'_, Image>, &Vmcoreinfo) -> Result<T, InspectError>,
    ) -> Result<T, InspectError> {
        let info = self.info();
        read(&KernelSpace::new(&self.image, &info)?, &info)
    }
}
