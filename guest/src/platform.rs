//! What the device tree says about the machine.

use arm_gic::IntId;
use dtoolkit::error::FdtParseError;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property, ToCellInt};
use guest_abi::memory_map::RAM_BASE;
use thiserror::Error;

use crate::arch;
use crate::cpus::Mpidr;

/// Why the payload cannot run on this device tree.
#[derive(Debug, Error)]
pub(crate) enum PlatformError {
    #[error("no device tree can be read at {address:#x}, where x0 points: {source}")]
    Unreadable { address: u64, source: FdtParseError },
    #[error("the device tree has no \"{0}\" node")]
    NoNode(&'static str),
    #[error("the device tree's node \"{node}\" has no \"{property}\" that the payload can use")]
    Property {
        node: &'static str,
        property: &'static str,
    },
    #[error("the device tree's PSCI is not called by HVC, as it is where a guest runs at EL1")]
    NotHvc,
}

/// A range of physical addresses.
#[derive(Clone, Copy)]
pub(crate) struct Region {
    pub(crate) base: u64,
    pub(crate) size: u64,
}

/// The device tree.
pub(crate) struct Platform {
    fdt: Fdt<'static>,
}

impl Platform {
    /// Reads the device tree that the boot protocol passes in x0.
    ///
    /// QEMU enters an ELF without arguments, and then the tree lies where RAM begins.
    pub(crate) fn read(x0: u64) -> Result<Self, PlatformError> {
        let address = if x0 == 0 { RAM_BASE } else { x0 };
        let fdt = arch::fdt_at(address)
            .map_err(|source| PlatformError::Unreadable { address, source })?;
        Ok(Self { fdt })
    }

    /// The command line.
    pub(crate) fn bootargs(&self) -> &'static str {
        let chosen = self.fdt.find_node("/chosen");
        chosen
            .and_then(|chosen| chosen.property("bootargs")?.value_as::<&str>().ok())
            .unwrap_or_default()
    }

    /// Where RAM ends.
    pub(crate) fn ram_end(&self) -> Result<u64, PlatformError> {
        const NAME: &str = "memory";
        let node = self
            .fdt
            .root()
            .children()
            .find(|node| node.name_without_address() == NAME)
            .ok_or(PlatformError::NoNode(NAME))?;
        let Region { base, size } = first_region(NAME, node)?;
        Ok(base.saturating_add(size))
    }

    /// Where the PL011 is.
    pub(crate) fn pl011(&self) -> Result<u64, PlatformError> {
        const NAME: &str = "arm,pl011";
        Ok(first_region(NAME, self.compatible(&[NAME])?)?.base)
    }

    /// Where the GIC's distributor is, and the regions of its redistributors.
    pub(crate) fn gic(
        &self,
    ) -> Result<(Region, impl Iterator<Item = Region> + use<>), PlatformError> {
        const NAME: &str = "arm,gic-v3";
        let node = self.compatible(&[NAME])?;
        // The binding (Linux: Documentation/devicetree/bindings/interrupt-controller/arm,gic-v3.yaml)
        // has the distributor first, then as many regions as this property says.
        let count = match node.property("#redistributor-regions") {
            None => 1,
            Some(property) => property
                .value_as::<u32>()
                .map_err(|_| PlatformError::Property {
                    node: NAME,
                    property: "#redistributor-regions",
                })?,
        };
        let distributor = first_region(NAME, node)?;
        let redistributors = regions(NAME, node)?.skip(1).take(count as usize);
        Ok((distributor, redistributors))
    }

    /// The interrupt of the virtual timer.
    pub(crate) fn virtual_timer(&self) -> Result<IntId, PlatformError> {
        const UNFIT: PlatformError = PlatformError::Property {
            node: "arm,armv8-timer",
            property: "interrupts",
        };
        const PPI: u32 = 1;
        let node = self.compatible(&["arm,armv8-timer"])?;
        let interrupts = node.property("interrupts").ok_or(UNFIT)?;
        // Three cells each: kind, number, flags. The order is that of the binding (Linux:
        // Documentation/devicetree/bindings/timer/arm,arch_timer.yaml): secure and non-secure
        // physical, virtual, hypervisor.
        let virt = interrupts
            .as_prop_encoded_array([1, 1, 1])
            .map_err(|_| UNFIT)?
            .nth(2)
            .ok_or(UNFIT)?;
        match virt.map(|cell| cell.to_int::<u32>()) {
            [Ok(PPI), Ok(number), Ok(_)] if number < IntId::PPI_COUNT => Ok(IntId::ppi(number)),
            _ => Err(UNFIT),
        }
    }

    /// Checks that PSCI is called by HVC, as the payload calls it.
    pub(crate) fn check_psci_conduit(&self) -> Result<(), PlatformError> {
        let node = self.compatible(&["arm,psci-1.0", "arm,psci-0.2"])?;
        let method = node
            .property("method")
            .and_then(|method| method.value_as::<&str>().ok());
        if method == Some("hvc") {
            Ok(())
        } else {
            Err(PlatformError::NotHvc)
        }
    }

    /// Every CPU, in the device tree's order.
    pub(crate) fn mpidrs(
        &self,
    ) -> Result<impl Iterator<Item = Result<Mpidr, PlatformError>> + use<>, PlatformError> {
        let cpus = self.fdt.find_node("/cpus");
        Ok(cpus
            .ok_or(PlatformError::NoNode("/cpus"))?
            .children()
            .filter(|node| node.name_without_address() == "cpu")
            .map(|node| Ok(Mpidr::new(first_region("cpu", node)?.base))))
    }

    /// The first node that is compatible with one of these.
    fn compatible(&self, names: &[&'static str]) -> Result<FdtNode<'static>, PlatformError> {
        self.fdt
            .root()
            .children()
            .find(|node| names.iter().any(|name| node.is_compatible(name)))
            .ok_or(PlatformError::NoNode(names[0]))
    }
}

/// What the `reg` of a node names.
fn regions(
    name: &'static str,
    node: FdtNode<'static>,
) -> Result<impl Iterator<Item = Region>, PlatformError> {
    let Ok(Some(reg)) = node.reg() else {
        return Err(no_reg(name));
    };
    // The payload could not use an address of more than 64 bits.
    Ok(reg.map_while(|reg| {
        Some(Region {
            base: reg.address().ok()?,
            size: reg.size().ok()?,
        })
    }))
}

fn first_region(name: &'static str, node: FdtNode<'static>) -> Result<Region, PlatformError> {
    regions(name, node)?.next().ok_or(no_reg(name))
}

fn no_reg(node: &'static str) -> PlatformError {
    PlatformError::Property {
        node,
        property: "reg",
    }
}
