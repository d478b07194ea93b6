//! All that decides: no unsafe, no I/O, no clock.
#![forbid(unsafe_code)]
