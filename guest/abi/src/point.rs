//! Points: the places where a vCPU can be caught.
//!
//! A point is one word with three meanings. In the model it is the step that the CPU is about to take; in the
//! payload it is the sync id that the CPU tells the doorbell before that step; in Linux it is the first place
//! of its list that the kernel at hand has. A subject that has none of them refuses the point by its name.

use core::fmt;

/// Where Linux passes a point.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InLinux {
    /// The entry of the first of these functions that the kernel has as a symbol: statics may be inlined.
    Entry(&'static [&'static str]),
    /// The return from this function to the stop path.
    ReturnOf(&'static str),
    /// A store to this variable, at the CPU's own slot or bit.
    StoreTo(&'static str),
    /// The `n`th write of the console driver's bracket in UARTCR: the first opens the locked section, the
    /// second closes it.
    ControlWrite(u8),
    /// In the middle of a record on the wire: UARTDR has been written, the newline has not.
    MidRecord,
    /// The entry of this function in the middle of a record.
    EntryMidRecord(&'static str),
    /// A write to ICC_SGI1R_EL1 for this SGI: the function that makes it.
    SgiWrite(u8),
    /// The circle in which this function turns for ever.
    CircleOf(&'static str),
    /// The exception vector of this kind, before anything is unmasked.
    Vector(&'static str),
    /// Not by this kernel: by PID 1 of the capture kernel that it has gone to.
    CaptureKernel,
    /// Nowhere: the kernel does it in one place with another point, or not at all.
    Nowhere,
}

macro_rules! points {
    ($($(#[doc = $doc:literal])+ $variant:ident = $id:literal, $name:literal, $linux:expr;)+) => {
        /// A place where a vCPU can be caught: always *before* what the word says.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u16)]
        pub enum Point {
            $($(#[doc = $doc])+ $variant = $id,)+
        }

        impl Point {
            /// All points.
            pub const ALL: &'static [Point] = &[$(Point::$variant,)+];

            /// Its word in scenarios, traces and evidence.
            pub const fn name(self) -> &'static str {
                match self { $(Point::$variant => $name,)+ }
            }

            /// What the CPU is about to do there.
            pub const fn meaning(self) -> &'static str {
                match self { $(Point::$variant => concat!($($doc,)+),)+ }
            }

            /// Where Linux passes it: the first that the kernel at hand has.
            pub const fn linux(self) -> &'static [InLinux] {
                match self { $(Point::$variant => $linux,)+ }
            }
        }
    };
}

points! {
    /// The entry of `panic()`.
    PanicEntry = 1, "panic-entry", &[InLinux::Entry(&["vpanic", "panic"])];
    /// The entry of `machine_restart()`.
    RestartEntry = 2, "restart-entry", &[InLinux::Entry(&["machine_restart"])];
    /// The entry of the stop that the sender calls.
    StopEntry = 3, "stop-entry", &[InLinux::Entry(&["crash_smp_send_stop", "smp_send_stop"])];
    /// Reading who is online, for the first rung.
    MaskRead = 4, "mask-read", &[InLinux::Nowhere];
    /// Saying that it stops the others: the first mask is read, nothing is sent.
    Announce = 16, "announce", &[InLinux::Entry(&["_printk"])];
    /// Writing the SGI of a rung that asks by interrupt.
    IrqSend = 5, "irq-send", &[InLinux::SgiWrite(2)];
    /// Polling, with an interrupt sent.
    IrqWait = 6, "irq-wait", &[InLinux::Entry(&["__delay"])];
    /// Reading who is left, before the message of a later NMI rung.
    NmiMaskRead = 7, "nmi-mask-read", &[InLinux::Nowhere];
    /// Writing the SGI of a rung that asks by NMI.
    NmiSend = 8, "nmi-send", &[InLinux::SgiWrite(3)];
    /// Polling, with an NMI sent.
    NmiWait = 9, "nmi-wait", &[InLinux::Entry(&["__delay"])];
    /// Signalling the SDEI event.
    SdeiSend = 10, "sdei-send", &[InLinux::Entry(&["sdei_nmi_stop_cpus"])];
    /// Polling, with the SDEI event signalled.
    SdeiWait = 11, "sdei-wait", &[InLinux::Entry(&["__delay"])];
    /// Reading who is left, before `failed to stop`.
    FailedRead = 12, "failed-read", &[InLinux::Nowhere];
    /// Returning from the stop.
    StopReturn = 13, "stop-return", &[InLinux::ReturnOf("smp_send_stop")];
    /// Leaving for the capture kernel.
    Kexec = 14, "kexec", &[InLinux::Entry(&["machine_kexec"])];
    /// In the capture kernel's user space; only Linux comes there.
    CaptureUp = 17, "capture-up", &[InLinux::CaptureKernel];
    /// The last flush of the console in panic.
    LastFlush = 15, "last-flush", &[InLinux::Entry(&["console_flush_on_panic"])];
    /// The first instruction of the stop interrupt: nothing is unmasked yet.
    IrqTaken = 20, "irq-taken", &[InLinux::Vector("el1h_64_irq")];
    /// In the stop interrupt, with pseudo-NMIs unmasked and the handler's own steps still to come.
    IrqOpen = 21, "irq-open", &[InLinux::Entry(&["do_handle_IPI", "ipi_handler"])];
    /// The first instruction of the stop NMI.
    NmiTaken = 22, "nmi-taken", &[InLinux::Vector("el1h_64_irq")];
    /// The first instruction of the SDEI handler.
    SdeiTaken = 23, "sdei-taken", &[InLinux::Entry(&["sdei_nmi_handler"])];
    /// Masking interrupts, or all of DAIF, in the handler.
    HandlerMask = 24, "handler-mask", &[InLinux::Nowhere];
    /// Saving the registers.
    Save = 25, "save", &[InLinux::Entry(&["crash_save_cpu"])];
    /// In the middle of the note.
    SaveTorn = 26, "save-torn", &[InLinux::StoreTo("crash_notes")];
    /// The ack of the protocol at hand.
    Ack = 27, "ack", &[InLinux::Entry(&["set_cpu_online"]), InLinux::StoreTo("stop_mask"), InLinux::StoreTo("waiting_for_crash_ipi")];
    /// The mask says offline, the count does not yet.
    Count = 28, "count", &[InLinux::StoreTo("__num_online_cpus")];
    /// Powering off or parking.
    Rest = 29, "rest", &[InLinux::Entry(&["cpu_park_loop", "__cpu_try_die", "cpu_die_early"])];
    /// Stopping itself: the loser of two panics.
    SelfStop = 30, "self-stop", &[InLinux::Entry(&["panic_smp_self_stop"])];
    /// Taking the port lock, interrupts masked.
    ConsoleLock = 40, "console-lock", &[InLinux::Entry(&["pl011_console_write"])];
    /// The lock is taken, no byte is out.
    ConsoleLocked = 41, "console-locked", &[InLinux::ControlWrite(1)];
    /// In the middle of a record, lock held.
    ConsoleMid = 42, "console-mid", &[InLinux::MidRecord];
    /// The record is out, the lock is still held.
    ConsoleUnlock = 43, "console-unlock", &[InLinux::ControlWrite(2)];
    /// The lock is free, the record is not yet counted as shown, interrupts are still masked.
    ConsoleCount = 44, "console-count", &[InLinux::ReturnOf("pl011_console_write")];
    /// In the middle of a record of an nbcon console, where the CPU that panics may take the console over.
    ConsoleSafe = 46, "console-safe", &[InLinux::EntryMidRecord("nbcon_enter_unsafe")];
    /// Waiting for the owner of `console_sem`, interrupts masked.
    ConsoleSpin = 45, "console-spin", &[InLinux::Nowhere];
    /// Going down by hot-unplug.
    Unplug = 50, "unplug", &[InLinux::Entry(&["take_cpu_down"])];
    /// Coming online.
    Online = 51, "online", &[InLinux::Entry(&["secondary_start_kernel"])];
    /// Ordinary code of a CPU that does something else with interrupts masked.
    Masked = 52, "masked", &[InLinux::CircleOf("lkdtm_HARDLOCKUP")];
}

impl Point {
    /// The point of this name.
    pub fn named(name: &str) -> Option<Point> {
        Point::ALL
            .iter()
            .copied()
            .find(|point| point.name() == name)
    }

    /// The sync id that a payload tells the doorbell.
    pub const fn id(self) -> u16 {
        self as u16
    }

    /// The point of this sync id.
    pub fn of_id(id: u16) -> Option<Point> {
        Point::ALL.iter().copied().find(|point| point.id() == id)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_are_one_to_one() {
        for point in Point::ALL {
            assert_eq!(Point::named(point.name()), Some(*point));
            assert_eq!(Point::of_id(point.id()), Some(*point));
            assert!(!point.meaning().is_empty() && !point.linux().is_empty());
        }
    }
}
