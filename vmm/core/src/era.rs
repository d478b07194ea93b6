//! Which stop protocol a kernel does, told by its symbols. Never by its version: distributions port the changes back.
//!
//! Each change of the stop path has brought or taken away a symbol ([`Sign`]), and a protocol is told by the signs that are
//! there and those that are not (docs/stop-path.md has the table). Where kallsyms has no variables most signs can't be seen;
//! what is left is then said to be possible, and no more.

use std::collections::BTreeSet;
use std::fmt;

use guest_abi::protocol::{Protocol, Step, Word};

use crate::evidence::{Event, Hand, NoteState, StopKind, What};
use crate::inspect::Symbols;

/// What the symbols say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Era {
    /// The kernel does this protocol.
    Told(&'static Protocol),
    /// It does one of these, which have the same symbols. In what order a stopping CPU writes its note and acks tells which.
    OneOf(Vec<&'static Protocol>),
    /// It can't be told.
    Unknown(Unknown),
}

/// Why it can't be told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unknown {
    why: Why,
    seen: Vec<Sign>,
    not_seen: Vec<Sign>,
    /// Protocols that what was seen does not speak against.
    candidates: Vec<&'static Protocol>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Why {
    /// Without the function that every arm64 kernel has they are not its symbols, or not all.
    NotTheSymbols,
    /// There are no variables among them, and the functions don't tell.
    NoVariables,
    /// No protocol has these signs.
    NoProtocol,
}

impl Unknown {
    /// The protocols that it may still be; none if no single one has all that was seen.
    pub fn candidates(&self) -> &[&'static Protocol] {
        &self.candidates
    }
}

/// `kernel/panic.c` has a weak one, so that it is there without CONFIG_KEXEC_CORE too.
const ANCHOR: &str = "crash_smp_send_stop";

/// A symbol that a change of the stop path has brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sign {
    /// The IPIs that may be NMIs, of which the one for backtraces has a function of its own (the series of Linux commit
    /// d7402513c935, in v6.7).
    NmiIpis,
    /// The counter of a crash stop, until Linux commit fdfa588124b6 (in v6.12).
    Counter,
    /// The mask of the proposal of December 2023.
    StopMask,
    /// The flag that turns a stop into a crash stop (that proposal, and fdfa588124b6).
    CrashStop,
    /// The guard of `smp_send_stop()` (fdfa588124b6).
    StopInProgress,
    /// The one handler of all requests (the SDEI series, in v7.3). It is there without CONFIG_ARM_SDEI_NMI too, and then
    /// the last rung is not.
    OneHandler,
}

impl Sign {
    const ALL: [Self; 6] = [
        Self::NmiIpis,
        Self::Counter,
        Self::StopMask,
        Self::CrashStop,
        Self::StopInProgress,
        Self::OneHandler,
    ];

    /// How the symbol is called in the source.
    fn name(self) -> &'static str {
        match self {
            Self::NmiIpis => "arch_trigger_cpumask_backtrace",
            Self::Counter => "waiting_for_crash_ipi",
            Self::StopMask => "stop_mask",
            Self::CrashStop => "crash_stop",
            Self::StopInProgress => "stop_in_progress",
            Self::OneHandler => "arm64_nmi_cpu_stop",
        }
    }

    fn is_function(self) -> bool {
        matches!(self, Self::NmiIpis | Self::OneHandler)
    }

    fn is_in(self, symbols: &Symbols) -> bool {
        // Letters as `nm` prints them: text and weak; data, read-only data and bss.
        let kinds = if self.is_function() { "tTwW" } else { "bBdDrR" };
        let named = |name| (symbols.named(name)).any(|symbol| kinds.contains(symbol.kind));
        match self {
            // It is static in its function, and compilers add to such a name.
            Self::StopInProgress => {
                named(self.name()) || symbols.function_statics(self.name()).next().is_some()
            }
            Self::OneHandler => named(self.name()) || named("sdei_nmi_stop_cpus"),
            _ => named(self.name()),
        }
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The protocols by name, and the signs of each.
const ERAS: [(&str, &[Sign]); 6] = {
    use Sign::*;
    [
        ("irq-only", &[Counter]),
        ("nmi-only", &[NmiIpis, Counter]),
        ("v1-proposal", &[NmiIpis, StopMask, CrashStop]),
        ("v1-corrected", &[NmiIpis, StopMask, CrashStop]),
        ("irq-then-nmi", &[NmiIpis, CrashStop, StopInProgress]),
        (
            "irq-nmi-sdei",
            &[NmiIpis, CrashStop, StopInProgress, OneHandler],
        ),
    ]
};

/// The protocols whose signs are such.
fn protocols(fits: impl Fn(&[Sign]) -> bool) -> Vec<&'static Protocol> {
    let named = |name| Protocol::named(name).expect("guest-abi has a table for every era");
    let fitting = ERAS.iter().filter(|(_, signs)| fits(signs));
    fitting.map(|(name, _)| named(name)).collect()
}

impl Era {
    /// Reads it from the symbols of a kernel.
    pub fn of(symbols: &Symbols) -> Self {
        let variables = symbols.have_variables();
        let (seen, not_seen): (Vec<Sign>, Vec<Sign>) =
            Sign::ALL.into_iter().partition(|sign| sign.is_in(symbols));
        let unknown = |why, candidates| {
            Self::Unknown(Unknown {
                why,
                seen: seen.clone(),
                not_seen: not_seen.clone(),
                candidates,
            })
        };
        let none_against = |signs: &[Sign]| seen.iter().all(|sign| signs.contains(sign));
        if symbols.named(ANCHOR).next().is_none() {
            return unknown(Why::NotTheSymbols, protocols(none_against));
        }
        let to_be_seen = |sign: &Sign| variables || sign.is_function();
        let exactly = |signs: &[Sign]| {
            let mut missing = not_seen.iter().filter(|sign| to_be_seen(sign));
            none_against(signs) && missing.all(|sign| !signs.contains(sign))
        };
        let found = protocols(exactly);
        match found[..] {
            [] => unknown(Why::NoProtocol, protocols(none_against)),
            [only] => Self::Told(only),
            _ if variables => Self::OneOf(found),
            _ => unknown(Why::NoVariables, found),
        }
    }
}

/// Those of the protocols whose handler takes its steps in the order in which every CPU of this run was seen to take them.
pub fn fitting(
    candidates: &[&'static Protocol],
    stop: StopKind,
    events: &[Event],
) -> Vec<&'static Protocol> {
    let step = |event: &Event| match &event.what {
        What::Notes(note) if note.state() == NoteState::Complete => Some(Step::Save),
        What::Clears {
            word,
            by: Hand::Handler,
        } => match word {
            Word::StopMask => Some(Step::ClearStopMask),
            Word::Counter => Some(Step::DropCounter),
            Word::OnlineMask => Some(Step::Offline),
            Word::OnlineCount => None,
        },
        _ => None,
    };
    let fits = |protocol: &&'static Protocol| {
        let handler = match stop {
            StopKind::Plain => protocol.plain.handler.is,
            StopKind::Crash => protocol.crash.handler.is,
        };
        let cpus: BTreeSet<_> = events.iter().map(|event| event.cpu).collect();
        cpus.iter().all(|cpu| {
            let own = events.iter().filter(|event| event.cpu == *cpu);
            let mut rest = handler.iter();
            own.filter_map(step)
                .all(|step| rest.any(|next| *next == step))
        })
    };
    candidates.iter().copied().filter(fits).collect()
}

/// `a, b and c`, or `none`.
fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>, and: &str) -> String {
    let mut items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match (items.pop(), items.is_empty()) {
        (None, _) => "none".to_owned(),
        (Some(only), true) => only,
        (Some(last), false) => format!("{} {and} {last}", items.join(", ")),
    }
}

fn names<'p>(protocols: &'p [&'static Protocol]) -> impl Iterator<Item = &'static str> + 'p {
    protocols.iter().map(|protocol| protocol.name)
}

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(protocol) => f.write_str(protocol.name),
            Self::OneOf(protocols) => {
                let protocols = list(names(protocols), "or");
                write!(f, "{protocols}, whose symbols are the same")
            }
            Self::Unknown(unknown) => unknown.fmt(f),
        }
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = list(&self.seen, "and");
        let (functions, variables): (Vec<Sign>, Vec<Sign>) =
            self.not_seen.iter().partition(|sign| sign.is_function());
        match self.why {
            Why::NotTheSymbols => {
                write!(
                    f,
                    "there is no {ANCHOR}: these are not the symbols of an arm64 kernel, or not all; "
                )?;
                write!(f, "of the stop path's own there are: {seen}")?;
            }
            Why::NoVariables => {
                write!(
                    f,
                    "the symbols have no variables (no CONFIG_KALLSYMS_ALL), and so {} could not be seen; ",
                    list(variables, "and")
                )?;
                write!(f, "seen: {seen}; not there: {}", list(functions, "and"))?;
            }
            Why::NoProtocol => {
                write!(
                    f,
                    "no known stop protocol has these symbols and no others: "
                )?;
                write!(
                    f,
                    "seen: {seen}; not there: {}",
                    list(&self.not_seen, "and")
                )?;
            }
        }
        match &self.candidates[..] {
            [] => f.write_str("; no single protocol has all that was seen"),
            candidates => write!(f, "; it may be {}", list(names(candidates), "or")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::arm::{CpuId, KernelVa};
    use crate::evidence::{Note, Regs, Seen};
    use crate::inspect::Symbol;

    #[test]
    fn what_a_cpu_was_seen_to_do_tells_those_with_the_same_symbols_apart() {
        let event = |what| Event {
            at_us: 0,
            cpu: CpuId(1),
            seen: Seen::Trapped,
            masks: None,
            what,
        };
        let regs = Regs {
            x: [1; 31],
            sp: 1,
            pc: 1,
            pstate: 0,
        };
        let saves = event(What::Notes(Arc::new(Note::complete(&regs))));
        let clears = |word| {
            event(What::Clears {
                word,
                by: Hand::Handler,
            })
        };
        let acks = clears(Word::StopMask);
        let both = ["v1-proposal", "v1-corrected"].map(|name| Protocol::named(name).unwrap());
        let told = |stop, events: &[Event]| {
            let fitting = fitting(&both, stop, events);
            fitting.iter().map(|it| it.name).collect::<Vec<_>>()
        };
        let (crash, plain) = (StopKind::Crash, StopKind::Plain);
        assert_eq!(told(crash, &[acks.clone(), saves.clone()]), ["v1-proposal"]);
        assert_eq!(told(crash, &[saves, acks.clone()]), ["v1-corrected"]);
        let offline = clears(Word::OnlineMask);
        assert_eq!(
            told(plain, &[acks.clone(), offline.clone()]),
            ["v1-proposal"]
        );
        assert_eq!(told(plain, &[offline, acks.clone()]), ["v1-corrected"]);
        assert_eq!(told(crash, &[acks]).len(), 2, "one step tells nothing");
    }

    /// Symbols as `nm` and /proc/kallsyms print them.
    fn symbols(lines: &str) -> Symbols {
        let symbol = |line: &str| {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap();
            Symbol {
                at: KernelVa(u64::from_str_radix(word(), 16).unwrap()),
                kind: word().parse().unwrap(),
                name: word().to_owned(),
            }
        };
        Symbols::new(lines.lines().map(symbol).collect())
    }

    /// Symbols of these names: a function or variable by its letter.
    fn named(words: &str) -> Symbols {
        let symbol = |(number, word): (u64, &str)| {
            let (kind, name) = word.split_once(':').unwrap();
            Symbol {
                at: KernelVa(0xffff_8000_8000_0000 + 16 * number),
                kind: kind.parse().unwrap(),
                name: name.to_owned(),
            }
        };
        Symbols::new((0..).zip(words.split_whitespace()).map(symbol).collect())
    }

    /// Names of the protocols that it may be.
    fn possible(era: &Era) -> Vec<&'static str> {
        match era {
            Era::Told(protocol) => vec![protocol.name],
            Era::OneOf(protocols) => names(protocols).collect(),
            Era::Unknown(unknown) => names(unknown.candidates()).collect(),
        }
    }

    const V1: [&str; 2] = ["v1-proposal", "v1-corrected"];

    #[test]
    fn real_kernels_are_told() {
        let era = |lines| Era::of(&symbols(lines));
        let told = |name| Era::Told(Protocol::named(name).unwrap());
        assert_eq!(
            era(include_str!("../../../tests/corpus/symbols-nmi-only.txt")),
            told("nmi-only")
        );
        assert_eq!(
            era(include_str!(
                "../../../tests/corpus/symbols-irq-then-nmi.txt"
            )),
            told("irq-then-nmi")
        );
        for lines in [
            include_str!("../../../tests/corpus/symbols-v1-proposal.txt"),
            include_str!("../../../tests/corpus/symbols-v1-corrected.txt"),
        ] {
            let era = era(lines);
            assert!(matches!(era, Era::OneOf(_)));
            assert_eq!(possible(&era), V1);
        }
        // 7.2, whose console is nbcon: nothing of that is a sign.
        assert_eq!(
            era(include_str!("../../../tests/corpus/symbols-nbcon.txt")),
            told("irq-then-nmi")
        );
        // Debian's 6.12, and its 6.1 without variables.
        assert_eq!(
            era(include_str!("../../../tests/corpus/symbols-6.12.txt")),
            told("irq-then-nmi")
        );
        let old = include_str!("../../../tests/corpus/symbols-6.1.txt");
        assert!(!symbols(old).have_variables());
        assert_eq!(era(old), told("irq-only"));
    }

    #[test]
    fn eras_without_a_kernel_in_the_corpus() {
        let with = |words: &str| {
            let all = format!("T:crash_smp_send_stop D:__cpu_online_mask {words}");
            Era::of(&named(&all))
        };
        let told = |name| Era::Told(Protocol::named(name).unwrap());
        assert_eq!(with("b:waiting_for_crash_ipi"), told("irq-only"));
        let clang =
            "T:arch_trigger_cpumask_backtrace b:crash_stop b:smp_send_stop.stop_in_progress";
        assert_eq!(with(clang), told("irq-then-nmi"));
        let late = "T:arch_trigger_cpumask_backtrace b:crash_stop b:stop_in_progress.7";
        assert_eq!(with(late), told("irq-then-nmi"));
        for handler in ["T:arm64_nmi_cpu_stop", "T:sdei_nmi_stop_cpus"] {
            let words = format!("{late} {handler}");
            assert_eq!(with(&words), told("irq-nmi-sdei"));
        }
    }

    #[test]
    fn every_protocol_has_its_signs() {
        let known: Vec<&str> = (guest_abi::protocol::PROTOCOLS.iter())
            .map(|protocol| protocol.name)
            .collect();
        assert_eq!(ERAS.map(|(name, _)| name).as_slice(), known);
        assert_eq!(names(&protocols(|_| true)).collect::<Vec<_>>(), known);
    }

    #[test]
    fn without_variables_functions_alone_decide() {
        let base = "T:crash_smp_send_stop T:arch_trigger_cpumask_backtrace";
        let era = Era::of(&named(base));
        assert_eq!(
            era.to_string(),
            "the symbols have no variables (no CONFIG_KALLSYMS_ALL), and so waiting_for_crash_ipi, stop_mask, crash_stop \
             and stop_in_progress could not be seen; seen: arch_trigger_cpumask_backtrace; not there: \
             arm64_nmi_cpu_stop; it may be nmi-only, v1-proposal, v1-corrected or irq-then-nmi"
        );
        let era = Era::of(&named(&format!("{base} T:arm64_nmi_cpu_stop")));
        assert_eq!(era.to_string(), "irq-nmi-sdei");
    }

    #[test]
    fn a_variable_is_not_taken_for_a_function_nor_a_function_for_a_variable() {
        let era = Era::of(&named(
            "T:crash_smp_send_stop D:__cpu_online_mask b:waiting_for_crash_ipi t:stop_mask t:crash_stop \
             d:arch_trigger_cpumask_backtrace",
        ));
        assert_eq!(era.to_string(), "irq-only");
    }

    #[test]
    fn what_is_unknown_says_what_was_seen() {
        assert_eq!(
            Era::of(&Symbols::new(Vec::new())).to_string(),
            "there is no crash_smp_send_stop: these are not the symbols of an arm64 kernel, or not all; of the stop \
             path's own there are: none; it may be irq-only, nmi-only, v1-proposal, v1-corrected, irq-then-nmi or \
             irq-nmi-sdei"
        );
        let kernel = "T:crash_smp_send_stop D:__cpu_online_mask T:arch_trigger_cpumask_backtrace";
        // Without CONFIG_KEXEC_CORE there is no crash stop.
        assert_eq!(
            Era::of(&named(&format!("{kernel} b:stop_in_progress.0"))).to_string(),
            "no known stop protocol has these symbols and no others: seen: arch_trigger_cpumask_backtrace and \
             stop_in_progress; not there: waiting_for_crash_ipi, stop_mask, crash_stop and arm64_nmi_cpu_stop; it may \
             be irq-then-nmi or irq-nmi-sdei"
        );
        let era = Era::of(&named(&format!(
            "{kernel} b:stop_mask b:waiting_for_crash_ipi"
        )));
        assert_eq!(
            era.to_string(),
            "no known stop protocol has these symbols and no others: seen: arch_trigger_cpumask_backtrace, \
             waiting_for_crash_ipi and stop_mask; not there: crash_stop, stop_in_progress and arm64_nmi_cpu_stop; no \
             single protocol has all that was seen"
        );
        assert_eq!(possible(&era), [""; 0]);
    }

    proptest! {
        /// Symbols that are lost never make a kernel another one without saying that it may be the right one too.
        #[test]
        fn what_remains_of_a_table_does_not_lie(keep in prop::collection::vec(any::<bool>(), 80)) {
            let lines = include_str!("../../../tests/corpus/symbols-irq-then-nmi.txt");
            let some: Vec<&str> = (lines.lines().zip(&keep))
                .filter(|(line, keep)| **keep || line.ends_with(" arch_trigger_cpumask_backtrace"))
                .map(|(line, _)| line)
                .collect();
            let era = Era::of(&symbols(&some.join("\n")));
            prop_assert!(possible(&era).contains(&"irq-then-nmi"), "{}", era);
        }
    }
}
