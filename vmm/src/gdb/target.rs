//! The guest as gdbstub sees it.

mod resume;
mod stepper;
mod traps;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use gdbstub::common::Tid;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{MultiThreadBase, MultiThreadResumeOps};
use gdbstub::target::ext::base::single_register_access::{
    SingleRegisterAccess, SingleRegisterAccessOps,
};
use gdbstub::target::ext::breakpoints::BreakpointsOps;
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::section_offsets::{Offsets, SectionOffsets, SectionOffsetsOps};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use gdbstub_arch::aarch64::reg::AArch64CoreRegs;
use resume::Action;
pub(super) use resume::interrupted;
use traps::Watch;

use super::arch::{A64, Reg};
use super::memory::Translation;
use super::monitor;
use super::{Around, Base, DebugRegisters, Ram};
use crate::conductor::Debugged;
use crate::vcpu::{Register, Standing, Traps, Vcpu};

/// Why a session can't go on. The guest does.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A vCPU's thread is gone: the run has ended.
    #[error("the run has ended")]
    Ended,
    /// The host failed a vCPU.
    #[error("{0}")]
    Vcpu(String),
}

/// `errno`s that a debugger is answered with; it prints their numbers.
const EFAULT: u8 = 14;
const EINVAL: u8 = 22;
const ENOSPC: u8 = 28;

/// How a debugger holds a vCPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hold {
    /// It does not execute.
    Freeze,
    /// It stays at one instruction, and takes what its masks allow.
    Spin(u64),
}

/// The guest, all of whose vCPUs are out while a debugger looks at it.
pub(super) struct Guest<'a, V: Vcpu + 'static> {
    debugged: Debugged<'a, V>,
    pub(super) around: &'a dyn Around,
    limits: DebugRegisters,
    hard: Vec<u64>,
    soft: Vec<u64>,
    watches: Vec<Watch>,
    /// What was asked for of each; the others go on, or stay.
    actions: Vec<Option<Action>>,
    others: Action,
    /// What each vCPU's debug registers hold.
    set: Vec<Traps>,
    /// vCPUs that stay where they are, whatever the debugger lets go on.
    held: BTreeMap<usize, Hold>,
    /// Whether a step lets interrupts in.
    pub(super) step_irq: bool,
    /// Whether the debugger takes a segment's address for how far it has moved.
    pub(super) segments_by_distance: bool,
}

impl<'a, V: Vcpu + 'static> Guest<'a, V> {
    pub(super) fn new(
        debugged: Debugged<'a, V>,
        around: &'a dyn Around,
        limits: DebugRegisters,
    ) -> Self {
        let vcpus = debugged.vcpus();
        around.stop_time();
        Self {
            debugged,
            around,
            limits,
            hard: Vec::new(),
            soft: Vec::new(),
            watches: Vec::new(),
            actions: vec![None; vcpus],
            others: Action::Continue,
            set: vec![Traps::default(); vcpus],
            held: BTreeMap::new(),
            step_irq: false,
            segments_by_distance: false,
        }
    }

    /// Where the kernel lies, as far as it is known.
    fn base(&self) -> Option<Base> {
        match self.around.placed() {
            Some(placed) => Some(placed.base),
            None => self.around.insight().base()?.ok(),
        }
    }

    pub(super) fn vcpus(&self) -> usize {
        self.debugged.vcpus()
    }

    /// Does something with a vCPU.
    pub(super) fn on<T: Send + 'static>(
        &self,
        vcpu: usize,
        job: impl FnOnce(&mut V) -> Result<T, V::Error> + Send + 'static,
    ) -> Result<T, Error> {
        if vcpu >= self.vcpus() {
            return Err(Error::Vcpu(format!("there is no vCPU {vcpu}")));
        }
        let done = self.debugged.on(vcpu, job).ok_or(Error::Ended)?;
        done.map_err(|error| Error::Vcpu(error.to_string()))
    }

    /// Keeps a vCPU from executing.
    pub(super) fn freeze(&mut self, vcpu: usize) {
        self.held.insert(vcpu, Hold::Freeze);
    }

    /// Has a vCPU spin where it is, for which it needs a breakpoint; where that is, or `None` if none is left.
    pub(super) fn spin(&mut self, vcpu: usize) -> Result<Option<u64>, Error> {
        let at = self.pc(vcpu)?;
        let has = self.breakpoints_left(vcpu)? > 0;
        Ok(has.then(|| {
            self.held.insert(vcpu, Hold::Spin(at));
            at
        }))
    }

    /// Lets one go on that was held; whether it was.
    pub(super) fn release(&mut self, vcpu: usize) -> bool {
        self.held.remove(&vcpu).is_some()
    }

    fn pc(&self, vcpu: usize) -> Result<u64, Error> {
        let pc = self.on(vcpu, |vcpu| vcpu.register(Register::Pc))?;
        Ok(pc as u64)
    }

    pub(super) fn standing(&self, vcpu: usize) -> Result<Standing, Error> {
        self.on(vcpu, |vcpu| vcpu.standing())
    }

    fn read(&self, vcpu: usize, register: Reg) -> Result<u128, TargetError<Error>> {
        let failed = |why: String| TargetError::Fatal(Error::Vcpu(why));
        Ok(match register {
            Reg::Cpu(register) => self.on(vcpu, move |vcpu| vcpu.register(register))?,
            Reg::PointerMask => 0,
            Reg::Daif => self.on(vcpu, |vcpu| vcpu.register(Register::Pstate))? & 0x3c0,
            Reg::Mask => self.around.interface(vcpu).map_err(failed)?.0.into(),
            Reg::Running => self.around.interface(vcpu).map_err(failed)?.1.into(),
        })
    }

    /// What KVM has no place for, or does not let be changed, is an error, and so is a state that no AArch64 has.
    fn write(&self, vcpu: usize, register: Reg, value: u128) -> TargetResult<(), Self> {
        let refused = TargetError::Errno(EINVAL);
        match register {
            Reg::Cpu(register) => self
                .on(vcpu, move |vcpu| {
                    Ok(vcpu.set_register(register, value).is_ok())
                })?
                .then_some(())
                .ok_or(refused),
            Reg::Daif => {
                let set = self.on(vcpu, move |vcpu| {
                    let pstate = vcpu.register(Register::Pstate)?;
                    let pstate = pstate & !0x3c0 | value & 0x3c0;
                    vcpu.set_register(Register::Pstate, pstate)
                });
                Ok(set?)
            }
            Reg::PointerMask | Reg::Mask | Reg::Running => Err(refused),
        }
    }

    fn translation(&self, vcpu: usize) -> Result<Translation, Error> {
        self.on(vcpu, |vcpu| Translation::of_vcpu(vcpu))
    }

    /// Memory.
    pub(super) fn ram(&self) -> &dyn Ram {
        &**self.around.ram()
    }
}

impl From<Error> for TargetError<Error> {
    fn from(error: Error) -> Self {
        TargetError::Fatal(error)
    }
}

fn tid(vcpu: usize) -> Tid {
    NonZeroUsize::MIN.saturating_add(vcpu)
}

fn vcpu_of(tid: Tid) -> usize {
    tid.get() - 1
}

impl<V: Vcpu + 'static> Target for Guest<'_, V> {
    type Arch = A64;
    type Error = Error;

    fn base_ops(&mut self) -> BaseOps<'_, A64, Error> {
        BaseOps::MultiThread(self)
    }

    fn guard_rail_implicit_sw_breakpoints(&self) -> bool {
        true
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_section_offsets(&mut self) -> Option<SectionOffsetsOps<'_, Self>> {
        self.base().is_some().then_some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl<V: Vcpu + 'static> MultiThreadBase for Guest<'_, V> {
    fn read_registers(&mut self, regs: &mut AArch64CoreRegs, tid: Tid) -> TargetResult<(), Self> {
        *regs = self.on(vcpu_of(tid), |vcpu| {
            let mut regs = AArch64CoreRegs::default();
            for (number, x) in (0..).zip(&mut regs.x) {
                *x = vcpu.register(Register::X(number))? as u64;
            }
            regs.sp = vcpu.register(Register::Sp)? as u64;
            regs.pc = vcpu.register(Register::Pc)? as u64;
            regs.cpsr = vcpu.register(Register::Pstate)? as u32;
            for (number, v) in (0..).zip(&mut regs.v) {
                *v = vcpu.register(Register::V(number))?;
            }
            regs.fpcr = vcpu.register(Register::Fpcr)? as u32;
            regs.fpsr = vcpu.register(Register::Fpsr)? as u32;
            Ok(regs)
        })?;
        Ok(())
    }

    fn write_registers(&mut self, regs: &AArch64CoreRegs, tid: Tid) -> TargetResult<(), Self> {
        let vcpu = vcpu_of(tid);
        let write = |register, value| self.write(vcpu, Reg::Cpu(register), value);
        // Which stack pointer it is depends on the state.
        write(Register::Pstate, regs.cpsr.into())?;
        for (number, x) in (0..).zip(regs.x) {
            write(Register::X(number), x.into())?;
        }
        write(Register::Sp, regs.sp.into())?;
        write(Register::Pc, regs.pc.into())?;
        for (number, v) in (0..).zip(regs.v) {
            write(Register::V(number), v)?;
        }
        write(Register::Fpcr, regs.fpcr.into())?;
        write(Register::Fpsr, regs.fpsr.into())
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let translation = self.translation(vcpu_of(tid))?;
        let read = translation.read(self.ram(), start, data);
        read.map_err(|error| {
            tracing::debug!("{start:#x} cannot be read: {error}");
            TargetError::Errno(EFAULT)
        })
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let translation = self.translation(vcpu_of(tid))?;
        let written = translation.write(self.ram(), start, data);
        written.map_err(|error| {
            tracing::debug!("{start:#x} cannot be written: {error}");
            TargetError::Errno(EFAULT)
        })
    }

    fn list_active_threads(&mut self, each: &mut dyn FnMut(Tid)) -> Result<(), Error> {
        (0..self.vcpus()).for_each(|vcpu| each(tid(vcpu)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl<V: Vcpu + 'static> ThreadExtraInfo for Guest<'_, V> {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, Error> {
        let vcpu = vcpu_of(tid);
        if vcpu >= self.vcpus() {
            return Ok(0);
        }
        let held = match self.held.get(&vcpu) {
            Some(Hold::Freeze) => Some("held".to_owned()),
            Some(Hold::Spin(at)) => Some(format!("spins at {at:#x}")),
            None => (self.around.telling()).and_then(|telling| telling.held(vcpu)),
        };
        let held = held.map_or(String::new(), |held| held + ", ");
        let text = format!("CPU {vcpu}: {held}{}", self.standing(vcpu)?);
        let length = text.len().min(buf.len());
        buf[..length].copy_from_slice(&text.as_bytes()[..length]);
        Ok(length)
    }
}

impl<V: Vcpu + 'static> SingleRegisterAccess<Tid> for Guest<'_, V> {
    fn read_register(&mut self, tid: Tid, reg: Reg, buf: &mut [u8]) -> TargetResult<usize, Self> {
        let value = self.read(vcpu_of(tid), reg)?;
        let width = reg.width();
        buf[..width].copy_from_slice(&value.to_le_bytes()[..width]);
        Ok(width)
    }

    fn write_register(&mut self, tid: Tid, reg: Reg, val: &[u8]) -> TargetResult<(), Self> {
        let mut bytes = [0; 16];
        bytes
            .get_mut(..val.len())
            .ok_or(TargetError::Errno(EINVAL))?
            .copy_from_slice(val);
        self.write(vcpu_of(tid), reg, u128::from_le_bytes(bytes))
    }
}

impl<V: Vcpu + 'static> SectionOffsets for Guest<'_, V> {
    fn get_section_offsets(&mut self) -> Result<Offsets<u64>, Error> {
        let base = self.base();
        // All segments move with the first one; by offsets gdb moves only sections of three names.
        if let Some(text_seg) = base.and_then(|base| base.text)
            && !self.segments_by_distance
        {
            return Ok(Offsets::Segments {
                text_seg,
                data_seg: None,
            });
        }
        let offset = base.map_or(0, |base| base.offset);
        Ok(Offsets::Sections {
            text: offset,
            data: offset,
            bss: Some(offset),
        })
    }
}

impl<V: Vcpu + 'static> MonitorCmd for Guest<'_, V> {
    fn handle_monitor_cmd(
        &mut self,
        words: &[u8],
        mut out: ConsoleOutput<'_>,
    ) -> Result<(), Error> {
        let mut text = String::new();
        let done = monitor::command(self, &String::from_utf8_lossy(words), &mut text);
        // What was said before an error is said.
        out.write_raw(text.as_bytes());
        done
    }
}
