//! Writes translation tables, from the drawings of the descriptors rather than from the code that reads them.

use super::image::Image;
use crate::inspect::Granule;

/// Tables under construction.
pub(super) struct Mapper {
    pub(super) granule: Granule,
    pub(super) input_bits: u32,
    pub(super) lpa2: bool,
    pub(super) root: u64,
    /// Where the next table goes.
    pub(super) free: u64,
}

impl Mapper {
    /// (lowest bit, bits of the index) of each level down to 3.
    pub(super) fn levels(&self) -> Vec<(u32, u32)> {
        let page = self.granule.bytes().trailing_zeros();
        let mut levels = Vec::new();
        let mut lowest = page;
        while lowest < self.input_bits {
            let index = (page - 3).min(self.input_bits - lowest);
            levels.insert(0, (lowest, index));
            lowest += index;
        }
        levels
    }

    fn address(&self, pa: u64) -> u64 {
        let (low, high) = (pa & 0xffff_ffff_ffff, pa >> 48);
        match self.granule {
            Granule::K64 => low | high << 12,
            _ if self.lpa2 => pa & ((1 << 50) - 1) | (pa >> 50) << 8,
            _ => low,
        }
    }

    /// Maps a page, or a block `up` levels above the pages. The attributes' bits are set where they lie.
    pub(super) fn map(&mut self, image: &mut Image, va: u64, pa: u64, up: usize) {
        let levels = self.levels();
        let last = levels.len() - 1 - up;
        let mut table = self.root;
        for (at, (lowest, bits)) in levels.iter().enumerate() {
            let entry = table + 8 * (va >> lowest & ((1 << bits) - 1));
            if at == last {
                // Bits 2 to 7 are attributes in every format, the access flag is bit 10; LPA2 has SH elsewhere.
                let form = if up == 0 { 0b11 } else { 0b01 };
                let page = pa & !((1 << lowest) - 1);
                let word = self.address(page) | form | 0x7c | 1 << 10 | 3 << 53;
                return image.write(entry, &word.to_le_bytes());
            }
            let word = image.u64(entry);
            table = if word & 1 != 0 {
                word & 0xffff_ffff_f000 & !(self.granule.bytes() - 1)
            } else {
                let new = self.free;
                self.free += self.granule.bytes();
                image.write(entry, &(self.address(new) | 0b11).to_le_bytes());
                new
            };
        }
    }
}
