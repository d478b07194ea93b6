//! Guest memory as a vCPU sees it.

use vmm_core::arm::{KernelVa, PhysicalAddress};
use vmm_core::inspect::{InspectError, Memory, OutsideOfRam, TranslationRegisters};

use crate::vcpu::{Register, System, Vcpu};

/// Memory that can be written too.
pub trait Ram: Memory + Send + Sync {
    /// Writes the bytes from `at` on, all of them or none; the guest executes what then stands there.
    fn write(&self, at: PhysicalAddress, bytes: &[u8]) -> Result<(), OutsideOfRam>;
}

/// How a vCPU translates addresses now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Translation {
    /// None while its MMU is off.
    pub(super) tables: Option<TranslationRegisters>,
}

/// Why bytes can't be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Unmapped(#[from] InspectError),
    #[error(transparent)]
    Outside(#[from] OutsideOfRam),
}

/// The least that any granule maps.
const PAGE: u64 = 4096;

/// `SCTLR_EL1.M`, the MMU.
const MMU: u64 = 1;

impl Translation {
    /// How this vCPU does.
    pub(super) fn of_vcpu<V: Vcpu>(vcpu: &mut V) -> Result<Self, V::Error> {
        let mut read = |system| Ok(vcpu.register(Register::System(system))? as u64);
        let tables = match read(System::SctlrEl1)? & MMU {
            0 => None,
            _ => Some(TranslationRegisters {
                ttbr0: read(System::Ttbr0El1)?,
                ttbr1: read(System::Ttbr1El1)?,
                tcr: read(System::TcrEl1)?,
            }),
        };
        Ok(Self { tables })
    }

    /// Where an address leads, and how many bytes from there on belong together.
    fn of(self, ram: &dyn Ram, va: u64) -> Result<(PhysicalAddress, u64), Error> {
        let Some(tables) = self.tables else {
            return Ok((PhysicalAddress(va), PAGE - va % PAGE));
        };
        let translation = tables.translate(ram, KernelVa(va))?;
        Ok((translation.at, translation.rest))
    }

    /// Does something with each piece of a range.
    fn pieces(
        self,
        ram: &dyn Ram,
        va: u64,
        bytes: usize,
        mut each: impl FnMut(PhysicalAddress, usize, usize) -> Result<(), OutsideOfRam>,
    ) -> Result<(), (usize, Error)> {
        let mut done = 0;
        while done < bytes {
            let here = va.wrapping_add(done as u64);
            let (at, rest) = self.of(ram, here).map_err(|error| (done, error))?;
            let most = usize::try_from(rest).unwrap_or(usize::MAX);
            let length = most.min(bytes - done);
            each(at, done, length).map_err(|outside| (done, outside.into()))?;
            done += length;
        }
        Ok(())
    }

    /// Reads as many bytes as are mapped; how many. Not even the first one is an error.
    pub(super) fn read(self, ram: &dyn Ram, va: u64, into: &mut [u8]) -> Result<usize, Error> {
        let length = into.len();
        let read = self.pieces(ram, va, length, |at, from, length| {
            ram.read(at, &mut into[from..from + length])
        });
        match read {
            Ok(()) => Ok(length),
            Err((0, error)) => Err(error),
            Err((done, _)) => Ok(done),
        }
    }

    /// Writes.
    pub(super) fn write(self, ram: &dyn Ram, va: u64, bytes: &[u8]) -> Result<(), Error> {
        // All of it is mapped before any of it is written.
        let mut pieces = Vec::new();
        self.pieces(ram, va, bytes.len(), |at, from, length| {
            ram.read(at, &mut vec![0; length])?;
            pieces.push((at, from..from + length));
            Ok(())
        })
        .map_err(|(_, error)| error)?;
        for (at, range) in pieces {
            ram.write(at, &bytes[range])?;
        }
        Ok(())
    }
}
