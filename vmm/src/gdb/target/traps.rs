//! What a debugger has trapped: its breakpoints and watchpoints, beside those of a scenario.

use gdbstub::common::Tid;
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::breakpoints::{
    Breakpoints, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::{TargetError, TargetResult};

use super::{EFAULT, EINVAL, ENOSPC, Error, Guest};
use crate::gdb::DebugRegisters;
use crate::gdb::memory::Translation;
use crate::vcpu::{Access, Owner, Traps, Vcpu, Watched, Width};

/// BRK #0 (Arm ARM DDI 0487, C6.2.45).
const BRK: [u8; 4] = 0xd420_0000_u32.to_le_bytes();

/// A watchpoint as a debugger has asked for it, and what of the debug registers it takes.
pub(super) struct Watch {
    address: u64,
    length: u64,
    kind: WatchKind,
    words: Vec<Watched>,
}

impl Watch {
    /// Something has accessed this address, or many bytes from there on.
    pub(super) fn hit(&self, tid: Tid, address: u64) -> MultiThreadStopReason<u64> {
        MultiThreadStopReason::Watch {
            tid,
            kind: self.kind,
            addr: address.clamp(self.address, self.address + self.length - 1),
        }
    }
}

impl<V: Vcpu + 'static> Guest<'_, V> {
    /// What of the software breakpoints has no debug register left: a BRK is written for them while the guest runs. A scenario may need
    /// all of the registers at any time.
    pub(super) fn written(&self) -> &[u64] {
        let registers = match self.around.telling() {
            Some(_) => 0,
            None => {
                // One waits for the kernel to come to its entry.
                let placed = self.around.placed();
                let waits =
                    placed.is_some_and(|placed| placed.entry.is_some() && !placed.has_come());
                let taken = self.hard.len() + usize::from(waits);
                self.limits.breakpoints.saturating_sub(taken)
            }
        };
        self.soft.get(registers..).unwrap_or(&[])
    }

    /// The debug registers that a scenario leaves on every vCPU.
    pub(super) fn left(&self) -> Result<DebugRegisters, Error> {
        let DebugRegisters {
            breakpoints,
            watchpoints,
        } = self.limits;
        let mut left = self.limits;
        for vcpu in 0..self.vcpus() {
            let of = self.on(vcpu, move |vcpu| Ok(vcpu.left(breakpoints, watchpoints)))?;
            left.breakpoints = left.breakpoints.min(of.0);
            left.watchpoints = left.watchpoints.min(of.1);
        }
        Ok(left)
    }

    /// The breakpoints that a vCPU has room for beside the scenario's and the debugger's.
    pub(super) fn breakpoints_left(&self, vcpu: usize) -> Result<usize, Error> {
        let DebugRegisters {
            breakpoints,
            watchpoints,
        } = self.limits;
        let (left, _) = self.on(vcpu, move |vcpu| Ok(vcpu.left(breakpoints, watchpoints)))?;
        Ok(left.saturating_sub(self.traps(false).breakpoints.len()))
    }

    pub(super) fn words(&self) -> usize {
        self.watches.iter().map(|watch| watch.words.len()).sum()
    }

    pub(super) fn traps(&self, step: bool) -> Traps {
        let written = self.written();
        let registers = &self.soft[..self.soft.len() - written.len()];
        Traps {
            breakpoints: self.hard.iter().chain(registers).copied().collect(),
            brks: written.to_vec(),
            watchpoints: (self.watches.iter())
                .flat_map(|watch| watch.words.iter().copied())
                .collect(),
            step,
        }
    }

    pub(super) fn set(&mut self, vcpu: usize, traps: Traps) -> Result<(), Error> {
        if self.set[vcpu] != traps {
            let these = traps.clone();
            self.on(vcpu, move |vcpu| vcpu.trap_on(Owner::Debugger, &these))?;
            self.set[vcpu] = traps;
        }
        Ok(())
    }

    fn is_mapped(&self, address: u64) -> Result<bool, Error> {
        let read = self.translation(0)?.read(self.ram(), address, &mut [0; 4]);
        Ok(matches!(read, Ok(4)))
    }

    /// Writes the BRKs, as the first vCPU with each address mapped sees it; what stood there.
    pub(super) fn write_brks(&self) -> Result<Vec<(Translation, u64, [u8; 4])>, Error> {
        let mut before = Vec::new();
        for &address in self.written() {
            for vcpu in 0..self.vcpus() {
                let translation = self.translation(vcpu)?;
                let mut bytes = [0; 4];
                let ram = self.ram();
                if matches!(translation.read(ram, address, &mut bytes), Ok(4))
                    && translation.write(ram, address, &BRK).is_ok()
                {
                    before.push((translation, address, bytes));
                    break;
                }
            }
        }
        Ok(before)
    }

    pub(super) fn take_brks_back(&self, before: Vec<(Translation, u64, [u8; 4])>) {
        for (translation, address, bytes) in before.into_iter().rev() {
            // The tables may have changed since; then it is another page's business.
            let _ = translation.write(self.ram(), address, &bytes);
        }
    }

    pub(super) fn nearest(&self, address: u64) -> Option<&Watch> {
        // An access of many bytes that covers a watched one may be told by its own first address (DDI 0487, D2.10.5).
        self.watches.iter().min_by_key(|watch| {
            let last = watch.address + watch.length - 1;
            address
                .saturating_sub(last)
                .max(watch.address.saturating_sub(address))
        })
    }
}

impl<V: Vcpu + 'static> Breakpoints for Guest<'_, V> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

/// A debugger that asks for one twice has one.
fn add(list: &mut Vec<u64>, address: u64) {
    if !list.contains(&address) {
        list.push(address);
    }
}

fn remove(list: &mut Vec<u64>, address: u64) -> bool {
    let before = list.len();
    list.retain(|other| *other != address);
    list.len() < before
}

impl<V: Vcpu + 'static> SwBreakpoint for Guest<'_, V> {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        if !address.is_multiple_of(4) {
            return Err(TargetError::Errno(EINVAL));
        }
        add(&mut self.soft, address);
        // What has no debug register must be memory.
        if self.written().contains(&address) && !self.is_mapped(address)? {
            remove(&mut self.soft, address);
            return Err(TargetError::Errno(EFAULT));
        }
        Ok(true)
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(remove(&mut self.soft, address))
    }
}

impl<V: Vcpu + 'static> HwBreakpoint for Guest<'_, V> {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        if !address.is_multiple_of(4) {
            return Err(TargetError::Errno(EINVAL));
        }
        if !self.hard.contains(&address) && self.hard.len() >= self.left()?.breakpoints {
            return Err(TargetError::Errno(ENOSPC));
        }
        add(&mut self.hard, address);
        Ok(true)
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(remove(&mut self.hard, address))
    }
}

/// The words that cover these bytes.
fn words(address: u64, length: u64, access: Access) -> Vec<Watched> {
    let mut words = Vec::new();
    let (mut at, mut left) = (address, length);
    while left > 0 {
        let widths = [Width::Doubleword, Width::Word, Width::Halfword, Width::Byte];
        let fits = |width: &Width| {
            let bytes = width.bytes() as u64;
            at.is_multiple_of(bytes) && bytes <= left
        };
        let width = widths.into_iter().find(fits).unwrap_or(Width::Byte);
        words.push(Watched {
            address: at,
            width,
            access,
        });
        at = at.wrapping_add(width.bytes() as u64);
        left -= width.bytes() as u64;
    }
    words
}

/// The longest watchpoint whose words are worth counting.
const LONGEST_WATCH: u64 = 128;

impl<V: Vcpu + 'static> HwWatchpoint for Guest<'_, V> {
    fn add_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        if !(1..=LONGEST_WATCH).contains(&length) || address.checked_add(length).is_none() {
            return Err(TargetError::Errno(EINVAL));
        }
        let access = match kind {
            WatchKind::Write => Access::Store,
            WatchKind::Read => Access::Load,
            WatchKind::ReadWrite => Access::Any,
        };
        let words = words(address, length, access);
        if self.words() + words.len() > self.left()?.watchpoints {
            return Err(TargetError::Errno(ENOSPC));
        }
        self.watches.push(Watch {
            address,
            length,
            kind,
            words,
        });
        Ok(true)
    }

    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        let same =
            |watch: &Watch| (watch.address, watch.length, watch.kind) == (address, length, kind);
        let Some(at) = self.watches.iter().position(same) else {
            return Ok(false);
        };
        self.watches.remove(at);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchpoint_takes_the_fewest_words() {
        let of = |address, length| -> Vec<(u64, usize)> {
            let words = words(address, length, Access::Any);
            words
                .iter()
                .map(|word| (word.address, word.width.bytes()))
                .collect()
        };
        assert_eq!(of(0x1000, 8), [(0x1000, 8)]);
        assert_eq!(of(0x1006, 4), [(0x1006, 2), (0x1008, 2)]);
        assert_eq!(of(0x1001, 7), [(0x1001, 1), (0x1002, 2), (0x1004, 4)]);
    }
}
