use proptest::prelude::*;

use super::image::{Image, RAM};
use super::tables::Mapper;
use crate::arm::{KernelVa, PhysicalAddress};
use crate::inspect::{Granule, InspectError, TranslationRegisters, WalkFault};

const SPACE: usize = 0x10_0000;

fn tcr(granule: Granule, bits: u32, lpa2: bool) -> u64 {
    let size = u64::from(64 - bits);
    let (tg0, tg1) = match granule {
        Granule::K4 => (0, 2),
        Granule::K64 => (1, 3),
        Granule::K16 => (2, 1),
    };
    size | size << 16 | tg0 << 14 | tg1 << 30 | u64::from(lpa2) << 59
}

/// A granule, bits of an address, the format, and how many levels above the pages blocks are allowed.
fn shapes() -> impl Strategy<Value = (Granule, u32, bool, usize)> {
    prop_oneof![
        (36u32..=48).prop_map(|bits| (Granule::K4, bits, false, 2)),
        (36u32..=48).prop_map(|bits| (Granule::K16, bits, false, 1)),
        (36u32..=52).prop_map(|bits| (Granule::K64, bits, false, 2)),
        (36u32..=52).prop_map(|bits| (Granule::K4, bits, true, 3)),
        (36u32..=52).prop_map(|bits| (Granule::K16, bits, true, 2)),
    ]
}

proptest! {
    #[test]
    fn what_is_mapped_is_found(
        (granule, bits, lpa2, blocks) in shapes(),
        va: u64, pa: u64, up in 0usize..4, upper: bool,
    ) {
        let wide = lpa2 || granule == Granule::K64;
        let mut mapper = Mapper { granule, input_bits: bits, lpa2, root: RAM, free: RAM + 0x1_0000 };
        let up = up.min(blocks).min(mapper.levels().len() - 1);
        let low = va & ((1 << bits) - 1);
        let va = KernelVa(if upper { low | u64::MAX << bits } else { low });
        let pa = pa & if wide { (1 << 52) - 1 } else { (1 << 48) - 1 };
        let mut image = Image::new(SPACE);
        mapper.map(&mut image, va.0, pa, up);
        // An ASID and CnP surround the table's address.
        let ttbr = RAM | 1 | 0x2a << 48;
        let other = 0xdead_0000;
        let registers = TranslationRegisters {
            ttbr0: if upper { other } else { ttbr },
            ttbr1: if upper { ttbr } else { other },
            tcr: tcr(granule, bits, lpa2),
        };
        let (lowest, _) = mapper.levels()[mapper.levels().len() - 1 - up];
        let inside = va.0 & ((1 << lowest) - 1);
        let found = registers.translate(&image, va).unwrap();
        prop_assert_eq!(found.at, PhysicalAddress(pa & !((1 << lowest) - 1) | inside));
        prop_assert_eq!(found.rest, (1 << lowest) - inside);
        prop_assert_eq!(found.level, 3 - up as i32);
        prop_assert!(!found.is_contiguous());

        // The address next to a page that is alone has no translation, and the error says at which level.
        let mut beside = va.0 ^ 1 << lowest;
        if lowest + 1 == bits { beside = va.0; }
        match registers.translate(&image, KernelVa(beside)) {
            Ok(_) => prop_assert_eq!(beside, va.0),
            Err(InspectError::Walk { fault: WalkFault::Invalid { descriptor, .. }, .. }) => {
                prop_assert_eq!(descriptor, 0);
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    #[test]
    fn any_memory_and_any_registers_end_the_walk(
        bytes in prop::collection::vec(any::<u8>(), 4096),
        va: u64, control: u64, ttbr in RAM..RAM + 0x2000,
    ) {
        let registers = TranslationRegisters { ttbr0: ttbr, ttbr1: ttbr, tcr: control };
        let result = registers.translate(&Image(bytes), KernelVa(va));
        if let Ok(found) = result {
            prop_assert_eq!(found.descriptor & 1, 1);
            prop_assert!((0..=3).contains(&found.level));
        }
    }
}

#[test]
fn an_error_names_level_and_descriptor() {
    let mut image = Image::new(0x1_0000);
    let registers = TranslationRegisters {
        ttbr0: RAM,
        ttbr1: RAM,
        tcr: tcr(Granule::K4, 48, false),
    };
    let va = KernelVa(0xffff_8000_0000_0000);
    let error = |image: &Image| registers.translate(image, va).unwrap_err().to_string();
    assert_eq!(
        error(&image),
        "0xffff800000000000: not mapped: the descriptor 0x0 of level 0 at 0x40000800 is not valid"
    );
    // A block at level 0 is none without LPA2.
    image.write(RAM + 0x800, &0x4000_0001u64.to_le_bytes());
    assert_eq!(
        error(&image),
        "0xffff800000000000: the descriptor 0x40000001 at 0x40000800 is none of level 0"
    );
    image.write(RAM + 0x800, &0x9000_0003u64.to_le_bytes());
    assert_eq!(
        error(&image),
        "0xffff800000000000: the table of level 1 has no RAM at 0x90000000"
    );
}

#[test]
fn an_address_between_the_halves_is_none() {
    let image = Image::new(0x1000);
    let mut registers = TranslationRegisters {
        ttbr0: RAM,
        ttbr1: RAM,
        tcr: tcr(Granule::K4, 48, false),
    };
    let fault =
        |registers: &TranslationRegisters, va| match registers.translate(&image, KernelVa(va)) {
            Err(InspectError::Walk { fault, .. }) => fault,
            other => panic!("{other:?}"),
        };
    let beyond = WalkFault::NotCanonical { input_bits: 48 };
    assert_eq!(fault(&registers, 0x0001_0000_0000_0000), beyond);
    assert_eq!(fault(&registers, 0x12ff_8000_0000_0000), beyond);
    // TBI1 takes the top byte away.
    registers.tcr |= 1 << 38;
    assert!(matches!(
        fault(&registers, 0x12ff_8000_0000_0000),
        WalkFault::Invalid { level: 0, .. }
    ));
    registers.tcr |= 1 << 23;
    assert_eq!(
        fault(&registers, 0xffff_8000_0000_0000),
        WalkFault::Disabled
    );
}

#[test]
fn a_contiguous_entry_is_told() {
    let mut image = Image::new(0x1_0000);
    let mut mapper = Mapper {
        granule: Granule::K64,
        input_bits: 42,
        lpa2: false,
        root: RAM,
        free: RAM,
    };
    mapper.map(&mut image, 0x2_0000, 0x5000_0000, 1);
    image.write(RAM, &(image.u64(RAM) | 1 << 52).to_le_bytes());
    let registers = TranslationRegisters {
        ttbr0: RAM,
        ttbr1: 0,
        tcr: tcr(Granule::K64, 42, false),
    };
    let found = registers.translate(&image, KernelVa(0x2_0010)).unwrap();
    assert!(found.is_contiguous());
}
