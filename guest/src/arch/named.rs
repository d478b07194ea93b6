//! The functions that are found by name from outside: where a CPU was interrupted is read from the symbol that it was in. Each is
//! the one place into which its body is inlined, the rings of the doorbell with it.

use crate::stop::{console, handler, ladder, panic, printk, tasks};

macro_rules! named {
    ($($(#[doc = $doc:literal])+ $symbol:literal fn $name:ident($($argument:ident: $type:ty),*) $(-> $returns:ty)? = $body:path;)+) => {
        $(
            $(#[doc = $doc])+
            #[unsafe(export_name = $symbol)]
            #[inline(never)]
            pub(crate) fn $name($($argument: $type),*) $(-> $returns)? {
                $body($($argument),*)
            }
        )+
    };
}

named! {
    /// Writes one record by a driver of the old kind.
    "pl011_console_write" fn pl011_console_write(record: u32, last: bool) -> bool = console::write;
    /// Writes records as nbcon's thread.
    "pl011_console_write_thread" fn pl011_console_write_thread() = console::write_thread;
    /// Writes records as the panicking CPU of nbcon.
    "pl011_console_write_atomic" fn pl011_console_write_atomic(hostile: bool) = console::write_atomic;
    /// Stores a record and has it shown.
    "vprintk_emit" fn vprintk_emit(say: printk::Say) = printk::emit;
    /// Stops the others.
    "smp_send_stop" fn smp_send_stop(crash: bool) = ladder::climb;
    /// Panics.
    "panic" fn vpanic() = panic::panic;
    /// The sender's own note.
    "__crash_kexec" fn crash_kexec() = panic::crash_kexec;
    /// Stops the caller, who has lost the race to panic.
    "panic_smp_self_stop" fn panic_smp_self_stop() -> ! = handler::self_stop;
    /// The handler of an NMI that is no stop.
    "nmi_cpu_backtrace" fn nmi_cpu_backtrace(saved: crate::stop::Mask) = handler::backtrace;
    /// Waits for interrupts.
    "cpu_do_idle" fn cpu_do_idle() -> ! = tasks::idle;
    /// Where a stopped CPU rests.
    "cpu_park_loop" fn cpu_park_loop() -> ! = handler::park;
}
