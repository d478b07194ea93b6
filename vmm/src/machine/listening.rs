//! Whether the guest hears what comes, or would lose it.
//!
//! A PL011 receives from reset on, but no driver listens then, and Linux throws away what it finds in the FIFO when it opens the port
//! (`pl011_enable_interrupts`: "Drain the RX FIFO explicitly"). A person sees on the screen when it is time to type; a pipe does not.
//! The device stays a PL011: it is the bus that holds back what is sent to a guest that does not listen, as a careful peer would.

use vmm_core::pl011::Pl011;
use vmm_core::pl011::spec::{Control, Flag, Interrupt, Register};

/// So many looks at an idle `UARTFR` in a row, and nothing else: the guest waits for a character.
///
/// A driver that only sends looks at `UARTFR` too, but it looks for `TXFF` or `BUSY`, and goes on to something else when they are clear:
/// Linux's earlycon looks twice between two characters (for `BUSY` after the one, for `TXFF` before the next), and then the drain begins
/// after the look of `pl011_startup` at the modem's lines.
const LOOKS: u8 = 16;

/// What the guest's accesses tell about it.
#[derive(Clone, Debug, Default)]
pub(super) struct Listening {
    /// It has written `UARTCR`, and so knows what `UARTEN` is for.
    controls: bool,
    looks: u8,
}

impl Listening {
    /// The guest has read a register; the flags are those before that.
    pub(super) fn read(&mut self, register: Option<Register>, before: Flag) {
        let idle = before.contains(Flag::RXFE) && !before.intersects(Flag::TXFF | Flag::BUSY);
        self.looks = match register {
            Some(Register::Fr) if idle => self.looks.saturating_add(1),
            // Somebody who does not look at the flags (kvm-unit-tests' `__getchar`), and takes zero for nothing.
            Some(Register::Dr) if before.contains(Flag::RXFE) => LOOKS,
            // It has waited for a character, sees it, or takes it, and is likely to take the next.
            Some(Register::Fr | Register::Dr) if !before.contains(Flag::RXFE) => self.looks,
            _ => 0,
        };
    }

    /// The guest has written a register.
    pub(super) fn write(&mut self, register: Option<Register>) {
        self.looks = 0;
        self.controls |= register == Some(Register::Cr);
    }

    /// Whether it listens: it takes interrupts of the receiver, or it waits for a character at this moment.
    ///
    /// Interrupts alone would not do: Linux unmasks them in `pl011_hwinit`, masks them again in `pl011_allocate_irq`, and only then drains
    /// the FIFO. Before its first drain it has not set `UARTEN`, before a later one it has cleared `RXE`, without which there is no room.
    /// A guest that never writes `UARTCR` leaves that to a firmware, which is not here, and shall hear nevertheless.
    ///
    /// What is unmasked says more than that it was so once: Linux masks the receiver's interrupts again when the port is closed, and when
    /// nobody reads what has come (`pl011_throttle_rx`).
    pub(super) fn is(&self, device: &Pl011) -> bool {
        let enabled = !self.controls || device.control().contains(Control::UARTEN);
        let interrupts = device.unmasked().intersects(Interrupt::RX | Interrupt::RT);
        enabled && interrupts || self.looks >= LOOKS
    }
}

#[cfg(test)]
mod tests {
    use vmm_core::pl011::spec::{Control, Interrupt, LineControl, Register};
    use vmm_core::pl011::{Pl011, Symbol};

    use super::{LOOKS, Listening};

    #[derive(Default)]
    struct Guest {
        device: Pl011,
        listening: Listening,
    }

    impl Guest {
        fn read(&mut self, register: Register) -> u16 {
            let before = self.device.flags();
            let read = self.device.read(register.offset(), 4);
            self.listening.read(Some(register), before);
            read.value as u16
        }

        fn write(&mut self, register: Register, value: u16) {
            let _ = self.device.write(register.offset(), 4, value.into());
            self.listening.write(Some(register));
        }

        fn listens(&self) -> bool {
            self.listening.is(&self.device) && self.device.room() > 0
        }

        /// As `pl011_putc` of Linux's earlycon prints.
        fn earlycon(&mut self, text: &str) {
            for byte in text.bytes() {
                self.read(Register::Fr);
                self.write(Register::Dr, byte.into());
                self.read(Register::Fr);
            }
        }
    }

    const RECEIVER: u16 = Interrupt::RX.union(Interrupt::RT).bits();
    const RUNNING: u16 = Control::UARTEN
        .union(Control::RXE)
        .union(Control::TXE)
        .bits();

    /// As `pl011_hwinit` and `pl011_allocate_irq` of Linux do; true if the guest seemed to listen on the way.
    fn hardware_init(guest: &mut Guest) -> bool {
        guest.write(Register::Icr, 0x7ff);
        let masks = guest.read(Register::Imsc);
        guest.write(Register::Imsc, RECEIVER);
        let listened = guest.listens();
        guest.write(Register::Imsc, masks);
        listened
    }

    /// As the rest of `pl011_startup`.
    fn enable(guest: &mut Guest) -> bool {
        guest.write(Register::Cr, RUNNING);
        guest.read(Register::Fr);
        guest.write(Register::Icr, RECEIVER);
        guest.read(Register::Fr);
        let listened = guest.listens();
        guest.write(Register::Imsc, RECEIVER);
        listened
    }

    #[test]
    fn linux_listens_when_it_has_drained_the_fifo_and_not_before() {
        let mut guest = Guest::default();
        guest.earlycon("Booting Linux");
        assert!(!guest.listens());
        // `pl011_set_termios` writes back what it has read.
        let control = guest.read(Register::Cr);
        guest.write(Register::Cr, 0);
        guest.write(Register::LcrH, LineControl::FEN.bits());
        guest.write(Register::Cr, control);
        guest.earlycon("printk: console [ttyAMA0] enabled");
        assert!(!hardware_init(&mut guest));
        assert!(!enable(&mut guest));
        assert!(guest.listens());
    }

    #[test]
    fn linux_that_opens_the_port_again_listens_only_when_it_has_drained_it() {
        let mut guest = Guest::default();
        hardware_init(&mut guest);
        enable(&mut guest);
        // `pl011_shutdown`.
        guest.write(Register::Imsc, 0);
        assert!(!guest.listens());
        guest.write(Register::Cr, (Control::UARTEN | Control::TXE).bits());
        assert!(!hardware_init(&mut guest));
        assert!(!enable(&mut guest));
        assert!(guest.listens());
    }

    #[test]
    fn linux_that_is_throttled_does_not_listen() {
        let mut guest = Guest::default();
        hardware_init(&mut guest);
        enable(&mut guest);
        guest.write(Register::Imsc, Interrupt::TX.bits());
        assert!(!guest.listens());
        guest.write(Register::Imsc, RECEIVER);
        assert!(guest.listens());
    }

    #[test]
    fn a_guest_that_polls_the_flags_listens() {
        let mut guest = Guest::default();
        for _ in 1..LOOKS {
            guest.read(Register::Fr);
            assert!(!guest.listens());
        }
        guest.read(Register::Fr);
        assert!(guest.listens());
        guest.device.receive(Symbol::Byte(b'a'));
        guest.read(Register::Fr);
        assert_eq!(guest.read(Register::Dr), u16::from(b'a'));
        assert!(guest.listens(), "for the next one too");
        guest.write(Register::Dr, b'a'.into());
        assert!(!guest.listens(), "it does something else");
    }

    #[test]
    fn a_guest_that_reads_blindly_listens() {
        let mut guest = Guest::default();
        assert_eq!(guest.read(Register::Dr), 0);
        assert!(guest.listens());
    }

    #[test]
    fn a_guest_that_waits_to_send_does_not_listen() {
        let mut guest = Guest::default();
        let _ = guest.device.set_sink_full(true);
        guest.write(Register::Dr, b'a'.into());
        for _ in 0..2 * LOOKS {
            guest.read(Register::Fr);
        }
        assert!(!guest.listens());
    }

    #[test]
    fn interrupts_do_for_a_guest_that_leaves_the_control_register_to_a_firmware() {
        let mut guest = Guest::default();
        guest.write(Register::Imsc, Interrupt::RT.bits());
        assert!(guest.listens());
    }
}
