//! Stop protocols as data: one table for each way in which arm64 Linux has asked its CPUs to stop.
//!
//! Versions of the stop path differ in the ladder (how the others are asked, and for how long), in what the
//! sender polls and makes its lists from, in the order of the steps in the CPU that stops, in what a second
//! caller does and in when the stop is announced. Everything else is the same code.

use core::fmt;

/// A field of a table and where it is read: a commit or a mail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cited<T: 'static> {
    /// The field.
    pub is: T,
    /// The commit, the file or the mail that says so.
    pub source: &'static str,
}

const fn cited<T>(is: T, source: &'static str) -> Cited<T> {
    Cited { is, source }
}

/// How a rung asks.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Request {
    /// An SGI at the priority of interrupts: a CPU with interrupts masked does not take it.
    Irq,
    /// An SGI at the priority of pseudo-NMIs: only full masking (DAIF) keeps it out.
    Nmi,
    /// The software-signalled SDEI event: no mask of EL1 keeps it out. A CPU stopped by it parks and is never
    /// powered off: CPU_OFF from inside an SDEI event wedges EL3 (lkml 2606.3/08810).
    Sdei,
}

impl Request {
    /// The word in traces and scenarios.
    pub const fn name(self) -> &'static str {
        match self {
            Request::Irq => "irq",
            Request::Nmi => "nmi",
            Request::Sdei => "sdei",
        }
    }
}

/// What a rung does on a machine without pseudo-NMI.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WithoutNmi {
    /// It is climbed, as an ordinary interrupt if it would have been an NMI.
    Irq,
    /// It is left out.
    Skipped,
}

/// One way of asking, and the time that it is given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rung {
    /// How.
    pub request: Request,
    /// The SGI, which is the IPI's number: `gic_smp_init()` hands out SGI 0 to 7 in order. SDEI has none.
    pub sgi: Option<u8>,
    /// Turns of `udelay(1)` that the sender polls.
    pub budget_us: u32,
    /// Without pseudo-NMI.
    pub without_nmi: WithoutNmi,
    /// The message before it; the list of CPUs follows.
    pub heading: Option<&'static str>,
}

/// A word of memory that says who is still there.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Word {
    /// `__cpu_online_mask`.
    OnlineMask,
    /// `__num_online_cpus`.
    OnlineCount,
    /// v1's `stop_mask`.
    StopMask,
    /// `waiting_for_crash_ipi`.
    Counter,
}

impl Word {
    /// All of them.
    pub const ALL: [Word; 4] = [
        Word::OnlineMask,
        Word::OnlineCount,
        Word::StopMask,
        Word::Counter,
    ];

    /// The word in traces and in evidence.
    pub const fn name(self) -> &'static str {
        match self {
            Word::OnlineMask => "online-mask",
            Word::OnlineCount => "online-count",
            Word::StopMask => "stop-mask",
            Word::Counter => "counter",
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a message lists, and whom a later rung asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum List {
    /// The mask that the first rung was sent to.
    FirstMask,
    /// `cpu_online_mask` as it is now, the caller included.
    Online,
    /// `cpu_online_mask` as it is now, without the caller.
    OnlineOthers,
    /// `stop_mask` as it is now.
    StopMask,
}

/// A step of the handler in the CPU that stops.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Step {
    /// `crash_save_cpu()`.
    Save,
    /// `cpumask_clear_cpu(cpu, stop_mask)`.
    ClearStopMask,
    /// `atomic_dec(&waiting_for_crash_ipi)`.
    DropCounter,
    /// `set_cpu_online(cpu, false)`: the mask, then the count if the bit was set.
    Offline,
    /// `local_irq_disable()`: interrupts, but not pseudo-NMIs.
    MaskIrqs,
    /// `local_daif_mask()`: everything but SDEI.
    MaskDaif,
    /// `sdei_mask_local_cpu()`, then PSCI CPU_OFF where the CPU can die, else the park loop.
    DieOrPark,
    /// `sdei_mask_local_cpu()`, then `cpu_park_loop()`.
    Park,
}

/// Whether the store of the ack is ordered after the stores of the note.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// An atomic without a result: on arm64 it orders nothing.
    Relaxed,
    /// An atomic with a result: fully ordered (Documentation/atomic_t.txt, "ORDERING").
    Full,
}

/// What a caller does that finds another stop on its way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SecondCaller {
    /// It climbs a ladder of its own.
    Collides,
    /// A plain flag, tested and then set: it returns.
    ReturnsByFlag,
    /// An atomic test-and-set: it returns at once.
    ReturnsAtOnce,
}

/// When `SMP: stopping secondary CPUs` is said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Announced {
    /// While `system_state` <= SYSTEM_RUNNING.
    WhileRunning,
    /// Always.
    Always,
}

/// One kind of stop in one protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stop {
    /// The rungs, in order.
    pub ladder: Cited<&'static [Rung]>,
    /// What the sender polls.
    pub polls: Cited<Word>,
    /// The first store of the stopping CPU that somebody else can see: its ack.
    pub ack: Cited<Word>,
    /// How that store is ordered.
    pub ack_order: Cited<Order>,
    /// Whom the later rungs ask, which is also what their messages list.
    pub retries: Cited<List>,
    /// What `failed to stop` lists.
    pub failed: Cited<List>,
    /// What the stopping CPU does, in order.
    pub handler: Cited<&'static [Step]>,
    /// A second caller of the same kind. A crash stop since v1 goes through the plain stop, so that it meets
    /// the plain stop's guard too.
    pub second_caller: Cited<SecondCaller>,
    /// When it is announced.
    pub announced: Cited<Announced>,
}

/// A stop protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Protocol {
    /// Its name in scenarios and on the command line.
    pub name: &'static str,
    /// The kernels that do it.
    pub done_by: &'static str,
    /// `smp_send_stop()`.
    pub plain: Stop,
    /// `crash_smp_send_stop()`.
    pub crash: Stop,
    /// Which handler runs: told by the SGI (two IPIs), or by the flag `crash_stop` that the handler reads.
    pub told_by_flag: Cited<bool>,
}

/// What is said before the first rung.
pub const STOPPING: &str = "SMP: stopping secondary CPUs";
/// What is said before the NMI rung; a list follows.
pub const RETRY_NMI: &str = "SMP: retry stop with NMI for CPUs ";
/// What is said before the SDEI rung; a list follows.
pub const RETRY_SDEI: &str = "SMP: retry stop with SDEI NMI for CPUs ";
/// What is said when the ladder has run out; a list follows.
pub const FAILED: &str = "SMP: failed to stop secondary CPUs ";

const SECOND: u32 = 1_000_000;

const fn irq(sgi: u8) -> Rung {
    Rung {
        request: Request::Irq,
        sgi: Some(sgi),
        budget_us: SECOND,
        without_nmi: WithoutNmi::Irq,
        heading: None,
    }
}

const fn nmi_first(sgi: u8) -> Rung {
    Rung {
        request: Request::Nmi,
        sgi: Some(sgi),
        budget_us: SECOND,
        without_nmi: WithoutNmi::Irq,
        heading: None,
    }
}

const NMI_LATER: Rung = Rung {
    request: Request::Nmi,
    sgi: Some(3),
    budget_us: 10_000,
    without_nmi: WithoutNmi::Skipped,
    heading: Some(RETRY_NMI),
};

const SDEI_LATER: Rung = Rung {
    request: Request::Sdei,
    sgi: None,
    budget_us: 100_000,
    without_nmi: WithoutNmi::Irq,
    heading: Some(RETRY_SDEI),
};

const OLD: &str = "arch/arm64/kernel/smp.c as of v6.1";
const D7: &str = "d7402513c935 (\"arm64: smp: IPI_CPU_STOP and IPI_CPU_CRASH_STOP should try for NMI\") (in v6.7)";
const V1: &str = "20231207170251.1.Id4817adef610302554b8aa42b090d57270dc119c@changeid (v1 of the patch, 7 Dec 2023)";
const REPLY: &str = "Doug Anderson's reply to the patch, 17 May 2024";
const FD: &str = "fdfa588124b6 (\"arm64: smp: smp_send_stop() and crash_smp_send_stop() should try non-NMI first\") (in v6.12)";
const SDEI: &str = "Kiryl Shutsemau's SDEI series, v4, 17 Jun 2026 (in v7.3): arm64_nmi_cpu_stop()";

const IRQ_ONLY: Protocol = Protocol {
    name: "irq-only",
    done_by: "up to 6.6",
    plain: Stop {
        ladder: cited(&[irq(2)], OLD),
        polls: cited(Word::OnlineCount, OLD),
        ack: cited(Word::OnlineMask, OLD),
        ack_order: cited(Order::Full, OLD),
        retries: cited(List::OnlineOthers, OLD),
        failed: cited(List::Online, OLD),
        handler: cited(&[Step::Offline, Step::MaskDaif, Step::Park], OLD),
        second_caller: cited(SecondCaller::Collides, OLD),
        announced: cited(Announced::WhileRunning, OLD),
    },
    crash: Stop {
        ladder: cited(&[irq(3)], OLD),
        polls: cited(Word::Counter, OLD),
        ack: cited(Word::Counter, OLD),
        ack_order: cited(Order::Relaxed, OLD),
        retries: cited(List::FirstMask, OLD),
        failed: cited(List::FirstMask, OLD),
        handler: cited(
            &[
                Step::Save,
                Step::DropCounter,
                Step::MaskIrqs,
                Step::DieOrPark,
            ],
            OLD,
        ),
        second_caller: cited(SecondCaller::ReturnsByFlag, OLD),
        announced: cited(Announced::Always, OLD),
    },
    told_by_flag: cited(false, OLD),
};

const NMI_ONLY: Protocol = Protocol {
    name: "nmi-only",
    done_by: "6.7 to 6.10.12 and 6.11.1",
    plain: Stop {
        ladder: cited(&[nmi_first(2)], D7),
        ..IRQ_ONLY.plain
    },
    crash: Stop {
        ladder: cited(&[nmi_first(3)], D7),
        ..IRQ_ONLY.crash
    },
    ..IRQ_ONLY
};

const V1_PROPOSAL: Protocol = Protocol {
    name: "v1-proposal",
    done_by: "the patch as first sent",
    plain: Stop {
        ladder: cited(&[irq(2), NMI_LATER], V1),
        polls: cited(Word::StopMask, V1),
        ack: cited(Word::StopMask, V1),
        ack_order: cited(Order::Relaxed, V1),
        retries: cited(List::StopMask, V1),
        failed: cited(List::StopMask, V1),
        handler: cited(
            &[
                Step::ClearStopMask,
                Step::Offline,
                Step::MaskDaif,
                Step::Park,
            ],
            V1,
        ),
        second_caller: cited(SecondCaller::Collides, V1),
        announced: cited(Announced::WhileRunning, V1),
    },
    crash: Stop {
        ladder: cited(&[irq(2), NMI_LATER], V1),
        polls: cited(Word::StopMask, V1),
        ack: cited(Word::StopMask, V1),
        ack_order: cited(Order::Relaxed, V1),
        retries: cited(List::StopMask, V1),
        failed: cited(List::StopMask, V1),
        handler: cited(
            &[
                Step::ClearStopMask,
                Step::Save,
                Step::MaskIrqs,
                Step::DieOrPark,
            ],
            V1,
        ),
        second_caller: cited(SecondCaller::ReturnsByFlag, V1),
        announced: cited(Announced::WhileRunning, V1),
    },
    told_by_flag: cited(true, V1),
};

const V1_CORRECTED: Protocol = Protocol {
    name: "v1-corrected",
    done_by: "the patch as its author corrected it in reply",
    plain: Stop {
        // The reply moves the clear into ipi_cpu_crash_stop(). Taken literally the plain handler would then
        // never clear its bit; our reading keeps the clear there, after the masking.
        handler: cited(
            &[
                Step::Offline,
                Step::MaskDaif,
                Step::ClearStopMask,
                Step::Park,
            ],
            REPLY,
        ),
        ..V1_PROPOSAL.plain
    },
    crash: Stop {
        handler: cited(
            &[
                Step::MaskDaif,
                Step::Save,
                Step::ClearStopMask,
                Step::DieOrPark,
            ],
            REPLY,
        ),
        ..V1_PROPOSAL.crash
    },
    ..V1_PROPOSAL
};

const IRQ_THEN_NMI: Protocol = Protocol {
    name: "irq-then-nmi",
    done_by: "6.12, 6.10.13 and later",
    plain: Stop {
        ladder: cited(&[irq(2), NMI_LATER], FD),
        polls: cited(Word::OnlineCount, FD),
        ack: cited(Word::OnlineMask, FD),
        ack_order: cited(Order::Full, FD),
        retries: cited(List::OnlineOthers, FD),
        failed: cited(List::OnlineOthers, FD),
        handler: cited(&[Step::Offline, Step::MaskDaif, Step::Park], FD),
        second_caller: cited(SecondCaller::ReturnsAtOnce, FD),
        announced: cited(Announced::WhileRunning, FD),
    },
    crash: Stop {
        ladder: cited(&[irq(2), NMI_LATER], FD),
        polls: cited(Word::OnlineCount, FD),
        ack: cited(Word::OnlineMask, FD),
        ack_order: cited(Order::Full, FD),
        retries: cited(List::OnlineOthers, FD),
        failed: cited(List::OnlineOthers, FD),
        handler: cited(
            &[Step::MaskDaif, Step::Save, Step::Offline, Step::DieOrPark],
            FD,
        ),
        second_caller: cited(SecondCaller::ReturnsByFlag, FD),
        announced: cited(Announced::WhileRunning, FD),
    },
    told_by_flag: cited(true, FD),
};

const IRQ_NMI_SDEI: Protocol = Protocol {
    name: "irq-nmi-sdei",
    done_by: "7.3",
    plain: Stop {
        ladder: cited(&[irq(2), NMI_LATER, SDEI_LATER], SDEI),
        handler: cited(&[Step::MaskDaif, Step::Offline, Step::Park], SDEI),
        ..IRQ_THEN_NMI.plain
    },
    crash: Stop {
        ladder: cited(&[irq(2), NMI_LATER, SDEI_LATER], SDEI),
        ..IRQ_THEN_NMI.crash
    },
    ..IRQ_THEN_NMI
};

/// The six protocols, in the order of their history.
pub const PROTOCOLS: [&Protocol; 6] = [
    &IRQ_ONLY,
    &NMI_ONLY,
    &V1_PROPOSAL,
    &V1_CORRECTED,
    &IRQ_THEN_NMI,
    &IRQ_NMI_SDEI,
];

impl Protocol {
    /// The protocol of this name.
    pub fn named(name: &str) -> Option<&'static Protocol> {
        PROTOCOLS.into_iter().find(|protocol| protocol.name == name)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rung in self.ladder.is {
            writeln!(
                f,
                "  rung      {} {} us  [{}]",
                rung.request.name(),
                rung.budget_us,
                self.ladder.source
            )?;
        }
        writeln!(f, "  polls     {}  [{}]", self.polls.is, self.polls.source)?;
        writeln!(
            f,
            "  ack       {} {:?}  [{}]",
            self.ack.is, self.ack_order.is, self.ack.source
        )?;
        writeln!(
            f,
            "  retries   {:?}  [{}]",
            self.retries.is, self.retries.source
        )?;
        writeln!(
            f,
            "  failed    {:?}  [{}]",
            self.failed.is, self.failed.source
        )?;
        writeln!(
            f,
            "  handler   {:?}  [{}]",
            self.handler.is, self.handler.source
        )?;
        writeln!(
            f,
            "  second    {:?}  [{}]",
            self.second_caller.is, self.second_caller.source
        )?;
        writeln!(
            f,
            "  announced {:?}  [{}]",
            self.announced.is, self.announced.source
        )
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, self.done_by)?;
        writeln!(f, "plain stop\n{}crash stop\n{}", self.plain, self.crash)?;
        let by = if self.told_by_flag.is {
            "the flag crash_stop"
        } else {
            "the IPI"
        };
        writeln!(f, "handler chosen by {by}  [{}]", self.told_by_flag.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_handler_acks_once_and_ends_at_rest() {
        for protocol in PROTOCOLS {
            for stop in [&protocol.plain, &protocol.crash] {
                let ack = match stop.ack.is {
                    Word::OnlineMask | Word::OnlineCount => Step::Offline,
                    Word::StopMask => Step::ClearStopMask,
                    Word::Counter => Step::DropCounter,
                };
                let steps = stop.handler.is;
                assert_eq!(
                    steps.iter().filter(|step| **step == ack).count(),
                    1,
                    "{}",
                    protocol.name
                );
                assert!(
                    matches!(steps.last(), Some(Step::Park | Step::DieOrPark)),
                    "{}",
                    protocol.name
                );
            }
            assert!(
                protocol.crash.handler.is.contains(&Step::Save),
                "{}",
                protocol.name
            );
            assert!(
                !protocol.plain.handler.is.contains(&Step::Save),
                "{}",
                protocol.name
            );
        }
    }

    #[test]
    fn names_are_found_and_differ() {
        for protocol in PROTOCOLS {
            assert_eq!(Protocol::named(protocol.name), Some(protocol));
        }
        assert_eq!(Protocol::named("nmi"), None);
    }

    #[test]
    fn two_ipis_where_the_ipi_tells_and_one_where_the_flag_does() {
        for protocol in PROTOCOLS {
            let same = protocol.plain.ladder.is[0].sgi == protocol.crash.ladder.is[0].sgi;
            assert_eq!(same, protocol.told_by_flag.is, "{}", protocol.name);
        }
    }
}
