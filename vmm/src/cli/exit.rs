//! How a verb ends.

use std::process::ExitCode;

/// The exit codes of `vmm`, the same for every verb.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// It went as expected: 0.
    Expected,
    /// It went otherwise: 1.
    Surprise,
    /// The host or the usage is at fault: 2.
    HostOrUsage,
    /// The guest reset itself and was not to be restarted: 3.
    GuestReset,
    /// The guest had not ended when its time was up: 4.
    TimedOut,
    /// This host cannot run it: 77, as Automake's test drivers mean it.
    CannotRunHere,
    /// Whether it is good or bad cannot be told: 125, as `git bisect run` skips a commit.
    Untold,
    /// A signal ended it: 128 and its number, as shells report it.
    Signal(i32),
    /// What ran in the lab ended with this code.
    Passed(u8),
}

impl Exit {
    /// The table for help texts and manuals.
    pub(super) const TABLE: &str = "\
Exit codes:
  0    as expected; vmm boot: the guest powered off
  1    vmm run, explore, judge, matrix: otherwise than expected
  2    the host or the usage is at fault
  3    vmm boot: the guest reset itself (--on-reset stop)
  4    vmm boot: the guest had not ended when its --timeout was up
  125  vmm matrix --bisect: it cannot be told
  77   this host can't run it
  128+N  signal N ended it; Ctrl-A X on a console is as good as SIGINT (130)";

    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Expected => 0,
            Exit::Surprise => 1,
            Exit::HostOrUsage => 2,
            Exit::GuestReset => 3,
            Exit::TimedOut => 4,
            Exit::CannotRunHere => 77,
            Exit::Untold => 125,
            Exit::Signal(number) => 128 + number as u8,
            Exit::Passed(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        if let Exit::Signal(signal) = exit {
            // So that whoever waits sees what it was. Does not return for a signal that ends processes.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
        ExitCode::from(exit.code())
    }
}
