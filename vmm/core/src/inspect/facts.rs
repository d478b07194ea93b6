//! What memory says about a crash: masks, counters, notes, the console's locks.
//!
//! Everything is found by name; a variable that this kernel does not have is `None`, and which ones it has is what tells
//! its era (docs/inspect.md).

use super::{Exports, InspectError, KernelSpace, LogRing, Memory, Symbols, Vmcoreinfo};
use crate::arm::{CpuId, CpuSet, KernelVa};
use crate::evidence::Note;

/// `PANIC_CPU_INVALID` (include/linux/panic.h): nobody has panicked.
const PANIC_CPU_INVALID: u32 = u32::MAX;
/// `_Q_LOCKED_MASK` (include/asm-generic/qspinlock_types.h): the rest of the word are those who wait.
const LOCKED: u32 = 0xff;

/// A kernel found in a guest's memory: how to read its variables by name.
pub struct Kernel<'m, M: Memory + ?Sized> {
    /// What it says about itself.
    pub info: Vmcoreinfo,
    /// Its virtual memory.
    pub space: KernelSpace<'m, M>,
    /// Its symbols.
    pub symbols: Symbols,
    /// Its exports, where its symbols have no variables.
    exports: Option<Exports>,
    /// CPUs that the guest has.
    cpus: u16,
}

/// `enum system_states` (include/linux/kernel.h), since v5.13 with FREEING_INITMEM.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum SystemState {
    /// SYSTEM_BOOTING.
    Booting,
    /// SYSTEM_SCHEDULING.
    Scheduling,
    /// SYSTEM_FREEING_INITMEM.
    FreeingInitmem,
    /// SYSTEM_RUNNING.
    Running,
    /// SYSTEM_HALT.
    Halt,
    /// SYSTEM_POWER_OFF.
    PowerOff,
    /// SYSTEM_RESTART.
    Restart,
    /// SYSTEM_SUSPEND.
    Suspend,
}

/// The variables of the stop path. Which of them there are differs by era: see docs/stop-path.md. `cpus_stopped` of
/// `crash_smp_send_stop()` (up to 6.11) is not among them: the generic function of that name, which arm64 replaces, leaves
/// a variable of the same name behind, and nothing tells the two apart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StopFacts {
    /// `waiting_for_crash_ipi`: acks of a crash stop still to come (up to 6.11).
    pub waiting_for_crash_ipi: Option<u32>,
    /// `stop_mask`: CPUs that have not acked (the proposal v1 and its corrected form).
    pub stop_mask: Option<CpuSet>,
    /// `crash_stop`: the stop is that of a crash (v1, and since 6.12).
    pub crash_stop: Option<bool>,
    /// `stop_in_progress` of `smp_send_stop()`: somebody climbs the ladder (since 6.12).
    pub stop_in_progress: Option<bool>,
}

/// The masks of code that was interrupted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Interrupted {
    /// Its PSTATE.
    pub pstate: u64,
    /// Its ICC_PMR_EL1, which a kernel saves that uses pseudo-NMIs: in PSTATE interrupts look open that it has masked by that.
    pub pmr: Option<u8>,
}

/// Who holds what of the console. Locks of single consoles are not among these: where they lie is debug information.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConsoleFacts {
    /// `console_owner`: the task that prints and may be taken over from.
    pub owner: Option<KernelVa>,
    /// `console_waiter`: somebody spins to take over.
    pub waiter: bool,
    /// Whether `console_sem` is held.
    pub semaphore_held: bool,
    /// Whether `console_owner_lock` is held.
    pub owner_lock_held: bool,
    /// `oops_in_progress`.
    pub oops_in_progress: u32,
}

impl<'m, M: Memory + ?Sized> Kernel<'m, M> {
    /// Finds the kernel that runs in a guest of so many CPUs.
    pub fn find(memory: &'m M, cpus: u16) -> Result<Self, InspectError> {
        let info = Vmcoreinfo::find(memory)?;
        let space = KernelSpace::new(memory, &info)?;
        let symbols = Symbols::read(&space, &info)?;
        let exports = match symbols.have_variables() {
            true => None,
            false => Some(Exports::find(&space, &info, &symbols)?),
        };
        Ok(Self {
            info,
            space,
            symbols,
            exports,
            cpus,
        })
    }

    /// The same with the symbols of its vmlinux, whose bytes these are: the kernel needs no kallsyms then.
    pub fn with_vmlinux(memory: &'m M, cpus: u16, vmlinux: &[u8]) -> Result<Self, InspectError> {
        let info = Vmcoreinfo::find(memory)?;
        let symbols = Symbols::of_vmlinux(vmlinux, &info)?;
        Ok(Self {
            space: KernelSpace::new(memory, &info)?,
            info,
            symbols,
            exports: None,
            cpus,
        })
    }

    /// The address of a function or a variable.
    pub fn symbol(&self, name: &str) -> Result<KernelVa, InspectError> {
        match (self.symbols.address(name), &self.exports) {
            (Err(InspectError::NoSymbol { .. }), Some(exports)) => exports.address(name),
            (found, _) => found,
        }
    }

    /// Reads a variable, if this kernel has it.
    fn optional<T>(
        &self,
        at: Result<KernelVa, InspectError>,
        read: impl FnOnce(KernelVa) -> Result<T, InspectError>,
    ) -> Result<Option<T>, InspectError> {
        match at {
            Ok(at) => read(at).map(Some),
            Err(InspectError::NoSymbol { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn word(&self, name: &str) -> Result<u32, InspectError> {
        self.space.u32(name, self.symbol(name)?)
    }

    /// A `bool`, of which the compiler makes a byte of 0 or 1.
    fn flag(&self, name: &str, at: KernelVa) -> Result<bool, InspectError> {
        match self.space.array(name, at)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [byte] => Err(damaged(
                name,
                format!("{byte:#x} is neither true nor false"),
            )),
        }
    }

    /// A `cpumask` of the CPUs that the guest has.
    fn mask(&self, name: &str, at: KernelVa) -> Result<CpuSet, InspectError> {
        let mut bytes = vec![0; usize::from(self.cpus).div_ceil(64) * 8];
        self.space.read(name, at, &mut bytes)?;
        let bit = |n: u16| bytes[usize::from(n / 8)] >> (n % 8) & 1 != 0;
        let bits = 8 * bytes.len() as u16;
        if let Some(beyond) = (self.cpus..bits).find(|n| bit(*n)) {
            let cpus = self.cpus;
            return Err(damaged(name, format!("CPU {beyond} in a guest of {cpus}")));
        }
        Ok((0..self.cpus).filter(|n| bit(*n)).map(CpuId).collect())
    }

    fn cpu(&self, name: &str, number: u32) -> Result<CpuId, InspectError> {
        match u16::try_from(number) {
            Ok(number) if number < self.cpus => Ok(CpuId(number)),
            _ => {
                let cpus = self.cpus;
                Err(damaged(name, format!("CPU {number} in a guest of {cpus}")))
            }
        }
    }

    /// `__cpu_online_mask`.
    pub fn online(&self) -> Result<CpuSet, InspectError> {
        self.mask("__cpu_online_mask", self.symbol("__cpu_online_mask")?)
    }

    /// `__num_online_cpus`, which the sender polls: it and the mask are not changed at once.
    pub fn online_count(&self) -> Result<u32, InspectError> {
        self.word("__num_online_cpus")
    }

    /// `panic_cpu`: who panicked first, if anybody did.
    pub fn panic_cpu(&self) -> Result<Option<CpuId>, InspectError> {
        match self.word("panic_cpu")? {
            PANIC_CPU_INVALID => Ok(None),
            number => self.cpu("panic_cpu", number).map(Some),
        }
    }

    /// `system_state`.
    pub fn system_state(&self) -> Result<SystemState, InspectError> {
        Ok(match self.word("system_state")? {
            0 => SystemState::Booting,
            1 => SystemState::Scheduling,
            2 => SystemState::FreeingInitmem,
            3 => SystemState::Running,
            4 => SystemState::Halt,
            5 => SystemState::PowerOff,
            6 => SystemState::Restart,
            7 => SystemState::Suspend,
            other => return Err(damaged("system_state", format!("{other} is no state"))),
        })
    }

    /// The variable that is static in a function, wherever the compiler has put its number.
    fn function_static(&self, name: &str) -> Result<KernelVa, InspectError> {
        let mut found = self.symbols.function_statics(name);
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only.at),
            // Moved out of its function it has no number.
            (None, _) => self.symbol(name),
            (Some(_), Some(_)) => Err(InspectError::AmbiguousSymbol {
                name: name.to_owned(),
                times: self.symbols.function_statics(name).count(),
            }),
        }
    }

    /// The variables of the stop path.
    pub fn stop(&self) -> Result<StopFacts, InspectError> {
        Ok(StopFacts {
            waiting_for_crash_ipi: self.optional(self.symbol("waiting_for_crash_ipi"), |at| {
                self.space.u32("waiting_for_crash_ipi", at)
            })?,
            stop_mask: self.optional(self.symbol("stop_mask"), |at| self.mask("stop_mask", at))?,
            crash_stop: self
                .optional(self.symbol("crash_stop"), |at| self.flag("crash_stop", at))?,
            // An unsigned long of which test_and_set_bit() takes bit 0.
            stop_in_progress: self
                .optional(self.function_static("stop_in_progress"), |at| {
                    self.space.u64("stop_in_progress", at)
                })?
                .map(|bits| bits & 1 != 0),
        })
    }

    /// How far a CPU's copy of a per-CPU variable lies from the variable's own address.
    pub fn per_cpu_offset(&self, cpu: CpuId) -> Result<u64, InspectError> {
        self.cpu("__per_cpu_offset", u32::from(cpu.0))?;
        let at = self.symbol("__per_cpu_offset")?.plus(8 * u64::from(cpu.0));
        match self.space.u64("__per_cpu_offset", at)? {
            0 => Err(damaged(
                "__per_cpu_offset",
                format!("CPU {cpu} has no per-CPU memory"),
            )),
            offset => Ok(offset),
        }
    }

    /// A CPU's crash note: `crash_notes` is a pointer to per-CPU memory (kernel/crash_core.c, crash_notes_memory_init()).
    /// It is aligned so that it lies in one page.
    pub fn crash_note(&self, cpu: CpuId) -> Result<(KernelVa, Note), InspectError> {
        let notes = self.space.u64("crash_notes", self.symbol("crash_notes")?)?;
        if notes == 0 {
            return Err(damaged(
                "crash_notes",
                "the pointer is null: no notes have been allocated".to_owned(),
            ));
        }
        let at = KernelVa(notes).plus(self.per_cpu_offset(cpu)?);
        let object = format!("the crash note of CPU {cpu}");
        self.space.array(&object, at).map(|note| (at, Note(note)))
    }

    /// What a CPU in an interrupt's handler has interrupted: the `struct pt_regs` (arch/arm64/include/asm/ptrace.h) that the per-CPU
    /// `__irq_regs` points at. None outside of a handler.
    pub fn interrupted(&self, cpu: CpuId) -> Result<Option<Interrupted>, InspectError> {
        // Behind the general registers and sp. The priority mask is pmr_save, 64 bits, in 6.1 and 6.12, and pmr, 32 bits, in 7.3, where
        // a frame record lies in the other's place: an address.
        const PSTATE: u64 = 264;
        const PMR: u64 = 284;
        const PMR_SAVE: u64 = 296;
        let slot = self.symbol("__irq_regs")?.plus(self.per_cpu_offset(cpu)?);
        let object = format!("__irq_regs of CPU {cpu}");
        let regs = match self.space.u64(&object, slot)? {
            0 => return Ok(None),
            regs => KernelVa(regs),
        };
        if !regs.is_upper() {
            return Err(damaged(
                &object,
                format!("{:#x} points at no stack", regs.0),
            ));
        }
        let is_priority = |value: &u64| (1..0x100).contains(value);
        let old = self.space.u64(&object, regs.plus(PMR_SAVE))?;
        let new = u64::from(self.space.u32(&object, regs.plus(PMR))?);
        Ok(Some(Interrupted {
            pstate: self.space.u64(&object, regs.plus(PSTATE))?,
            pmr: [old, new]
                .into_iter()
                .find(is_priority)
                .map(|pmr| pmr as u8),
        }))
    }

    /// Who holds what of the console.
    pub fn console(&self) -> Result<ConsoleFacts, InspectError> {
        let owner = self
            .space
            .u64("console_owner", self.symbol("console_owner")?)?;
        if owner != 0 && !KernelVa(owner).is_upper() {
            return Err(damaged("console_owner", format!("{owner:#x} is no task")));
        }
        let waiter = self.flag("console_waiter", self.symbol("console_waiter")?)?;
        Ok(ConsoleFacts {
            owner: (owner != 0).then_some(KernelVa(owner)),
            waiter,
            semaphore_held: self.semaphore_held()?,
            owner_lock_held: self.word("console_owner_lock")? & LOCKED != 0,
            oops_in_progress: self.word("oops_in_progress")?,
        })
    }

    /// `console_sem` is a `struct semaphore`: a raw spinlock of 4 bytes, the count, and the list of those who wait or, in 7.2, a pointer
    /// to the first of them. Lock debugging makes the spinlock larger: then what should be the count is none.
    fn semaphore_held(&self) -> Result<bool, InspectError> {
        let bytes: [u8; 16] = self
            .space
            .array("console_sem", self.symbol("console_sem")?)?;
        let (words, _) = bytes.as_chunks::<8>();
        let [lock_and_count, first] = [0, 1].map(|n| u64::from_le_bytes(words[n]));
        if first != 0 && !KernelVa(first).is_upper() {
            return Err(damaged("console_sem", format!("{first:#x} is no waiter")));
        }
        match lock_and_count >> 32 {
            0 => Ok(true),
            1 => Ok(false),
            count => Err(damaged("console_sem", format!("its count is {count}"))),
        }
    }

    /// The log.
    pub fn log(&self) -> Result<LogRing, InspectError> {
        LogRing::read(&self.space, &self.info)
    }
}

fn damaged(object: &str, what: String) -> InspectError {
    InspectError::Damaged {
        object: object.to_owned(),
        what,
    }
}
