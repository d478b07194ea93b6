//! `panic()`, from its entry to its last loop.

use guest_abi::mailbox::{self, NOBODY, Tell};
use guest_abi::note::NOTE_BYTES;
use guest_abi::point::Point;

use super::printk::{Say, left};
use super::ring::{Mask, mask_at_least, set_mask, step, tell};
use super::{ORDER, flag, handler, own, word};
use crate::arch::{
    LOG, PANIC_CPU, crash_kexec as save_own_note, own_registers, panic_smp_self_stop,
    pl011_console_write, pl011_console_write_atomic, smp_send_stop, vprintk_emit,
};
use crate::exceptions::reset;

/// `panic()`. Comes back where its last loop is to begin.
#[inline(always)]
pub(crate) fn panic() {
    step(Some(Point::PanicEntry));
    // local_irq_disable() is the first thing that panic() does.
    mask_at_least(Mask::Irqs);
    step(None);
    if PANIC_CPU.load(ORDER) != NOBODY {
        panic_smp_self_stop();
    }
    PANIC_CPU.store(own() as u32, ORDER);
    vprintk_emit(Say::Header);
    step(None);
    smp_send_stop(flag(mailbox::CRASH_STOP));
    step(None);
    let after = word(mailbox::AFTER_AT);
    if after == mailbox::AFTER_KEXEC {
        save_own_note();
        step(Some(Point::Kexec));
        set_mask(Mask::All);
        tell(Tell::Goes(after));
        return;
    }
    step(None);
    if after == mailbox::AFTER_PANIC_END {
        vprintk_emit(Say::End);
    }
    step(None);
    last_flush(after);
    step(None);
    // The loop at the end of panic() enables interrupts.
    set_mask(Mask::Open);
    go(after);
}

/// machine_crash_shutdown() saves the sender's registers, as crash_setup_regs() took them.
#[inline(always)]
pub(crate) fn crash_kexec() {
    let frame = own_registers();
    handler::write_note(own(), &frame, 0..NOTE_BYTES);
}

/// `console_flush_on_panic()`: it ignores `console_sem`. Only the end of panic without a reset reaches nbcon's unsafe takeover.
#[inline(always)]
fn last_flush(after: u64) {
    step(Some(Point::LastFlush));
    if word(mailbox::DRIVER_AT) == mailbox::DRIVER_NBCON {
        pl011_console_write_atomic(after == mailbox::AFTER_PANIC_END);
        step(None);
    } else {
        while left() {
            pl011_console_write(LOG.shown.load(ORDER), true);
            step(None);
        }
    }
    tell(Tell::Flushed);
}

/// Goes on.
#[inline(always)]
pub(super) fn go(after: u64) {
    tell(Tell::Goes(after));
    if after == mailbox::AFTER_RESET {
        reset();
    }
}
