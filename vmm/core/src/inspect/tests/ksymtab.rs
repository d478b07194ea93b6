use proptest::prelude::*;

use super::guest::{Guest, KERNEL};
use super::kallsyms::lay;
use crate::arm::KernelVa;
use crate::inspect::{Exports, Form, InspectError, Symbols};

const KFREE: u64 = KERNEL + 0x2_0000;
const EXPORTED: [(&str, u64); 4] = [
    ("__cpu_online_mask", KERNEL + 0x8_0008),
    ("kfree", KFREE),
    ("memstart_addr", KERNEL + 0x8_0000),
    ("panic", KERNEL + 0x2_0400),
];

/// A guest whose kallsyms knows `kfree` alone, and where its table of exports lies.
fn guest() -> (Guest, u64) {
    let mut guest = Guest::new();
    lay(&mut guest, &[(KFREE, "Tkfree")], Form::Relative);
    let mut strings = vec![0];
    let mut names = Vec::new();
    for (name, _) in EXPORTED {
        names.push(strings.len() as u64);
        strings.extend(name.bytes());
        strings.push(0);
    }
    let strings = guest.put(1, &strings);
    let table = guest.put(8, &[0xff; 12 * 6]);
    for (number, (name, (_, value))) in names.iter().zip(EXPORTED).enumerate() {
        let at = table + 12 * (1 + number as u64);
        // The name space is the empty string before the first name.
        for (at, target) in [(at, value), (at + 4, strings + name), (at + 8, strings)] {
            guest.write(at, &(target.wrapping_sub(at) as u32).to_le_bytes());
        }
    }
    (guest, table)
}

fn find(guest: &Guest) -> Result<Exports, InspectError> {
    guest.with(|space, info| Exports::find(space, info, &Symbols::read(space, info)?))
}

#[test]
fn the_table_is_found_by_a_function_that_kallsyms_knows() {
    let (guest, _) = guest();
    let exports = find(&guest).unwrap();
    assert_eq!(exports.count(), EXPORTED.len());
    for (name, value) in EXPORTED {
        assert_eq!(exports.address(name), Ok(KernelVa(value)), "{name}");
    }
    assert!(matches!(
        exports.address("crash_notes"),
        Err(InspectError::NoSymbol { .. })
    ));
}

#[test]
fn a_table_that_is_gone_is_named() {
    let (mut guest, table) = guest();
    guest.write(table + 24, &[0; 4]);
    let error = find(&guest).unwrap_err().to_string();
    assert!(
        error.contains("no entry of _printk or printk or kfree"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn damage_never_makes_up_a_name(
        damage in prop::collection::vec((0u64..0x900, any::<u8>()), 1..20),
    ) {
        let (mut guest, _) = guest();
        for (at, byte) in damage {
            guest.write(KERNEL + 0x1000 + at, &[byte]);
        }
        if let Ok(exports) = find(&guest) {
            prop_assert!((1..=6).contains(&exports.count()));
        }
    }
}
