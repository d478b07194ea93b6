//! printk: the log ring, `console_sem` with its hand-over, and which driver writes.

use core::fmt::{self, Write};
use core::sync::atomic::AtomicU32;

use guest_abi::mailbox::{self, NOBODY};
use guest_abi::point::Point;
use guest_abi::protocol::{FAILED, RETRY_NMI, RETRY_SDEI, Request, STOPPING};

use super::ring::{Mask, mask, mask_at_least, set_mask, step, wait};
use super::words::{is, other_panics, panics};
use super::{ORDER, own, word};
use crate::arch::{
    CONSOLE_SEM, CONSOLE_WAITER, CONSOLE_WRITES, LOG, PANIC_CPU, pl011_console_write,
    pl011_console_write_atomic, pl011_console_write_thread,
};

/// What a record says.
#[derive(Clone, Copy)]
pub(crate) enum Say {
    Header,
    Stopping,
    Retry(Request, u64),
    Failed(u64),
    End,
    Talk(u8),
    Backtrace,
}

/// CPUs as Linux prints `%*pbl`.
struct List(u64);

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (mut left, mut comma) = (self.0, "");
        while left != 0 {
            let first = left.trailing_zeros();
            let run = (left >> first).trailing_ones();
            match run {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", first + run - 1)?,
            }
            comma = ",";
            left &= u64::MAX.checked_shl(first + run).unwrap_or(0);
        }
        Ok(())
    }
}

impl Say {
    fn level(self) -> u32 {
        match self {
            Say::Header | Say::End => 0,
            Say::Stopping => 2,
            Say::Failed(_) => 4,
            Say::Retry(..) | Say::Talk(_) | Say::Backtrace => 6,
        }
    }
}

impl fmt::Display for Say {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Say::Header => f.write_str("Kernel panic - not syncing: held"),
            Say::Stopping => f.write_str(STOPPING),
            Say::Retry(Request::Sdei, mask) => write!(f, "{RETRY_SDEI}{}", List(mask)),
            Say::Retry(_, mask) => write!(f, "{RETRY_NMI}{}", List(mask)),
            Say::Failed(mask) => write!(f, "{FAILED}{}", List(mask)),
            Say::End => f.write_str("---[ end Kernel panic - not syncing: held ]---"),
            Say::Talk(left) => write!(f, "CPU {} talks, {left} to go", own()),
            Say::Backtrace => write!(f, "NMI backtrace for cpu {}", own()),
        }
    }
}

/// The text of a record that is being written.
struct Text {
    record: usize,
    len: usize,
}

/// The words of a record before its text.
const TEXT: usize = 2;

fn text_word(record: usize, at: usize) -> &'static AtomicU32 {
    &LOG.records[record][TEXT + at / 4]
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let shift = self.len % 4 * 8;
            text_word(self.record, self.len).fetch_or(u32::from(byte) << shift, ORDER);
            self.len += 1;
        }
        Ok(())
    }
}

/// Stores a record in the log ring.
pub(super) fn store(say: Say) {
    let record = LOG.count.load(ORDER) as usize;
    assert!(record < mailbox::LOG_RECORDS, "the log ring is full");
    let mut text = Text { record, len: 0 };
    // Writing to memory does not fail.
    let _ = write!(text, "{say}");
    LOG.records[record][0].store(say.level(), ORDER);
    LOG.records[record][1].store(text.len as u32, ORDER);
    LOG.count.store(record as u32 + 1, ORDER);
}

/// The length of a record's text.
#[inline(always)]
pub(super) fn length(record: u32) -> usize {
    LOG.records[record as usize][1].load(ORDER) as usize
}

/// A byte of a record's text.
#[inline(always)]
pub(super) fn byte(record: u32, at: usize) -> u8 {
    (text_word(record as usize, at).load(ORDER) >> (at % 4 * 8)) as u8
}

/// Whether a record is left to show.
#[inline(always)]
pub(super) fn left() -> bool {
    LOG.shown.load(ORDER) < LOG.count.load(ORDER)
}

/// `vprintk_emit()`.
#[inline(always)]
pub(crate) fn emit(say: Say) {
    step(None);
    store(say);
    if word(mailbox::DRIVER_AT) != mailbox::DRIVER_NBCON {
        return emit_by_owner();
    }
    if panics() {
        pl011_console_write_atomic(false);
    } else {
        pl011_console_write_thread();
    }
}

#[inline(always)]
fn emit_by_owner() {
    step(None);
    let cpu = own() as u32;
    let panicking = PANIC_CPU.load(ORDER) != NOBODY;
    if CONSOLE_SEM.load(ORDER) == NOBODY && !other_panics() {
        CONSOLE_SEM.store(cpu, ORDER);
    } else if !panicking && CONSOLE_WRITES.load(ORDER) != 0 && CONSOLE_WAITER.load(ORDER) == NOBODY
    {
        // console_trylock_spinning(); not once a panic is in progress, for the owner may be stopped.
        CONSOLE_WAITER.store(cpu, ORDER);
        let saved = mask();
        mask_at_least(Mask::Irqs);
        while CONSOLE_SEM.load(ORDER) != cpu {
            wait(Some(Point::ConsoleSpin), &[is(&CONSOLE_SEM, cpu)]);
        }
        set_mask(saved);
    } else {
        return;
    }
    drain();
}

/// `console_unlock()`: writes what is left, then gives the semaphore up.
#[inline(always)]
fn drain() {
    loop {
        step(None);
        if !left() || other_panics() {
            CONSOLE_SEM.store(NOBODY, ORDER);
            return;
        }
        CONSOLE_WRITES.store(1, ORDER);
        if pl011_console_write(LOG.shown.load(ORDER), false) {
            return;
        }
    }
}
