//! The options by which a scenario is run under other conditions than its own.

use std::fmt;

use vmm_core::evidence::StopKind;
use vmm_core::scenario::{Family, Scenario};

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
    /// The scenario under these conditions.
    pub(super) fn of(self, family: &Family) -> Result<Scenario, String> {
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
        if let Some(cpus) = self.cpus {
            write!(f, " --cpus {cpus}")?;
        }
        if let Some(whether) = self.pseudo_nmi {
            let word = match whether {
                Whether::On => "on",
                Whether::Off => "off",
            };
            write!(f, " --pseudo-nmi {word}")?;
        }
        if let Some(stop) = self.stop {
            let word = match stop {
                Stop::Plain => "plain",
                Stop::Crash => "crash",
            };
            write!(f, " --stop {word}")?;
        }
        Ok(())
    }
}
