//! 2.4.3, System and diagnostic loopback testing.

use super::*;

#[test]
fn what_is_sent_is_received_and_stays_inside() {
    let mut uart = with_fifos();
    let _ = loopback(&mut uart, Control::empty());
    // A host that can take no more has no part in it.
    let _ = uart.set_sink_full(true);
    assert_eq!(uart.set(Register::Dr, b'a'.into()).sent(), b"");
    assert_eq!(uart.get(Register::Dr), b'a'.into());
}

#[test]
fn the_host_is_disconnected() {
    let mut uart = with_fifos();
    let _ = loopback(&mut uart, Control::empty());
    assert_eq!(uart.room(), 0);
    uart.receive(Symbol::Break);
    assert!(uart.fr().contains(Flag::RXFE));
    let effects = uart.set(Register::Cr, Control::RESET.bits());
    assert!(effects.room);
}

#[test]
fn a_full_receiver_overruns() {
    let mut uart = with_fifos();
    let _ = loopback(&mut uart, Control::empty());
    for byte in b'a'..=b'q' {
        let _ = uart.set(Register::Dr, byte.into());
    }
    assert!(uart.ris().contains(Interrupt::OE));
    for byte in b'a'..=b'p' {
        assert_eq!(uart.get(Register::Dr), byte.into());
    }
}

#[test]
fn modem_outputs_are_modem_inputs() {
    let table = [
        (Control::RTS, Flag::CTS, Interrupt::CTS),
        (Control::DTR, Flag::DSR, Interrupt::DSR),
        (Control::OUT1, Flag::DCD, Interrupt::DCD),
        (Control::OUT2, Flag::RI, Interrupt::RI),
    ];
    let lines = Flag::CTS | Flag::DSR | Flag::DCD | Flag::RI;
    for (output, input, interrupt) in table {
        let mut uart = Pl011::new();
        let _ = loopback(&mut uart, Control::empty());
        assert_eq!(uart.fr() & lines, Flag::empty());
        // CTS, DSR and DCD of the host went away.
        assert_eq!(uart.ris(), Interrupt::CTS | Interrupt::DSR | Interrupt::DCD);
        let _ = uart.set(Register::Icr, 0x7FF);
        let _ = loopback(&mut uart, output);
        assert_eq!(uart.fr() & lines, input);
        assert_eq!(uart.ris(), interrupt);
        let _ = uart.set(Register::Icr, interrupt.bits());
        assert_eq!(uart.ris(), Interrupt::empty());
    }
}

#[test]
fn a_break_is_heard_once_and_not_on_the_wire() {
    let mut uart = with_fifos();
    let _ = loopback(&mut uart, Control::empty());
    let lcr_h = LineControl::FEN | LineControl::BRK;
    assert_eq!(uart.set(Register::LcrH, lcr_h.bits()).break_signal, None);
    let _ = uart.set(Register::LcrH, lcr_h.bits());
    assert_eq!(uart.get(Register::Dr), 0x400);
    assert!(uart.fr().contains(Flag::RXFE));
    assert!(uart.ris().contains(Interrupt::BE));
}

#[test]
fn leaving_loopback_puts_the_break_on_the_wire() {
    let mut uart = with_fifos();
    let _ = loopback(&mut uart, Control::empty());
    let _ = uart.set(Register::LcrH, (LineControl::FEN | LineControl::BRK).bits());
    let effects = uart.set(Register::Cr, Control::RESET.bits());
    assert_eq!(effects.break_signal, Some(true));
}

#[test]
fn cts_flow_control_stops_the_transmitter() {
    // 2.6.2: RTS is CTS here.
    let mut uart = with_fifos();
    let _ = loopback(&mut uart, Control::CTSEN);
    let _ = uart.set(Register::Dr, b'a'.into());
    assert!(uart.fr().contains(Flag::BUSY | Flag::RXFE));
    let _ = loopback(&mut uart, Control::CTSEN | Control::RTS);
    assert!(!uart.fr().contains(Flag::BUSY));
    assert_eq!(uart.get(Register::Dr), b'a'.into());
}

#[test]
fn rts_flow_control_holds_the_transmitter_at_the_level() {
    // 2.6.1 and 2.6.2, end to end.
    let mut uart = with_fifos();
    let _ = loopback(&mut uart, Control::RTSEN | Control::CTSEN);
    let _ = uart.set(Register::Icr, 0x7FF);
    for byte in b'a'..=b'h' {
        assert!(uart.fr().contains(Flag::CTS));
        let _ = uart.set(Register::Dr, byte.into());
    }
    assert!(!uart.fr().intersects(Flag::CTS | Flag::BUSY));
    assert!(uart.ris().contains(Interrupt::CTS));
    let _ = uart.set(Register::Dr, b'i'.into());
    assert!(uart.fr().contains(Flag::BUSY));
    for byte in b'a'..=b'i' {
        assert_eq!(uart.get(Register::Dr), byte.into());
        assert!(!uart.fr().contains(Flag::BUSY));
    }
}
