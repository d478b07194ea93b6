//! The words that say who is online and who is still to stop.

use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use guest_abi::mailbox::{Condition, NOBODY};
use guest_abi::protocol::{List, Order, Stop, Word};

use super::{ORDER, own};
use crate::arch::{COUNTER, LOG, ONLINE_COUNT, ONLINE_MASK, PANIC_CPU, STOP_MASK};

pub(super) fn online() -> u64 {
    ONLINE_MASK.0[0].load(ORDER)
}

pub(super) fn is_online(cpu: usize) -> bool {
    online() >> cpu & 1 == 1
}

/// What the sender of this stop makes a list from.
pub(super) fn list(list: List, first: u64) -> u64 {
    match list {
        List::FirstMask => first,
        List::Online => online(),
        List::OnlineOthers => online() & !(1 << own()),
        List::StopMask => STOP_MASK.0[0].load(ORDER),
    }
}

/// The condition on which the sender of this stop has nobody left to wait for.
#[inline(always)]
pub(super) fn all_acked(stop: &Stop) -> Condition {
    match stop.polls.is {
        Word::OnlineMask | Word::OnlineCount => {
            Condition::AtMost(ptr::from_ref(&ONLINE_COUNT) as u64, is_online(own()).into())
        }
        Word::StopMask => Condition::Zero(ptr::from_ref(&STOP_MASK) as u64, 512),
        Word::Counter => Condition::AtMost(ptr::from_ref(&COUNTER) as u64, 0),
    }
}

/// The same, by the CPU's own reading.
pub(super) fn has_nobody_left(stop: &Stop) -> bool {
    match stop.polls.is {
        Word::OnlineMask | Word::OnlineCount => {
            ONLINE_COUNT.load(ORDER) <= i32::from(is_online(own()))
        }
        Word::StopMask => STOP_MASK.0.iter().all(|word| word.load(ORDER) == 0),
        Word::Counter => COUNTER.load(ORDER) <= 0,
    }
}

fn order(order: Order) -> Ordering {
    match order {
        Order::Relaxed => Ordering::Relaxed,
        Order::Full => Ordering::SeqCst,
    }
}

/// `cpumask_clear_cpu(cpu, stop_mask)`.
#[inline(always)]
pub(super) fn clear_stop_mask(cpu: usize, ordered: Order) {
    STOP_MASK.0[0].fetch_and(!(1 << cpu), order(ordered));
}

/// `atomic_dec(&waiting_for_crash_ipi)`.
#[inline(always)]
pub(super) fn drop_counter(ordered: Order) {
    COUNTER.fetch_sub(1, order(ordered));
}

/// The first half of `set_cpu_online(cpu, false)`: whether it was.
#[inline(always)]
pub(super) fn clear_online(cpu: usize) -> bool {
    ONLINE_MASK.0[0].fetch_and(!(1 << cpu), Ordering::SeqCst) >> cpu & 1 == 1
}

/// Its second half.
#[inline(always)]
pub(super) fn drop_online_count() {
    ONLINE_COUNT.fetch_sub(1, Ordering::SeqCst);
}

/// The condition that a 32-bit word is this.
#[inline(always)]
pub(super) fn is(word: &AtomicU32, value: u32) -> Condition {
    Condition::Is(ptr::from_ref(word) as u64, value)
}

/// The condition that somebody panics.
#[inline(always)]
pub(super) fn somebody_panics() -> Condition {
    Condition::IsNot(ptr::from_ref(&PANIC_CPU) as u64, NOBODY)
}

/// The condition that no record is left to show.
#[inline(always)]
pub(super) fn all_shown() -> Condition {
    let (shown, count) = (ptr::from_ref(&LOG.shown), ptr::from_ref(&LOG.count));
    Condition::Reaches(shown as u64, count as u64)
}

/// Whether this CPU panics.
#[inline(always)]
pub(super) fn panics() -> bool {
    PANIC_CPU.load(ORDER) == own() as u32
}

/// Whether another one does.
#[inline(always)]
pub(super) fn other_panics() -> bool {
    let cpu = PANIC_CPU.load(ORDER);
    cpu != NOBODY && cpu != own() as u32
}
