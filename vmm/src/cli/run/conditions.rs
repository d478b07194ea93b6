//! The options by which a scenario is run under other conditions than its own.

use std::fmt;

use vmm_core::evidence::StopKind;
use vmm_core::scenario::{self, Family, Scenario};

/// Other conditions than the scenario's own, which its file must have a variant for.
#[derive(clap::Args, Clone, Copy, Default)]
pub(in crate::cli) struct Conditions {
    /// With so many CPUs, where the scenario says what is expected then
    #[arg(long, value_name = "N")]
    cpus: Option<u16>,
    /// With or without pseudo-NMIs, where the scenario says what is expected then
    #[arg(long, value_name = "WHETHER")]
    pseudo_nmi: Option<Whether>,
    /// By the other stop, where the scenario says what is expected then
    #[arg(long, value_name = "STOP")]
    stop: Option<Stop>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Whether {
    On,
    Off,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Stop {
    Plain,
    Crash,
}

impl Conditions {
    /// What is to be typed to have the scenario run under these conditions.
    pub(in crate::cli) fn typed(own: scenario::Conditions, wanted: scenario::Conditions) -> Self {
        let whether = |on| if on { Whether::On } else { Whether::Off };
        let stop = |stop| match stop {
            StopKind::Plain => Stop::Plain,
            StopKind::Crash => Stop::Crash,
        };
        Self {
            cpus: (own.cpus != wanted.cpus).then_some(wanted.cpus),
            pseudo_nmi: (own.pseudo_nmi != wanted.pseudo_nmi).then(|| whether(wanted.pseudo_nmi)),
            stop: (own.stop != wanted.stop).then(|| stop(wanted.stop)),
        }
    }

    /// The options, word by word.
    pub(in crate::cli) fn words(self) -> Vec<String> {
        let whether = |whether| match whether {
            Whether::On => "on",
            Whether::Off => "off",
        };
        let stop = |stop| match stop {
            Stop::Plain => "plain",
            Stop::Crash => "crash",
        };
        let options = [
            ("--cpus", self.cpus.map(|cpus| cpus.to_string())),
            (
                "--pseudo-nmi",
                self.pseudo_nmi.map(whether).map(str::to_owned),
            ),
            ("--stop", self.stop.map(stop).map(str::to_owned)),
        ];
        let given = options.into_iter().filter_map(|(option, value)| {
            let value = value?;
            Some([option.to_owned(), value])
        });
        given.flatten().collect()
    }

    /// The scenario under these conditions.
    pub(in crate::cli) fn of(self, family: &Family) -> Result<Scenario, String> {
        let mut wanted = family.own.conditions();
        if let Some(cpus) = self.cpus {
            wanted.cpus = cpus;
        }
        if let Some(whether) = self.pseudo_nmi {
            wanted.pseudo_nmi = matches!(whether, Whether::On);
        }
        if let Some(stop) = self.stop {
            wanted.stop = match stop {
                Stop::Plain => StopKind::Plain,
                Stop::Crash => StopKind::Crash,
            };
        }
        family.under(wanted).cloned().ok_or_else(|| {
            let known = family
                .all()
                .map(|scenario| scenario.conditions().to_string());
            format!(
                "{} does not say what is expected with {wanted}; it does with {}",
                family.own.name,
                known.collect::<Vec<_>>().join(", ")
            )
        })
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.words()
            .iter()
            .try_for_each(|word| write!(f, " {word}"))
    }
}
