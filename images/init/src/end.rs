//! How a guest ends.

use std::fmt;

use rustix::io::Errno;
use rustix::system::{RebootCommand, reboot};

/// What the kernel is asked for at last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    PowerOff,
    Reboot,
    Halt,
}

impl End {
    /// The value of `init.end=`.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        [Self::PowerOff, Self::Reboot, Self::Halt]
            .into_iter()
            .find(|end| end.word() == word)
    }

    fn word(self) -> &'static str {
        match self {
            Self::PowerOff => "poweroff",
            Self::Reboot => "reboot",
            Self::Halt => "halt",
        }
    }

    /// Ends the guest; comes back only if the kernel refuses.
    pub(crate) fn now(self) -> Errno {
        // The kernel drops what its serial driver has not sent yet when it powers off. A console that is no terminal has nothing to
        // wait for, and then there is nothing to do about it.
        let _ = rustix::termios::tcdrain(std::io::stdout());
        rustix::fs::sync();
        let command = match self {
            Self::PowerOff => RebootCommand::PowerOff,
            Self::Reboot => RebootCommand::Restart,
            Self::Halt => RebootCommand::Halt,
        };
        match reboot(command) {
            Err(errno) => errno,
            Ok(()) => unreachable!("the kernel came back from {self}"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_names_its_end() {
        assert_eq!(
            ["poweroff", "reboot", "halt", "shell"].map(End::from_word),
            [
                Some(End::PowerOff),
                Some(End::Reboot),
                Some(End::Halt),
                None
            ]
        );
    }
}
