//! The conductor over scripted vCPUs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Conductor, End, Reason};
use crate::deadline::Deadline;
use crate::machine::{Bus, Uart};
use crate::vcpu::scripted::{Act, Script, Scripted, ScriptedFailure, Seen};
use crate::vcpu::{Entry, Exit, Width};

fn bus() -> Arc<Bus> {
    Arc::new(Bus::new(
        Arc::new(Uart::new(Box::new(|_| {}))),
        Arc::default(),
    ))
}

fn start<const N: usize>(scripts: [Vec<Act>; N]) -> (Conductor<Scripted>, [Seen; N]) {
    let (scripts, seen): (Vec<_>, Vec<_>) = scripts.into_iter().map(Script::new).unzip();
    let conductor = Conductor::start(scripts, &bus()).expect("threads");
    let Ok(seen) = seen.try_into() else {
        unreachable!()
    };
    (conductor, seen)
}

fn entries(seen: &Seen) -> Vec<Entry> {
    seen.entries.lock().unwrap().clone()
}

#[test]
fn accesses_are_answered_by_the_bus_and_strays_abort() {
    let _in_time = Deadline::set();
    let (conductor, [seen]) = start([vec![
        Act::Leave(Exit::Read {
            address: 0x0900_0fe0,
            width: Width::Word,
        }),
        Act::Leave(Exit::Write {
            address: 0x0900_0000,
            width: Width::Byte,
            value: b'x'.into(),
        }),
        Act::Leave(Exit::Read {
            address: 0x1000,
            width: Width::Word,
        }),
        Act::Leave(Exit::NoSyndrome {
            address: 0x2000,
            iss: 0,
        }),
        Act::Leave(Exit::PowerOff),
    ]]);
    conductor.run();
    assert_eq!(conductor.wait(None), Some(End::PowerOff));
    conductor.finish();
    assert_eq!(
        entries(&seen),
        [
            Entry::Continue,
            Entry::Answer(0x11),
            Entry::Continue,
            Entry::Abort,
            Entry::Abort
        ]
    );
}

#[test]
fn nothing_runs_before_it_is_told_to() {
    let _in_time = Deadline::set();
    let (conductor, seen) = start([vec![], vec![]]);
    drop(conductor.quiesce());
    conductor.run();
    drop(conductor);
    for seen in seen {
        assert_eq!(seen.dropped.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn quiesce_finishes_the_pending_access_and_nothing_enters_until_it_ends() {
    let _in_time = Deadline::set();
    // The last exit leaves an access pending: the answer must be settled before registers are read.
    let (conductor, [seen]) = start([vec![
        Act::Leave(Exit::Read {
            address: 0x0900_0fe0,
            width: Width::Word,
        }),
        Act::Stay,
    ]]);
    conductor.run();
    while seen.stays.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    let quiesced = conductor.quiesce();
    let before = entries(&seen).len();
    let standings = quiesced.standings();
    assert!(
        matches!(&standings[..], [Some(Ok(standing))] if standing.pc == 0x4020_0000),
        "{standings:?}"
    );
    assert_eq!(
        entries(&seen).len(),
        before,
        "a quiesced vCPU is not entered"
    );
    drop(quiesced);
    while seen.stays.load(Ordering::SeqCst) == 1 {
        std::thread::yield_now();
    }
    conductor.finish();
    assert!(entries(&seen).contains(&Entry::Answer(0x11)));
}

#[test]
fn the_first_end_stands_and_brings_every_vcpu_out() {
    let _in_time = Deadline::set();
    let (conductor, [ends, stays]) = start([
        vec![Act::Leave(Exit::Reset), Act::Leave(Exit::PowerOff)],
        vec![],
    ]);
    let stopper = conductor.stopper();
    conductor.run();
    assert_eq!(conductor.wait(None), Some(End::Reset));
    stopper.stop(Reason::Signal(2));
    assert_eq!(
        conductor.wait(Some(Instant::now())),
        None,
        "the end is told once"
    );
    conductor.run();
    let quiesced = conductor.quiesce();
    assert_eq!(quiesced.standings().len(), 2);
    drop(quiesced);
    conductor.finish();
    assert_eq!(
        entries(&ends),
        [Entry::Continue],
        "nothing enters the guest after the end"
    );
    assert_eq!(stays.dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn a_stop_from_outside_ends_a_guest_that_spins() {
    let _in_time = Deadline::set();
    let (conductor, _) = start([vec![], vec![], vec![]]);
    let stopper = conductor.stopper();
    conductor.run();
    let outside = std::thread::spawn(move || stopper.stop(Reason::Signal(15)));
    assert_eq!(conductor.wait(None), Some(End::Asked(Reason::Signal(15))));
    outside.join().unwrap();
    conductor.finish();
}

#[test]
fn a_failing_host_names_the_vcpu_and_the_others_are_joined() {
    let _in_time = Deadline::set();
    let (conductor, [_, other]) = start([vec![Act::Fail], vec![]]);
    conductor.run();
    assert_eq!(
        conductor.wait(None),
        Some(End::Failed {
            vcpu: 0,
            error: ScriptedFailure
        })
    );
    let quiesced = conductor.quiesce();
    assert!(quiesced.standings()[0].is_none(), "its thread is gone");
    drop(quiesced);
    conductor.finish();
    assert_eq!(other.dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn a_panic_in_a_vcpu_thread_goes_on_where_the_run_is_finished() {
    let _in_time = Deadline::set();
    let (conductor, [_, other]) = start([vec![Act::Panic], vec![]]);
    conductor.run();
    assert_eq!(conductor.wait(None), Some(End::Panicked));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| conductor.finish()));
    assert!(caught.is_err());
    assert_eq!(
        other.dropped.load(Ordering::SeqCst),
        1,
        "the others were joined all the same"
    );
}

#[test]
fn many_holds_and_releases_lose_no_kick() {
    let _in_time = Deadline::set();
    let (conductor, seen) = start([vec![], vec![], vec![], vec![]]);
    conductor.run();
    for _ in 0..1_000 {
        assert_eq!(conductor.quiesce().standings().len(), 4);
    }
    conductor.finish();
    for seen in seen {
        assert_eq!(seen.dropped.load(Ordering::SeqCst), 1);
    }
}
