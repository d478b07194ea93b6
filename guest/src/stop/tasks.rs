//! What the scenario has a CPU do.

use guest_abi::mailbox::{self, Job, Why};
use guest_abi::point::Point;

use super::panic::go;
use super::printk::Say;
use super::ring::{self, Mask, mask_at_least, set_mask, step};
use super::{BACKTRACE, ORDER, handler, own, words};
use crate::arch::{
    self, ONLINE_COUNT, ONLINE_MASK, SYSTEM_STATE, cpu_do_idle, smp_send_stop, vpanic, vprintk_emit,
};
use crate::cpus::CpuId;
use crate::gic;

/// Does it, and then nothing.
pub(super) fn run(job: Option<Job>) -> ! {
    match job {
        Some(Job::Panic) => vpanic(),
        Some(Job::Restart) => restart(),
        Some(Job::Talk(records)) => talk(records),
        Some(Job::Unplug) => unplug(),
        Some(Job::Online) => come_online(),
        Some(Job::Nmi(cpu)) => send_backtrace(cpu),
        Some(Job::MaskIrqs | Job::MaskDaif) => step(Some(Point::Masked)),
        Some(Job::Wedge) => {
            step(Some(Point::Masked));
            arch::wedged(own() as u64)
        }
        None => {}
    }
    cpu_do_idle()
}

/// Waits for interrupts.
#[inline(always)]
pub(crate) fn idle() -> ! {
    loop {
        ring::stand(Why::Idle, None, &[]);
        arm_gic::wfi();
    }
}

fn talk(records: u8) {
    step(None);
    for left in (1..=records).rev() {
        step(None);
        vprintk_emit(Say::Talk(left));
    }
}

/// `machine_restart()`.
fn restart() {
    step(Some(Point::RestartEntry));
    mask_at_least(Mask::Irqs);
    SYSTEM_STATE.store(1, ORDER);
    step(None);
    smp_send_stop(false);
    step(None);
    go(mailbox::AFTER_RESET);
}

fn unplug() -> ! {
    step(Some(Point::Unplug));
    mask_at_least(Mask::Irqs);
    step(None);
    if words::clear_online(own()) {
        step(Some(Point::Count));
        words::drop_online_count();
    }
    step(None);
    handler::power_off()
}

fn come_online() {
    step(Some(Point::Online));
    step(None);
    ONLINE_MASK.0[0].fetch_or(1 << own(), ORDER);
    step(None);
    ONLINE_COUNT.fetch_add(1, ORDER);
    set_mask(Mask::Open);
}

fn send_backtrace(cpu: u8) {
    step(None);
    set_mask(Mask::Open);
    gic::send_ipi(BACKTRACE, CpuId::new(cpu.into()));
}
