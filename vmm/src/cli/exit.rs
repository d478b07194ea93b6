//! How a verb ends.

use std::process::ExitCode;

/// The exit codes of `vmm`, the same for every verb.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// It went as expected: 0.
    Expected,
    /// The host or the usage is at fault: 2.
    HostOrUsage,
    /// This host cannot run it: 77, as Automake's test drivers mean it.
    CannotRunHere,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Expected => 0,
            Exit::HostOrUsage => 2,
            Exit::CannotRunHere => 77,
        })
    }
}
