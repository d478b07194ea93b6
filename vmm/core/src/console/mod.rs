//! What is typed on a console: the keys that the host keeps for itself, and how the rest travels to the device.

pub mod keys;
pub mod marks;
