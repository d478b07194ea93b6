//! The ladder, as the sender climbs it (`smp_send_stop()` and `crash_smp_send_stop()`).

use guest_abi::mailbox::{Condition, Tell, Why};
use guest_abi::point::Point;
use guest_abi::protocol::{Announced, List, Request, Rung, SecondCaller, Stop, Word};

use super::printk::Say;
use super::ring::{self, counter_in, has_come, step, tell, wait};
use super::{ORDER, cpus, own, protocol, rungs, table, words};
use crate::arch::{
    COUNTER, CRASH_STOP, ONLINE_COUNT, STOP_IN_PROGRESS, STOP_MASK, SYSTEM_STATE, vprintk_emit,
};
use crate::cpus::CpuId;
use crate::gic;

fn send_point(asks: Request) -> Point {
    match asks {
        Request::Irq => Point::IrqSend,
        Request::Nmi => Point::NmiSend,
        Request::Sdei => Point::SdeiSend,
    }
}

fn wait_point(asks: Request) -> Point {
    match asks {
        Request::Irq => Point::IrqWait,
        Request::Nmi => Point::NmiWait,
        Request::Sdei => Point::SdeiWait,
    }
}

/// Stops the others.
#[inline(always)]
pub(crate) fn climb(crash: bool) {
    step(Some(Point::StopEntry));
    tell(Tell::Calls { crash });
    step(None);
    if may_climb(crash) {
        climb_rungs(crash);
    }
    step(Some(Point::StopReturn));
    tell(Tell::Returns);
}

/// Who may climb. A crash stop since v1 goes through the plain stop and meets its guard too.
#[inline(always)]
fn may_climb(crash: bool) -> bool {
    if crash && CRASH_STOP.swap(1, ORDER) != 0 {
        return false;
    }
    if ONLINE_COUNT.load(ORDER) - i32::from(words::is_online(own())) == 0 {
        return false;
    }
    protocol().plain.second_caller.is != SecondCaller::ReturnsAtOnce
        || STOP_IN_PROGRESS.swap(1, ORDER) == 0
}

#[inline(always)]
fn climb_rungs(crash: bool) {
    let stop = table(crash);
    let shared = stop.retries.is == List::StopMask;
    let bit = 1_u64 << own();
    step(Some(Point::MaskRead));
    let first = words::online() & !bit;
    let running = SYSTEM_STATE.load(ORDER) == 0;
    tell(Tell::Climbs {
        crash,
        running,
        others: first,
    });
    if stop.polls.is == Word::Counter {
        COUNTER.store(first.count_ones() as i32, ORDER);
    }
    if shared {
        // Two statements on one global mask: another sender may come between them.
        STOP_MASK.0[0].store(words::online(), ORDER);
        step(None);
        STOP_MASK.0[0].fetch_and(!bit, ORDER);
    } else {
        tell(Tell::Reads(first));
    }
    step(Some(Point::Announce));
    if stop.announced.is == Announced::Always || running {
        vprintk_emit(Say::Stopping);
    }
    let mut mask = first;
    for (number, (asks, rung)) in rungs(stop).enumerate() {
        if number > 0 {
            step((asks == Request::Nmi).then_some(Point::NmiMaskRead));
            if words::has_nobody_left(stop) {
                return;
            }
            mask = words::list(stop.retries.is, first);
            tell(Tell::Reads(mask));
            if rung.heading.is_some() {
                vprintk_emit(Say::Retry(asks, mask));
            }
        }
        if shared {
            step(None);
            mask = STOP_MASK.0[0].load(ORDER);
            tell(Tell::Reads(mask));
        }
        if ask(stop, asks, rung, mask) {
            return;
        }
    }
    step(Some(Point::FailedRead));
    if !words::has_nobody_left(stop) {
        mask = words::list(stop.failed.is, first);
        tell(Tell::Reads(mask));
        vprintk_emit(Say::Failed(mask));
    }
}

/// Asks, and waits as long as the rung lasts; true if nobody is left.
#[inline(always)]
fn ask(stop: &'static Stop, asks: Request, rung: &Rung, mask: u64) -> bool {
    step(Some(send_point(asks)));
    match rung.sgi {
        Some(sgi) => {
            for cpu in (0..cpus()).filter(|cpu| mask >> cpu & 1 == 1) {
                gic::send_ipi(sgi, CpuId::new(cpu));
            }
        }
        None => ring::stand(Why::NoSuchRung, None, &[]),
    }
    tell(Tell::Requests(asks, mask));
    let budget = u64::from(rung.budget_us);
    let deadline = counter_in(budget);
    loop {
        wait(
            Some(wait_point(asks)),
            &[words::all_acked(stop), Condition::Counter(deadline, budget)],
        );
        if words::has_nobody_left(stop) {
            return true;
        }
        if has_come(deadline) {
            tell(Tell::RungOut(asks));
            return false;
        }
    }
}
