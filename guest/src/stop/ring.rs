//! The doorbell, and what a CPU masks.

use core::sync::atomic::{AtomicU8, AtomicU32};

use arm_sysregs::el0::accessors::read_cntvct_el0;
use guest_abi::mailbox::{self, Condition, Ring, Tell, Why};
use guest_abi::memory_map::DOORBELL_BASE;
use guest_abi::point::Point;

use super::{ORDER, flag, own};
use crate::arch::{self, MAILBOX};
use crate::gic::{PMR_IRQ_OFF, PMR_IRQ_ON};
use crate::time;

/// What a CPU keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Mask {
    /// Nothing.
    Open,
    /// Interrupts, not pseudo-NMIs.
    Irqs,
    /// Both.
    All,
}

/// ICC_PMR_EL1 where DAIF alone masks.
const PMR_DAIF: u8 = 0xf0;

impl Mask {
    /// PSTATE.DAIF and ICC_PMR_EL1, as Linux has them (`local_irq_save()` and `local_daif_mask()` in v6.12).
    fn registers(self) -> (u8, u8) {
        match (self, flag(mailbox::PSEUDO_NMI)) {
            (Mask::Open, true) => (0, PMR_IRQ_ON),
            (Mask::Irqs, true) => (0, PMR_IRQ_OFF),
            (Mask::Open, false) => (0, PMR_DAIF),
            (Mask::Irqs, false) => (0b0010, PMR_DAIF),
            (Mask::All, _) => (0b1111, PMR_DAIF),
        }
    }
}

/// What each CPU masks: the machine follows at once where that is more, and at the next ring where it is less, so that nothing gets
/// in between two rings.
static MASKS: [AtomicU8; mailbox::MAX_CPUS] = [const { AtomicU8::new(0) }; mailbox::MAX_CPUS];

/// How often a handler has come back to what it interrupted, by CPU.
static RETURNS: [AtomicU32; mailbox::MAX_CPUS] = [const { AtomicU32::new(0) }; mailbox::MAX_CPUS];

/// What this CPU masks.
#[inline(always)]
pub(super) fn mask() -> Mask {
    match MASKS[own()].load(ORDER) {
        0 => Mask::Open,
        1 => Mask::Irqs,
        _ => Mask::All,
    }
}

/// Masks so much, and no more than that.
#[inline(always)]
pub(super) fn set_mask(mask: Mask) {
    let before = self::mask();
    MASKS[own()].store(mask as u8, ORDER);
    if mask > before {
        close();
    }
}

/// Masks at least so much.
#[inline(always)]
pub(super) fn mask_at_least(least: Mask) {
    if mask() < least {
        set_mask(least);
    }
}

/// What the handler of an interrupt finds masked: all of it, by the exception.
#[inline(always)]
pub(super) fn enter() {
    MASKS[own()].store(Mask::All as u8, ORDER);
    arch::set_pmr(Mask::All.registers().1);
}

/// A handler goes back to what it interrupted, which finds its masks there when it rings again.
#[inline(always)]
pub(super) fn leave(saved: Mask) {
    MASKS[own()].store(saved as u8, ORDER);
    RETURNS[own()].fetch_add(1, ORDER);
}

/// Has the machine mask what the CPU masks, where that is more than nothing.
#[inline(always)]
fn close() {
    let (daif, pmr) = mask().registers();
    match daif {
        0 => {}
        0b0010 => arch::mask_irq(),
        _ => arch::mask_daif(),
    }
    arch::set_pmr(pmr);
}

/// The first ring of a CPU, all masked; it will mask this.
#[inline(always)]
pub(super) fn ready(first: Mask) {
    MASKS[own()].store(Mask::All as u8, ORDER);
    close();
    stand(Why::Ready, None, &[]);
    MASKS[own()].store(first as u8, ORDER);
}

/// Stands before a step until it shall be taken.
#[inline(always)]
pub(super) fn step(point: Option<Point>) {
    stand(Why::Step, point, &[]);
}

/// The same with conditions, of which one at least must hold.
#[inline(always)]
pub(super) fn wait(point: Option<Point>, conditions: &[Condition]) {
    stand(Why::Step, point, conditions);
}

/// Rings. An interrupt whose handler comes back has taken the step's place: it is rung again.
#[inline(always)]
pub(super) fn stand(why: Why, point: Option<Point>, conditions: &[Condition]) {
    let cpu = own();
    let slot = &MAILBOX[mailbox::SLOTS_AT + cpu * mailbox::SLOT_WORDS..][..mailbox::SLOT_WORDS];
    loop {
        let returns = RETURNS[cpu].load(ORDER);
        slot[mailbox::CONDITIONS_AT].store(conditions.len() as u64, ORDER);
        let words = &slot[mailbox::CONDITIONS_AT + 1..];
        let told = conditions.iter().flat_map(|condition| condition.words());
        for (place, word) in words.iter().zip(told) {
            place.store(word, ORDER);
        }
        let (daif, pmr) = mask().registers();
        let mut ring = Ring {
            why,
            point,
            daif,
            pmr,
            opens: false,
        };
        if daif != 0 {
            arch::ring(DOORBELL_BASE, ring.word());
        } else {
            ring.opens = true;
            arch::ring_and_open(DOORBELL_BASE, ring.word(), pmr);
        }
        if RETURNS[cpu].load(ORDER) == returns {
            return;
        }
    }
}

/// Tells something of the step that is taken.
#[inline(always)]
pub(super) fn tell(tell: Tell) {
    let slot = &MAILBOX[mailbox::SLOTS_AT + own() * mailbox::SLOT_WORDS..][..mailbox::SLOT_WORDS];
    let told = slot[mailbox::TOLD_AT].load(ORDER) as usize;
    assert!(told < mailbox::TOLDS, "a step tells too much");
    let words = &slot[mailbox::TOLD_AT + 1 + 3 * told..];
    for (place, word) in words.iter().zip(tell.words()) {
        place.store(word, ORDER);
    }
    slot[mailbox::TOLD_AT].store(told as u64 + 1, ORDER);
}

/// The value of the counter in so many microseconds.
#[inline(always)]
pub(super) fn counter_in(us: u64) -> u64 {
    read_cntvct_el0().virtualcount() + us * time::frequency() / 1_000_000
}

/// Whether the counter has come there.
#[inline(always)]
pub(super) fn has_come(counter: u64) -> bool {
    read_cntvct_el0().virtualcount() >= counter
}
