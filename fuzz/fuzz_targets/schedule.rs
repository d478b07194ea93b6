//! No text makes the schedule parser panic, and what it takes it prints as it was.
#![no_main]

use vmm_core::choose::Schedule;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(schedule) = text.parse::<Schedule>() {
        assert_eq!(schedule.to_string(), text);
    }
});
