//! No text makes the scenario parser panic, and what it takes it prints so that it takes it again.
#![no_main]

use vmm_core::scenario::Scenario;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(scenario) = Scenario::parse("fuzz", text) {
        assert_eq!(
            Scenario::parse("printed", &scenario.to_string()),
            Ok(scenario)
        );
    }
});
