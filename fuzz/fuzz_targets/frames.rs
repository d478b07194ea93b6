//! The port between host and lab: whatever the other side sends.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm::lab::fuzz(bytes));
