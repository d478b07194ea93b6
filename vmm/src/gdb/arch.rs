//! What a debugger is told of the registers.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::sync::LazyLock;

use gdbstub::arch::{Arch, RegId};
use gdbstub_arch::aarch64::reg::AArch64CoreRegs;

use crate::vcpu::{Register, System};

/// AArch64 with the registers that we have.
pub(super) enum A64 {}

impl Arch for A64 {
    type Usize = u64;
    type Registers = AArch64CoreRegs;
    type BreakpointKind = usize;
    type RegId = Reg;

    fn target_description_xml() -> Option<&'static str> {
        static XML: LazyLock<String> = LazyLock::new(description);
        Some(&XML)
    }
}

/// A register that a debugger can name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reg {
    /// Of the vCPU.
    Cpu(Register),
    /// A mask of the bits of a pointer that authenticate it. The guest has no pointer authentication: none.
    PointerMask,
    /// D, A, I and F of its state, where MRS has them.
    Daif,
    /// `ICC_PMR_EL1`.
    Mask,
    /// `ICC_RPR_EL1`.
    Running,
}

/// The system registers, under the names that a debugger has for them.
const SYSTEM: [(&str, Reg); 23] = [
    ("ELR_EL1", Reg::Cpu(Register::System(System::ElrEl1))),
    ("SPSR_EL1", Reg::Cpu(Register::System(System::SpsrEl1))),
    ("ESR_EL1", Reg::Cpu(Register::System(System::EsrEl1))),
    ("FAR_EL1", Reg::Cpu(Register::System(System::FarEl1))),
    ("VBAR_EL1", Reg::Cpu(Register::System(System::VbarEl1))),
    ("TTBR0_EL1", Reg::Cpu(Register::System(System::Ttbr0El1))),
    ("TTBR1_EL1", Reg::Cpu(Register::System(System::Ttbr1El1))),
    ("TCR_EL1", Reg::Cpu(Register::System(System::TcrEl1))),
    ("SCTLR_EL1", Reg::Cpu(Register::System(System::SctlrEl1))),
    ("MAIR_EL1", Reg::Cpu(Register::System(System::MairEl1))),
    ("TPIDR_EL0", Reg::Cpu(Register::System(System::TpidrEl0))),
    (
        "TPIDRRO_EL0",
        Reg::Cpu(Register::System(System::TpidrroEl0)),
    ),
    ("TPIDR_EL1", Reg::Cpu(Register::System(System::TpidrEl1))),
    ("SP_EL0", Reg::Cpu(Register::System(System::SpEl0))),
    ("SP_EL1", Reg::Cpu(Register::System(System::SpEl1))),
    (
        "CONTEXTIDR_EL1",
        Reg::Cpu(Register::System(System::ContextidrEl1)),
    ),
    ("PAR_EL1", Reg::Cpu(Register::System(System::ParEl1))),
    ("MDSCR_EL1", Reg::Cpu(Register::System(System::MdscrEl1))),
    ("MPIDR_EL1", Reg::Cpu(Register::System(System::MpidrEl1))),
    ("CNTVCT_EL0", Reg::Cpu(Register::System(System::CntvctEl0))),
    ("DAIF", Reg::Daif),
    ("ICC_PMR_EL1", Reg::Mask),
    ("ICC_RPR_EL1", Reg::Running),
];

/// Where the numbers of each feature begin.
const SP: usize = 31;
const PC: usize = 32;
const CPSR: usize = 33;
const V: usize = 34;
const FPCR: usize = 66;
const FPSR: usize = 67;
const POINTER: usize = 68;
const FIRST_SYSTEM: usize = 72;

impl Reg {
    /// Bytes on the wire.
    pub(super) fn width(self) -> usize {
        match self {
            Self::Cpu(Register::V(_)) => 16,
            Self::Cpu(Register::Pstate | Register::Fpsr | Register::Fpcr) => 4,
            _ => 8,
        }
    }

    fn of_number(number: usize) -> Option<Self> {
        let small = |from: usize| u8::try_from(number - from).ok();
        Some(match number {
            0..SP => Self::Cpu(Register::X(small(0)?)),
            SP => Self::Cpu(Register::Sp),
            PC => Self::Cpu(Register::Pc),
            CPSR => Self::Cpu(Register::Pstate),
            V..FPCR => Self::Cpu(Register::V(small(V)?)),
            FPCR => Self::Cpu(Register::Fpcr),
            FPSR => Self::Cpu(Register::Fpsr),
            POINTER..FIRST_SYSTEM => Self::PointerMask,
            _ => SYSTEM.get(number - FIRST_SYSTEM)?.1,
        })
    }
}

impl RegId for Reg {
    fn from_raw_id(number: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        let register = Self::of_number(number)?;
        Some((register, NonZeroUsize::new(register.width())))
    }
}

/// GDB's own features by its manual ("AArch64 Features"), numbered as they come, and one of ours.
fn description() -> String {
    let mut xml = String::from(
        r#"<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target version="1.0"><architecture>aarch64</architecture><feature name="org.gnu.gdb.aarch64.core"><flags id="cpsr_flags" size="4"><field name="SP" start="0" end="0"/><field name="EL" start="2" end="3"/><field name="nRW" start="4" end="4"/><field name="F" start="6" end="6"/><field name="I" start="7" end="7"/><field name="A" start="8" end="8"/><field name="D" start="9" end="9"/><field name="IL" start="20" end="20"/><field name="SS" start="21" end="21"/><field name="PAN" start="22" end="22"/><field name="UAO" start="23" end="23"/><field name="DIT" start="24" end="24"/><field name="TCO" start="25" end="25"/><field name="V" start="28" end="28"/><field name="C" start="29" end="29"/><field name="Z" start="30" end="30"/><field name="N" start="31" end="31"/></flags>"#,
    );
    // Writing into a string does not fail.
    for number in 0..SP {
        let _ = write!(xml, r#"<reg name="x{number}" bitsize="64"/>"#);
    }
    xml += r#"<reg name="sp" bitsize="64" type="data_ptr"/><reg name="pc" bitsize="64" type="code_ptr"/><reg name="cpsr" bitsize="32" type="cpsr_flags"/></feature><feature name="org.gnu.gdb.aarch64.fpu">"#;
    for (width, count) in [(64, 2), (32, 4), (16, 8), (8, 16)] {
        for (letter, kind) in [("u", format!("uint{width}")), ("s", format!("int{width}"))] {
            let _ = write!(
                xml,
                r#"<vector id="v{count}{letter}" type="{kind}" count="{count}"/>"#
            );
        }
    }
    xml += r#"<vector id="v2f" type="ieee_double" count="2"/><vector id="v4f" type="ieee_single" count="4"/><union id="vd"><field name="f" type="v2f"/><field name="u" type="v2u"/><field name="s" type="v2s"/></union><union id="vs"><field name="f" type="v4f"/><field name="u" type="v4u"/><field name="s" type="v4s"/></union><union id="vh"><field name="u" type="v8u"/><field name="s" type="v8s"/></union><union id="vb"><field name="u" type="v16u"/><field name="s" type="v16s"/></union><union id="aarch64v"><field name="d" type="vd"/><field name="s" type="vs"/><field name="h" type="vh"/><field name="b" type="vb"/><field name="q" type="uint128"/></union>"#;
    for number in 0..32 {
        let _ = write!(
            xml,
            r#"<reg name="v{number}" bitsize="128" type="aarch64v"/>"#
        );
    }
    xml += r#"<reg name="fpcr" bitsize="32"/><reg name="fpsr" bitsize="32"/></feature><feature name="org.gnu.gdb.aarch64.pauth_v2">"#;
    for name in ["dmask", "cmask", "dmask_high", "cmask_high"] {
        let _ = write!(xml, r#"<reg name="pauth_{name}" bitsize="64"/>"#);
    }
    xml += r#"</feature><feature name="org.holdpoint.aarch64.system">"#;
    for (name, _) in SYSTEM {
        let _ = write!(xml, r#"<reg name="{name}" bitsize="64" group="system"/>"#);
    }
    xml += "</feature></target>";
    xml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_order_of_the_description() {
        let xml = description();
        let names: Vec<&str> = xml
            .split("<reg name=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap())
            .collect();
        let at = |name| names.iter().position(|other| *other == name).unwrap();
        assert_eq!(at("sp"), SP);
        assert_eq!(at("cpsr"), CPSR);
        assert_eq!(at("v0"), V);
        assert_eq!((at("fpcr"), at("fpsr")), (FPCR, FPSR));
        assert_eq!(at("pauth_dmask"), POINTER);
        assert_eq!(at("ELR_EL1"), FIRST_SYSTEM);
        assert_eq!(names.len(), FIRST_SYSTEM + SYSTEM.len());
        assert_eq!(Reg::of_number(names.len()), None);
        assert_eq!(Reg::of_number(at("ICC_RPR_EL1")), Some(Reg::Running));
    }
}
