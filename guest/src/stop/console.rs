//! The console drivers: PL011's up to 6.14 and the seed's geni (`give-up`), and nbcon.

use guest_abi::mailbox::{self, Condition, NOBODY};
use guest_abi::point::Point;

use super::printk::{byte, left, length};
use super::ring::{Mask, counter_in, has_come, mask, mask_at_least, set_mask, step, wait};
use super::words::{all_shown, is, other_panics, panics, somebody_panics};
use super::{ORDER, own, word};
use crate::arch::{CONSOLE_SEM, CONSOLE_WAITER, CONSOLE_WRITES, LOG, NBCON, PORT_LOCK};
use crate::console::Wire;

const OWNER: usize = 0;
const UNSAFE: usize = 1;
const WAITS: usize = 2;
const CUT: usize = 3;

/// How long a panicking CPU waits for a hand-over (`nbcon_context_try_acquire_handover()`, 2 ms in panic).
const HANDOVER_US: u64 = 2000;

/// The first half of a record.
#[inline(always)]
fn first_half(wire: &Wire, record: u32) {
    let mut at = 0;
    while at < length(record) / 2 {
        wire.put(byte(record, at));
        at += 1;
    }
}

/// The rest of it, and the end of its line.
#[inline(always)]
fn second_half(wire: &Wire, record: u32) {
    let mut at = length(record) / 2;
    while at < length(record) {
        wire.put(byte(record, at));
        at += 1;
    }
    wire.put(b'\n');
}

#[inline(always)]
fn count_shown(record: u32) {
    LOG.shown.fetch_max(record + 1, ORDER);
}

/// `pl011_console_write()`: one record, in a section with interrupts masked; true if `console_sem` has been handed over. `last`: by
/// the last flush, which does not own that.
#[inline(always)]
pub(crate) fn write(record: u32, last: bool) -> bool {
    let saved = mask();
    mask_at_least(Mask::Irqs);
    let cpu = own() as u32;
    // In panic the drivers only try the lock (`oops_in_progress`).
    if panics() {
        step(Some(Point::ConsoleLock));
    } else {
        while {
            wait(Some(Point::ConsoleLock), &[is(&PORT_LOCK, NOBODY)]);
            PORT_LOCK.load(ORDER) != NOBODY
        } {}
    }
    let locked = PORT_LOCK
        .compare_exchange(NOBODY, cpu, ORDER, ORDER)
        .is_ok();
    if locked || word(mailbox::DRIVER_AT) != mailbox::DRIVER_GIVE_UP {
        step(Some(Point::ConsoleLocked));
        let wire = Wire::open();
        first_half(&wire, record);
        step(Some(Point::ConsoleMid));
        second_half(&wire, record);
        step(Some(Point::ConsoleUnlock));
        wire.close();
        if locked {
            PORT_LOCK.store(NOBODY, ORDER);
        }
    }
    step(Some(Point::ConsoleCount));
    count_shown(record);
    set_mask(saved);
    if last {
        return false;
    }
    CONSOLE_WRITES.store(0, ORDER);
    let waiter = CONSOLE_WAITER.swap(NOBODY, ORDER);
    if waiter != NOBODY {
        CONSOLE_SEM.store(waiter, ORDER);
    }
    waiter != NOBODY
}

/// nbcon's thread, under the port lock.
#[inline(always)]
pub(crate) fn write_thread() {
    let saved = mask();
    mask_at_least(Mask::Irqs);
    let cpu = own() as u32;
    loop {
        let conditions = [is(&PORT_LOCK, NOBODY), all_shown(), somebody_panics()];
        let conditions = if panics() {
            &conditions[..2]
        } else {
            &conditions[..]
        };
        wait(Some(Point::ConsoleLock), conditions);
        if !left() || other_panics() {
            set_mask(saved);
            return;
        }
        PORT_LOCK.store(cpu, ORDER);
        wait(None, &[is(&NBCON[OWNER], NOBODY), somebody_panics()]);
        // Nobody but the CPU that panics takes it then. Linux's thread takes a console that it has lost once more, to put the UART in order,
        // which a panic has not kept it from since Linux commit 571c1ea91a73 ("printk: nbcon: Allow reacquire during panic", in v6.17).
        if !other_panics() {
            NBCON[OWNER].store(cpu, ORDER);
            write_owned(LOG.shown.load(ORDER));
        }
        step(None);
        PORT_LOCK.store(NOBODY, ORDER);
    }
}

/// Writes a record in two unsafe sections, as long as the console is ours.
#[inline(always)]
fn write_owned(record: u32) {
    step(None);
    if !enter_unsafe() {
        return;
    }
    step(Some(Point::ConsoleLocked));
    let wire = Wire::open();
    first_half(&wire, record);
    NBCON[CUT].store(1, ORDER);
    step(Some(Point::ConsoleMid));
    wire.drain();
    if !leave_unsafe() {
        return;
    }
    step(Some(Point::ConsoleSafe));
    if !enter_unsafe() {
        return;
    }
    step(None);
    second_half(&wire, record);
    NBCON[CUT].store(0, ORDER);
    step(Some(Point::ConsoleUnlock));
    wire.close();
    if !leave_unsafe() {
        return;
    }
    step(Some(Point::ConsoleCount));
    if is_ours() {
        count_shown(record);
        NBCON[OWNER].store(NOBODY, ORDER);
    }
}

#[inline(always)]
fn is_ours() -> bool {
    NBCON[OWNER].load(ORDER) == own() as u32
}

/// Enters an unsafe section, if the console is still ours.
#[inline(always)]
fn enter_unsafe() -> bool {
    let ours = is_ours();
    if ours {
        NBCON[UNSAFE].store(1, ORDER);
    }
    ours
}

/// Leaves it, and hands the console over if somebody waits; whether it is still ours then.
#[inline(always)]
fn leave_unsafe() -> bool {
    if !is_ours() {
        return false;
    }
    NBCON[UNSAFE].store(0, ORDER);
    let waiter = NBCON[WAITS].swap(NOBODY, ORDER);
    if waiter != NOBODY {
        NBCON[OWNER].store(waiter, ORDER);
    }
    waiter == NOBODY
}

/// The panicking CPU of nbcon, without the port lock; `hostile`: it takes over an unsafe console, too.
#[inline(always)]
pub(crate) fn write_atomic(hostile: bool) {
    loop {
        step(None);
        if !left() {
            return;
        }
        if is_stuck() && !hostile && !handed_over() {
            return;
        }
        NBCON[OWNER].store(own() as u32, ORDER);
        NBCON[WAITS].store(NOBODY, ORDER);
        step(None);
        let record = LOG.shown.load(ORDER);
        NBCON[UNSAFE].store(1, ORDER);
        let wire = Wire::open();
        // "console_line_ended": a cut line is ended first.
        if NBCON[CUT].swap(0, ORDER) != 0 {
            wire.put(b'\n');
        }
        first_half(&wire, record);
        second_half(&wire, record);
        step(None);
        wire.close();
        NBCON[UNSAFE].store(0, ORDER);
        NBCON[OWNER].store(NOBODY, ORDER);
        LOG.shown.fetch_add(1, ORDER);
    }
}

/// Whether another CPU is in an unsafe section.
#[inline(always)]
fn is_stuck() -> bool {
    let owner = NBCON[OWNER].load(ORDER);
    NBCON[UNSAFE].load(ORDER) != 0 && owner != NOBODY && owner != own() as u32
}

/// Asks for a hand-over and waits for it; false if none has come.
#[inline(always)]
fn handed_over() -> bool {
    NBCON[WAITS].store(own() as u32, ORDER);
    let deadline = counter_in(HANDOVER_US);
    loop {
        wait(
            None,
            &[
                is(&NBCON[UNSAFE], 0),
                is(&NBCON[OWNER], own() as u32),
                Condition::Counter(deadline, HANDOVER_US),
            ],
        );
        if !is_stuck() {
            return true;
        }
        if has_come(deadline) {
            NBCON[WAITS].store(NOBODY, ORDER);
            return false;
        }
    }
}
