//! The bare-metal payload.
fn main() {}
