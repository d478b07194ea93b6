//! The CPU that stops: the interrupt's entry, the steps of the table, the rest.

use arm_gic::InterruptGroup;
use arm_gic::gicv3::GicCpuInterface;
use guest_abi::mailbox::{self, Tell, Why};
use guest_abi::note::{
    DESC_BYTES, END_AT, NAME_AT, NAME_BYTES, NOTE_BYTES, SP_AT, TYPE_PRSTATUS, X0_AT,
};
use guest_abi::point::Point;
use guest_abi::protocol::{Request, Step, Word};
use smccc::Hvc;
use smccc::psci;

use super::printk::{self, Say};
use super::ring::{self, Mask, enter, mask, mask_at_least, set_mask, step, tell};
use super::{BACKTRACE, ORDER, arrives_as, flag, own, table, word, words};
use crate::arch::{CRASH_STOP, Frame, NOTES, cpu_park_loop, nmi_cpu_backtrace, wait_parked};

/// Which handler runs: the crash stop's, the plain stop's, or none yet where the flag has not been read.
type Kind = Option<bool>;

/// What made the handler run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Irq,
    Nmi,
    SelfStop,
}

/// Takes the interrupt that is signalled. Comes back from one that is no stop.
#[inline(always)]
pub(crate) fn interrupted(frame: &mut Frame) {
    let group = InterruptGroup::Group1;
    let Some(intid) = GicCpuInterface::get_and_acknowledge_interrupt(group) else {
        panic!("an interrupt was signalled and none is pending");
    };
    let sgi = u32::from(intid) as u8;
    let saved = mask();
    enter();
    if sgi == BACKTRACE {
        nmi_cpu_backtrace(saved);
        GicCpuInterface::end_interrupt(intid, group);
        // What was interrupted opens again when it has rung again.
        frame.pstate |= PSTATE_I;
        return;
    }
    let by = match arrives_as(sgi) {
        Request::Nmi => By::Nmi,
        Request::Irq | Request::Sdei => By::Irq,
    };
    let kind = match sgi {
        _ if super::protocol().told_by_flag.is => None,
        2 => Some(false),
        3 => Some(true),
        _ => panic!("{intid:?} is no interrupt of the payload's"),
    };
    stop(by, kind, Some(frame))
}

/// `SPSR_EL1.I`.
const PSTATE_I: u64 = 1 << 7;

/// `panic_smp_self_stop()`.
#[inline(always)]
pub(crate) fn self_stop() -> ! {
    stop(By::SelfStop, Some(false), None)
}

/// `nmi_cpu_backtrace()`.
#[inline(always)]
pub(crate) fn backtrace(saved: Mask) {
    step(None);
    printk::store(Say::Backtrace);
    step(None);
    ring::leave(saved);
}

/// The steps of the table.
#[inline(always)]
fn stop(by: By, mut kind: Kind, frame: Option<&mut Frame>) -> ! {
    let frame = frame.map(|frame| &*frame);
    match by {
        By::Irq => {
            step(Some(Point::IrqTaken));
            if flag(mailbox::PSEUDO_NMI) {
                set_mask(Mask::Irqs);
            }
            step(Some(Point::IrqOpen));
        }
        By::Nmi => step(Some(Point::NmiTaken)),
        By::SelfStop => {
            step(Some(Point::SelfStop));
            tell(Tell::SelfStops);
        }
    }
    let cpu = own();
    let mut at = 0;
    loop {
        step(point(at, kind));
        let what;
        (what, kind) = next(at, kind);
        let ordered = table(kind.unwrap_or(false)).ack_order.is;
        match what {
            Step::Save => {
                if let Some(frame) = frame {
                    write_note(cpu, frame, 0..SP_AT);
                }
                step(Some(Point::SaveTorn));
                if let Some(frame) = frame {
                    write_note(cpu, frame, SP_AT..NOTE_BYTES);
                }
            }
            // A CPU that stops itself knows of no sender's mask.
            Step::ClearStopMask if by == By::SelfStop => {}
            Step::ClearStopMask => words::clear_stop_mask(cpu, ordered),
            Step::DropCounter => words::drop_counter(ordered),
            Step::Offline => {
                if words::clear_online(cpu) {
                    step(Some(Point::Count));
                    words::drop_online_count();
                }
            }
            Step::MaskIrqs => mask_at_least(Mask::Irqs),
            Step::MaskDaif => set_mask(Mask::All),
            Step::DieOrPark if flag(mailbox::CAN_DIE) => power_off(),
            Step::DieOrPark | Step::Park => cpu_park_loop(),
        }
        at += 1;
    }
}

/// The step at this place, and the kind that the handler then knows itself to be: steps that both handlers begin with are taken
/// before the flag is read.
#[inline(always)]
fn next(at: usize, kind: Kind) -> (Step, Kind) {
    let step = |crash: bool| {
        let steps = word(mailbox::HANDLERS_AT + usize::from(crash));
        match mailbox::step_of(steps, at) {
            Some(step) => step,
            None => panic!("a handler has no end"),
        }
    };
    match kind {
        Some(crash) => (step(crash), kind),
        None if step(false) == step(true) => (step(false), None),
        None => {
            let crash = CRASH_STOP.load(ORDER) != 0;
            (step(crash), Some(crash))
        }
    }
}

#[inline(always)]
fn point(at: usize, kind: Kind) -> Option<Point> {
    let (step, kind) = next(at, kind);
    match step {
        Step::Save => Some(Point::Save),
        Step::ClearStopMask | Step::DropCounter => Some(Point::Ack),
        Step::Offline => {
            let ack = table(kind.unwrap_or(false)).ack.is;
            (ack == Word::OnlineMask).then_some(Point::Ack)
        }
        Step::MaskIrqs | Step::MaskDaif => Some(Point::HandlerMask),
        Step::DieOrPark | Step::Park => Some(Point::Rest),
    }
}

/// PSCI CPU_OFF.
#[inline(always)]
pub(super) fn power_off() -> ! {
    let error = psci::cpu_off::<Hvc>();
    panic!("PSCI CPU_OFF returned {error:?}");
}

/// `cpu_park_loop()`.
#[inline(always)]
pub(crate) fn park() -> ! {
    set_mask(Mask::All);
    ring::stand(Why::Parked, None, &[]);
    loop {
        wait_parked();
    }
}

/// Writes these bytes of the note that `crash_save_cpu()` leaves for these registers (guest_abi::note).
#[inline(always)]
pub(super) fn write_note(cpu: usize, frame: &Frame, bytes: core::ops::Range<usize>) {
    let mut at = bytes.start;
    while at < bytes.end {
        let half = match at {
            0 => NAME_BYTES,
            4 => DESC_BYTES,
            8 => TYPE_PRSTATUS,
            NAME_AT => u32::from_le_bytes(*b"CORE"),
            X0_AT..END_AT => register(frame, at - X0_AT),
            _ => 0,
        };
        NOTES[cpu][at / 4].store(half, ORDER);
        at += 4;
    }
}

/// Half a register of the note's.
#[inline(always)]
fn register(frame: &Frame, at: usize) -> u32 {
    let value = match at / 8 {
        number @ 0..=30 => frame.x[number],
        31 => frame.sp,
        32 => frame.pc,
        33 => frame.pstate,
        // pr_fpvalid and the padding.
        _ => 0,
    };
    (value >> (at % 8 * 8)) as u32
}
