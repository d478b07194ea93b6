//! The payload's room of unsafe: instructions, device registers, the image's entry, statics.
//!
//! Whatever it offers to the rest of the payload is safe to call.

mod devices;
mod entry;
mod instructions;
mod named;
mod probes;
mod statics;
mod vectors;

pub(crate) use devices::{DeviceRegisters, fdt_at, gic};
pub(crate) use entry::{off_at_once, start_cpu};
pub(crate) use instructions::{
    dsb_ishst, isb, mask_irq, pmr, set_cpu_index, set_pmr, sev, unmask_irq, wfe,
};
pub(crate) use named::{
    cpu_do_idle, cpu_park_loop, crash_kexec, nmi_cpu_backtrace, panic_smp_self_stop,
    pl011_console_write, pl011_console_write_atomic, pl011_console_write_thread, smp_send_stop,
    vpanic, vprintk_emit,
};
pub(crate) use probes::{FREE_RAM, MAPPED, PROBES, WALKS_ASTRAY, enable_probes, map_everything};
pub(crate) use statics::{
    CONSOLE_LOCK, CONSOLE_SEM, CONSOLE_WAITER, CONSOLE_WRITES, COUNTER, CRASH_STOP, LOG, MAILBOX,
    NBCON, NOTES, ONLINE_COUNT, ONLINE_MASK, PANIC_CPU, PORT_LOCK, STOP_IN_PROGRESS, STOP_MASK,
    SYSTEM_STATE,
};
pub(crate) use vectors::{
    Frame, mask_daif, own_registers, ring, ring_and_open, use_stop_vectors, wait_parked, wedged,
};
