//! No bytes make the evidence parsers or the judge panic. The sums are made to hold, so that what lies behind
//! them is reached.
#![no_main]

use vmm_core::evidence::{Evidence, Files, NAMES};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // The files one after the other, each ended by a line of two bytes that no text holds.
    let mut files = Files::new();
    let mut rest = bytes;
    for name in &NAMES[1..] {
        let end = rest
            .windows(2)
            .position(|two| two == [0xff, b'\n'])
            .unwrap_or(rest.len());
        files.insert((*name).to_owned(), rest[..end].to_vec());
        rest = rest.get(end + 2..).unwrap_or_default();
    }
    Evidence::seal(&mut files);
    if let Ok(evidence) = Evidence::from_files(&files) {
        vmm_core::oracle::judge(&evidence);
        assert_eq!(
            Evidence::from_files(&evidence.to_files()).expect("it reads its own files"),
            evidence
        );
    }
});
