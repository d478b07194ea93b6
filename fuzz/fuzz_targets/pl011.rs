//! The PL011 between any guest and any host: nothing panics, and the line is up exactly while an unmasked cause is.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vmm_core::pl011::spec::{FIFO_DEPTH, Register};
use vmm_core::pl011::{Effects, Pl011, Symbol};

#[derive(Arbitrary, Debug)]
enum Event {
    Read {
        offset: u16,
        size: u8,
    },
    Write {
        offset: u16,
        size: u8,
        value: u64,
    },
    /// Of a register, as drivers make them.
    Set {
        register: u8,
        value: u16,
    },
    Byte(u8),
    FramingError(u8),
    ParityError(u8),
    Break,
    Idle,
    SinkFull(bool),
}

fn apply(uart: &mut Pl011, event: &Event) -> Effects {
    let symbol = match *event {
        Event::Read { offset, size } => return uart.read(offset, size).effects,
        Event::Write {
            offset,
            size,
            value,
        } => return uart.write(offset, size, value),
        Event::Set { register, value } => {
            let register = Register::ALL[usize::from(register) % Register::ALL.len()];
            return uart.write(register.offset(), 2, value.into());
        }
        Event::Idle => {
            uart.idle();
            return Effects::default();
        }
        Event::SinkFull(full) => return uart.set_sink_full(full),
        Event::Byte(byte) => Symbol::Byte(byte),
        Event::FramingError(byte) => Symbol::FramingError(byte),
        Event::ParityError(byte) => Symbol::ParityError(byte),
        Event::Break => Symbol::Break,
    };
    uart.receive(symbol);
    Effects::default()
}

fuzz_target!(|events: Vec<Event>| {
    let mut uart = Pl011::new();
    for event in &events {
        let effects = apply(&mut uart, event);
        assert!(effects.sent().len() <= FIFO_DEPTH);
        let mut peek = |register: Register| {
            let before = uart.clone();
            let read = uart.read(register.offset(), 2);
            assert_eq!(uart, before, "only a read of UARTDR changes the device");
            read.value
        };
        let (raw, mask, masked) = (
            peek(Register::Ris),
            peek(Register::Imsc),
            peek(Register::Mis),
        );
        assert_eq!(masked, raw & mask);
        assert_eq!(uart.line(), masked != 0);
    }
});
