//! 2.8, and the four interrupt registers.

use super::*;

/// `UARTIFLS` with both FIFOs at this selection, and the fill it means (3.3.9).
const LEVELS: [(u16, usize); 8] = [
    (0b000, 2),
    (0b001, 4),
    (0b010, 8),
    (0b011, 12),
    (0b100, 14),
    (0b101, 8),
    (0b110, 8),
    (0b111, 8),
];

#[test]
fn receive_rises_at_its_level_and_falls_below_it() {
    for (select, level) in LEVELS {
        let mut uart = with_fifos();
        let _ = uart.set(Register::Ifls, select << 3);
        uart.receive_all(&vec![b'x'; level - 1]);
        assert!(!uart.ris().contains(Interrupt::RX), "{level}");
        uart.receive_all(b"xx");
        assert!(uart.ris().contains(Interrupt::RX), "{level}");
        let _ = uart.get(Register::Dr);
        assert!(uart.ris().contains(Interrupt::RX), "still at {level}");
        let _ = uart.get(Register::Dr);
        assert!(!uart.ris().contains(Interrupt::RX), "below {level}");
    }
}

#[test]
fn receive_comes_of_passing_the_level() {
    // 3.3.9: not of being above it.
    let mut uart = with_fifos();
    uart.receive_all(&[b'x'; 10]);
    let _ = uart.set(Register::Icr, Interrupt::RX.bits());
    uart.receive(Symbol::Byte(b'x'));
    assert!(!uart.ris().contains(Interrupt::RX));
    let _ = uart.set(Register::Ifls, 0);
    assert!(!uart.ris().contains(Interrupt::RX));
}

#[test]
fn transmit_falls_above_its_level_and_rises_at_it() {
    for (select, level) in LEVELS {
        let mut uart = with_fifos();
        let _ = uart.set(Register::Ifls, select);
        let _ = uart.set(Register::Dr, 0);
        let _ = uart.set_sink_full(true);
        for _ in 0..level {
            let _ = uart.set(Register::Dr, 0);
        }
        assert!(uart.ris().contains(Interrupt::TX), "still at {level}");
        let _ = uart.set(Register::Dr, 0);
        assert!(!uart.ris().contains(Interrupt::TX), "above {level}");
        let _ = uart.set_sink_full(false);
        assert!(uart.ris().contains(Interrupt::TX), "drained");
    }
}

#[test]
fn transmit_without_fifos() {
    // 2.8.3: asserted when there is no data in the single location, cleared by a write.
    let mut uart = Pl011::new();
    let _ = uart.set(Register::Dr, 0);
    assert!(uart.ris().contains(Interrupt::TX));
    let _ = uart.set_sink_full(true);
    let _ = uart.set(Register::Dr, 0);
    assert!(!uart.ris().contains(Interrupt::TX));
    let _ = uart.set_sink_full(false);
    assert!(uart.ris().contains(Interrupt::TX));
}

#[test]
fn transmit_does_not_rise_by_being_enabled() {
    // 2.8.3, Note: not before written data has left.
    let mut uart = with_fifos();
    let _ = uart.set(Register::Imsc, Interrupt::TX.bits());
    assert!(!uart.line());
    let _ = uart.set(Register::Dr, b'a'.into());
    assert!(uart.line());
    let _ = uart.set(Register::Icr, Interrupt::TX.bits());
    assert!(!uart.line());
}

#[test]
fn timeout_waits_for_the_line_to_be_quiet() {
    let mut uart = with_fifos();
    uart.idle();
    assert!(!uart.ris().contains(Interrupt::RT), "nothing received");
    uart.receive_all(b"ab");
    assert!(!uart.ris().contains(Interrupt::RT), "more may follow");
    uart.idle();
    assert!(uart.ris().contains(Interrupt::RT));
    let _ = uart.get(Register::Dr);
    assert!(uart.ris().contains(Interrupt::RT), "one is left");
    let _ = uart.get(Register::Dr);
    assert!(!uart.ris().contains(Interrupt::RT));
}

#[test]
fn timeout_can_be_cleared_until_the_line_is_quiet_again() {
    let mut uart = with_fifos();
    uart.receive(Symbol::Byte(b'a'));
    uart.idle();
    uart.receive(Symbol::Byte(b'b'));
    let _ = uart.set(Register::Icr, Interrupt::RT.bits());
    assert!(!uart.ris().contains(Interrupt::RT));
    uart.idle();
    let _ = uart.set(Register::Icr, Interrupt::RT.bits());
    assert!(uart.ris().contains(Interrupt::RT), "it stays quiet");
}

#[test]
fn a_full_receiver_that_was_cleared_is_not_forgotten() {
    // The host waits for room and will not say idle; the guest waits for an interrupt.
    let mut uart = with_fifos();
    uart.receive_all(&[b'x'; 16]);
    let _ = uart.set(Register::Icr, 0x7FF);
    assert_eq!(uart.ris(), Interrupt::RT);
}

#[test]
fn error_interrupts_are_cleared_by_the_clear_register_only() {
    let mut uart = with_fifos();
    uart.receive(Symbol::Break);
    uart.receive(Symbol::ParityError(0));
    uart.receive(Symbol::FramingError(0));
    for _ in 0..3 {
        let _ = uart.get(Register::Dr);
    }
    let _ = uart.set(Register::RsrEcr, 0);
    let mut pending = Interrupt::BE | Interrupt::PE | Interrupt::FE;
    for interrupt in pending {
        assert_eq!(uart.ris(), pending);
        let _ = uart.set(Register::Icr, interrupt.bits());
        pending.remove(interrupt);
    }
    assert_eq!(uart.ris(), Interrupt::empty());
}

#[test]
fn every_interrupt_reaches_the_line_through_its_own_mask_bit_only() {
    // A device with all eleven raised.
    let mut uart = with_fifos();
    for symbol in [
        Symbol::Break,
        Symbol::ParityError(0),
        Symbol::FramingError(0),
    ] {
        uart.receive(symbol);
    }
    uart.receive_all(&[0; 14]);
    uart.idle();
    let _ = uart.set(Register::Dr, 0);
    let _ = loopback(&mut uart, Control::OUT2);
    assert_eq!(uart.ris(), Interrupt::all());
    assert!(!uart.line());

    for interrupt in Interrupt::all() {
        let _ = uart.set(Register::Imsc, interrupt.bits());
        assert!(uart.line());
        assert_eq!(uart.get(Register::Mis), interrupt.bits());
    }
    for interrupt in Interrupt::all() {
        let mut uart = Pl011::new();
        let _ = uart.set(Register::Imsc, (!interrupt).bits());
        assert_eq!(uart.get(Register::Mis), 0);
        assert!(!uart.line());
    }
}
