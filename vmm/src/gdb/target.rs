//! The guest as gdbstub sees it.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume,
    MultiThreadResumeOps, MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps,
    MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{
    SingleRegisterAccess, SingleRegisterAccessOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps,
    SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::section_offsets::{Offsets, SectionOffsets, SectionOffsetsOps};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use gdbstub_arch::aarch64::reg::AArch64CoreRegs;
use vmm_core::inspect::TranslationRegisters;

use super::arch::{A64, Reg};
use super::memory::Translation;
use super::monitor;
use super::step::{Exclusive, Masked, State};
use super::{Around, Base, DebugRegisters};
use crate::conductor::{Debugged, Halt, Trap};
use crate::vcpu::{Access, Owner, Register, Standing, System, Traps, Vcpu, Watched, Width};

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

/// BRK #0 (Arm ARM DDI 0487, C6.2.45).
const BRK: [u8; 4] = 0xd420_0000_u32.to_le_bytes();

/// `SCTLR_EL1.M`, the MMU.
const MMU: u64 = 1;

/// What a vCPU shall do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Action {
    Continue,
    Step,
    /// Steps until it leaves these addresses.
    Range(u64, u64),
    Stay,
}

/// A watchpoint as a debugger has asked for it, and what of the debug registers it takes.
struct Watch {
    address: u64,
    length: u64,
    kind: WatchKind,
    words: Vec<Watched>,
}

/// A step that has begun.
struct Step {
    began_at: u64,
    /// If interrupts are kept out of it.
    masked: Option<Masked>,
    /// Breakpoints end it, instead of the next instruction's trap.
    ways_out: Vec<u64>,
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
    /// vCPUs that stay out whatever the debugger says.
    pub(super) held: BTreeSet<usize>,
    /// Whether a step lets interrupts in.
    pub(super) step_irq: bool,
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
            held: BTreeSet::new(),
            step_irq: false,
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
        self.on(vcpu, |vcpu| {
            let mut read = |system| {
                let value = vcpu.register(Register::System(system))?;
                Ok(value as u64)
            };
            let tables = match read(System::SctlrEl1)? & MMU {
                0 => None,
                _ => Some(TranslationRegisters {
                    ttbr0: read(System::Ttbr0El1)?,
                    ttbr1: read(System::Ttbr1El1)?,
                    tcr: read(System::TcrEl1)?,
                }),
            };
            Ok(Translation { tables })
        })
    }

    fn instruction(&self, vcpu: usize, pc: u64) -> Result<Option<u32>, Error> {
        let mut bytes = [0; 4];
        let read = self
            .translation(vcpu)?
            .read(self.around.ram(), pc, &mut bytes);
        Ok(matches!(read, Ok(4)).then(|| u32::from_le_bytes(bytes)))
    }

    // Breakpoints.

    /// What of the software breakpoints has no debug register left: a BRK is written for them while the guest runs. A scenario may need
    /// all of the registers at any time.
    fn written(&self) -> &[u64] {
        let registers = match self.around.telling() {
            Some(_) => 0,
            None => self.limits.breakpoints - self.hard.len(),
        };
        self.soft.get(registers..).unwrap_or(&[])
    }

    /// The debug registers that a scenario leaves on every vCPU.
    fn left(&self) -> Result<DebugRegisters, Error> {
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

    fn words(&self) -> usize {
        self.watches.iter().map(|watch| watch.words.len()).sum()
    }

    fn traps(&self, step: bool) -> Traps {
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

    fn set(&mut self, vcpu: usize, traps: Traps) -> Result<(), Error> {
        if self.set[vcpu] != traps {
            let these = traps.clone();
            self.on(vcpu, move |vcpu| vcpu.trap_on(Owner::Debugger, &these))?;
            self.set[vcpu] = traps;
        }
        Ok(())
    }

    /// Writes the BRKs, as the first vCPU with each address mapped sees it; what stood there.
    fn write_brks(&self) -> Result<Vec<(Translation, u64, [u8; 4])>, Error> {
        let mut before = Vec::new();
        for &address in self.written() {
            for vcpu in 0..self.vcpus() {
                let translation = self.translation(vcpu)?;
                let mut bytes = [0; 4];
                let ram = self.around.ram();
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

    fn take_brks_back(&self, before: Vec<(Translation, u64, [u8; 4])>) {
        for (translation, address, bytes) in before.into_iter().rev() {
            // The tables may have changed since; then it is another page's business.
            let _ = translation.write(self.around.ram(), address, &bytes);
        }
    }

    // Going on.

    fn action(&self, vcpu: usize) -> Action {
        self.actions[vcpu].unwrap_or(self.others)
    }

    fn act(&mut self, tid: Tid, action: Action) {
        if let Some(asked) = self.actions.get_mut(vcpu_of(tid)) {
            *asked = Some(action);
        }
    }

    fn state(&self, vcpu: usize) -> Result<State, Error> {
        self.on(vcpu, |vcpu| {
            let mut read = |register| Ok(vcpu.register(register)? as u64);
            Ok(State {
                pc: read(Register::Pc)?,
                pstate: read(Register::Pstate)?,
                elr: read(Register::System(System::ElrEl1))?,
                spsr: read(Register::System(System::SpsrEl1))?,
                vbar: read(Register::System(System::VbarEl1))?,
            })
        })
    }

    /// Lets vCPUs go on as was asked for; why they are out again, or `None` if that was only asked for.
    pub(super) fn go_on(&mut self) -> Result<Option<MultiThreadStopReason<u64>>, Error> {
        loop {
            if let Some(stop) = self.go_on_once()? {
                return Ok(stop);
            }
        }
    }

    /// `None` if a step ended in its range.
    fn go_on_once(&mut self) -> Result<Option<Option<MultiThreadStopReason<u64>>>, Error> {
        let mut steps = Vec::new();
        let mut running = Vec::new();
        // Whether one that is to take a step can't alone: who holds it, or has others go on before it, lets it do so in time.
        let mut waits = false;
        for vcpu in 0..self.vcpus() {
            if self.held.contains(&vcpu) {
                continue;
            }
            match self.action(vcpu) {
                Action::Stay => continue,
                Action::Continue => self.set(vcpu, self.traps(false))?,
                Action::Step | Action::Range(..) if self.debugged.stays(vcpu) => {
                    waits = true;
                    self.set(vcpu, self.traps(true))?;
                }
                Action::Step | Action::Range(..) => {
                    let Some(step) = self.begin_step(vcpu)? else {
                        return Ok(self.stepped(vcpu)?.map(Some));
                    };
                    let traps = self.traps_of(&step);
                    self.set(vcpu, traps)?;
                    steps.push((vcpu, step));
                }
            }
            running.push(vcpu);
        }
        if waits {
            for vcpu in 0..self.vcpus() {
                if !running.contains(&vcpu) && !self.held.contains(&vcpu) {
                    self.set(vcpu, self.traps(false))?;
                    running.push(vcpu);
                }
            }
        }
        let stepping: Vec<usize> = steps.iter().map(|(vcpu, _)| *vcpu).collect();
        let brks = self.write_brks()?;
        self.around.start_time();
        let halt = self.debugged.run(&running, &stepping);
        self.around.stop_time();
        self.take_brks_back(brks);
        if halt == Halt::Ended {
            return Ok(Some(Some(MultiThreadStopReason::Exited(0))));
        }
        for (vcpu, step) in &steps {
            if let Some(masked) = step.masked {
                self.end_step(*vcpu, masked)?;
            }
        }
        let (vcpu, trap) = match halt {
            Halt::Trapped(vcpu, trap) => (vcpu, trap),
            Halt::Shown(vcpu) => return Ok(Some(Some(trapped(tid(vcpu))))),
            Halt::Kept(vcpu) => {
                // What it was trapped by came behind the instruction, or before it.
                let pc = self.pc(vcpu)?;
                let before = steps.iter().find(|(stepped, _)| *stepped == vcpu);
                return match before.is_some_and(|(_, step)| step.began_at == pc) {
                    true => Ok(None),
                    false => Ok(self.stepped(vcpu)?.map(Some)),
                };
            }
            Halt::Asked | Halt::Ended => return Ok(Some(None)),
        };
        let tid = tid(vcpu);
        let stop = match trap {
            Trap::Stepped => return Ok(self.stepped(vcpu)?.map(Some)),
            Trap::Breakpoint => {
                let pc = self.pc(vcpu)?;
                let step = steps.iter().find(|(stepped, _)| *stepped == vcpu);
                if step.is_some_and(|(_, step)| step.ways_out.contains(&pc)) {
                    return Ok(self.stepped(vcpu)?.map(Some));
                }
                if self.hard.contains(&pc) {
                    MultiThreadStopReason::HwBreak(tid)
                } else {
                    MultiThreadStopReason::SwBreak(tid)
                }
            }
            Trap::Watchpoint { address } => match self.nearest(address) {
                Some(watch) => MultiThreadStopReason::Watch {
                    tid,
                    kind: watch.kind,
                    addr: address.clamp(watch.address, watch.address + watch.length - 1),
                },
                None => trapped(tid),
            },
            Trap::Tapped | Trap::Off => trapped(tid),
        };
        Ok(Some(Some(stop)))
    }

    /// Masks interrupts for a step, unless they are to be let in. `None` if it was done without letting the vCPU in.
    fn begin_step(&self, vcpu: usize) -> Result<Option<Step>, Error> {
        let state = self.state(vcpu)?;
        let instruction = self.instruction(vcpu, state.pc)?;
        let mut masked = Masked::begin(state, instruction);
        if masked.waits() {
            let next = state.pc.wrapping_add(4);
            self.on(vcpu, move |vcpu| {
                vcpu.set_register(Register::Pc, next.into())
            })?;
            return Ok(None);
        }
        let mut step = Step {
            began_at: state.pc,
            masked: None,
            ways_out: Vec::new(),
        };
        if let Some(sequence) = Exclusive::at(state.pc, |pc| self.instruction(vcpu, pc))?
            && self.breakpoints_left(vcpu)? >= sequence.ways_out.len()
        {
            masked = Masked::begin_exclusive(state, &sequence);
            step.ways_out = sequence.ways_out;
        }
        if !self.step_irq {
            let pstate = masked.pstate();
            self.on(vcpu, move |vcpu| {
                vcpu.set_register(Register::Pstate, pstate.into())
            })?;
            step.masked = Some(masked);
        }
        Ok(Some(step))
    }

    /// The breakpoints that a vCPU's debug registers still have room for.
    fn breakpoints_left(&self, vcpu: usize) -> Result<usize, Error> {
        let DebugRegisters {
            breakpoints,
            watchpoints,
        } = self.limits;
        let (left, _) = self.on(vcpu, move |vcpu| Ok(vcpu.left(breakpoints, watchpoints)))?;
        Ok(left.saturating_sub(self.traps(false).breakpoints.len()))
    }

    fn traps_of(&self, step: &Step) -> Traps {
        let mut traps = self.traps(step.ways_out.is_empty());
        for way in &step.ways_out {
            if !traps.breakpoints.contains(way) {
                traps.breakpoints.push(*way);
            }
        }
        traps
    }

    fn pc(&self, vcpu: usize) -> Result<u64, Error> {
        let pc = self.on(vcpu, |vcpu| vcpu.register(Register::Pc))?;
        Ok(pc as u64)
    }

    fn end_step(&self, vcpu: usize, step: Masked) -> Result<(), Error> {
        let after = self.state(vcpu)?;
        self.on(vcpu, move |vcpu| {
            let mut failed = None;
            let repair = step.end(after, |register| {
                match vcpu.register(Register::X(register)) {
                    Ok(value) => value as u64,
                    Err(error) => {
                        failed = Some(error);
                        0
                    }
                }
            });
            if let Some(error) = failed {
                return Err(error);
            }
            if let Some(pstate) = repair.pstate {
                vcpu.set_register(Register::Pstate, pstate.into())?;
            }
            if let Some(spsr) = repair.spsr {
                vcpu.set_register(Register::System(System::SpsrEl1), spsr.into())?;
            }
            if let Some((register, value)) = repair.x {
                vcpu.set_register(Register::X(register), value.into())?;
            }
            Ok(())
        })
    }

    /// A step has ended: `None` if it goes on in its range.
    fn stepped(&self, vcpu: usize) -> Result<Option<MultiThreadStopReason<u64>>, Error> {
        if let Action::Range(start, end) = self.action(vcpu)
            && (start..end).contains(&self.pc(vcpu)?)
        {
            return Ok(None);
        }
        Ok(Some(trapped(tid(vcpu))))
    }

    fn nearest(&self, address: u64) -> Option<&Watch> {
        // An access of many bytes that covers a watched one may be told by its own first address (DDI 0487, D2.10.5).
        self.watches.iter().min_by_key(|watch| {
            let last = watch.address + watch.length - 1;
            address
                .saturating_sub(last)
                .max(watch.address.saturating_sub(address))
        })
    }

    /// Takes all traps out of the vCPUs: they run on without a debugger.
    pub(super) fn let_go(mut self) {
        (self.hard, self.soft, self.watches) = (Vec::new(), Vec::new(), Vec::new());
        for vcpu in 0..self.vcpus() {
            if let Err(error) = self.set(vcpu, Traps::default()) {
                tracing::debug!("vCPU {vcpu} keeps its traps: {error}");
            }
        }
        self.around.start_time();
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

fn trapped(tid: Tid) -> MultiThreadStopReason<u64> {
    MultiThreadStopReason::SignalWithThread {
        tid,
        signal: Signal::SIGTRAP,
    }
}

/// Halted because somebody wanted it.
pub(super) fn interrupted() -> MultiThreadStopReason<u64> {
    MultiThreadStopReason::Signal(Signal::SIGINT)
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
        let read = translation.read(self.around.ram(), start, data);
        read.map_err(|error| {
            tracing::debug!("{start:#x} cannot be read: {error}");
            TargetError::Errno(EFAULT)
        })
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let translation = self.translation(vcpu_of(tid))?;
        let written = translation.write(self.around.ram(), start, data);
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
        let held = match self.held.contains(&vcpu) {
            true => Some("held".to_owned()),
            false => (self.around.telling()).and_then(|telling| telling.held(vcpu)),
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

impl<V: Vcpu + 'static> MultiThreadResume for Guest<'_, V> {
    fn resume(&mut self) -> Result<(), Error> {
        // The session calls go_on().
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Error> {
        self.others = Action::Continue;
        self.actions.fill(None);
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Error> {
        self.act(tid, Action::Continue);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl<V: Vcpu + 'static> MultiThreadSingleStep for Guest<'_, V> {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Error> {
        self.act(tid, Action::Step);
        Ok(())
    }
}

impl<V: Vcpu + 'static> MultiThreadRangeStepping for Guest<'_, V> {
    fn set_resume_action_range_step(
        &mut self,
        tid: Tid,
        start: u64,
        end: u64,
    ) -> Result<(), Error> {
        self.act(tid, Action::Range(start, end));
        Ok(())
    }
}

impl<V: Vcpu + 'static> MultiThreadSchedulerLocking for Guest<'_, V> {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Error> {
        self.others = Action::Stay;
        Ok(())
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
        if self.written().contains(&address) && self.instruction(0, address)?.is_none() {
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

impl<V: Vcpu + 'static> SectionOffsets for Guest<'_, V> {
    fn get_section_offsets(&mut self) -> Result<Offsets<u64>, Error> {
        let base = self.base();
        // All segments move with the first one; by offsets only sections of three names do.
        if let Some(text_seg) = base.and_then(|base| base.text) {
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
