//! The primitives that the conductor waits on: the standard library's, or shuttle's where it explores their schedules.

#[cfg(not(feature = "shuttle"))]
pub(super) use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};

#[cfg(feature = "shuttle")]
pub(super) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};
