//! The payload's room of unsafe: instructions, device registers, the image's entry, statics.
//!
//! Whatever it offers to the rest of the payload is safe to call.

mod devices;
mod entry;
mod instructions;
mod probes;
mod statics;

pub(crate) use devices::{DeviceRegisters, fdt_at, gic};
pub(crate) use entry::{off_at_once, start_cpu};
pub(crate) use instructions::{
    dsb_ishst, isb, mask_irq, pmr, set_cpu_index, set_pmr, sev, unmask_irq, wfe,
};
pub(crate) use probes::{FREE_RAM, MAPPED, PROBES, WALKS_ASTRAY, enable_probes, map_everything};
pub(crate) use statics::CONSOLE_LOCK;
