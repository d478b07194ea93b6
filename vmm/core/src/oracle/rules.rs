//! The rules: each a function of what was known and what happened, and the source that it quotes.

use std::fmt;
use std::sync::Arc;

use guest_abi::protocol::{FAILED, RETRY_NMI, RETRY_SDEI, Request, STOPPING};

use super::console::Fault;
use super::facts::{Climb, Facts};
use crate::arm::{CpuId, CpuSet};
use crate::evidence::{
    Event, Interrupt, Note, NoteState, PlaceKind, StopKind, What, without_repeats,
};

macro_rules! rules {
    ($($variant:ident = $name:literal,)+) => {
        /// A rule.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[allow(missing_docs)] // Its row says what it owes.
        pub enum Rule { $($variant,)+ }

        impl Rule {
            /// All rules, in the order of docs/oracle.md.
            pub const ALL: &'static [Rule] = &[$(Rule::$variant,)+];

            /// Its word.
            pub const fn name(self) -> &'static str {
                match self { $(Rule::$variant => $name,)+ }
            }
        }
    };
}

rules! {
    AckAfterSave = "ack-after-save",
    NoteTrue = "note-true",
    NoteOnce = "note-once",
    Spared = "spared",
    ConsoleIntact = "console-intact",
    LadderOrder = "ladder-order",
    HonestList = "honest-list",
    Announced = "announced",
    StaysStopped = "stays-stopped",
    OneSender = "one-sender",
    StoppedOnReturn = "stopped-on-return",
    Bounded = "bounded",
    CaptureBoots = "capture-boots",
}

impl Rule {
    /// The rule of this name.
    pub fn named(name: &str) -> Option<Rule> {
        Rule::ALL.iter().copied().find(|rule| rule.name() == name)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a rule says of an event.
pub(super) enum Said {
    /// The event does not concern it.
    Nothing,
    /// The event put it to the test, and it held.
    Kept,
    /// The event broke it.
    Broken(CpuId, String),
}

/// A rule's row.
pub struct Row {
    /// The rule.
    pub rule: Rule,
    /// What a stop owes its user.
    pub owes: &'static str,
    /// Where that is said.
    pub source: &'static str,
    /// What was missing if nothing put it to the test.
    pub missing: &'static str,
    /// Whether it asks where the ack lives.
    pub(super) needs_ack: bool,
    pub(super) seen: fn(&Facts, &Event) -> Said,
    pub(super) ended: fn(&Facts) -> Said,
}

fn nothing(_: &Facts) -> Said {
    Said::Nothing
}

/// The thirteen rows.
pub static ROWS: [Row; 13] = [
    Row {
        rule: Rule::AckAfterSave,
        owes: "In a crash stop, when a CPU's ack becomes visible, its note is complete; and a CPU that stops itself leaves a note before it rests.",
        source: "Doug Anderson, 17 May 2024: \"specifically I think it's important that it happens _after_ the call to crash_save_cpu()\"; 5 Aug 2024, on CPUs that end in panic_smp_self_stop()",
        missing: "no CPU acked a crash stop",
        needs_ack: true,
        seen: ack_after_save,
        ended: nothing,
    },
    Row {
        rule: Rule::NoteTrue,
        owes: "The note of a CPU that was stopped by request holds the registers where it was interrupted, never those of its own stop handler; the sender's own note lies in __crash_kexec().",
        source: "Doug Anderson, 17 May 2024: \"it _might_ matter if we were midway through finally handling the IRQ-based IPI when we decided to try the NMI-based one\"; a88ce63b642c (\"arm64: kexec: have own crash_smp_send_stop() for crash dump for nonpanic cores\")",
        missing: "no CPU that was stopped by request completed a note",
        needs_ack: false,
        seen: note_true,
        ended: nothing,
    },
    Row {
        rule: Rule::NoteOnce,
        owes: "A complete note never changes again.",
        source: "Doug Anderson, 17 May 2024, on the NMI that meets a half-done IRQ handler; crash_save_cpu() has no lock and no valid flag",
        missing: "no note was completed",
        needs_ack: false,
        seen: note_once,
        ended: nothing,
    },
    Row {
        rule: Rule::Spared,
        owes: "A CPU that is free, or whose hold ends within half of the grace, is neither stopped nor left inside the console's critical section.",
        source: "the patch: \"First, we'll try to stop other CPUs with a normal IPI and wait a second. This gives them a chance to leave critical sections.\"",
        missing: "no CPU was inside the critical section when the stop was requested and free to leave it in time",
        needs_ack: false,
        seen: spared,
        ended: nothing,
    },
    Row {
        rule: Rule::ConsoleIntact,
        owes: "Every record that the console has to show, up to the last flush that the kernel promises, appears on the wire whole at least once, in order, and not mixed with another CPU's bytes; a loss is allowed once a CPU that no grace could have freed was stopped or left in the section.",
        source: "the patch: \"the stack crawls printed to the serial console ended up as a jumbled mess\"",
        missing: "the run had no promised flush, or a CPU that no grace could have freed stayed in the section",
        needs_ack: false,
        seen: console_intact,
        ended: nothing,
    },
    Row {
        rule: Rule::LadderOrder,
        owes: "Where the ladder has a rung that asks by interrupt, no stop NMI is sent before that rung has run out, and then to no CPU that had acked before the sender read its mask.",
        source: "the patch: \"If CPUs fail to stop then we'll retry with an NMI\"; Will Deacon, 5 Aug 2024, on computing the mask anew before the NMI",
        missing: "no stop NMI was sent after a rung that asks by interrupt",
        needs_ack: true,
        seen: ladder_order,
        ended: nothing,
    },
    Row {
        rule: Rule::HonestList,
        owes: "`retry` and `failed` name no CPU that had stopped before the sender read its mask, miss none that had not by the time the message was stored, and never name the caller.",
        source: "the patch: \"we'll print the CPUs that we failed to stop instead of printing all _but_ the current running CPU\", \"we won't include the current CPU\"",
        missing: "neither `retry` nor `failed` was said",
        needs_ack: true,
        seen: honest_list,
        ended: nothing,
    },
    Row {
        rule: Rule::Announced,
        owes: "`SMP: stopping secondary CPUs` is in the log once for every ladder climbed with others online while system_state <= SYSTEM_RUNNING, and not otherwise.",
        source: "the patch: \"we will now only print \"SMP: stopping secondary CPUs\" if (system_state <= SYSTEM_RUNNING)\"",
        missing: "no ladder was climbed as far as its first request",
        needs_ack: false,
        seen: announced,
        ended: nothing,
    },
    Row {
        rule: Rule::StaysStopped,
        owes: "After its ack a CPU runs only its way to parking or power-off, and touches no console.",
        source: "Doug Anderson, 17 May 2024: \"it should be local_daif_mask() instead\", \"it should have been the first thing in the function\"",
        missing: "no CPU stopped",
        needs_ack: true,
        seen: stays_stopped,
        ended: nothing,
    },
    Row {
        rule: Rule::OneSender,
        owes: "Of several CPUs that call, exactly one climbs the ladder.",
        source: "Will Deacon, 12 Apr 2024 (20240412135513.GA28004@willie-the-truck), on global masks updated without synchronisation",
        missing: "fewer than two CPUs called",
        needs_ack: false,
        seen: one_sender,
        ended: one_sender_ended,
    },
    Row {
        rule: Rule::StoppedOnReturn,
        owes: "When a stop returns to a caller that goes on, every other CPU has stopped or is named in `failed`.",
        source: "smp_crash_stop_failed() and machine_kexec()'s \"Some CPUs may be stale, kdump will be unreliable.\"",
        missing: "no stop returned",
        needs_ack: true,
        seen: stopped_on_return,
        ended: nothing,
    },
    Row {
        rule: Rule::Bounded,
        owes: "The sender goes on after at most its rungs, counted in its own unit, held time excluded.",
        source: "the patch: one second for the IPI, \"a much lower timeout since there's no good reason for a CPU not to react quickly to a NMI\"",
        missing: "nobody climbed a ladder to its end",
        needs_ack: false,
        seen: bounded,
        ended: bounded_ended,
    },
    Row {
        rule: Rule::CaptureBoots,
        owes: "The capture kernel reaches user space, its vmcore's notes are these notes, and a CPU that it is to bring online comes.",
        source: "Documentation/admin-guide/kdump/kdump.rst",
        missing: "no capture kernel was loaded and entered",
        needs_ack: false,
        seen: capture_boots,
        ended: capture_boots_ended,
    },
];

fn ack_after_save(facts: &Facts, event: &Event) -> Said {
    let cpu = facts.known.cpu(event.cpu);
    match event.what {
        What::Clears { word, by } if facts.is_ack(event.cpu, word, by) && cpu.asked_crash => {
            if word != facts.fixed.crash_ack {
                return Said::Nothing;
            }
            match cpu.note_state() {
                NoteState::Complete => Said::Kept,
                state => Said::Broken(
                    event.cpu,
                    format!("its ack ({word}) is visible and its note is {state}"),
                ),
            }
        }
        What::Parks | What::PowersOff if cpu.self_stops && facts.known.crash_climbed() => {
            left_note(facts, event.cpu)
        }
        What::Climbs {
            stop: StopKind::Crash,
            ..
        } => {
            let at_rest = facts.known.with(|cpu| cpu.self_stops && cpu.rest.is_some());
            let without = at_rest
                .iter()
                .find(|cpu| facts.known.cpu(*cpu).note_state() != NoteState::Complete);
            without.map_or(Said::Nothing, |cpu| left_note(facts, cpu))
        }
        _ => Said::Nothing,
    }
}

fn left_note(facts: &Facts, cpu: CpuId) -> Said {
    match facts.known.cpu(cpu).note_state() {
        NoteState::Complete => Said::Kept,
        state => Said::Broken(
            cpu,
            format!("it stopped itself, and in this crash stop its note is {state}"),
        ),
    }
}

fn note_true(facts: &Facts, event: &Event) -> Said {
    let What::Notes(note) = &event.what else {
        return Said::Nothing;
    };
    if note.state() != NoteState::Complete {
        return Said::Nothing;
    }
    let cpu = facts.known.cpu(event.cpu);
    let regs = note.regs();
    let place = facts.fixed.places.at(regs.pc);
    let says = |text: &str| {
        Said::Broken(
            event.cpu,
            format!(
                "its note says {}; {text}",
                facts.fixed.places.describe(regs.pc)
            ),
        )
    };
    if let Some(interrupted) = &cpu.interrupted {
        if let Some(met) = &interrupted.regs {
            let at = facts.fixed.places.describe(met.pc);
            return match regs.differs_from(met) {
                None => Said::Kept,
                Some(what) => says(&format!("it was interrupted at {at} ({what})")),
            };
        }
        return match place.map(|place| place.kind) {
            Some(PlaceKind::StopPath) => says("that is its own stop handler"),
            kind if cpu.in_section && kind != Some(PlaceKind::Section) => {
                says("it was inside the critical section")
            }
            _ => Said::Kept,
        };
    }
    let knows_kexec = facts
        .fixed
        .places
        .0
        .iter()
        .any(|place| place.kind == PlaceKind::CrashKexec);
    match place.map(|place| place.kind) {
        Some(PlaceKind::CrashKexec) => Said::Kept,
        _ if facts.known.callers.contains(event.cpu) && knows_kexec => {
            says("the sender's lies in __crash_kexec()")
        }
        _ => Said::Nothing,
    }
}

fn note_once(facts: &Facts, event: &Event) -> Said {
    let What::Notes(note) = &event.what else {
        return Said::Nothing;
    };
    let before = facts.known.cpu(event.cpu).note.as_deref();
    match before.filter(|before| before.state() == NoteState::Complete) {
        Some(before) if before != &**note => {
            let at = |note: &Note| facts.fixed.places.describe(note.regs().pc);
            Said::Broken(
                event.cpu,
                format!(
                    "its note, complete with {}, changes to {}",
                    at(before),
                    at(note)
                ),
            )
        }
        Some(_) => Said::Kept,
        None if note.state() == NoteState::Complete => Said::Kept,
        None => Said::Nothing,
    }
}

fn spared(facts: &Facts, event: &Event) -> Said {
    if facts.known.first_request.is_none() {
        return Said::Nothing;
    }
    let half = facts.fixed.grace_us / 2;
    if let (What::Returns, Some(climb)) = (&event.what, facts.known.climb(event.cpu)) {
        // A CPU that calls a stop of its own may print in it.
        let stays = |cpu: &CpuId| {
            let known = facts.known.cpu(*cpu);
            let inside = known.in_section && !known.stopped() && known.interrupted.is_none();
            inside && !facts.known.callers.contains(*cpu) && facts.free_before(*cpu, half + 1)
        };
        let left = climb.others.iter().find(stays);
        return left.map_or(Said::Nothing, |cpu| {
            let text = format!(
                "the stop returns and leaves it inside the critical section, which it could have left within {half} us"
            );
            Said::Broken(cpu, text)
        });
    }
    let cpu = facts.known.cpu(event.cpu);
    if !cpu.in_section || cpu.interrupted.is_some() {
        return Said::Nothing;
    }
    let protected = facts.free_before(event.cpu, half + 1);
    match event.what {
        What::Takes {
            by: Interrupt::Stop(by),
            ..
        } if protected => Said::Broken(
            event.cpu,
            format!(
                "stopped by {} inside the critical section, which it could have left within {half} us",
                by.name()
            ),
        ),
        What::Leaves if protected => Said::Kept,
        _ => Said::Nothing,
    }
}

fn console_intact(facts: &Facts, event: &Event) -> Said {
    let What::Flushed = event.what else {
        return Said::Nothing;
    };
    let Some(fault) = facts.known.console.fault() else {
        return Said::Kept;
    };
    let stuck = |cpu: CpuId| {
        let known = facts.known.cpu(cpu);
        known.lost_in_section || known.in_section && !facts.free_before(cpu, facts.fixed.grace_us)
    };
    if facts.known.with(|_| true).iter().any(stuck) {
        return Said::Nothing;
    }
    let text = match fault {
        Fault::Missing(text) => format!(
            "the last flush is over and \"{}\" never came whole over the wire",
            without_repeats(&text)
        ),
        Fault::Disorder(text) => format!(
            "\"{}\" came over the wire, but not behind all records that are older",
            without_repeats(&text)
        ),
        Fault::Mixed(line) => format!(
            "two CPUs' bytes make one line of the wire: \"{}\"",
            without_repeats(&line)
        ),
    };
    Said::Broken(event.cpu, text)
}

fn ladder_order(facts: &Facts, event: &Event) -> Said {
    let What::Requests {
        via: via @ (Request::Nmi | Request::Sdei),
        to,
    } = &event.what
    else {
        return Said::Nothing;
    };
    let irq = facts
        .fixed
        .rungs
        .iter()
        .find(|(request, _)| *request == Request::Irq);
    let (Some((_, irq_us)), Some(climb)) = (irq, facts.known.climb(event.cpu)) else {
        return Said::Nothing;
    };
    let waited = climb.irq_at.map(|at| event.at_us.saturating_sub(at));
    let via = via.name();
    if !climb.irq_out || waited.is_none_or(|us| us < *irq_us) {
        let waited = waited.map_or("never".to_owned(), |us| format!("{us} us ago"));
        let text = format!("{via} to CPUs {to}, interrupt sent {waited}, which has {irq_us} us");
        return Said::Broken(event.cpu, text);
    }
    let acked = climb
        .reading
        .as_ref()
        .map(|reading| reading.acked.clone())
        .unwrap_or_default();
    match to.iter().find(|cpu| acked.contains(*cpu)) {
        Some(cpu) => Said::Broken(
            cpu,
            format!("{via} to CPUs {to}; it had acked before the sender read its mask"),
        ),
        None => Said::Kept,
    }
}

fn honest_list(facts: &Facts, event: &Event) -> Said {
    let What::Logs { text, .. } = &event.what else {
        return Said::Nothing;
    };
    let headings = [RETRY_NMI, RETRY_SDEI, FAILED];
    let Some(list) = headings
        .iter()
        .find_map(|heading| text.strip_prefix(heading))
    else {
        return Said::Nothing;
    };
    let Ok(named) = list.parse::<CpuSet>() else {
        return Said::Broken(event.cpu, format!("\"{text}\" ends in no list of CPUs"));
    };
    if named.contains(event.cpu) {
        return Said::Broken(event.cpu, format!("\"{text}\" names its caller"));
    }
    let reading = facts
        .known
        .climb(event.cpu)
        .and_then(|climb| climb.reading.clone());
    let (stopped, present) = match reading {
        Some(reading) => (reading.stopped, reading.present),
        None => (CpuSet::new(), CpuSet::new()),
    };
    if let Some(cpu) = named.iter().find(|cpu| stopped.contains(*cpu)) {
        return Said::Broken(
            cpu,
            format!("\"{text}\" names it; it had stopped before the mask was read"),
        );
    }
    let runs = |cpu: &CpuId| {
        let known = facts.known.cpu(*cpu);
        *cpu != event.cpu && known.present() && !known.stopped()
    };
    match present
        .iter()
        .find(|cpu| runs(cpu) && !named.contains(*cpu))
    {
        Some(cpu) => Said::Broken(cpu, format!("\"{text}\" misses it, and it has not stopped")),
        None => Said::Kept,
    }
}

fn announced(facts: &Facts, event: &Event) -> Said {
    let climb = facts.known.climb(event.cpu);
    match (&event.what, climb) {
        (What::Logs { text, .. }, climb) if &**text == STOPPING => match climb {
            None => Said::Broken(event.cpu, "it says so and climbs no ladder".to_owned()),
            Some(climb) if !climb.running => Said::Broken(
                event.cpu,
                "it says so although the system is going down".to_owned(),
            ),
            Some(climb) if climb.announced > 0 => {
                Said::Broken(event.cpu, "it says so twice".to_owned())
            }
            Some(_) => Said::Nothing,
        },
        (What::Requests { .. }, Some(climb)) if !climb.asked => {
            let due = climb.running && !climb.others.is_empty();
            if due && climb.announced == 0 {
                Said::Broken(
                    event.cpu,
                    "it asks the others to stop and has not said so".to_owned(),
                )
            } else {
                Said::Kept
            }
        }
        _ => Said::Nothing,
    }
}

fn stays_stopped(facts: &Facts, event: &Event) -> Said {
    if let What::Clears { word, by } = event.what {
        return if facts.is_ack(event.cpu, word, by) {
            Said::Kept
        } else {
            Said::Nothing
        };
    }
    if !facts.known.cpu(event.cpu).stopped() {
        return Said::Nothing;
    }
    let does = match &event.what {
        What::Notes(_)
        | What::Parks
        | What::PowersOff
        | What::Active { .. }
        | What::Pending { .. }
        | What::Unplugs
        | What::ComesUp => return Said::Nothing,
        What::Takes {
            by: Interrupt::Stop(_),
            ..
        } => return Said::Nothing,
        What::Holds { .. }
        | What::Releases
        | What::CaptureUp
        | What::CaptureNote(_)
        | What::CaptureFails(_) => return Said::Nothing,
        What::Takes {
            by: Interrupt::Foreign,
            ..
        } => "takes an NMI that is no stop".to_owned(),
        What::Runs(text) => format!("runs {text}"),
        What::Wire(_) | What::Enters | What::Leaves | What::Flushed => {
            "touches the console".to_owned()
        }
        What::Logs { text, .. } => format!("says \"{text}\""),
        _ => "goes on".to_owned(),
    };
    Said::Broken(event.cpu, format!("it has stopped, and {does}"))
}

fn one_sender(facts: &Facts, event: &Event) -> Said {
    match event.what {
        What::Climbs { .. } => match facts
            .known
            .climbs
            .iter()
            .find(|climb| climb.cpu != event.cpu)
        {
            Some(first) => Said::Broken(
                event.cpu,
                format!("it climbs a ladder, and so does CPU {}", first.cpu),
            ),
            None => Said::Nothing,
        },
        _ => Said::Nothing,
    }
}

fn one_sender_ended(facts: &Facts) -> Said {
    let callers: Vec<CpuId> = facts.known.callers.iter().collect();
    match (callers.as_slice(), facts.known.climbs.as_slice()) {
        ([first, _, ..], []) if !facts.known.reset => Said::Broken(
            *first,
            format!("CPUs {} called, and none climbed", facts.known.callers),
        ),
        ([_, _, ..], [_, ..]) => Said::Kept,
        _ => Said::Nothing,
    }
}

fn stopped_on_return(facts: &Facts, event: &Event) -> Said {
    let What::Returns = event.what else {
        return Said::Nothing;
    };
    let climb = facts.known.climb(event.cpu);
    let owed = match climb {
        Some(climb) => climb.others.clone(),
        None => facts.known.with(|_| true),
    };
    let runs = |cpu: &CpuId| {
        let known = facts.known.cpu(*cpu);
        let named = climb.is_some_and(|climb| climb.failed.contains(*cpu));
        *cpu != event.cpu && known.present() && !known.stopped() && !named
    };
    let running: CpuSet = owed.iter().filter(runs).collect();
    if running.is_empty() {
        return Said::Kept;
    }
    Said::Broken(
        event.cpu,
        format!("its stop returns; CPUs {running} have not stopped and were not named"),
    )
}

fn bounded(facts: &Facts, event: &Event) -> Said {
    let What::Returns = event.what else {
        return Said::Nothing;
    };
    let Some(climb) = facts.known.climb(event.cpu).filter(|climb| !climb.returned) else {
        return Said::Nothing;
    };
    let took = event
        .at_us
        .saturating_sub(climb.since)
        .saturating_sub(climb.held_us);
    let rungs = facts
        .fixed
        .rungs
        .iter()
        .fold(0, |sum: u64, (_, us)| sum.saturating_add(*us));
    // The rungs are measured by the subject, and between them it prints: a twentieth is left for both.
    let allowed = rungs.saturating_add(rungs / 20);
    if took > allowed {
        Said::Broken(
            event.cpu,
            format!("it went on after {took} us; its rungs have {rungs} us"),
        )
    } else {
        Said::Kept
    }
}

fn bounded_ended(facts: &Facts) -> Said {
    let left = |climb: &&Climb| {
        let cpu = facts.known.cpu(climb.cpu);
        !climb.returned && !cpu.stopped() && cpu.hold.is_none() && !facts.known.reset
    };
    match facts.known.climbs.iter().find(left) {
        Some(climb) => Said::Broken(
            climb.cpu,
            format!(
                "it began its ladder at {} us and never went on",
                climb.since
            ),
        ),
        None => Said::Nothing,
    }
}

fn capture_boots(facts: &Facts, event: &Event) -> Said {
    match &event.what {
        What::CaptureNote(note) => {
            // A capture kernel looks for notes when it boots: one that is stored later may be in its vmcore, or not.
            let own = facts.known.cpu(event.cpu);
            let is = |left: &Option<Arc<Note>>| match left {
                Some(left) => **left == **note,
                None => note.state() == NoteState::Empty,
            };
            let late = facts.known.left_for_capture && is(&own.note_then);
            if is(&own.note) || late {
                Said::Nothing
            } else {
                Said::Broken(event.cpu, "the vmcore shows another note".to_owned())
            }
        }
        What::CaptureUp if facts.known.left_for_capture => Said::Kept,
        What::CaptureFails(why) => Said::Broken(event.cpu, why.to_string()),
        _ => Said::Nothing,
    }
}

fn capture_boots_ended(facts: &Facts) -> Said {
    let known = &facts.known;
    let left = facts.fixed.capture && known.left_for_capture;
    match known.climbs.first().map(|climb| climb.cpu) {
        Some(cpu) if left && !known.capture_up && !known.capture_failed => Said::Broken(
            cpu,
            "it left for the capture kernel, which never reached user space".to_owned(),
        ),
        _ => Said::Nothing,
    }
}
