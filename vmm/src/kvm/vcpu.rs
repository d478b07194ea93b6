//! A vCPU of KVM.

use std::fmt;
use std::sync::Arc;

use kvm_bindings::{
    KVM_EXIT_ARM_NISV, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW,
    KVM_MP_STATE_STOPPED, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_guest_debug,
    kvm_mp_state, kvm_vcpu_events,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::GuestMemoryMmap;
use vmm_core::arm::{psci, take_to_el1};
use vmm_core::evidence::Regs;

use super::error::Error;
use super::kick::Bound;
pub use super::kick::KvmKick;
use super::reg::Reg;
use crate::vcpu::{
    Access, Detached, Entry, Exit, Owner, Owners, Register, Shared, Standing, Traps, Vcpu, Width,
};

/// A load or store of 64 bytes outside of memory. No device here answers one, and no bindings know the exit yet: since Linux commit
/// f174a9ffcd48 (KVM: arm64: Add exit to userspace on {LD,ST}64B* outside of memslots), where the processor has FEAT_LS64 a
/// guest can make it without our asking for it. It says what KVM_EXIT_ARM_NISV says (KVM API, 5.).
const KVM_EXIT_ARM_LDST64B: u32 = 42;

/// A vCPU that no thread runs yet.
pub struct Loose {
    pub(super) index: usize,
    pub(super) fd: VcpuFd,
    /// What the guest can reach must outlive every chance to run it.
    pub(super) memory: Arc<GuestMemoryMmap>,
}

impl Loose {
    pub(super) fn get(&self, reg: Reg) -> Result<u64, Error> {
        get(&self.fd, self.index, reg)
    }

    pub(super) fn set(&self, reg: Reg, value: u64) -> Result<(), Error> {
        set(&self.fd, self.index, reg, value)
    }
}

fn set(fd: &VcpuFd, index: usize, reg: Reg, value: u64) -> Result<(), Error> {
    fd.set_one_reg(reg.id(), &value.to_le_bytes())
        .map(|_| ())
        .map_err(Error::ioctl(format!(
            "set register {:#x} of vCPU {index}",
            reg.id()
        )))
}

fn get(fd: &VcpuFd, index: usize, reg: Reg) -> Result<u64, Error> {
    let mut bytes = [0; 8];
    fd.get_one_reg(reg.id(), &mut bytes)
        .map_err(Error::ioctl(format!(
            "get register {:#x} of vCPU {index}",
            reg.id()
        )))?;
    Ok(u64::from_le_bytes(bytes))
}

impl Detached for Loose {
    type Vcpu = KvmVcpu;

    fn attach(mut self) -> (KvmVcpu, KvmKick) {
        let flag = &raw mut self.fd.get_kvm_run().immediate_exit;
        // SAFETY: the pointer is into the mapping that `fd` owns, and `KvmVcpu` drops `bound` before `fd`.
        let bound = unsafe { Bound::new(flag) };
        let kick = bound.kick();
        (
            KvmVcpu {
                bound,
                index: self.index,
                fd: self.fd,
                traps: Shared::default(),
                _memory: self.memory,
            },
            kick,
        )
    }
}

/// A vCPU on its own thread. Not `Send`: it holds a pointer that a signal handler of this thread uses.
pub struct KvmVcpu {
    bound: Bound,
    index: usize,
    fd: VcpuFd,
    traps: Shared,
    _memory: Arc<GuestMemoryMmap>,
}

impl KvmVcpu {
    fn enter(&mut self, entry: Entry) -> Result<(), Error> {
        match entry {
            Entry::Continue => Ok(()),
            Entry::Answer(value) => {
                let run = self.fd.get_kvm_run();
                // SAFETY: every bit pattern is a valid `mmio`, and KVM reads it only if a load is pending.
                let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
                mmio.data = value.to_le_bytes();
                Ok(())
            }
            Entry::Abort => {
                let mut events = kvm_vcpu_events::default();
                events.exception.ext_dabt_pending = 1;
                self.fd
                    .set_vcpu_events(&events)
                    .map_err(Error::ioctl(format!(
                        "inject an external abort into vCPU {}",
                        self.index
                    )))
            }
        }
    }

    /// Sets its processor state. No access may be pending.
    pub fn set_pstate(&mut self, pstate: u64) -> Result<(), Error> {
        set(&self.fd, self.index, Reg::PSTATE, pstate)
    }

    fn reg(&self, register: Register) -> Result<Reg, Error> {
        Ok(match register {
            Register::X(number) => Reg::x(number.into()),
            Register::Sp => {
                // EL1h has its own, EL1t and EL0 have that of EL0.
                let own = get(&self.fd, self.index, Reg::PSTATE)? & 0b1101 == 0b0101;
                if own { Reg::SP_EL1 } else { Reg::SP_EL0 }
            }
            Register::Pc => Reg::PC,
            Register::Pstate => Reg::PSTATE,
            Register::V(number) => Reg::v(number.into()),
            Register::Fpsr => Reg::FPSR,
            Register::Fpcr => Reg::FPCR,
            Register::System(system) => Reg::of(system),
        })
    }

    /// Has it take the exception of the BRK that it stands at. While KVM debugs a vCPU all of them come here (`MDCR_EL2.TDE`, Arm ARM
    /// DDI 0487, D2.2), but a kernel that warns has one of its own.
    fn take_brk(&mut self, syndrome: u32) -> Result<(), Error> {
        let reg = |reg| get(&self.fd, self.index, reg);
        let (pc, pstate) = (reg(Reg::PC)?, reg(Reg::PSTATE)?);
        let taken = take_to_el1(pstate, reg(Reg::SCTLR_EL1)?);
        let vector = reg(Reg::VBAR_EL1)?.wrapping_add(taken.vector);
        for (reg, value) in [
            (Reg::ELR_EL1, pc),
            (Reg::SPSR_EL1, pstate),
            (Reg::ESR_EL1, syndrome.into()),
            (Reg::PC, vector),
            (Reg::PSTATE, taken.pstate),
        ] {
            set(&self.fd, self.index, reg, value)?;
        }
        Ok(())
    }

    fn unexpected(&mut self, exit: impl fmt::Display) -> Error {
        // Best effort: the exit is what matters.
        let pc = get(&self.fd, self.index, Reg::PC).unwrap_or(0);
        Error::Exit {
            vcpu: self.index,
            exit: exit.to_string(),
            pc,
        }
    }

    fn no_syndrome(&mut self) -> Exit {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason was one of the two with which KVM writes this field.
        let nisv = unsafe { run.__bindgen_anon_1.arm_nisv };
        Exit::NoSyndrome {
            address: nisv.fault_ipa,
            iss: nisv.esr_iss,
        }
    }
}

impl Vcpu for KvmVcpu {
    type Error = Error;
    type Kick = KvmKick;

    fn run(&mut self, entry: Entry) -> Result<Exit, Error> {
        self.enter(entry)?;
        let strange = loop {
            break match self.fd.run() {
                Ok(VcpuExit::MmioRead(address, bytes)) => match Width::from_bytes(bytes.len()) {
                    Some(width) => return Ok(Exit::Read { address, width }),
                    None => format!("a load of {} bytes at {address:#x}", bytes.len()),
                },
                Ok(VcpuExit::MmioWrite(address, bytes)) => match Width::from_bytes(bytes.len()) {
                    Some(width) => {
                        let mut value = [0; 8];
                        value[..bytes.len()].copy_from_slice(bytes);
                        return Ok(Exit::Write {
                            address,
                            width,
                            value: u64::from_le_bytes(value),
                        });
                    }
                    None => format!("a store of {} bytes at {address:#x}", bytes.len()),
                },
                Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => {
                    return Ok(Exit::PowerOff);
                }
                Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => return Ok(Exit::Reset),
                Ok(VcpuExit::Unsupported(KVM_EXIT_ARM_NISV | KVM_EXIT_ARM_LDST64B)) => {
                    return Ok(self.no_syndrome());
                }
                Ok(VcpuExit::Debug(debug)) => {
                    return Ok(match debug.hsr >> ESR_EC_SHIFT {
                        EC_WATCHPOINT => {
                            let store = debug.hsr & ESR_WNR != 0;
                            Exit::Watchpoint {
                                address: debug.far,
                                of: self.traps.of_watchpoint(debug.far, store),
                            }
                        }
                        EC_STEP => Exit::Stepped {
                            of: self.traps.of_step(),
                        },
                        class => {
                            let pc = get(&self.fd, self.index, Reg::PC)?;
                            let of = match class {
                                EC_BRK if self.traps.has_brk(pc) => Owners {
                                    scenario: false,
                                    debugger: true,
                                },
                                EC_BRK => {
                                    self.take_brk(debug.hsr)?;
                                    // To have taken its exception is the step, as it is that of an SVC.
                                    match self.traps.of_step() {
                                        of if of == Owners::default() => continue,
                                        of => return Ok(Exit::Stepped { of }),
                                    }
                                }
                                _ => self.traps.of_breakpoint(pc),
                            };
                            Exit::Breakpoint { of }
                        }
                    });
                }
                Ok(VcpuExit::Hypercall(call)) if call.nr == u64::from(psci::CPU_OFF) => {
                    return Ok(Exit::PowersItselfOff);
                }
                Ok(VcpuExit::Intr) => return Ok(Exit::Kicked),
                Ok(other) => format!("{other:?}"),
                Err(error) if error.errno() == libc::EINTR => return Ok(Exit::Kicked),
                Err(error) => return Err(Error::ioctl(format!("run vCPU {}", self.index))(error)),
            };
        };
        Err(self.unexpected(strange))
    }

    fn forget_kick(&mut self) {
        self.bound.set(false);
    }

    fn settle(&mut self, entry: Entry) -> Result<(), Error> {
        self.enter(entry)?;
        self.bound.set(true);
        match self.fd.run() {
            Err(error) if error.errno() == libc::EINTR => Ok(()),
            Err(error) => Err(Error::ioctl(format!(
                "finish the access of vCPU {}",
                self.index
            ))(error)),
            Ok(other) => {
                let other = format!("{other:?} where it was only to finish an access");
                Err(self.unexpected(other))
            }
        }
    }

    fn standing(&mut self) -> Result<Standing, Error> {
        let state = self.fd.get_mp_state().map_err(Error::ioctl(format!(
            "get the MP state of vCPU {}",
            self.index
        )))?;
        Ok(Standing {
            pc: get(&self.fd, self.index, Reg::PC)?,
            pstate: get(&self.fd, self.index, Reg::PSTATE)?,
            off: state.mp_state == KVM_MP_STATE_STOPPED,
        })
    }

    fn registers(&mut self) -> Result<Regs, Error> {
        let mut x = [0; 31];
        for (number, register) in x.iter_mut().enumerate() {
            *register = get(&self.fd, self.index, Reg::x(number))?;
        }
        Ok(Regs {
            x,
            sp: get(&self.fd, self.index, Reg::SP_EL1)?,
            pc: get(&self.fd, self.index, Reg::PC)?,
            pstate: get(&self.fd, self.index, Reg::PSTATE)?,
        })
    }

    fn register(&mut self, register: Register) -> Result<u128, Error> {
        let reg = self.reg(register)?;
        let mut bytes = [0; 16];
        self.fd
            .get_one_reg(reg.id(), &mut bytes[..reg.width()])
            .map_err(Error::ioctl(format!(
                "get {register:?} of vCPU {}",
                self.index
            )))?;
        Ok(u128::from_le_bytes(bytes))
    }

    fn set_register(&mut self, register: Register, value: u128) -> Result<(), Error> {
        let reg = self.reg(register)?;
        self.fd
            .set_one_reg(reg.id(), &value.to_le_bytes()[..reg.width()])
            .map(|_| ())
            .map_err(Error::ioctl(format!(
                "set {register:?} of vCPU {}",
                self.index
            )))
    }

    fn left(&self, breakpoints: usize, watchpoints: usize) -> (usize, usize) {
        self.traps.left(breakpoints, watchpoints)
    }

    fn trap_on(&mut self, owner: Owner, traps: &Traps) -> Result<(), Error> {
        self.traps.set(owner, traps);
        let traps = self.traps.all();
        let mut debug = kvm_guest_debug::default();
        if traps != Traps::default() {
            debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW;
        }
        if traps.step {
            debug.control |= KVM_GUESTDBG_SINGLESTEP;
        }
        let (values, controls) = (&mut debug.arch.dbg_bvr, &mut debug.arch.dbg_bcr);
        for (address, (value, control)) in traps
            .breakpoints
            .iter()
            .zip(values.iter_mut().zip(controls))
        {
            *value = *address;
            *control = BREAKPOINT;
        }
        let (values, controls) = (&mut debug.arch.dbg_wvr, &mut debug.arch.dbg_wcr);
        for (watched, (value, control)) in traps
            .watchpoints
            .iter()
            .zip(values.iter_mut().zip(controls))
        {
            let bytes = (1 << watched.width.bytes()) - 1;
            *value = watched.address & !7;
            let access = match watched.access {
                Access::Load => 0b01,
                Access::Store => 0b10,
                Access::Any => 0b11,
            };
            *control = WATCHPOINT
                | access << WCR_LSC_SHIFT
                | bytes << (watched.address & 7) << WCR_BAS_SHIFT;
        }
        self.fd
            .set_guest_debug(&debug)
            .map_err(Error::ioctl(format!(
                "set the debug registers of vCPU {}",
                self.index
            )))
    }

    fn power_off(&mut self) -> Result<(), Error> {
        let stopped = kvm_mp_state {
            mp_state: KVM_MP_STATE_STOPPED,
        };
        self.fd
            .set_mp_state(stopped)
            .map_err(Error::ioctl(format!("power off vCPU {}", self.index)))
    }
}

/// `DBGBCR<n>_EL1` (Arm ARM DDI 0487, D24.3.2): unlinked address match, all four bytes, at EL1 and EL0, enabled.
const BREAKPOINT: u64 = 0xf << 5 | 0b11 << 1 | 1;

/// `DBGWCR<n>_EL1` (D24.3.14): unlinked, at EL1 and EL0, enabled; the bytes and the kind of access are for whoever sets it.
const WATCHPOINT: u64 = 0b11 << 1 | 1;
/// LSC, loads and stores.
const WCR_LSC_SHIFT: u32 = 3;
/// BAS, a bit for each byte of the doubleword.
const WCR_BAS_SHIFT: u32 = 5;

/// `ESR_ELx.EC` (D24.2.40).
const ESR_EC_SHIFT: u32 = 26;
/// `ESR_ELx.ISS.WnR` of a watchpoint (D24.2.40): it was a store.
const ESR_WNR: u32 = 1 << 6;
/// Software step, from a lower Exception level.
const EC_STEP: u32 = 0b11_0010;
/// Watchpoint, from a lower Exception level.
const EC_WATCHPOINT: u32 = 0b11_0100;
/// BRK of AArch64.
const EC_BRK: u32 = 0b11_1100;
