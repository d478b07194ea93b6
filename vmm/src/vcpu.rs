//! The seam under everything that moves a vCPU: a function from how it is entered to how it leaves.
//!
//! Two implementations stand below it from the first day: KVM's (`kvm`, arm64 only) and a scripted one for tests,
//! so that the conductor, the bus and what stands on them are tested on any machine.

#[cfg(any(all(test, not(feature = "shuttle")), feature = "fuzzing"))]
pub(crate) mod scripted;

use std::fmt;

use vmm_core::evidence::Regs;

/// How many bytes a guest's load or store moves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Width {
    /// LDRB, STRB.
    Byte,
    /// LDRH, STRH.
    Halfword,
    /// LDR, STR of a W register.
    Word,
    /// LDR, STR of an X register.
    Doubleword,
}

impl Width {
    /// In bytes.
    pub fn bytes(self) -> usize {
        match self {
            Width::Byte => 1,
            Width::Halfword => 2,
            Width::Word => 4,
            Width::Doubleword => 8,
        }
    }

    /// The width of that many bytes, if a single register access can have it.
    pub fn from_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(Width::Byte),
            2 => Some(Width::Halfword),
            4 => Some(Width::Word),
            8 => Some(Width::Doubleword),
            _ => None,
        }
    }
}

/// How a vCPU is entered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Entry {
    /// Go on; a store that was pending is done.
    Continue,
    /// Go on; the load that was pending gets this value.
    Answer(u64),
    /// Go on; the access that was pending takes a synchronous external abort (Arm ARM DDI 0487, D1.3.6).
    Abort,
}

/// How a vCPU left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// A load that no memory answers: enter with [`Entry::Answer`] or [`Entry::Abort`].
    Read {
        /// Guest physical address.
        address: u64,
        /// Its width.
        width: Width,
    },
    /// A store that no memory takes: enter with [`Entry::Continue`] or [`Entry::Abort`].
    Write {
        /// Guest physical address.
        address: u64,
        /// Its width.
        width: Width,
        /// What was stored, zero-extended.
        value: u64,
    },
    /// An access outside memory by an instruction for which the processor gives no syndrome (a pair, a vector, a
    /// write-back): it can't be answered, so enter with [`Entry::Abort`].
    NoSyndrome {
        /// Guest physical address of the page, with the offset that the fault register gave.
        address: u64,
        /// The instruction-specific syndrome of `ESR_EL2`.
        iss: u64,
    },
    /// The guest asked PSCI for SYSTEM_OFF.
    PowerOff,
    /// The guest asked PSCI for SYSTEM_RESET.
    Reset,
    /// It stands before an instruction at which it has a breakpoint.
    Breakpoint {
        /// Of whom.
        of: Owners,
    },
    /// It stands before an access that a watchpoint waits for.
    Watchpoint {
        /// The virtual address that it reaches for.
        address: u64,
        /// Of whom.
        of: Owners,
    },
    /// It has executed the one instruction that it was let go for ([`Traps::step`]).
    Stepped {
        /// By whom.
        of: Owners,
    },
    /// It powers itself off, where the VM has that told ([`Vcpu::power_off`] does it).
    PowersItselfOff,
    /// Somebody kicked it.
    Kicked,
}

/// Where a vCPU stands, for a person to read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Standing {
    /// Its program counter.
    pub pc: u64,
    /// Its processor state (Arm ARM DDI 0487, C5.2.19 SPSR_EL1's layout).
    pub pstate: u64,
    /// Whether PSCI has it powered off.
    pub off: bool,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.off {
            return f.write_str("powered off");
        }
        let masked: String = ['D', 'A', 'I', 'F']
            .iter()
            .zip([9, 8, 7, 6])
            .map(|(&letter, bit)| {
                if self.pstate >> bit & 1 == 1 {
                    letter
                } else {
                    '-'
                }
            })
            .collect();
        let level = self.pstate >> 2 & 3;
        write!(f, "pc {:#x} EL{level} DAIF {masked}", self.pc)
    }
}

/// What a vCPU is to leave the guest for before it does it. The host's debug registers must suffice.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Traps {
    /// Executing the instruction at one of these virtual addresses.
    pub breakpoints: Vec<u64>,
    /// Executing the BRK that somebody has written to one of these. Any other is the guest's own.
    pub brks: Vec<u64>,
    /// Reaching for one of these words.
    pub watchpoints: Vec<Watched>,
    /// Executing anything more than one instruction. That may be the first one of a vector, if an interrupt comes first.
    pub step: bool,
}

/// Who has vCPUs trapped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Owner {
    /// Whoever moves them, a scenario.
    Scenario,
    /// A debugger.
    Debugger,
}

/// Whose trap something is: both may have the same.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Owners {
    /// A scenario's.
    pub scenario: bool,
    /// A debugger's.
    pub debugger: bool,
}

impl Owners {
    /// A scenario's alone.
    pub const SCENARIO: Self = Self {
        scenario: true,
        debugger: false,
    };
}

/// The traps of both.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    scenario: Traps,
    debugger: Traps,
}

impl Shared {
    /// One has these from now on.
    pub fn set(&mut self, owner: Owner, traps: &Traps) {
        match owner {
            Owner::Scenario => self.scenario.clone_from(traps),
            Owner::Debugger => self.debugger.clone_from(traps),
        }
    }

    /// What of a debugger's fits beside a scenario's, where there are so many debug registers.
    pub fn left(&self, breakpoints: usize, watchpoints: usize) -> (usize, usize) {
        let scenario = &self.scenario;
        (
            breakpoints.saturating_sub(scenario.breakpoints.len()),
            watchpoints.saturating_sub(scenario.watchpoints.len()),
        )
    }

    /// All of them, the scenario's first.
    pub fn all(&self) -> Traps {
        let mut all = self.scenario.clone();
        for address in &self.debugger.breakpoints {
            if !all.breakpoints.contains(address) {
                all.breakpoints.push(*address);
            }
        }
        all.brks.extend(&self.debugger.brks);
        for watched in &self.debugger.watchpoints {
            if !all.watchpoints.contains(watched) {
                all.watchpoints.push(*watched);
            }
        }
        all.step |= self.debugger.step;
        all
    }

    /// Whose breakpoint this is.
    pub fn of_breakpoint(&self, pc: u64) -> Owners {
        let has = |traps: &Traps| traps.breakpoints.contains(&pc);
        Owners {
            scenario: has(&self.scenario),
            debugger: has(&self.debugger),
        }
    }

    /// Whether this BRK is a debugger's, and not the guest's.
    pub fn has_brk(&self, pc: u64) -> bool {
        self.debugger.brks.contains(&pc)
    }

    /// Whose watchpoint an access has reached for. One of many bytes may be told by its own first address, before that which is watched
    /// (Arm ARM DDI 0487, D2.10.5).
    pub fn of_watchpoint(&self, address: u64, store: bool) -> Owners {
        let nearest = |traps: &Traps| {
            let fitting = traps.watchpoints.iter().filter(|watched| {
                watched.access == Access::Any || (watched.access == Access::Store) == store
            });
            let distance = |watched: &Watched| {
                let last = watched.address + watched.width.bytes() as u64 - 1;
                let behind = address.saturating_sub(last);
                behind.max(watched.address.saturating_sub(address))
            };
            fitting.map(distance).min()
        };
        let (scenario, debugger) = (nearest(&self.scenario), nearest(&self.debugger));
        let closest = scenario.into_iter().chain(debugger).min();
        Owners {
            scenario: scenario.is_some() && scenario == closest,
            debugger: debugger.is_some() && debugger == closest,
        }
    }

    /// Who has it step.
    pub fn of_step(&self) -> Owners {
        Owners {
            scenario: self.scenario.step,
            debugger: self.debugger.step,
        }
    }
}

/// A word for which somebody waits to be reached for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Watched {
    /// Its virtual address, a multiple of its width.
    pub address: u64,
    /// Its width.
    pub width: Width,
    /// By what.
    pub access: Access,
}

/// What reaches for a word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// A load.
    Load,
    /// A store.
    Store,
    /// Either.
    Any,
}

/// A register of a vCPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Register {
    /// One of x0 to x30.
    X(u8),
    /// The stack pointer that its state selects.
    Sp,
    /// Its program counter.
    Pc,
    /// Its processor state, in `SPSR_EL1`'s layout.
    Pstate,
    /// One of v0 to v31.
    V(u8),
    /// Of floating point, its status.
    Fpsr,
    /// Of floating point, its control.
    Fpcr,
    /// One of these.
    System(System),
}

/// System registers (Arm ARM DDI 0487, D24.2), under their names there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the manual has them")]
pub enum System {
    ElrEl1,
    SpsrEl1,
    SpEl0,
    SpEl1,
    EsrEl1,
    FarEl1,
    VbarEl1,
    Ttbr0El1,
    Ttbr1El1,
    TcrEl1,
    SctlrEl1,
    MairEl1,
    TpidrEl0,
    TpidrroEl0,
    TpidrEl1,
    ContextidrEl1,
    ParEl1,
    MdscrEl1,
    MpidrEl1,
    CntvctEl0,
}

/// A vCPU that belongs to no thread yet.
pub trait Detached: Send + 'static {
    /// What it becomes.
    type Vcpu: Vcpu;

    /// Binds it to the calling thread, for good: a [`Vcpu`] is not `Send`, so the compiler keeps every other thread off
    /// its file descriptor. The second value interrupts it from anywhere.
    fn attach(self) -> (Self::Vcpu, <Self::Vcpu as Vcpu>::Kick);
}

/// A vCPU in the hands of its own thread.
pub trait Vcpu {
    /// What the host can do wrong.
    type Error: std::error::Error + Send + 'static;
    /// What makes [`run`](Vcpu::run) leave.
    type Kick: Kick;

    /// Runs until something happens that the guest's processor and KVM can't settle between themselves. A kick, also
    /// one that came before the call, makes it leave with [`Exit::Kicked`] unless [`forget_kick`](Vcpu::forget_kick)
    /// came between the two.
    fn run(&mut self, entry: Entry) -> Result<Exit, Self::Error>;

    /// Forgets a kick that has come. Whoever calls it must look afterwards at what the kick was for.
    fn forget_kick(&mut self);

    /// Finishes the access that is pending, without running the guest further: until then the registers are not those
    /// of an instruction boundary (KVM API, 5. "The kvm_run structure", note on `KVM_EXIT_MMIO`).
    fn settle(&mut self, entry: Entry) -> Result<(), Self::Error>;

    /// Where it stands.
    fn standing(&mut self) -> Result<Standing, Self::Error>;

    /// Its registers at EL1. No access may be pending.
    fn registers(&mut self) -> Result<Regs, Self::Error>;

    /// A register, zero-extended. No access may be pending.
    fn register(&mut self, register: Register) -> Result<u128, Self::Error>;

    /// Sets one, of which as many bits count as it has. No access may be pending.
    fn set_register(&mut self, register: Register, value: u128) -> Result<(), Self::Error>;

    /// Has it leave before any of this, and before nothing else that the same owner gave it earlier.
    fn trap_on(&mut self, owner: Owner, traps: &Traps) -> Result<(), Self::Error>;

    /// How many of the host's breakpoints and watchpoints a debugger may have beside the scenario's.
    fn left(&self, breakpoints: usize, watchpoints: usize) -> (usize, usize);

    /// Powers it off, as PSCI's CPU_OFF does.
    fn power_off(&mut self) -> Result<(), Self::Error>;
}

/// Makes a running vCPU leave, from any thread.
pub trait Kick: Send + Sync + 'static {
    /// Kicks.
    fn kick(&self);
}

#[cfg(test)]
mod tests {
    use super::{Access, Owner, Owners, Shared, Standing, Traps, Watched, Width};

    #[test]
    fn traps_are_shared_and_told_apart() {
        let word = |address, access| Watched {
            address,
            width: Width::Word,
            access,
        };
        let mut shared = Shared::default();
        let scenario = Traps {
            breakpoints: vec![0x10, 0x20],
            watchpoints: vec![word(0x100, Access::Store)],
            ..Traps::default()
        };
        let debugger = Traps {
            breakpoints: vec![0x20, 0x30],
            watchpoints: vec![word(0x100, Access::Load), word(0x108, Access::Any)],
            step: true,
            ..Traps::default()
        };
        shared.set(Owner::Scenario, &scenario);
        shared.set(Owner::Debugger, &debugger);
        let all = shared.all();
        assert_eq!(all.breakpoints, [0x10, 0x20, 0x30]);
        assert_eq!((all.watchpoints.len(), all.step), (3, true));
        assert_eq!(shared.left(6, 4), (4, 3));
        let of = |scenario, debugger| Owners { scenario, debugger };
        assert_eq!(shared.of_breakpoint(0x10), of(true, false));
        assert_eq!(shared.of_breakpoint(0x20), of(true, true));
        assert_eq!(shared.of_breakpoint(0x30), of(false, true));
        assert_eq!(shared.of_step(), of(false, true));
        assert_eq!(shared.of_watchpoint(0x100, true), of(true, false));
        assert_eq!(shared.of_watchpoint(0x102, false), of(false, true));
        // A pair that begins before the word.
        assert_eq!(shared.of_watchpoint(0x107, true), of(false, true));
    }

    #[test]
    fn a_standing_reads_as_a_person_would_say_it() {
        let at = |pstate, off| {
            Standing {
                pc: 0xffff_8000_0801_0000,
                pstate,
                off,
            }
            .to_string()
        };
        assert_eq!(at(0x3c5, false), "pc 0xffff800008010000 EL1 DAIF DAIF");
        assert_eq!(at(0x0c0, false), "pc 0xffff800008010000 EL0 DAIF --IF");
        assert_eq!(at(0x005, true), "powered off");
    }
}
