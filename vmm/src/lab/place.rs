//! Where a verb that needs arm64 KVM runs.

use std::env;
use std::os::unix::net::UnixListener;

use vmm_core::host::NoKvm;

/// Set for a verb that runs inside the lab.
pub(super) const INSIDE: &str = "VMM_IN_LAB";

/// Where.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// On this machine's own KVM.
    Here,
    /// In the lab.
    Lab,
}

/// What the user asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wish {
    /// Nothing in particular.
    Any,
    /// The lab, even where this machine could do it (`--lab`).
    Lab,
    /// Never the lab (`--no-lab`).
    Here,
}

/// The standard streams of the caller that are terminals, for a verb inside.
pub(super) const TERMINALS: &str = "VMM_LAB_TERMINALS";

/// The descriptor of the socket at which a verb inside the lab listens for debuggers.
pub(super) const DEBUGGER: &str = "VMM_LAB_DEBUGGER";

/// For a verb inside the lab: the socket at which debuggers come that have connected to its caller. Once: it is the one who asks that has
/// it then.
pub fn lent_listener() -> Option<UnixListener> {
    env::var_os(INSIDE)?;
    let number = env::var(DEBUGGER).ok()?.parse().ok()?;
    crate::sys::inherited::listener(number)
}

/// Whether this process runs in the lab.
pub fn inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// For a verb inside the lab: whether its standard input is the caller's terminal, in which breaks are marked. `None` outside.
pub fn caller_types() -> Option<bool> {
    env::var_os(INSIDE)?;
    let terminals = env::var(TERMINALS).unwrap_or_default();
    Some(terminals.split(',').any(|stream| stream == "stdin"))
}

impl Place {
    /// Decides for this process; what tells whether there is a KVM here that will do is asked only if that matters.
    pub fn choose(wish: Wish, here: impl FnOnce() -> Result<(), NoKvm>) -> Result<Self, NoKvm> {
        decide(wish, env::var_os(INSIDE).is_some(), here)
    }
}

/// In the lab there is no further lab: what is missing there is the verb's to tell.
fn decide(
    wish: Wish,
    inside: bool,
    here: impl FnOnce() -> Result<(), NoKvm>,
) -> Result<Place, NoKvm> {
    match wish {
        _ if inside => Ok(Place::Here),
        Wish::Lab => Ok(Place::Lab),
        Wish::Any => Ok(here().map_or(Place::Lab, |()| Place::Here)),
        Wish::Here => here().map(|()| Place::Here),
    }
}

#[cfg(test)]
mod tests {
    use vmm_core::host::NoKvm;

    use super::{Place, Wish, decide};

    fn not_asked() -> Result<(), NoKvm> {
        panic!("it does not matter")
    }

    #[test]
    fn the_lab_stands_in_where_no_kvm_is() {
        for lack in [
            NoKvm::OtherArchitecture("x86_64".to_owned()),
            NoKvm::NoDevice,
            NoKvm::NotPermitted,
        ] {
            assert_eq!(
                decide(Wish::Any, false, || Err(lack.clone())),
                Ok(Place::Lab)
            );
            assert_eq!(decide(Wish::Here, false, || Err(lack.clone())), Err(lack));
        }
        assert_eq!(decide(Wish::Any, false, || Ok(())), Ok(Place::Here));
        assert_eq!(decide(Wish::Lab, false, not_asked), Ok(Place::Lab));
        assert_eq!(decide(Wish::Here, false, || Ok(())), Ok(Place::Here));
    }

    #[test]
    fn the_lab_has_no_lab() {
        for wish in [Wish::Any, Wish::Lab, Wish::Here] {
            assert_eq!(decide(wish, true, not_asked), Ok(Place::Here));
        }
    }
}
