//! A VM, from nothing to ready.

use std::ops::Range;
use std::sync::Arc;

use kvm_bindings::{
    KVM_ARM_IRQ_TYPE_SHIFT, KVM_ARM_IRQ_TYPE_SPI, KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2,
    KVM_ARM_VM_SMCCC_CTRL, KVM_ARM_VM_SMCCC_FILTER, KVM_CAP_ARM_NISV_TO_USER,
    KVM_CAP_COUNTER_OFFSET, KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR,
    KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_V3_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, kvm_enable_cap, kvm_smccc_filter,
    kvm_smccc_filter_action_KVM_SMCCC_FILTER_FWD_TO_USER, kvm_userspace_memory_region,
    kvm_vcpu_init,
};
use kvm_ioctls::{DeviceFd, VmFd};
use rustix::mm::{Advice, madvise};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_core::arm::{IntId, Mpidr, psci};
use vmm_core::host::{Lack, Need};

use super::clock::Clock;
use super::error::Error;
use super::gic::Gic;
use super::ioctl;
use super::probe::{offer, open};
use super::reg::Reg;
use super::vcpu::Loose;

/// Where the vGIC lies.
#[derive(Clone, Debug)]
pub struct GicRegions {
    /// The distributor.
    pub distributor: Range<u64>,
    /// Its redistributors, in the order in which vCPUs fill them.
    pub redistributors: Vec<Range<u64>>,
}

/// SPIs that the guest's GIC has, and the 32 private interrupts: the least that KVM takes, and ours are few.
const INTERRUPTS: u32 = 64;

/// A VM that has its memory and nothing else.
pub struct Bare {
    vm: VmFd,
    memory: Arc<GuestMemoryMmap>,
    offset: Option<u64>,
}

impl Bare {
    /// Creates it, where the host has what the guest needs.
    pub fn new(memory: Arc<GuestMemoryMmap>, need: Need) -> Result<Self, Error> {
        let kvm = open().map_err(Lack::Kvm)?;
        // The VM's type is the size of its intermediate physical addresses, at least 32 bits (KVM API, 4.2). More than there are
        // would not even make a VM to ask what else there is.
        let most = kvm.get_host_ipa_limit().unsigned_abs();
        let bits = (u64::BITS - (need.top - 1).leading_zeros())
            .max(32)
            .min(most);
        let vm = kvm
            .create_vm_with_ipa_size(bits)
            .map_err(Error::ioctl(format!(
                "create a VM with {bits} bits of guest physical address"
            )))?;
        // A VM only to ask would cost as much again: its creation and its end wait for the host's other processors.
        offer(&kvm, &vm).suffices(need)?;
        for (slot, region) in memory.iter().enumerate() {
            // Fewer faults, here while the kernel is loaded and in KVM while the guest runs. A host whose kernel has no huge pages
            // refuses, and the guest is as it would be otherwise.
            // SAFETY: the region is a mapping that `memory` owns; the advice changes no byte of it.
            let _ =
                unsafe { madvise(region.as_ptr().cast(), region.size(), Advice::LinuxHugepage) };
            let slot_of = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the region is a mapping that `memory` owns, and every vCPU holds on to `memory`.
            unsafe { vm.set_user_memory_region(slot_of) }.map_err(Error::ioctl(format!(
                "give the VM its memory at {:#x}",
                region.start_addr().0
            )))?;
        }
        // Without it, an access that has no syndrome kills the VM instead of the guest (KVM API, 7.6, 5.).
        if vm.check_extension_raw(KVM_CAP_ARM_NISV_TO_USER.into()) > 0 {
            vm.enable_cap(&kvm_enable_cap {
                cap: KVM_CAP_ARM_NISV_TO_USER,
                ..Default::default()
            })
            .map_err(Error::ioctl("have accesses without a syndrome told to us"))?;
        }
        // Once, before any vCPU: so CNTVCT and CNTPCT agree, and both start near zero.
        let offset = if vm.check_extension_raw(KVM_CAP_COUNTER_OFFSET.into()) > 0 {
            let offset = ioctl::host_counter();
            ioctl::set_counter_offset(&vm, offset)
                .map_err(Error::ioctl("set the counter offset"))?;
            Some(offset)
        } else {
            None
        };
        Ok(Self { vm, memory, offset })
    }

    /// Has a vCPU that powers itself off leave so that we see it: KVM does it by itself, without an exit. Linux 6.4 and
    /// later can (KVM API, "KVM_ARM_VM_SMCCC_FILTER").
    pub fn tell_power_off(&self) -> Result<(), Error> {
        let filter = kvm_smccc_filter {
            base: psci::CPU_OFF,
            nr_functions: 1,
            action: kvm_smccc_filter_action_KVM_SMCCC_FILTER_FWD_TO_USER as u8,
            ..Default::default()
        };
        let attribute = kvm_device_attr {
            group: KVM_ARM_VM_SMCCC_CTRL,
            attr: KVM_ARM_VM_SMCCC_FILTER.into(),
            addr: std::ptr::from_ref(&filter) as u64,
            flags: 0,
        };
        self.vm
            .set_device_attr(&attribute)
            .map_err(Error::ioctl("have PSCI's CPU_OFF told to us"))
    }

    /// Creates so many vCPUs, all but the first powered off until the guest's PSCI wakes them.
    pub fn people(self, vcpus: usize) -> Result<Peopled, Error> {
        let mut init = kvm_vcpu_init::default();
        self.vm
            .get_preferred_target(&mut init)
            .map_err(Error::ioctl("get the preferred kind of vCPU"))?;
        init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
        let vcpus = (0..vcpus)
            .map(|index| {
                let fd = self
                    .vm
                    .create_vcpu(index as u64)
                    .map_err(Error::ioctl(format!("create vCPU {index}")))?;
                let mut init = init;
                if index > 0 {
                    init.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
                }
                fd.vcpu_init(&init)
                    .map_err(Error::ioctl(format!("initialise vCPU {index}")))?;
                Ok(Loose {
                    index,
                    fd,
                    memory: Arc::clone(&self.memory),
                })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Peopled {
            vm: self.vm,
            vcpus,
            offset: self.offset,
        })
    }
}

/// A VM that has its vCPUs.
pub struct Peopled {
    vm: VmFd,
    vcpus: Vec<Loose>,
    offset: Option<u64>,
}

impl Peopled {
    /// The MPIDR of each vCPU. KVM alone assigns them.
    pub fn mpidrs(&self) -> Result<Vec<Mpidr>, Error> {
        self.vcpus
            .iter()
            .map(|vcpu| vcpu.get(Reg::MPIDR_EL1).map(Mpidr::from_register))
            .collect()
    }

    /// Gives the VM its GICv3.
    pub fn with_gic(self, regions: &GicRegions) -> Result<Vm, Error> {
        let mut device = kvm_create_device {
            type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
            fd: 0,
            flags: 0,
        };
        let gic = self
            .vm
            .create_device(&mut device)
            .map_err(Error::ioctl("create the GICv3"))?;
        let set = |what: &str, group: u32, attr: u32, value: &u64| {
            let attribute = kvm_device_attr {
                group,
                attr: attr.into(),
                addr: std::ptr::from_ref(value) as u64,
                flags: 0,
            };
            gic.set_device_attr(&attribute)
                .map_err(Error::ioctl(format!("set the GICv3's {what}")))
        };
        set(
            "number of interrupts",
            KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
            0,
            &INTERRUPTS.into(),
        )?;
        set(
            "distributor",
            KVM_DEV_ARM_VGIC_GRP_ADDR,
            KVM_VGIC_V3_ADDR_TYPE_DIST,
            &regions.distributor.start,
        )?;
        for (index, region) in regions.redistributors.iter().enumerate() {
            // Devices/arm-vgic-v3.rst: count in 63:52, base in 51:16, no flags, index in 11:0.
            let count = (region.end - region.start) / REDISTRIBUTOR_SIZE;
            let value = count << 52 | region.start | index as u64;
            set(
                "redistributor region",
                KVM_DEV_ARM_VGIC_GRP_ADDR,
                KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION,
                &value,
            )?;
        }
        set(
            "end of set-up",
            KVM_DEV_ARM_VGIC_GRP_CTRL,
            KVM_DEV_ARM_VGIC_CTRL_INIT,
            &0,
        )?;
        Ok(Vm {
            vm: Arc::new(self.vm),
            vcpus: self.vcpus,
            offset: self.offset,
            gic,
        })
    }
}

/// Two frames of 64 KiB (GICv3 IHI 0069, 12.10).
const REDISTRIBUTOR_SIZE: u64 = 2 << 16;

/// A VM that can run.
pub struct Vm {
    vm: Arc<VmFd>,
    vcpus: Vec<Loose>,
    offset: Option<u64>,
    gic: DeviceFd,
}

impl Vm {
    /// Says where vCPU 0 starts and what x0 holds then; the others start where PSCI's CPU_ON tells them.
    pub fn start_at(&self, entry: u64, x0: u64) -> Result<(), Error> {
        // EL1h with D, A, I and F masked (Documentation/arch/arm64/booting.rst, 4) is KVM's reset state already.
        self.vcpus[0].set(Reg::PC, entry)?;
        self.vcpus[0].set(Reg::X0, x0)
    }

    /// The level-sensitive wire of a shared interrupt.
    pub fn wire(&self, intid: IntId) -> Wire {
        Wire {
            vm: Arc::clone(&self.vm),
            intid,
        }
    }

    /// The guest's counter, if KVM lets it be moved.
    pub fn clock(&self) -> Clock {
        Clock::new(Arc::clone(&self.vm), self.offset)
    }

    /// Gives the vCPUs away, and the way to look into the vGIC.
    pub fn into_parts(self) -> (Vec<Loose>, Gic) {
        (self.vcpus, Gic::new(self.gic))
    }
}

/// A wire into the vGIC.
pub struct Wire {
    vm: Arc<VmFd>,
    intid: IntId,
}

impl Wire {
    /// Sets its level.
    pub fn set(&self, up: bool) -> Result<(), Error> {
        // By KVM_IRQ_LINE (KVM API, 4.25): an irqfd without resampling would make a pulse of a level.
        let number = KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | self.intid.number();
        self.vm
            .set_irq_line(number, up)
            .map_err(Error::ioctl(format!("set the level of {}", self.intid)))
    }
}
