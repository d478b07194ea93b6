//! The names and numbers of the PL011, apart from its behaviour.
//!
//! Section numbers are those of the *PrimeCell UART (PL011) Technical Reference Manual*, ARM DDI 0183G (r1p5).

use bitflags::bitflags;

/// The depth of each FIFO while `FEN` is set.
///
/// Sixteen up to r1p4; r1p5 made it 32 (1.2, Product revisions). See [`Register::PeriphId2`] for why we are an r1p4.
pub const FIFO_DEPTH: usize = 16;

/// The registers, by the manual's names without their prefix `UART` (3.2, Table 3-1).
///
/// The discriminant is the offset. Every other offset is reserved. So are, to us, the registers for integration
/// testing at 0x080 to 0x08C (chapter 4): they drive pins, which a virtual device does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Register {
    /// Data (3.3.1).
    Dr = 0x000,
    /// Receive status when read, error clear when written (3.3.2).
    RsrEcr = 0x004,
    /// Flags (3.3.3).
    Fr = 0x018,
    /// IrDA low-power counter (3.3.4). IrDA is not modelled: a byte that keeps what is written to it.
    Ilpr = 0x020,
    /// Integer baud rate (3.3.5).
    Ibrd = 0x024,
    /// Fractional baud rate (3.3.6).
    Fbrd = 0x028,
    /// Line control (3.3.7).
    LcrH = 0x02C,
    /// Control (3.3.8).
    Cr = 0x030,
    /// Interrupt FIFO level select (3.3.9).
    Ifls = 0x034,
    /// Interrupt mask set/clear (3.3.10): a set bit lets the interrupt through.
    Imsc = 0x038,
    /// Raw interrupt status (3.3.11).
    Ris = 0x03C,
    /// Masked interrupt status (3.3.12).
    Mis = 0x040,
    /// Interrupt clear (3.3.13).
    Icr = 0x044,
    /// DMA control (3.3.14). DMA is not modelled: reads as zero, and what is written is ignored.
    Dmacr = 0x048,
    /// Part number, bits 7 to 0 (3.3.15).
    PeriphId0 = 0xFE0,
    /// Designer, bits 3 to 0, and part number, bits 11 to 8 (3.3.15).
    PeriphId1 = 0xFE4,
    /// Revision, and designer, bits 7 to 4 (3.3.15).
    ///
    /// The revision is 2 (r1p3 or r1p4), the last with FIFOs of 16. Linux's driver matches 0x00041011 under the mask
    /// 0x000FFFFF, so every revision binds, and takes the FIFO for 32 deep from revision 3 on (`get_fifosize_arm` in
    /// drivers/tty/serial/amba-pl011.c).
    PeriphId2 = 0xFE8,
    /// Configuration (3.3.15).
    PeriphId3 = 0xFEC,
    /// PrimeCell identification, bits 7 to 0 (3.3.16).
    PCellId0 = 0xFF0,
    /// PrimeCell identification, bits 15 to 8 (3.3.16).
    PCellId1 = 0xFF4,
    /// PrimeCell identification, bits 23 to 16 (3.3.16).
    PCellId2 = 0xFF8,
    /// PrimeCell identification, bits 31 to 24 (3.3.16).
    PCellId3 = 0xFFC,
}

impl Register {
    /// All registers, in the order of their offsets.
    pub const ALL: [Self; 22] = [
        Self::Dr,
        Self::RsrEcr,
        Self::Fr,
        Self::Ilpr,
        Self::Ibrd,
        Self::Fbrd,
        Self::LcrH,
        Self::Cr,
        Self::Ifls,
        Self::Imsc,
        Self::Ris,
        Self::Mis,
        Self::Icr,
        Self::Dmacr,
        Self::PeriphId0,
        Self::PeriphId1,
        Self::PeriphId2,
        Self::PeriphId3,
        Self::PCellId0,
        Self::PCellId1,
        Self::PCellId2,
        Self::PCellId3,
    ];

    /// The register's offset from the base of the device.
    pub const fn offset(self) -> u16 {
        self as u16
    }

    /// The register at this offset, or `None` where the offset is reserved.
    ///
    /// Registers are addressed by their first byte, at a multiple of four; an offset inside a word is reserved.
    pub fn at(offset: u16) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|register| register.offset() == offset)
    }
}

bitflags! {
    /// What can be wrong with a received character.
    ///
    /// The manual has these four bits in one order at three places: bits 3 to 0 of `UARTRSR` (3.3.2), bits 11 to 8 of
    /// `UARTDR` (3.3.1), and bits 10 to 7 of the interrupt registers (3.3.10).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ReceiveError: u8 {
        /// Framing error: no valid stop bit.
        const FE = 1 << 0;
        /// Parity error.
        const PE = 1 << 1;
        /// Break: the line was low for longer than a whole character.
        const BE = 1 << 2;
        /// Overrun: a character came while the FIFO was full.
        const OE = 1 << 3;
    }
}

impl ReceiveError {
    /// The bits at their place in `UARTDR`.
    pub const fn in_data(self) -> u16 {
        (self.bits() as u16) << 8
    }

    /// The interrupts that these errors raise.
    pub const fn interrupts(self) -> Interrupt {
        Interrupt::from_bits_truncate((self.bits() as u16) << 7)
    }
}

bitflags! {
    /// `UARTFR` (3.3.3). The modem lines read as one when the (active low) line is asserted.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flag: u16 {
        /// Clear to send.
        const CTS = 1 << 0;
        /// Data set ready.
        const DSR = 1 << 1;
        /// Data carrier detect.
        const DCD = 1 << 2;
        /// The UART is transmitting: set as soon as the transmit FIFO is not empty, enabled or not.
        const BUSY = 1 << 3;
        /// Receive FIFO (or holding register) empty.
        const RXFE = 1 << 4;
        /// Transmit FIFO (or holding register) full.
        const TXFF = 1 << 5;
        /// Receive FIFO (or holding register) full.
        const RXFF = 1 << 6;
        /// Transmit FIFO (or holding register) empty.
        const TXFE = 1 << 7;
        /// Ring indicator.
        const RI = 1 << 8;
    }
}

bitflags! {
    /// `UARTLCR_H` (3.3.7). Reset value 0.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct LineControl: u16 {
        /// Send break: hold the output low.
        const BRK = 1 << 0;
        /// Parity enable.
        const PEN = 1 << 1;
        /// Even parity select.
        const EPS = 1 << 2;
        /// Two stop bits select.
        const STP2 = 1 << 3;
        /// Enable FIFOs; without them each is a holding register of one character.
        const FEN = 1 << 4;
        /// Word length: 5 bits plus the value of this field of two bits.
        const WLEN = 0b11 << 5;
        /// Stick parity select.
        const SPS = 1 << 7;
    }
}

bitflags! {
    /// `UARTCR` (3.3.8). Bits 6 to 3 are reserved.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Control: u16 {
        /// UART enable.
        const UARTEN = 1 << 0;
        /// SIR (infrared) enable.
        const SIREN = 1 << 1;
        /// SIR low-power mode.
        const SIRLP = 1 << 2;
        /// Loopback enable: output is fed through to input, and so are the modem lines.
        const LBE = 1 << 7;
        /// Transmit enable.
        const TXE = 1 << 8;
        /// Receive enable.
        const RXE = 1 << 9;
        /// Data transmit ready.
        const DTR = 1 << 10;
        /// Request to send.
        const RTS = 1 << 11;
        /// Modem output 1, for a DTE the carrier detect.
        const OUT1 = 1 << 12;
        /// Modem output 2, for a DTE the ring indicator.
        const OUT2 = 1 << 13;
        /// RTS hardware flow control: RTS follows the receive FIFO instead of the bit `RTS`.
        const RTSEN = 1 << 14;
        /// CTS hardware flow control: data is transmitted only while CTS is asserted.
        const CTSEN = 1 << 15;
    }
}

impl Control {
    /// The value after reset (3.3.8): transmit and receive enabled, the UART itself not.
    pub const RESET: Self = Self::TXE.union(Self::RXE);
}

/// `UARTIFLS` (3.3.9): the fill levels of the FIFOs that raise interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelSelect(u8);

impl LevelSelect {
    /// The value after reset: both FIFOs at one half.
    pub const RESET: Self = Self(0x12);

    /// The register with this value; bits 15 to 6 are reserved.
    pub const fn from_bits_truncate(bits: u16) -> Self {
        Self((bits & 0x3F) as u8)
    }

    /// The register's value.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// `TXIFLSEL`: the transmit FIFO interrupts when it has become this empty.
    pub const fn transmit(self) -> usize {
        Self::level(self.0 & 0b111)
    }

    /// `RXIFLSEL`: the receive FIFO interrupts when it has become this full.
    pub const fn receive(self) -> usize {
        Self::level(self.0 >> 3)
    }

    /// The manual reserves 0b101 to 0b111 without saying what they do; here they are one half, the reset value.
    const fn level(select: u8) -> usize {
        match select {
            0b000 => FIFO_DEPTH / 8,
            0b001 => FIFO_DEPTH / 4,
            0b011 => FIFO_DEPTH * 3 / 4,
            0b100 => FIFO_DEPTH * 7 / 8,
            _ => FIFO_DEPTH / 2,
        }
    }
}

bitflags! {
    /// The interrupts, at their bits in `UARTIMSC`, `UARTRIS`, `UARTMIS` and `UARTICR` (3.3.10 to 3.3.13).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Interrupt: u16 {
        /// The ring indicator changed.
        const RI = 1 << 0;
        /// Clear to send changed.
        const CTS = 1 << 1;
        /// Data carrier detect changed.
        const DCD = 1 << 2;
        /// Data set ready changed.
        const DSR = 1 << 3;
        /// The receive FIFO filled to its level (2.8.2).
        const RX = 1 << 4;
        /// The transmit FIFO emptied to its level (2.8.3).
        const TX = 1 << 5;
        /// The receive FIFO holds data, and no more has come for 32 bit periods (2.8.4).
        const RT = 1 << 6;
        /// Framing error.
        const FE = 1 << 7;
        /// Parity error.
        const PE = 1 << 8;
        /// Break error.
        const BE = 1 << 9;
        /// Overrun error.
        const OE = 1 << 10;
    }
}
