//! Chapter 3: what each register is after reset, keeps, and refuses.

use super::*;

#[test]
fn reset_values() {
    // 3.2, Table 3-1. UARTFR: the modem lines of our host are asserted. UARTICR is write-only.
    let table = [
        (Register::Dr, 0),
        (Register::RsrEcr, 0),
        (Register::Fr, 0b0_1001_0111),
        (Register::Ilpr, 0),
        (Register::Ibrd, 0),
        (Register::Fbrd, 0),
        (Register::LcrH, 0),
        (Register::Cr, 0x300),
        (Register::Ifls, 0x12),
        (Register::Imsc, 0),
        (Register::Ris, 0),
        (Register::Mis, 0),
        (Register::Icr, 0),
        (Register::Dmacr, 0),
    ];
    let mut uart = Pl011::new();
    for (register, value) in table {
        assert_eq!(uart.get(register), value, "{register:?}");
    }
    assert!(!uart.line());
    assert_eq!(uart, Pl011::default());
}

#[test]
fn offsets() {
    // 3.2, Table 3-1, in its order.
    let table = [
        0x000, 0x004, 0x018, 0x020, 0x024, 0x028, 0x02C, 0x030, 0x034, 0x038, 0x03C, 0x040, 0x044,
        0x048, 0xFE0, 0xFE4, 0xFE8, 0xFEC, 0xFF0, 0xFF4, 0xFF8, 0xFFC,
    ];
    assert_eq!(Register::ALL.map(Register::offset), table);
    for offset in 0..=u16::MAX {
        let register = Register::at(offset);
        assert_eq!(register.is_some(), table.contains(&offset), "{offset:#x}");
        assert!(register.is_none_or(|register| register.offset() == offset));
    }
}

#[test]
fn identification_binds_linux_to_sixteen_deep_fifos() {
    let mut uart = Pl011::new();
    let mut word = |base: u16| {
        (0..4).fold(0, |word, byte| {
            word | uart.read(base + 4 * byte, 4).value << (8 * byte)
        })
    };
    let (periphid, pcellid) = (word(0xFE0), word(0xFF0));
    // struct amba_id of amba-pl011.c, AMBA_CID and AMBA_REV_BITS of include/linux/amba/bus.h.
    assert_eq!(periphid & 0x000F_FFFF, 0x0004_1011);
    assert!((periphid >> 20 & 0xF) < 3, "Linux would assume 32");
    assert_eq!(pcellid, 0xB105_F00D);
    assert_eq!(FIFO_DEPTH, 16);
}

#[test]
fn writable_registers_keep_their_bits_and_no_others() {
    let table = [
        (Register::Ilpr, 0x00FF),
        (Register::Ibrd, 0xFFFF),
        (Register::Fbrd, 0x003F),
        (Register::LcrH, 0x00FF),
        (Register::Cr, 0xFF87),
        (Register::Ifls, 0x003F),
        (Register::Imsc, 0x07FF),
        (Register::Dmacr, 0),
    ];
    for (register, writable) in table {
        let mut uart = Pl011::new();
        for value in [0xFFFF, 0x5A5A, 0xA5A5, 0] {
            let _ = uart.set(register, value);
            assert_eq!(uart.get(register), value & writable, "{register:?}");
        }
    }
}

#[test]
fn read_only_registers_ignore_writes_and_say_so() {
    for register in Register::ALL {
        let mut uart = with_fifos();
        uart.receive(Symbol::Byte(b'x'));
        let before = uart.clone();
        let effects = uart.set(register, 0);
        let read_only = matches!(register, Register::Fr | Register::Ris | Register::Mis)
            || register.offset() >= Register::PeriphId0.offset();
        assert_eq!(
            effects.refused,
            read_only.then_some(Refused::ReadOnly),
            "{register:?}"
        );
        assert!(!read_only || uart == before, "{register:?}");
    }
}

#[test]
fn the_interrupt_clear_register_cannot_be_read() {
    let read = Pl011::new().read(Register::Icr.offset(), 2);
    assert_eq!(read.value, 0);
    assert_eq!(read.effects.refused, Some(Refused::WriteOnly));
}

#[test]
fn dma_is_refused_but_switching_it_off_is_not() {
    let mut uart = Pl011::new();
    assert_eq!(uart.set(Register::Dmacr, 0).refused, None);
    assert_eq!(
        uart.set(Register::Dmacr, 1).refused,
        Some(Refused::NotModelled)
    );
    assert_eq!(uart, Pl011::new());
}

#[test]
fn reserved_offsets_read_as_zero_and_ignore_writes() {
    for offset in [
        0x001, 0x002, 0x008, 0x01C, 0x04C, 0x080, 0x08C, 0xFDC, 0x1000,
    ] {
        let mut uart = Pl011::new();
        let read = uart.read(offset, 4);
        assert_eq!(
            (read.value, read.effects.refused),
            (0, Some(Refused::Reserved))
        );
        let effects = uart.write(offset, 4, 0xFFFF_FFFF);
        assert_eq!(effects.refused, Some(Refused::Reserved));
        assert_eq!(uart, Pl011::new(), "{offset:#x}");
    }
}

#[test]
fn byte_halfword_and_word_access() {
    let mut uart = Pl011::new();
    for (size, read_back) in [(1, 0x00BC), (2, 0x9ABC), (4, 0x9ABC)] {
        let effects = uart.write(Register::Ibrd.offset(), size, 0x1234_5678_9ABC);
        assert_eq!(effects, Effects::default());
        assert_eq!(uart.get(Register::Ibrd), read_back);
    }
    for (size, value) in [(1, 0xBC), (2, 0x9ABC), (4, 0x9ABC)] {
        let read = uart.read(Register::Ibrd.offset(), size);
        assert_eq!((read.value, read.effects), (value, Effects::default()));
    }
}

#[test]
fn other_sizes_are_refused() {
    for size in [0, 3, 8, u8::MAX] {
        let mut uart = Pl011::new();
        uart.receive(Symbol::Byte(b'x'));
        let before = uart.clone();
        let read = uart.read(Register::Dr.offset(), size);
        assert_eq!((read.value, read.effects.refused), (0, Some(Refused::Size)));
        let effects = uart.write(Register::Dr.offset(), size, 0x61);
        assert_eq!(effects.sent(), b"");
        assert_eq!(effects.refused, Some(Refused::Size));
        assert_eq!(uart, before);
    }
}
