//! Guest memory as the parsers see it: bytes at physical addresses, and where there are any.

use std::ops::Range;

use super::InspectError;
use crate::arm::PhysicalAddress;

/// Guest physical memory. What is no RAM is never read as zeros: it is an error.
pub trait Memory {
    /// Fills `into` with the bytes from `at` on, all of them or none.
    fn read(&self, at: PhysicalAddress, into: &mut [u8]) -> Result<(), OutsideOfRam>;

    /// Where there is RAM, ascending and without overlaps.
    fn ram(&self) -> Vec<Range<PhysicalAddress>>;
}

/// A read that is not, or not wholly, inside of RAM.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{bytes} bytes at {at} do not lie in the guest's RAM")]
pub struct OutsideOfRam {
    /// The first address of the read.
    pub at: PhysicalAddress,
    /// Its length.
    pub bytes: usize,
}

/// Reads bytes of an object, and names the object if they can't be read.
pub(super) fn read<const BYTES: usize>(
    memory: &(impl Memory + ?Sized),
    object: &str,
    at: PhysicalAddress,
) -> Result<[u8; BYTES], InspectError> {
    let mut bytes = [0; BYTES];
    memory
        .read(at, &mut bytes)
        .map_err(|outside| InspectError::Outside {
            object: object.to_owned(),
            outside,
        })?;
    Ok(bytes)
}
