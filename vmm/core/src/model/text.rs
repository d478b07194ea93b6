//! Where the model's code would lie: addresses and registers for the places where a CPU can be interrupted.

use std::sync::{Arc, LazyLock};

use crate::evidence::{Place, PlaceKind, Places, Regs};

/// A function of the model. Its steps lie four bytes apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Function {
    Idle,
    Task,
    Panic,
    CrashKexec,
    StopCaller,
    Printk,
    Section,
    StopHandler,
    SelfStop,
    ForeignHandler,
}

const BASE: u64 = 0xffff_8000_8000_0000;
const SIZE: u64 = 0x100;

const FUNCTIONS: [(Function, &str, PlaceKind); 10] = [
    (Function::Idle, "cpu_do_idle", PlaceKind::Other),
    (Function::Task, "task", PlaceKind::Other),
    (Function::Panic, "panic", PlaceKind::Other),
    (Function::CrashKexec, "__crash_kexec", PlaceKind::CrashKexec),
    (Function::StopCaller, "smp_send_stop", PlaceKind::Other),
    (Function::Printk, "vprintk_emit", PlaceKind::Other),
    (Function::Section, "pl011_console_write", PlaceKind::Section),
    (Function::StopHandler, "do_handle_IPI", PlaceKind::StopPath),
    (Function::SelfStop, "panic_smp_self_stop", PlaceKind::Other),
    (
        Function::ForeignHandler,
        "nmi_cpu_backtrace",
        PlaceKind::Other,
    ),
];

/// The address of a step.
pub(super) fn address(function: Function, step: u64) -> u64 {
    let at = FUNCTIONS
        .iter()
        .position(|(known, ..)| *known == function)
        .expect("every function is there");
    BASE + at as u64 * SIZE + 4 * step
}

/// The registers of a CPU at an address: made up, but its own at every place.
pub(super) fn regs(cpu: usize, pc: u64, depth: usize) -> Regs {
    let own = (cpu as u64 + 1) << 32;
    let sp = 0xffff_8000_9000_0000 + ((cpu as u64) << 16) - 0x100 * depth as u64;
    Regs {
        x: std::array::from_fn(|n| own | (pc & 0xffff) << 8 | n as u64),
        sp,
        pc,
        pstate: 0x6040_0005,
    }
}

/// What the rules ask of the text.
pub(super) fn places() -> Places {
    static PLACES: LazyLock<Arc<Places>> = LazyLock::new(|| {
        let place = |(function, name, kind): &(Function, &str, PlaceKind)| {
            let start = address(*function, 0);
            Place {
                start,
                end: start + SIZE,
                kind: *kind,
                name: (*name).to_owned(),
            }
        };
        Arc::new(Places(FUNCTIONS.iter().map(place).collect()))
    });
    Places::clone(&PLACES)
}
