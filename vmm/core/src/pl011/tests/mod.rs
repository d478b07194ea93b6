//! The manual, chapter by chapter, and the drivers' use of it.

mod drivers;
mod interrupts;
mod loopback;
mod receiver;
mod registers;
mod transmitter;

use super::spec::{Control, FIFO_DEPTH, Flag, Interrupt, LineControl, Register};
use super::{Effects, Pl011, Refused, Symbol};

/// A guest's view of the device: registers by name, sixteen bits at a time as Linux's driver accesses them.
impl Pl011 {
    fn get(&mut self, register: Register) -> u16 {
        u16::try_from(self.read(register.offset(), 2).value).unwrap()
    }

    fn set(&mut self, register: Register, value: u16) -> Effects {
        self.write(register.offset(), 2, value.into())
    }

    fn fr(&mut self) -> Flag {
        Flag::from_bits(self.get(Register::Fr)).expect("UARTFR has no reserved bit set")
    }

    fn ris(&mut self) -> Interrupt {
        Interrupt::from_bits(self.get(Register::Ris)).expect("UARTRIS has no reserved bit set")
    }

    fn receive_all(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.receive(Symbol::Byte(byte));
        }
    }
}

/// A device as Linux's driver sets it up: FIFOs on, everything enabled.
fn with_fifos() -> Pl011 {
    let mut uart = Pl011::new();
    let _ = uart.set(
        Register::LcrH,
        (LineControl::WLEN | LineControl::FEN).bits(),
    );
    let _ = uart.set(
        Register::Cr,
        (Control::RESET | Control::UARTEN | Control::RTS | Control::DTR).bits(),
    );
    uart
}

fn loopback(uart: &mut Pl011, more: Control) -> Effects {
    uart.set(
        Register::Cr,
        (Control::RESET | Control::UARTEN | Control::LBE | more).bits(),
    )
}
