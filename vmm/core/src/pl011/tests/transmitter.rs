//! The transmit FIFO, the host that is full, and the break.

use super::*;

#[test]
fn a_byte_leaves_as_it_is_written() {
    let mut uart = with_fifos();
    for size in [1, 2, 4] {
        assert_eq!(uart.write(0, size, 0x1_0041).sent(), b"A");
    }
    let flags = uart.fr();
    assert!(flags.contains(Flag::TXFE) && !flags.intersects(Flag::TXFF | Flag::BUSY));
}

#[test]
fn a_guest_that_never_writes_the_control_register_can_write() {
    // kvm-unit-tests and earlycon.
    let mut uart = Pl011::new();
    assert_eq!(uart.set(Register::Dr, b'k'.into()).sent(), b"k");
    assert!(!uart.fr().contains(Flag::BUSY));
}

#[test]
fn a_full_sink_shows_as_busy_and_full() {
    let mut uart = with_fifos();
    assert_eq!(uart.set_sink_full(true), Effects::default());
    for (n, byte) in (b'a'..=b'p').enumerate() {
        assert!(!uart.fr().contains(Flag::TXFF), "after {n}");
        assert_eq!(uart.set(Register::Dr, byte.into()), Effects::default());
        assert!(uart.fr().contains(Flag::BUSY));
        assert!(!uart.fr().contains(Flag::TXFE));
    }
    assert!(uart.fr().contains(Flag::TXFF));
    assert_eq!(
        uart.set(Register::Dr, b'!'.into()).refused,
        Some(Refused::TransmitFifoFull)
    );
    assert_eq!(uart.set_sink_full(false).sent(), b"abcdefghijklmnop");
    assert!(!uart.fr().intersects(Flag::BUSY | Flag::TXFF));
    assert!(uart.fr().contains(Flag::TXFE));
    assert_eq!(uart.set_sink_full(false).sent(), b"");
}

#[test]
fn a_full_sink_without_fifos() {
    let mut uart = Pl011::new();
    let _ = uart.set_sink_full(true);
    assert_eq!(uart.set(Register::Dr, b'a'.into()), Effects::default());
    assert!(uart.fr().contains(Flag::TXFF | Flag::BUSY));
    assert!(uart.set(Register::Dr, b'b'.into()).refused.is_some());
    assert_eq!(uart.set_sink_full(false).sent(), b"a");
}

#[test]
fn a_disabled_transmitter_keeps_its_characters() {
    let mut uart = with_fifos();
    let _ = uart.set(Register::Cr, (Control::UARTEN | Control::RXE).bits());
    assert_eq!(uart.set(Register::Dr, b'a'.into()).sent(), b"");
    // 3.3.3: BUSY is set regardless of whether the UART is enabled.
    assert!(uart.fr().contains(Flag::BUSY));
    let effects = uart.set(Register::Cr, (Control::UARTEN | Control::TXE).bits());
    assert_eq!(effects.sent(), b"a");
}

#[test]
fn disabling_the_fifos_flushes_what_waits() {
    // 3.3.8, Programming the control registers.
    let mut uart = with_fifos();
    let _ = uart.set_sink_full(true);
    let _ = uart.set(Register::Dr, b'a'.into());
    let _ = uart.set(Register::LcrH, 0);
    assert!(uart.fr().contains(Flag::TXFE) && !uart.fr().contains(Flag::BUSY));
    assert_eq!(uart.set_sink_full(false).sent(), b"");
}

#[test]
fn a_guests_break_is_seen_from_begin_to_end() {
    let mut uart = with_fifos();
    let lcr_h = LineControl::WLEN | LineControl::FEN;
    let effects = uart.set(Register::LcrH, (lcr_h | LineControl::BRK).bits());
    assert_eq!(effects.break_signal, Some(true));
    let effects = uart.set(Register::Dr, b'a'.into());
    assert_eq!((effects.sent(), effects.break_signal), (&b"a"[..], None));
    let effects = uart.set(Register::LcrH, lcr_h.bits());
    assert_eq!(effects.break_signal, Some(false));
}

#[test]
fn cts_flow_control_finds_the_host_always_ready() {
    let mut uart = with_fifos();
    let _ = uart.set(Register::Cr, (Control::RESET | Control::CTSEN).bits());
    assert_eq!(uart.set(Register::Dr, b'a'.into()).sent(), b"a");
}
