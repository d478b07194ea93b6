//! Sequences of accesses that drivers make.

use super::*;

/// Linux's pl011_startup once provoked the transmit interrupt so, in loopback and without FIFOs.
#[test]
fn provoking_the_transmit_interrupt() {
    let mut uart = Pl011::new();
    let cr = Control::UARTEN | Control::TXE | Control::LBE;
    let _ = uart.set(Register::Cr, cr.bits());
    let _ = uart.set(Register::LcrH, 0);
    assert_eq!(uart.set(Register::Dr, 0).sent(), b"");
    assert!(!uart.fr().contains(Flag::BUSY));
    assert!(uart.ris().contains(Interrupt::TX));
}

/// earlycon prints on while `set_termios` of the coming console has written back the `UARTCR` of reset.
#[test]
fn earlycon_survives_the_console_that_replaces_it() {
    let mut uart = Pl011::new();
    let old_cr = uart.get(Register::Cr);
    let _ = uart.set(
        Register::LcrH,
        (LineControl::WLEN | LineControl::FEN).bits(),
    );
    let _ = uart.set(Register::Cr, old_cr);
    assert_eq!(uart.write(0, 1, b'x'.into()).sent(), b"x");
    assert!(!uart.fr().contains(Flag::BUSY));
}

/// pl011_console_write: `UARTCR` brackets the record, whose every byte waits for `TXFF`.
#[test]
fn a_console_record_waits_for_the_host() {
    let mut uart = with_fifos();
    let old_cr = uart.get(Register::Cr);
    let _ = uart.set(
        Register::Cr,
        (Control::from_bits_truncate(old_cr) | Control::UARTEN | Control::TXE).bits(),
    );
    let _ = uart.set_sink_full(true);
    let mut wire = Vec::new();
    for byte in *b"SMP: stopping secondary CPUs\n" {
        if uart.fr().contains(Flag::TXFF) {
            wire.extend_from_slice(uart.set_sink_full(false).sent());
            let _ = uart.set_sink_full(true);
        }
        wire.extend_from_slice(uart.set(Register::Dr, byte.into()).sent());
    }
    assert!(uart.fr().contains(Flag::BUSY));
    wire.extend_from_slice(uart.set_sink_full(false).sent());
    assert!(!uart.fr().contains(Flag::BUSY));
    let _ = uart.set(Register::Cr, old_cr);
    assert_eq!(wire, b"SMP: stopping secondary CPUs\n");
}

/// 64 KiB pasted: the host sends when there is room, and sleeps until it is told that there is again; the guest
/// sleeps until the line is up (pl011_int, pl011_fifo_to_tty).
#[test]
fn a_paste_loses_nothing() {
    let paste: Vec<u8> = (0..=u8::MAX).cycle().take(64 << 10).collect();
    let mut uart = with_fifos();
    let _ = uart.set(Register::Imsc, (Interrupt::RX | Interrupt::RT).bits());

    let mut unsent = paste.iter();
    let mut send = |uart: &mut Pl011| {
        for &byte in unsent.by_ref().take(uart.room()) {
            uart.receive(Symbol::Byte(byte));
        }
        if unsent.len() == 0 {
            uart.idle();
        }
    };
    let mut got = Vec::new();
    send(&mut uart);
    while uart.line() {
        assert!(!uart.fr().contains(Flag::RXFE), "an interrupt for nothing");
        while !uart.fr().contains(Flag::RXFE) {
            let read = uart.read(Register::Dr.offset(), 2);
            got.push(read.value);
            if read.effects.room {
                send(&mut uart);
            }
        }
    }
    assert!(got.iter().copied().eq(paste.iter().copied().map(u64::from)));
}
