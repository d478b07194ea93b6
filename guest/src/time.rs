//! Guest time: the virtual counter, its timer, and waits that end.

use arm_sysregs::el0::accessors::{
    read_cntfrq_el0, read_cntvct_el0, write_cntv_ctl_el0, write_cntv_cval_el0,
};
use arm_sysregs::el0::registers::{CntvCtlEl0, CntvCvalEl0};
use arm_sysregs::el1::accessors::write_cntkctl_el1;
use arm_sysregs::el1::registers::CntkctlEl1;

use crate::arch;

/// How many seconds of guest time a CPU waits for anything before it says what was missing.
///
/// It is meant never to run out in a guest that works: hosts may be emulated, loaded, and run many
/// more CPUs than they have.
pub(crate) const PATIENCE: u64 = 30;

/// How many seconds a CPU waits for another that may itself wait for `PATIENCE`: that one then gets
/// to say what it was.
pub(crate) const PATIENCE_WITH_OTHERS: u64 = 2 * PATIENCE;

/// The frequency of the counter in Hz.
pub(crate) fn frequency() -> u64 {
    u64::from(read_cntfrq_el0().clockfreq())
}

/// A moment of guest time.
pub(crate) struct Deadline(u64);

impl Deadline {
    /// The moment so many seconds from now.
    pub(crate) fn after(seconds: u64) -> Self {
        Self(read_cntvct_el0().virtualcount() + seconds * frequency())
    }

    pub(crate) fn has_passed(&self) -> bool {
        read_cntvct_el0().virtualcount() >= self.0
    }
}

/// Waits for a condition that an interrupt or another CPU's `sev` makes true. False if it is not
/// true after so many seconds.
///
/// The wait is by WFE: with more CPUs than the host has, KVM lets another run at each. That a WFE
/// ends although no event comes is what the event stream is for.
pub(crate) fn wait_for(seconds: u64, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Deadline::after(seconds);
    loop {
        if condition() {
            return true;
        }
        if deadline.has_passed() {
            return false;
        }
        arch::wfe();
    }
}

/// Lets the counter wake this CPU from WFE about 10,000 times a second, as Linux does (its
/// `arch_timer_configure_evtstream`): at each rise of bit EVNTI of the counter.
pub(crate) fn enable_event_stream() {
    let period = (frequency() / 10_000).max(2);
    let bit = (period.ilog2() - 1).min(15);
    write_cntkctl_el1(CntkctlEl1::EVNTEN.with_evnti(bit as u8));
}

/// Lets this CPU's virtual timer interrupt it in 100 us.
pub(crate) fn start_timer() {
    start_timer_in(10_000);
}

/// Lets this CPU's virtual timer interrupt it when such a part of a second has passed.
pub(crate) fn start_timer_in(part: u64) {
    let expiry = read_cntvct_el0().virtualcount() + frequency() / part;
    write_cntv_cval_el0(CntvCvalEl0::from_bits_retain(expiry));
    write_cntv_ctl_el0(CntvCtlEl0::ENABLE);
    arch::isb();
}

/// Stops this CPU's virtual timer, and with it the level of its interrupt.
pub(crate) fn stop_timer() {
    write_cntv_ctl_el0(CntvCtlEl0::empty());
    arch::isb();
}
