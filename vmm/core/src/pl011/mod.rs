//! The PrimeCell UART PL011 as a state machine: accesses and received symbols in, effects and the level of a line out.
//!
//! The device knows neither its address nor its interrupt number, and has no clock, lock or thread. After every call
//! that changes it, the bus carries out the [`Effects`] and sets the wire to [`Pl011::line`].
//!
//! The manual is ARM DDI 0183G (r1p5); section numbers in this module are its. If you extend the device, do it only to
//! make it closer to a real PL011: stalls and holds of a guest are the business of a tap in front of it.
//!
//! # Deviations from hardware
//!
//! - **`UARTEN` is stored, not obeyed.** After reset it is clear, and a real UART would keep what is written to `UARTDR`
//!   for ever. Test kernels (kvm-unit-tests) and Linux's earlycon write without programming `UARTCR`, since firmware
//!   has done so, and there is no firmware here. To obey it from the first write of `UARTCR` on would not do: Linux's
//!   `pl011_set_termios` writes back what it read there, the reset value, while earlycon still prints and waits for
//!   `BUSY`. `TXE` and `RXE`, which are set after reset, are obeyed.
//! - **The line has no format and no speed.** The divisors, the word length, parity and stop bits are stored and do
//!   nothing: a character is a byte, also after reset, when `WLEN` says five bits.
//! - **Transmitting takes no time.** A byte leaves as it is written, unless the host's sink is full
//!   ([`Pl011::set_sink_full`]) or the guest stopped the transmitter; then it waits in the FIFO, `BUSY` is set, and
//!   `TXFF` when no more fits. There is no shift register, so 16 bytes wait (one without FIFOs), not 17. Every byte
//!   that leaves counts as a passage through the transmit interrupt's level, which a real FIFO would first have to
//!   be filled above (2.8.3).
//! - **32 bit periods pass when the host says so** ([`Pl011::idle`]), which decides the receive timeout interrupt.
//! - **During a guest's break** bytes still reach the host; on a wire the low level would drown them.
//! - **In loopback mode nothing reaches the host**: the transmitter is connected to the receiver instead of the wire.
//!   The manual leaves open whether the output also carries it (2.4.3, System and diagnostic loopback testing).
//! - **IrDA, DMA and the integration test registers are absent.** `UARTILPR`, `SIREN` and `SIRLP` are only stored.
//! - **The host is a peer that obeys RTS** once the guest uses hardware flow control ([`Pl011::room`]), and whose
//!   CTS, DSR and DCD are always asserted.

mod fifo;
pub mod spec;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use self::fifo::Fifo;
use self::spec::{
    Control, FIFO_DEPTH, Flag, Interrupt, LevelSelect, LineControl, ReceiveError, Register,
};

/// What arrives on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbol {
    /// A character.
    Byte(u8),
    /// A character whose parity bit was wrong.
    ParityError(u8),
    /// A character without a valid stop bit.
    FramingError(u8),
    /// A break.
    Break,
}

/// A character in the receive FIFO, with its status: the twelve bits of a FIFO entry (2.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Received {
    byte: u8,
    errors: ReceiveError,
}

impl From<Symbol> for Received {
    fn from(symbol: Symbol) -> Self {
        let (byte, errors) = match symbol {
            Symbol::Byte(byte) => (byte, ReceiveError::empty()),
            Symbol::ParityError(byte) => (byte, ReceiveError::PE),
            Symbol::FramingError(byte) => (byte, ReceiveError::FE),
            Symbol::Break => (0, ReceiveError::BE),
        };
        Self { byte, errors }
    }
}

/// The answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the guest waits for the value, and the host for the effects"]
pub struct Read {
    /// The value, within the size of the access.
    pub value: u64,
    /// What else the read did: taking a character can make room.
    pub effects: Effects,
}

/// What an access or an event asks of the world outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "bytes that were sent are nowhere else"]
pub struct Effects {
    sent: Fifo<u8>,
    /// The level of the guest's break condition on the wire changed: `true` when the break begins.
    pub break_signal: Option<bool>,
    /// [`Pl011::room`] was zero and is no more.
    pub room: bool,
    /// The device did not do what the guest asked for. Nothing is wrong with the device; this is for a log.
    pub refused: Option<Refused>,
}

impl Effects {
    /// The bytes that left, in order: at most [`FIFO_DEPTH`].
    pub fn sent(&self) -> &[u8] {
        self.sent.as_slice()
    }
}

/// Why an access, or a part of it, did nothing. What was read is zero, what was written is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No register begins at this offset.
    #[error("no register begins at this offset")]
    Reserved,
    /// Registers have at most 16 bits and lie four bytes apart (3.2): a wider access would be more than one.
    #[error("the PL011 takes accesses of one, two or four bytes")]
    Size,
    /// A write to `UARTFR`, `UARTRIS`, `UARTMIS` or an identification register.
    #[error("the register is read-only")]
    ReadOnly,
    /// A read of `UARTICR`.
    #[error("the register is write-only")]
    WriteOnly,
    /// A write to `UARTDMACR` that would have enabled DMA.
    #[error("DMA is not modelled")]
    NotModelled,
    /// A write to `UARTDR` although `TXFF` is set: the character is lost, as it is in hardware.
    #[error("the transmit FIFO is full: the character is lost")]
    TransmitFifoFull,
}

/// The device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pl011 {
    /// Low-power divisor, integer and fractional divisor: kept for the guest to read back.
    ilpr: u8,
    ibrd: u16,
    fbrd: u8,
    lcr_h: LineControl,
    cr: Control,
    ifls: LevelSelect,
    imsc: Interrupt,
    ris: Interrupt,
    rsr: ReceiveError,

    received: Fifo<Received>,
    /// A character was lost, and no later one has carried that news into the FIFO (2.4.3, Overrun bit).
    overrun: bool,
    /// 32 bit periods have passed since the last character.
    quiet: bool,

    waiting: Fifo<u8>,
    sink_full: bool,
}

impl Default for Pl011 {
    fn default() -> Self {
        Self::new()
    }
}

impl Pl011 {
    /// The device after reset (3.2, Table 3-1), on a host that takes what is sent.
    pub fn new() -> Self {
        Self {
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr_h: LineControl::empty(),
            cr: Control::RESET,
            ifls: LevelSelect::RESET,
            imsc: Interrupt::empty(),
            // The manual leaves the modem bits undefined after reset (3.3.11).
            ris: Interrupt::empty(),
            rsr: ReceiveError::empty(),
            received: Fifo::default(),
            overrun: false,
            quiet: false,
            waiting: Fifo::default(),
            sink_full: false,
        }
    }

    /// The level of `UARTINTR`, the OR of all masked interrupts (2.8.6).
    pub fn line(&self) -> bool {
        !self.masked().is_empty()
    }

    /// The guest reads `size` bytes at `offset`.
    pub fn read(&mut self, offset: u16, size: u8) -> Read {
        let before = self.clone();
        let answer = register(offset, size).and_then(|register| self.read_register(register));
        let effects = Effects {
            refused: answer.err(),
            ..self.settle(&before)
        };
        let value = truncate(answer.unwrap_or(0).into(), size);
        Read {
            value: value.into(),
            effects,
        }
    }

    /// The guest writes `size` bytes at `offset`.
    ///
    /// A narrow write to a wider register writes zeros above it: the bus of a PL011 has no byte strobes.
    pub fn write(&mut self, offset: u16, size: u8, value: u64) -> Effects {
        let before = self.clone();
        let done = register(offset, size)
            .and_then(|register| self.write_register(register, truncate(value, size)));
        Effects {
            refused: done.err(),
            ..self.settle(&before)
        }
    }

    /// `UARTCR`, as the guest would read it.
    pub fn control(&self) -> Control {
        self.cr
    }

    /// `UARTIMSC`, as the guest would read it: the interrupts that reach the line.
    pub fn unmasked(&self) -> Interrupt {
        self.imsc
    }

    /// How many characters the receiver takes now. A host that sends no more than this loses nothing.
    ///
    /// It is zero while the guest has disabled the receiver or connected it to the transmitter. A guest that uses
    /// hardware flow control (`RTSEN` or `CTSEN`: both lines make up one setting in a driver) also says by RTS that it
    /// wants no more; with `RTSEN` that happens at the FIFO's level (2.6.1).
    pub fn room(&self) -> usize {
        if self.cr.contains(Control::LBE) || !self.cr.contains(Control::RXE) {
            return 0;
        }
        if self.cr.intersects(Control::RTSEN | Control::CTSEN) && !self.rts() {
            return 0;
        }
        let limit = if self.cr.contains(Control::RTSEN) {
            self.receive_level()
        } else {
            self.depth()
        };
        limit - self.received.len()
    }

    /// Whether so few characters wait that more of them will raise the receive interrupt.
    pub fn below_level(&self) -> bool {
        self.received.len() < self.receive_level()
    }

    /// A symbol arrives from the host.
    ///
    /// Beyond [`Pl011::room`] it is lost, as on a wire: with an overrun when the FIFO is full, silently when the
    /// receiver is disabled or in loopback mode, which disconnects it from the wire.
    pub fn receive(&mut self, symbol: Symbol) {
        if self.cr.contains(Control::LBE) {
            return;
        }
        self.hear(symbol);
        self.time_out();
    }

    /// The host has nothing more to send for now: 32 bit periods pass without another character (2.8.4).
    ///
    /// The bus calls this whenever its source has run dry, or characters below the FIFO's level would wait there
    /// unnoticed. A host without [`Pl011::room`] sends nothing either and need not say so.
    pub fn idle(&mut self) {
        self.quiet = true;
        self.time_out();
    }

    /// Whether the host can take no more.
    ///
    /// The host says `true` before it has space for less than [`FIFO_DEPTH`] bytes, for that many can leave at once.
    pub fn set_sink_full(&mut self, full: bool) -> Effects {
        let before = self.clone();
        self.sink_full = full;
        self.settle(&before)
    }

    fn read_register(&mut self, register: Register) -> Result<u16, Refused> {
        Ok(match register {
            Register::Dr => self.read_data(),
            Register::RsrEcr => self.rsr.bits().into(),
            Register::Fr => self.flags().bits(),
            Register::Ilpr => self.ilpr.into(),
            Register::Ibrd => self.ibrd,
            Register::Fbrd => self.fbrd.into(),
            Register::LcrH => self.lcr_h.bits(),
            Register::Cr => self.cr.bits(),
            Register::Ifls => self.ifls.bits().into(),
            Register::Imsc => self.imsc.bits(),
            Register::Ris => self.ris.bits(),
            Register::Mis => self.masked().bits(),
            Register::Icr => return Err(Refused::WriteOnly),
            Register::Dmacr => 0,
            // Part 0x011, designed by ARM (0x41), revision 2, configuration 0.
            Register::PeriphId0 => 0x11,
            Register::PeriphId1 => 0x10,
            Register::PeriphId2 => 0x24,
            Register::PeriphId3 => 0x00,
            Register::PCellId0 => 0x0D,
            Register::PCellId1 => 0xF0,
            Register::PCellId2 => 0x05,
            Register::PCellId3 => 0xB1,
        })
    }

    fn write_register(&mut self, register: Register, value: u16) -> Result<(), Refused> {
        match register {
            Register::Dr => self.write_data(value.to_le_bytes()[0])?,
            // Any value clears all four errors (3.3.2).
            Register::RsrEcr => self.rsr = ReceiveError::empty(),
            Register::Ilpr => self.ilpr = value.to_le_bytes()[0],
            Register::Ibrd => self.ibrd = value,
            Register::Fbrd => self.fbrd = (value & 0x3F) as u8,
            Register::LcrH => self.write_line_control(LineControl::from_bits_truncate(value)),
            Register::Cr => self.cr = Control::from_bits_truncate(value),
            // The level's change alone raises nothing: interrupts come when the fill passes the level (3.3.9).
            Register::Ifls => self.ifls = LevelSelect::from_bits_truncate(value),
            Register::Imsc => self.imsc = Interrupt::from_bits_truncate(value),
            Register::Icr => self.ris.remove(Interrupt::from_bits_truncate(value)),
            Register::Dmacr => {
                if value != 0 {
                    return Err(Refused::NotModelled);
                }
            }
            Register::Fr
            | Register::Ris
            | Register::Mis
            | Register::PeriphId0
            | Register::PeriphId1
            | Register::PeriphId2
            | Register::PeriphId3
            | Register::PCellId0
            | Register::PCellId1
            | Register::PCellId2
            | Register::PCellId3 => return Err(Refused::ReadOnly),
        }
        Ok(())
    }

    /// Takes a character (3.3.1). What an empty FIFO reads as is not defined; here it is zero, and changes nothing.
    fn read_data(&mut self) -> u16 {
        let Some(Received { byte, errors }) = self.received.pop() else {
            return 0;
        };
        // UARTRSR shows the errors of the character read last, but its overrun stays until it is cleared (3.3.2).
        self.rsr = (self.rsr & ReceiveError::OE) | (errors - ReceiveError::OE);
        if self.below_level() {
            self.ris.remove(Interrupt::RX);
        }
        if self.received.is_empty() {
            self.ris.remove(Interrupt::RT);
        }
        u16::from(byte) | errors.in_data()
    }

    fn write_data(&mut self, byte: u8) -> Result<(), Refused> {
        if self.waiting.len() == self.depth() {
            return Err(Refused::TransmitFifoFull);
        }
        self.waiting.push(byte);
        if self.waiting.len() > self.transmit_level() {
            self.ris.remove(Interrupt::TX);
        }
        Ok(())
    }

    /// Clearing `FEN` flushes the FIFOs: the manual has the transmit FIFO flushed that way (3.3.8, Programming the
    /// control registers), and what the holding register cannot hold has no other place either. Setting it keeps a
    /// character in the holding register, which is the bottom of the FIFO (3.3.1).
    fn write_line_control(&mut self, lcr_h: LineControl) {
        if (self.lcr_h - lcr_h).contains(LineControl::FEN) {
            self.waiting = Fifo::default();
            self.received = Fifo::default();
            self.ris.remove(Interrupt::RX | Interrupt::RT);
        }
        self.lcr_h = lcr_h;
    }

    /// What follows from a change, whoever made it.
    fn settle(&mut self, before: &Self) -> Effects {
        if self.looped_break() && !before.looped_break() {
            self.hear(Symbol::Break);
        }
        let sent = self.transmit();
        let changed = self.modem() ^ before.modem();
        for (line, interrupt) in [
            (Flag::RI, Interrupt::RI),
            (Flag::CTS, Interrupt::CTS),
            (Flag::DCD, Interrupt::DCD),
            (Flag::DSR, Interrupt::DSR),
        ] {
            self.ris.set(
                interrupt,
                self.ris.contains(interrupt) || changed.contains(line),
            );
        }
        self.time_out();
        let breaks = self.wire_break();
        Effects {
            sent,
            break_signal: (breaks != before.wire_break()).then_some(breaks),
            room: before.room() == 0 && self.room() > 0,
            refused: None,
        }
    }

    /// Sends what can leave, and raises the transmit interrupt when that brings the FIFO to its level or below.
    ///
    /// In hardware the interrupt comes of a passage through the level (2.8.3): a driver fills the FIFO above it, and
    /// time drains it. Here bytes leave as they are written, so the FIFO would never be seen above its level, and a
    /// driver that waits for the interrupt would wait for ever. Every byte that leaves therefore counts as a passage.
    /// As in hardware, to unmask the interrupt before anything was written raises nothing.
    fn transmit(&mut self) -> Fifo<u8> {
        let waited = self.waiting.len();
        let mut sent = Fifo::default();
        if self.cr.contains(Control::LBE) {
            while self.may_transmit()
                && let Some(byte) = self.waiting.pop()
            {
                self.hear(Symbol::Byte(byte));
            }
        } else if self.may_transmit() && !self.sink_full {
            sent = std::mem::take(&mut self.waiting);
        }
        if self.waiting.len() < waited && self.waiting.len() <= self.transmit_level() {
            self.ris.insert(Interrupt::TX);
        }
        sent
    }

    /// With `CTSEN`, only while CTS is asserted (2.6.2).
    fn may_transmit(&self) -> bool {
        self.cr.contains(Control::TXE)
            && (!self.cr.contains(Control::CTSEN) || self.modem().contains(Flag::CTS))
    }

    /// The receiver hears a symbol, from the wire or from the transmitter.
    fn hear(&mut self, symbol: Symbol) {
        if !self.cr.contains(Control::RXE) {
            return;
        }
        self.quiet = false;
        if self.received.len() == self.depth() {
            self.overrun = true;
            self.rsr.insert(ReceiveError::OE);
            self.ris.insert(Interrupt::OE);
            return;
        }
        let mut received = Received::from(symbol);
        self.ris.insert(received.errors.interrupts());
        // The FIFO takes note of an overrun with the next character that it can store (2.4.3, Overrun bit).
        received
            .errors
            .set(ReceiveError::OE, std::mem::take(&mut self.overrun));
        self.received.push(received);
        // Only the passage through the level raises it (3.3.9): cleared above the level, it stays clear.
        if self.received.len() == self.receive_level() {
            self.ris.insert(Interrupt::RX);
        }
    }

    /// Raises the receive timeout interrupt while characters wait and none can follow.
    ///
    /// Without a clock the 32 bit periods have always passed on a quiet line, so there a guest that clears the
    /// interrupt and leaves characters in the FIFO finds it raised again. A receiver without room is quiet too: the
    /// host waits for the guest, and the guest must not wait for the host.
    fn time_out(&mut self) {
        if !self.received.is_empty() && (self.quiet || self.room() == 0) {
            self.ris.insert(Interrupt::RT);
        }
    }

    fn masked(&self) -> Interrupt {
        self.ris & self.imsc
    }

    /// `UARTFR`, as the guest would read it.
    pub fn flags(&self) -> Flag {
        let mut flags = self.modem();
        flags.set(Flag::BUSY, !self.waiting.is_empty());
        flags.set(Flag::TXFE, self.waiting.is_empty());
        flags.set(Flag::TXFF, self.waiting.len() == self.depth());
        flags.set(Flag::RXFE, self.received.is_empty());
        flags.set(Flag::RXFF, self.received.len() == self.depth());
        flags
    }

    /// The modem lines as the guest sees them: the host's, or its own outputs in loopback mode (2.4.3).
    fn modem(&self) -> Flag {
        if !self.cr.contains(Control::LBE) {
            return Flag::CTS | Flag::DSR | Flag::DCD;
        }
        let mut lines = Flag::empty();
        lines.set(Flag::CTS, self.rts());
        lines.set(Flag::DSR, self.cr.contains(Control::DTR));
        lines.set(Flag::DCD, self.cr.contains(Control::OUT1));
        lines.set(Flag::RI, self.cr.contains(Control::OUT2));
        lines
    }

    /// The RTS output: the guest's bit, or with `RTSEN` whether the receive FIFO is below its level (2.6.1).
    fn rts(&self) -> bool {
        if self.cr.contains(Control::RTSEN) {
            self.below_level()
        } else {
            self.cr.contains(Control::RTS)
        }
    }

    fn wire_break(&self) -> bool {
        self.lcr_h.contains(LineControl::BRK) && !self.cr.contains(Control::LBE)
    }

    fn looped_break(&self) -> bool {
        self.lcr_h.contains(LineControl::BRK) && self.cr.contains(Control::LBE)
    }

    fn fifos_enabled(&self) -> bool {
        self.lcr_h.contains(LineControl::FEN)
    }

    fn depth(&self) -> usize {
        if self.fifos_enabled() { FIFO_DEPTH } else { 1 }
    }

    /// The fill at which the receive interrupt rises (2.8.2).
    fn receive_level(&self) -> usize {
        if self.fifos_enabled() {
            self.ifls.receive()
        } else {
            1
        }
    }

    /// The fill at or below which the transmit interrupt rises (2.8.3).
    fn transmit_level(&self) -> usize {
        if self.fifos_enabled() {
            self.ifls.transmit()
        } else {
            0
        }
    }
}

/// The register that an access means.
fn register(offset: u16, size: u8) -> Result<Register, Refused> {
    if !matches!(size, 1 | 2 | 4) {
        return Err(Refused::Size);
    }
    Register::at(offset).ok_or(Refused::Reserved)
}

/// The part of a value that an access of this size carries to or from a register, which has 16 bits at most.
fn truncate(value: u64, size: u8) -> u16 {
    let [low, high, ..] = value.to_le_bytes();
    u16::from_le_bytes([low, if size == 1 { 0 } else { high }])
}
