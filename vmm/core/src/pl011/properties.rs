//! What holds whatever the guest and the host do.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::spec::{Control, FIFO_DEPTH, Flag, LineControl, Register};
use super::{Effects, Pl011, Symbol};

/// One step of the world.
#[derive(Clone, Debug)]
enum Event {
    Read { offset: u16, size: u8 },
    Write { offset: u16, size: u8, value: u64 },
    Receive(Symbol),
    Idle,
    SinkFull(bool),
}

fn offset() -> impl Strategy<Value = u16> {
    prop_oneof![
        8 => prop::sample::select(&Register::ALL[..]).prop_map(Register::offset),
        4 => Just(Register::Dr.offset()),
        1 => any::<u16>(),
    ]
}

fn size() -> impl Strategy<Value = u8> {
    prop_oneof![8 => prop::sample::select(vec![1, 2, 4, 8]), 1 => any::<u8>()]
}

fn symbol() -> impl Strategy<Value = Symbol> {
    prop_oneof![
        6 => any::<u8>().prop_map(Symbol::Byte),
        1 => any::<u8>().prop_map(Symbol::ParityError),
        1 => any::<u8>().prop_map(Symbol::FramingError),
        1 => Just(Symbol::Break),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (offset(), size()).prop_map(|(offset, size)| Event::Read { offset, size }),
        4 => (offset(), size(), any::<u64>())
            .prop_map(|(offset, size, value)| Event::Write { offset, size, value }),
        6 => symbol().prop_map(Event::Receive),
        1 => Just(Event::Idle),
        1 => any::<bool>().prop_map(Event::SinkFull),
    ]
}

/// A guest that makes sense more often: whole halfwords, FIFOs mostly on, the transmitter mostly on the wire.
fn tame_event() -> impl Strategy<Value = Event> {
    let write = |register: Register, value| Event::Write {
        offset: register.offset(),
        size: 2,
        value,
    };
    prop_oneof![
        8 => Just(Event::Read { offset: Register::Dr.offset(), size: 2 }),
        8 => any::<u8>().prop_map(move |byte| write(Register::Dr, byte.into())),
        12 => symbol().prop_map(Event::Receive),
        1 => any::<u8>().prop_map(move |value| write(Register::LcrH, value.into())),
        1 => Just(write(Register::LcrH, LineControl::FEN.bits().into())),
        1 => any::<u16>().prop_map(move |value| {
            write(Register::Cr, (value & !Control::LBE.bits()).into())
        }),
        2 => Just(write(Register::Cr, Control::RESET.bits().into())),
        1 => any::<u8>().prop_map(move |value| write(Register::Ifls, value.into())),
        1 => any::<u16>().prop_map(move |value| write(Register::Icr, value.into())),
        1 => Just(Event::Idle),
        1 => any::<bool>().prop_map(Event::SinkFull),
    ]
}

fn apply(uart: &mut Pl011, event: &Event) -> Effects {
    match *event {
        Event::Read { offset, size } => uart.read(offset, size).effects,
        Event::Write {
            offset,
            size,
            value,
        } => uart.write(offset, size, value),
        Event::Receive(symbol) => {
            uart.receive(symbol);
            Effects::default()
        }
        Event::Idle => {
            uart.idle();
            Effects::default()
        }
        Event::SinkFull(full) => uart.set_sink_full(full),
    }
}

fn peek(uart: &mut Pl011, register: Register) -> u16 {
    let before = uart.clone();
    let read = uart.read(register.offset(), 2);
    assert_eq!(*uart, before, "only a read of UARTDR changes the device");
    u16::try_from(read.value).unwrap()
}

/// The character and flags that a symbol must be read as, by 3.3.1.
fn as_data(symbol: Symbol) -> u16 {
    match symbol {
        Symbol::Byte(byte) => byte.into(),
        Symbol::FramingError(byte) => 0x100 | u16::from(byte),
        Symbol::ParityError(byte) => 0x200 | u16::from(byte),
        Symbol::Break => 0x400,
    }
}

proptest! {
    /// No sequence panics, the line is up exactly while an unmasked cause is, and the flags agree with each other.
    #[test]
    fn the_line_has_a_cause(events in prop::collection::vec(event(), 0..200)) {
        let mut uart = Pl011::new();
        for event in &events {
            let room = uart.room();
            let effects = apply(&mut uart, event);
            prop_assert_eq!(
                effects.room,
                room == 0 && uart.room() > 0,
                "room appears only by the guest's doing, and never unannounced"
            );

            let (raw, mask) = (peek(&mut uart, Register::Ris), peek(&mut uart, Register::Imsc));
            prop_assert_eq!(uart.line(), raw & mask != 0);
            prop_assert_eq!(peek(&mut uart, Register::Mis), raw & mask);

            let flags = Flag::from_bits(peek(&mut uart, Register::Fr)).unwrap();
            prop_assert!(!flags.contains(Flag::TXFE | Flag::TXFF));
            prop_assert!(!flags.contains(Flag::RXFE | Flag::RXFF));
            prop_assert_eq!(flags.contains(Flag::BUSY), !flags.contains(Flag::TXFE));
            prop_assert!(uart.room() == 0 || !flags.contains(Flag::RXFF));
            prop_assert!(effects.sent().len() <= FIFO_DEPTH);
        }
    }

    /// The host obeys `room()`: what it sends is read once, in order and unharmed, unless the guest flushed it. What
    /// the guest writes leaves once and in order, unless it was refused or the guest flushed it.
    #[test]
    fn nothing_is_lost_or_doubled(events in prop::collection::vec(tame_event(), 0..400)) {
        let mut uart = Pl011::new();
        let mut to_guest = VecDeque::new();
        let mut to_host = VecDeque::new();
        let (mut fen, mut sink_full) = (false, false);
        for event in &events {
            match *event {
                Event::Receive(symbol) if uart.room() > 0 => to_guest.push_back(as_data(symbol)),
                Event::Receive(_) => continue,
                _ => {}
            }
            let effects = if let Event::Read { offset, size } = *event {
                let read = uart.read(offset, size);
                prop_assert_eq!(read.value, to_guest.pop_front().unwrap_or(0).into());
                read.effects
            } else {
                apply(&mut uart, event)
            };
            if let Event::Write { offset, value, .. } = *event {
                if offset == Register::Dr.offset() && effects.refused.is_none() {
                    to_host.push_back(value as u8);
                }
                if offset == Register::LcrH.offset() {
                    let enabled = value & u64::from(LineControl::FEN.bits()) != 0;
                    if fen && !enabled {
                        to_guest.clear();
                        to_host.clear();
                    }
                    fen = enabled;
                }
            }
            if let Event::SinkFull(full) = *event {
                sink_full = full;
            }
            for &byte in effects.sent() {
                prop_assert_eq!(Some(byte), to_host.pop_front());
            }
            let stopped = peek(&mut uart, Register::Cr) & Control::TXE.bits() == 0;
            prop_assert!(to_host.is_empty() || sink_full || stopped, "kept without a reason");

            let flags = Flag::from_bits(peek(&mut uart, Register::Fr)).unwrap();
            prop_assert_eq!(flags.contains(Flag::RXFE), to_guest.is_empty());
            prop_assert_eq!(flags.contains(Flag::TXFE), to_host.is_empty());
            let raw = peek(&mut uart, Register::Ris);
            prop_assert_eq!(raw & 0x400, 0, "no overrun");
            if uart.room() == 0 || matches!(event, Event::Idle) {
                prop_assert!(to_guest.is_empty() || raw & 0x40 != 0, "received and unnoticed");
            }
        }
    }
}
