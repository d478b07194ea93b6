//! The writing end of a port.

use std::io::Write;
use std::sync::mpsc::Receiver;

use serde::Serialize;

use super::frame::{self, Frame, FrameError};

/// Writes frames as they come, until nobody can send one any more. Whoever reads the other way must not be the one who writes: two
/// sides that both wait for the other to read would wait for ever.
pub(super) fn write_all<M: Serialize>(
    mut port: impl Write,
    frames: &Receiver<Frame<M>>,
) -> Result<(), FrameError> {
    for frame in frames {
        port.write_all(&frame::encode(&frame)?)?;
    }
    Ok(())
}
