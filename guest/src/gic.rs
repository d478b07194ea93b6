//! The GICv3 as the payload uses it: two priorities, so that ICC_PMR_EL1 can mask the one and let
//! the other, the pseudo-NMI, in.

use arm_gic::gicv3::{
    GicCpuInterface, GicDistributor, GicError, GicRedistributor, SgiTarget, SgiTargetGroup,
};
use arm_gic::{IntId, InterruptGroup, irq_enable};
use arm_sysregs::el1::accessors::{read_isr_el1, write_icc_ctlr_el1};
use arm_sysregs::el1::registers::{IccCtlrEl1, IsrEl1};

use crate::arch;
use crate::cpus::CpuId;

// Linux's values since "irqchip/gic-v3: Select priorities at boot time" (in v6.11), as in its
// include/linux/irqchip/arm-gic-v3-prio.h, for a GIC with a single security state.
pub(crate) const PRIORITY_IRQ: u8 = 0xc0;
pub(crate) const PRIORITY_NMI: u8 = 0x80;
/// ICC_PMR_EL1 that lets both in.
pub(crate) const PMR_IRQ_ON: u8 = 0xe0;
/// ICC_PMR_EL1 that masks IRQs and lets pseudo-NMIs in.
pub(crate) const PMR_IRQ_OFF: u8 = 0xc0;

/// The payload's SGIs. Linux's IPIs are SGIs 0 to 7; these keep clear of them.
#[derive(Clone, Copy)]
pub(crate) enum Sgi {
    /// An interrupt that a check asks for.
    Irq = 8,
    /// A pseudo-NMI that a check asks for.
    Nmi = 9,
    /// Tells a secondary CPU to power itself off.
    PowerOff = 10,
}

impl Sgi {
    pub(crate) fn intid(self) -> IntId {
        IntId::sgi(self as u32)
    }

    fn priority(self) -> u8 {
        match self {
            Self::Irq | Self::PowerOff => PRIORITY_IRQ,
            Self::Nmi => PRIORITY_NMI,
        }
    }
}

/// A section in which IRQs are masked by ICC_PMR_EL1 and pseudo-NMIs get in, as between Linux's
/// `local_irq_save` and `local_irq_restore`.
pub(crate) struct MaskedIrqs {
    before: u8,
}

impl MaskedIrqs {
    pub(crate) fn mask() -> Self {
        let before = arch::pmr();
        arch::set_pmr(PMR_IRQ_OFF);
        Self { before }
    }

    pub(crate) fn restore(self) {
        arch::set_pmr(self.before);
    }
}

/// Sets up what all CPUs share.
pub(crate) fn set_up_distributor(distributor: &mut GicDistributor) {
    // With two security states the priorities above would look different from each of them
    // (GIC IHI 0069, section 4.8). KVM's GIC and QEMU's `virt` have one.
    assert!(
        !distributor.typer().has_security_extension(),
        "the GIC has two security states; the payload's priorities are those of a GIC with one"
    );
    distributor.configure_default_settings();
}

/// Sets up what is this CPU's own, and unmasks its interrupts.
pub(crate) fn set_up_cpu(
    redistributor: &mut GicRedistributor,
    timer: IntId,
) -> Result<(), GicError> {
    match redistributor.mark_core_awake() {
        // KVM's redistributors never sleep.
        Ok(()) | Err(GicError::AlreadyAwake) => {}
        Err(error) => return Err(error),
    }
    redistributor.configure_default_settings();
    for sgi in [Sgi::Irq, Sgi::Nmi, Sgi::PowerOff] {
        redistributor.set_interrupt_priority(sgi.intid(), sgi.priority())?;
        redistributor.enable_interrupt(sgi.intid(), true)?;
    }
    redistributor.set_interrupt_priority(timer, PRIORITY_IRQ)?;
    redistributor.enable_interrupt(timer, true)?;
    redistributor.wait_for_pending_write();

    GicCpuInterface::enable_system_register_el1();
    // EOImode 0: the end of an interrupt drops its priority and deactivates it, as in a Linux that
    // was entered at EL1.
    write_icc_ctlr_el1(IccCtlrEl1::empty());
    arch::set_pmr(PMR_IRQ_ON);
    GicCpuInterface::enable_group1(true);
    arch::isb();
    irq_enable();
    Ok(())
}

/// Sends an SGI to one CPU.
pub(crate) fn send(sgi: Sgi, cpu: CpuId) {
    send_ipi(sgi as u8, cpu);
}

/// Sends the SGI of this number to one CPU.
pub(crate) fn send_ipi(sgi: u8, cpu: CpuId) {
    let [aff0, aff1, aff2, _, aff3, ..] = cpu.shared().mpidr().bits().to_le_bytes();
    // Without the range selector ICC_SGI1R_EL1 reaches Aff0 0 to 15 only. Neither KVM nor QEMU's
    // `virt` goes beyond that.
    assert!(
        aff0 < 16,
        "{cpu} has Aff0 {aff0}, out of reach for the payload's SGIs"
    );
    let target = SgiTarget::List {
        affinity3: aff3,
        affinity2: aff2,
        affinity1: aff1,
        target_list: 1 << aff0,
    };
    arch::dsb_ishst();
    GicCpuInterface::send_sgi(
        IntId::sgi(sgi.into()),
        target,
        SgiTargetGroup::CurrentGroup1,
    )
    .expect("IntId::sgi makes an SGI");
    arch::isb();
}

/// The interrupt of the highest priority that is pending for this CPU, whatever masks it.
pub(crate) fn pending() -> Option<IntId> {
    GicCpuInterface::get_pending_interrupt(InterruptGroup::Group1)
}

/// True if the GIC signals an IRQ to this CPU: one is pending that ICC_PMR_EL1 does not mask.
pub(crate) fn is_signalled() -> bool {
    read_isr_el1().contains(IsrEl1::I)
}
