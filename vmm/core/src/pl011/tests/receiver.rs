//! The receive FIFO, its errors, and the room that the host sees.

use super::*;

#[test]
fn characters_come_out_in_order() {
    let mut uart = with_fifos();
    assert_eq!(uart.room(), 16);
    uart.receive_all(b"hold");
    assert_eq!(uart.room(), 12);
    assert!(!uart.fr().intersects(Flag::RXFE | Flag::RXFF));
    for &byte in b"hold" {
        assert_eq!(uart.get(Register::Dr), byte.into());
    }
    assert!(uart.fr().contains(Flag::RXFE));
    assert_eq!(uart.get(Register::Dr), 0, "an empty FIFO");
}

#[test]
fn the_fifo_is_sixteen_deep() {
    let mut uart = with_fifos();
    uart.receive_all(&[0; 15]);
    assert!(!uart.fr().contains(Flag::RXFF));
    uart.receive(Symbol::Byte(0));
    assert!(uart.fr().contains(Flag::RXFF));
    assert_eq!(uart.room(), 0);
}

#[test]
fn without_fifos_there_is_a_holding_register() {
    let mut uart = Pl011::new();
    assert_eq!(uart.room(), 1);
    uart.receive(Symbol::Byte(b'a'));
    assert_eq!(uart.room(), 0);
    assert!(uart.fr().contains(Flag::RXFF) && !uart.fr().contains(Flag::RXFE));
    assert!(uart.ris().contains(Interrupt::RX));
    uart.receive(Symbol::Byte(b'b'));
    assert!(uart.ris().contains(Interrupt::OE));
    assert_eq!(uart.get(Register::Dr), b'a'.into());
    assert!(!uart.ris().intersects(Interrupt::RX | Interrupt::RT));
    assert!(uart.fr().contains(Flag::RXFE));
}

#[test]
fn overrun() {
    // 2.4.3, Overrun bit; 3.3.1 and 3.3.2.
    let mut uart = with_fifos();
    uart.receive_all(b"0123456789abcdef");
    assert!(!uart.ris().contains(Interrupt::OE));
    uart.receive(Symbol::Byte(b'!'));
    assert!(uart.ris().contains(Interrupt::OE));
    assert_eq!(uart.get(Register::RsrEcr), 0b1000, "set at once");
    assert_eq!(uart.get(Register::Dr), b'0'.into(), "the FIFO stays valid");
    uart.receive(Symbol::Byte(b'g'));
    for &byte in b"123456789abcdef" {
        assert_eq!(uart.get(Register::Dr), byte.into());
    }
    assert_eq!(
        uart.get(Register::Dr),
        0x800 | u16::from(b'g'),
        "the next character that found a place tells of it"
    );
    uart.receive(Symbol::Byte(b'h'));
    assert_eq!(uart.get(Register::Dr), b'h'.into(), "and it alone");
    assert_eq!(uart.get(Register::RsrEcr), 0b1000);
    let _ = uart.set(Register::RsrEcr, 0);
    assert_eq!(uart.get(Register::RsrEcr), 0);
}

#[test]
fn errors_belong_to_their_character() {
    let table = [
        (Symbol::Byte(b'a'), 0x061, 0b000, Interrupt::empty()),
        (Symbol::FramingError(b'b'), 0x162, 0b001, Interrupt::FE),
        (Symbol::ParityError(b'c'), 0x263, 0b010, Interrupt::PE),
        (Symbol::Break, 0x400, 0b100, Interrupt::BE),
    ];
    let mut uart = with_fifos();
    for (symbol, ..) in table {
        uart.receive(symbol);
    }
    for (_, data, status, _) in table {
        assert_eq!(uart.get(Register::Dr), data);
        // 3.3.2: the status is that of the character read before it.
        assert_eq!(uart.get(Register::RsrEcr), status);
    }
    let _ = uart.set(Register::RsrEcr, 0xFF);
    assert_eq!(uart.get(Register::RsrEcr), 0);

    for (symbol, _, _, interrupt) in table {
        let mut uart = with_fifos();
        uart.receive(symbol);
        assert_eq!(uart.ris(), interrupt, "{symbol:?}");
    }
}

#[test]
fn a_byte_read_takes_the_character_without_its_status() {
    let mut uart = with_fifos();
    uart.receive(Symbol::FramingError(b'b'));
    assert_eq!(uart.read(Register::Dr.offset(), 1).value, b'b'.into());
    assert_eq!(uart.get(Register::RsrEcr), 0b001);
    assert!(uart.fr().contains(Flag::RXFE));
}

#[test]
fn a_disabled_receiver_hears_nothing_and_keeps_what_it_has() {
    let mut uart = with_fifos();
    uart.receive(Symbol::Byte(b'a'));
    let _ = uart.set(Register::Cr, (Control::UARTEN | Control::TXE).bits());
    assert_eq!(uart.room(), 0);
    uart.receive(Symbol::Byte(b'b'));
    assert_eq!(uart.get(Register::Dr), b'a'.into());
    assert!(uart.fr().contains(Flag::RXFE));
    assert!(!uart.ris().contains(Interrupt::OE));

    let effects = uart.set(Register::Cr, (Control::UARTEN | Control::RESET).bits());
    assert!(effects.room, "the host may go on");
    assert_eq!(uart.room(), 16);
}

#[test]
fn a_guest_that_never_writes_the_control_register_can_read() {
    let mut uart = Pl011::new();
    assert!(!Control::RESET.contains(Control::UARTEN));
    uart.receive(Symbol::Byte(b'k'));
    assert_eq!(uart.get(Register::Dr), b'k'.into());
}

#[test]
fn disabling_the_fifos_flushes_them_and_enabling_does_not() {
    let mut uart = with_fifos();
    uart.receive_all(&[b'x'; 16]);
    let effects = uart.set(Register::LcrH, LineControl::WLEN.bits());
    assert!(effects.room);
    assert!(uart.fr().contains(Flag::RXFE));
    assert!(!uart.ris().intersects(Interrupt::RX | Interrupt::RT));

    uart.receive(Symbol::Byte(b'y'));
    let _ = uart.set(Register::LcrH, LineControl::FEN.bits());
    assert_eq!(uart.room(), 15);
    assert_eq!(uart.get(Register::Dr), b'y'.into());
    assert!(!uart.ris().contains(Interrupt::RX));
}

#[test]
fn room_that_appears_is_announced_once() {
    let mut uart = with_fifos();
    uart.receive_all(&[b'x'; 16]);
    let _ = uart.read(Register::Fr.offset(), 2);
    assert!(uart.read(Register::Dr.offset(), 2).effects.room);
    assert!(!uart.read(Register::Dr.offset(), 2).effects.room);
}

#[test]
fn rts_flow_control_ends_room_at_the_level() {
    // 2.6.1.
    let mut uart = with_fifos();
    let _ = uart.set(Register::Cr, (Control::RESET | Control::RTSEN).bits());
    assert_eq!(uart.room(), 8);
    uart.receive_all(&[b'x'; 8]);
    assert_eq!(uart.room(), 0);
    assert!(uart.ris().contains(Interrupt::RX));
    assert!(uart.read(Register::Dr.offset(), 2).effects.room);
    assert_eq!(uart.room(), 1);
}

#[test]
fn a_throttled_driver_with_hardware_flow_control_hears_nothing() {
    // Linux with CRTSCTS: pl011_set_mctrl clears RTSEN and RTS, and CTSEN stays.
    let mut uart = with_fifos();
    let throttled = Control::RESET | Control::UARTEN | Control::CTSEN;
    let _ = uart.set(Register::Cr, throttled.bits());
    assert_eq!(uart.room(), 0);
    let effects = uart.set(Register::Cr, (throttled | Control::RTS).bits());
    assert!(effects.room);
    assert_eq!(uart.room(), 16);
}
