//! The payload's room of unsafe: instructions, device registers, the image's entry, statics.
//!
//! Whatever it offers to the rest of the payload is safe to call.

mod devices;
mod entry;
mod instructions;
mod statics;

pub(crate) use devices::{DeviceRegisters, fdt_at, gic};
pub(crate) use entry::start_cpu;
pub(crate) use instructions::{
    dsb_ishst, isb, mask_irq, pmr, set_cpu_index, set_pmr, sev, unmask_irq, wfe,
};
pub(crate) use statics::CONSOLE_LOCK;
