//! Where debuggers come in, for the verbs that let them.

use super::tell;
use crate::gdb::{Entrance, Where};

/// Whether somebody means an address that other machines reach.
pub(super) fn check(place: &Where, open: bool) -> Result<(), String> {
    if place.is_local() || open {
        return Ok(());
    }
    Err(format!(
        "--gdb {place}: other machines reach that address, and a debugger may do everything to the guest; --gdb-open says that this is \
         what you want"
    ))
}

/// An entrance there.
pub(super) fn at(place: &Where) -> Result<Entrance, String> {
    let entrance = Entrance::at(place, tell);
    entrance.map_err(|error| {
        format!("cannot listen for debuggers at {place}: {error}; --gdb WHERE says another place")
    })
}

/// The same; in the lab those who connect at the caller come to a socket that this process was given.
#[cfg(target_arch = "aarch64")]
pub(super) fn here(place: &Where) -> Result<Entrance, String> {
    match crate::lab::lent_listener() {
        Some(listener) => Ok(Entrance::lent(listener, tell)),
        None => at(place),
    }
}
