//! A guest to try a debugger on: every CPU takes one turn after the other, each of which reads and writes what a debugger can watch, while
//! the virtual timer interrupts it 1,000 times a second.
//!
//! `debuggee` on the command line asks for it. It ends when somebody has written something else than zero to [`ENDS`].

use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::console::println;
use crate::cpus::{CpuId, MAX_CPUS};
use crate::time;

/// Interrupts a second.
const HERTZ: u64 = 1000;

static ASKED_FOR: AtomicBool = AtomicBool::new(false);

/// The CPUs that take turns: their timer goes on.
static TAKE_TURNS: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

/// Each CPU's turns. Written once a turn.
static TURNS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Read once a turn, and never written here.
static ENDS: AtomicU64 = AtomicU64::new(0);

/// How often any CPU has come to its interrupt vector.
static ENTRIES: AtomicU64 = AtomicU64::new(0);

/// Looks whether the command line asks for it.
pub(crate) fn look_for(bootargs: &str) {
    let asked = bootargs
        .split_ascii_whitespace()
        .any(|word| word == "debuggee");
    ASKED_FOR.store(asked, Ordering::Release);
}

/// Whether it was asked for.
pub(crate) fn is_asked_for() -> bool {
    ASKED_FOR.load(Ordering::Acquire)
}

/// Where a CPU takes turns, counts an interrupt of its timer and lets the next one come.
pub(crate) fn goes_on() -> bool {
    let goes_on = TAKE_TURNS[CpuId::current().index()].load(Ordering::Relaxed);
    if goes_on {
        ENTRIES.fetch_add(1, Ordering::Relaxed);
        time::start_timer_in(HERTZ);
    }
    goes_on
}

/// Takes turns until somebody ends it.
pub(crate) fn run(cpu: CpuId) {
    println!("{cpu} takes turns");
    TAKE_TURNS[cpu.index()].store(true, Ordering::Relaxed);
    time::start_timer_in(HERTZ);
    while turn(cpu) == 0 {}
    TAKE_TURNS[cpu.index()].store(false, Ordering::Relaxed);
    time::stop_timer();
}

/// One turn: what [`ENDS`] holds.
#[inline(never)]
fn turn(cpu: CpuId) -> u64 {
    TURNS[cpu.index()].fetch_add(1, Ordering::Relaxed);
    // Nothing here writes it: the compiler is not to know that.
    black_box(&ENDS).load(Ordering::Relaxed)
}
