//! PID 1 of a Linux guest.
fn main() {}
