//! The words that the payload and the VMM share.
#![no_std]
#![forbid(unsafe_code)]

pub mod memory_map;
