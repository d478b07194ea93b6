use proptest::prelude::*;

use super::guest::{Guest, KERNEL};
use super::image::{Image, RAM};
use super::kallsyms::lay;
use crate::arm::{CpuId, CpuSet, KernelVa};
use crate::evidence::{Note, NoteState, Regs};
use crate::inspect::{ConsoleFacts, Form, InspectError, Kernel, StopFacts, SystemState};

const CPUS: u16 = 3;
/// Where the variables lie, one every 64 bytes.
const DATA: u64 = KERNEL + 0x4_0000;
const VARIABLES: [&str; 14] = [
    "__cpu_online_mask",
    "__num_online_cpus",
    "__per_cpu_offset",
    "console_owner",
    "console_owner_lock",
    "console_sem",
    "console_waiter",
    "crash_notes",
    "crash_stop",
    "oops_in_progress",
    "panic_cpu",
    "stop_in_progress.3",
    "stop_mask",
    "system_state",
];

fn at(name: &str) -> u64 {
    let number = VARIABLES.iter().position(|known| *known == name).unwrap();
    DATA + 64 * number as u64
}

fn regs(pc: u64) -> Regs {
    Regs {
        x: [7; 31],
        sp: 8,
        pc,
        pstate: 0x3c5,
    }
}

/// A guest of 3 CPUs in the midst of a crash stop: CPU 0 panicked, CPU 1 has saved and acked, CPU 2 has not.
fn guest() -> Guest {
    let mut guest = Guest::new();
    let names: Vec<String> = VARIABLES.iter().map(|name| format!("b{name}")).collect();
    let symbols: Vec<(u64, &str)> = (names.iter())
        .map(|name| (at(&name[1..]), name.as_str()))
        .collect();
    lay(&mut guest, &symbols, Form::Relative);
    let words: [(&str, u64); 10] = [
        ("__cpu_online_mask", 0b101),
        ("__num_online_cpus", 2),
        ("console_owner", KERNEL + 0x123),
        ("console_owner_lock", 0x101),
        ("console_waiter", 1),
        ("crash_notes", KERNEL + 0x5_0000),
        ("crash_stop", 1),
        ("stop_in_progress.3", 1),
        ("stop_mask", 0b100),
        ("system_state", 3),
    ];
    for (name, word) in words {
        guest.write(at(name), &word.to_le_bytes());
    }
    for cpu in 0..u64::from(CPUS) {
        let offset = 0x1000 * (1 + cpu);
        guest.write(at("__per_cpu_offset") + 8 * cpu, &offset.to_le_bytes());
    }
    let list = at("console_sem") + 8;
    guest.write(list, &list.to_le_bytes());
    guest.write(list + 8, &list.to_le_bytes());
    guest.write(KERNEL + 0x5_2000, &Note::complete(&regs(0x44)).0);
    guest
}

fn image(guest: &mut Guest) -> &Image {
    guest.describe(RAM + 0x6_0000);
    &guest.image
}

#[test]
fn every_fact_is_read() {
    let mut guest = guest();
    let kernel = Kernel::find(image(&mut guest), CPUS).unwrap();
    let set = |text: &str| text.parse::<CpuSet>().unwrap();
    assert_eq!(kernel.online(), Ok(set("0,2")));
    assert_eq!(kernel.online_count(), Ok(2));
    assert_eq!(kernel.panic_cpu(), Ok(Some(CpuId(0))));
    assert_eq!(kernel.system_state(), Ok(SystemState::Running));
    let stop = StopFacts {
        waiting_for_crash_ipi: None,
        stop_mask: Some(set("2")),
        crash_stop: Some(true),
        stop_in_progress: Some(true),
    };
    assert_eq!(kernel.stop(), Ok(stop));
    let console = ConsoleFacts {
        owner: Some(KernelVa(KERNEL + 0x123)),
        waiter: true,
        semaphore_held: true,
        owner_lock_held: true,
        oops_in_progress: 0,
    };
    assert_eq!(kernel.console(), Ok(console));
    let states: Vec<NoteState> = (0..CPUS)
        .map(|cpu| kernel.crash_note(CpuId(cpu)).unwrap().1.state())
        .collect();
    assert_eq!(
        states,
        [NoteState::Empty, NoteState::Complete, NoteState::Empty]
    );
    let (at, note) = kernel.crash_note(CpuId(1)).unwrap();
    assert_eq!((at, note.regs()), (KernelVa(KERNEL + 0x5_2000), regs(0x44)));
}

#[test]
fn nobody_waits_for_a_semaphore_that_points_to_the_first() {
    let mut guest = guest();
    guest.write(at("console_sem") + 8, &[0; 8]);
    let kernel = Kernel::find(image(&mut guest), CPUS).unwrap();
    assert!(kernel.console().unwrap().semaphore_held);
}

#[test]
fn what_can_not_be_is_named() {
    let mut guest = guest();
    guest.write(at("__cpu_online_mask"), &[0b1001]);
    guest.write(at("panic_cpu"), &[9]);
    guest.write(at("system_state"), &[8]);
    guest.write(at("crash_stop"), &[2]);
    guest.write(at("crash_notes"), &[0; 8]);
    guest.write(at("__per_cpu_offset"), &[0; 8]);
    guest.write(at("console_sem") + 8, &5u64.to_le_bytes());
    let kernel = Kernel::find(image(&mut guest), CPUS).unwrap();
    let errors = [
        (
            kernel.online().unwrap_err(),
            "__cpu_online_mask",
            "CPU 3 in a guest of 3",
        ),
        (
            kernel.panic_cpu().unwrap_err(),
            "panic_cpu",
            "CPU 9 in a guest of 3",
        ),
        (
            kernel.system_state().unwrap_err(),
            "system_state",
            "8 is no state",
        ),
        (
            kernel.stop().unwrap_err(),
            "crash_stop",
            "0x2 is neither true nor false",
        ),
        (
            kernel.crash_note(CpuId(1)).unwrap_err(),
            "crash_notes",
            "the pointer is null",
        ),
        (
            kernel.per_cpu_offset(CpuId(0)).unwrap_err(),
            "__per_cpu_offset",
            "CPU 0 has no",
        ),
        (
            kernel.console().unwrap_err(),
            "console_sem",
            "0x5 is no waiter",
        ),
    ];
    for (error, object, what) in errors {
        let text = error.to_string();
        assert!(text.starts_with(object) && text.contains(what), "{text}");
    }
}

#[test]
fn nobody_has_panicked() {
    let mut guest = guest();
    guest.write(at("panic_cpu"), &[0xff; 4]);
    let kernel = Kernel::find(image(&mut guest), CPUS).unwrap();
    assert_eq!(kernel.panic_cpu(), Ok(None));
    assert!(matches!(
        kernel.symbol("sdei_nmi_stopping"),
        Err(InspectError::NoSymbol { .. })
    ));
}

proptest! {
    #[test]
    fn damage_gives_facts_or_errors(
        damage in prop::collection::vec((0u64..64 * 14, any::<u8>()), 1..30),
    ) {
        let mut guest = guest();
        for (at, byte) in damage {
            guest.write(DATA + at, &[byte]);
        }
        let kernel = Kernel::find(image(&mut guest), CPUS).unwrap();
        if let Ok(online) = kernel.online() {
            prop_assert!(online.iter().all(|cpu| cpu.0 < CPUS));
        }
        if let Ok(Some(cpu)) = kernel.panic_cpu() {
            prop_assert!(cpu.0 < CPUS);
        }
        for cpu in 0..CPUS {
            if let Ok((at, _)) = kernel.crash_note(CpuId(cpu)) {
                prop_assert!(at.is_upper());
            }
        }
        let _ = (kernel.stop(), kernel.console(), kernel.system_state(), kernel.online_count());
    }
}
