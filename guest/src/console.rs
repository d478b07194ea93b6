//! The PL011 and the lock of its console, driven register by register as Linux drives them.
//!
//! One record is one critical section, with IRQs masked and pseudo-NMIs let in. Seen from the device
//! (Linux 6.12, drivers/tty/serial/amba-pl011.c, `pl011_console_write`): CR is read and written, for
//! each character FR is read until TXFF is clear and then DR written, FR is read until BUSY is clear,
//! CR is written back. So the first write of CR marks the way in and the second the way out.

use core::fmt::{self, Arguments, Write};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use guest_abi::memory_map::PL011_BASE;

use crate::arch::{self, CONSOLE_LOCK, DeviceRegisters};
use crate::cpus::CpuId;
use crate::exceptions::reset;
use crate::gic::MaskedIrqs;
use crate::time::{Deadline, PATIENCE, wait_for};

// Offsets and bits: PL011 TRM, DDI 0183, sections 3.2 and 3.3.
const UARTDR: usize = 0x00;
const UARTFR: usize = 0x18;
const UARTFR_BUSY: u16 = 1 << 3;
const UARTFR_TXFF: u16 = 1 << 5;
const UARTCR: usize = 0x30;
const UARTIMSC: usize = 0x38;
const UARTCR_UARTEN: u16 = 1 << 0;
const UARTCR_TXE: u16 = 1 << 8;
const UARTCR_CTSEN: u16 = 1 << 15;

/// Where the PL011 is. What the device tree says replaces this first guess.
static BASE: AtomicU64 = AtomicU64::new(PL011_BASE);

/// Uses the PL011 at this address from now on. Panics, on the one before, if it can be none.
pub(crate) fn set_base(base: u64) {
    let _ = DeviceRegisters::at(base);
    BASE.store(base, Ordering::Relaxed);
}

/// Writes a byte to the PL011 whether or not it has room for one.
pub(crate) fn flood(byte: u8) {
    DeviceRegisters::at(BASE.load(Ordering::Relaxed)).write(UARTDR, u16::from(byte));
}

/// Puts the PL011 into a state in which it can be written to, whatever state it is in.
pub(crate) fn restore() {
    let uart = DeviceRegisters::at(BASE.load(Ordering::Relaxed));
    uart.write(UARTCR, 0);
    uart.write(UARTIMSC, 0);
}

/// A spin lock whose one word says which CPU holds it.
#[repr(transparent)]
pub(crate) struct ConsoleLock {
    owner: AtomicU32,
}

impl ConsoleLock {
    /// No CPU's number.
    const FREE: u32 = u32::MAX;

    pub(crate) const fn new() -> Self {
        Self {
            owner: AtomicU32::new(Self::FREE),
        }
    }

    /// Takes the lock for `cpu`, or panics when its wait has run out.
    fn acquire(&self, cpu: CpuId) {
        let taken = wait_for(PATIENCE, || {
            // The load keeps those who wait from taking the cache line away from each other.
            self.owner.load(Ordering::Relaxed) == Self::FREE
                && self
                    .owner
                    .compare_exchange(
                        Self::FREE,
                        cpu.index() as u32,
                        Ordering::Acquire,
                        Ordering::Relaxed,
                    )
                    .is_ok()
        });
        if !taken {
            let owner = self.owner.load(Ordering::Relaxed);
            panic!("waited {PATIENCE} s of guest time for the console lock, held by CPU {owner}");
        }
    }

    fn release(&self) {
        self.owner.store(Self::FREE, Ordering::Release);
        arch::sev();
    }
}

/// Prints a record: what `println!` expands to.
pub(crate) fn print(record: Arguments) {
    let masked = MaskedIrqs::mask();
    CONSOLE_LOCK.acquire(CpuId::current());
    write_record(record);
    CONSOLE_LOCK.release();
    masked.restore();
}

/// Prints a record although another CPU may hold the lock, for the last words of a panic.
pub(crate) fn print_without_lock(record: Arguments) {
    write_record(record);
}

fn write_record(record: Arguments) {
    let mut uart = Pl011(DeviceRegisters::at(BASE.load(Ordering::Relaxed)));
    let control = uart.0.read(UARTCR);
    uart.0
        .write(UARTCR, control & !UARTCR_CTSEN | UARTCR_UARTEN | UARTCR_TXE);
    // `write_str` never fails, and the payload's own types do not fail to be formatted.
    let _ = uart.write_fmt(record);
    uart.wait_while(UARTFR_BUSY);
    uart.0.write(UARTCR, control);
}

/// The PL011 inside a record: opened by the first write of CR, closed by the second. All of it is inlined: whoever is interrupted
/// here is to be found in the driver's own function.
pub(crate) struct Wire {
    uart: Pl011,
    control: u16,
}

impl Wire {
    /// The way in.
    #[inline(always)]
    pub(crate) fn open() -> Self {
        let uart = Pl011(DeviceRegisters::at(BASE.load(Ordering::Relaxed)));
        let control = uart.0.read(UARTCR);
        uart.0
            .write(UARTCR, control & !UARTCR_CTSEN | UARTCR_UARTEN | UARTCR_TXE);
        Self { uart, control }
    }

    /// Sends a byte when there is room for it, however long that takes.
    #[inline(always)]
    pub(crate) fn put(&self, byte: u8) {
        while self.uart.0.read(UARTFR) & UARTFR_TXFF != 0 {
            spin_loop();
        }
        self.uart.0.write(UARTDR, u16::from(byte));
    }

    /// Waits until all is sent.
    #[inline(always)]
    pub(crate) fn drain(&self) {
        while self.uart.0.read(UARTFR) & UARTFR_BUSY != 0 {
            spin_loop();
        }
    }

    /// The way out.
    #[inline(always)]
    pub(crate) fn close(self) {
        self.drain();
        self.uart.0.write(UARTCR, self.control);
    }
}

struct Pl011(DeviceRegisters);

impl Pl011 {
    /// Polls UARTFR until `flag` is clear. A UART that stays stuck cannot be told of on itself, so
    /// the payload's end without a last line has to do.
    fn wait_while(&self, flag: u16) {
        if self.0.read(UARTFR) & flag == 0 {
            return;
        }
        let deadline = Deadline::after(PATIENCE);
        while self.0.read(UARTFR) & flag != 0 {
            if deadline.has_passed() {
                reset();
            }
            spin_loop();
        }
    }

    fn put(&self, byte: u8) {
        self.wait_while(UARTFR_TXFF);
        self.0.write(UARTDR, u16::from(byte));
    }
}

impl Write for Pl011 {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}

/// Prints one line as one record.
macro_rules! println {
    ($($argument:tt)*) => {
        $crate::console::print(format_args!("payload: {}\n", format_args!($($argument)*)))
    };
}
pub(crate) use println;
