//! The guest's RAM, as it is read and written from outside.

use std::ops::Range;
use std::sync::Arc;

use vm_memory::{
    Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _,
    GuestRegionMmap,
};
use vmm_core::arm::PhysicalAddress;
use vmm_core::inspect::{Memory, OutsideOfRam};

/// The guest's RAM.
#[derive(Clone)]
pub struct Ram(pub Arc<GuestMemoryMmap>);

impl Ram {
    /// What lies there, which must be RAM.
    pub fn bytes(&self, range: &Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.0
            .read_slice(&mut bytes, GuestAddress(range.start))
            .expect("it lies in RAM");
        bytes
    }

    /// Writes the bytes from `at` on, all of them or none; the guest executes what then stands there.
    pub fn write(&self, at: PhysicalAddress, bytes: &[u8]) -> Result<(), OutsideOfRam> {
        let outside = OutsideOfRam {
            at,
            bytes: bytes.len(),
        };
        let slice = self.0.get_slice(GuestAddress(at.0), bytes.len());
        let slice = slice.map_err(|_| outside)?;
        slice.copy_from(bytes);
        crate::kvm::make_visible(&slice);
        Ok(())
    }
}

impl Memory for Ram {
    fn read(&self, at: PhysicalAddress, into: &mut [u8]) -> Result<(), OutsideOfRam> {
        let bytes = into.len();
        self.0
            .read_slice(into, GuestAddress(at.0))
            .map_err(|_| OutsideOfRam { at, bytes })
    }

    fn ram(&self) -> Vec<Range<PhysicalAddress>> {
        let range = |region: &GuestRegionMmap| {
            let start = region.start_addr().0;
            PhysicalAddress(start)..PhysicalAddress(start + region.len())
        };
        self.0.iter().map(range).collect()
    }
}
