//! The words that the payload and the VMM share.
//!
//! A stop protocol is a table ([`protocol`]), a place where a vCPU can be caught is a word ([`point`]),
//! and a crash note is 424 bytes at known offsets ([`note`]). The payload obeys the tables, the model
//! explores them, the VMM resolves the points. What a capture kernel finds is handed over in pages ([`handover`]).
#![no_std]
#![forbid(unsafe_code)]

pub mod handover;
pub mod mailbox;
pub mod memory_map;
pub mod note;
pub mod point;
pub mod protocol;
