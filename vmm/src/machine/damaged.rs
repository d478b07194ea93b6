//! What holds for whatever a user gives: an error, or a plan that lies inside the guest's RAM.

use std::io::Write;

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use proptest::sample::Index;
use vmm_core::arm::Mpidr;

use super::fdt::{self, Board, Seeds};
use super::layout::{Blob, Guest, Layout};
use super::tests::{elf_of, image};
use super::{Format, map};

const MIB: u64 = 1 << 20;

/// A number as a damaged or an evil header has it: near something that means something, or anything.
fn number() -> impl Strategy<Value = u64> {
    let near =
        |at: u64| (0..0x3000_u64).prop_map(move |by| at.wrapping_add(by).wrapping_sub(0x1000));
    prop_oneof![
        near(0),
        near(map::RAM.start),
        near(map::DTB.end),
        near(map::IMAGE_BASE),
        near(map::RAM.start + 16 * MIB),
        near(1 << 63),
        any::<u64>(),
    ]
}

fn valid_kernel() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(any::<u8>(), 0..300);
    let segment = (number(), number(), number(), 0..300_u64);
    prop_oneof![
        (body.clone(), number(), number(), 0..16_u64).prop_map(|(body, offset, size, flags)| {
            let mut image = image(64, offset, size, flags);
            image.extend(body);
            image
        }),
        // Small numbers, so that some are kernels.
        (body.clone(), 0..MIB, 0..2 * MIB).prop_map(|(body, offset, size)| {
            let mut image = image(64, offset, size, 0xa);
            image.extend(body);
            image
        }),
        (prop::collection::vec(segment, 0..6), number(), body.clone())
            .prop_map(|(segments, entry, body)| elf_of(183, entry, &segments, &body)),
        (1..5_u64, 0..8_u64, body.clone()).prop_map(|(count, gap, body)| {
            let size = body.len() as u64;
            let segments: Vec<_> = (0..count)
                .map(|n| (map::IMAGE_BASE + n * gap * 512, size + gap, 0, size))
                .collect();
            elf_of(183, map::IMAGE_BASE, &segments, &body)
        }),
        body,
    ]
}

/// Flips, cuts, lengthens.
#[derive(Clone, Debug)]
enum Damage {
    Set(Index, u8),
    Write(Index, u64),
    Cut(Index),
    Grow(u16),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        6 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        3 => (any::<Index>(), number()).prop_map(|(at, word)| Damage::Write(at, word)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => any::<u16>().prop_map(Damage::Grow),
    ]
}

fn harm(bytes: &mut Vec<u8>, damages: &[Damage]) {
    for damage in damages {
        if bytes.is_empty() {
            return;
        }
        match damage {
            Damage::Set(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Damage::Write(at, word) => {
                // Headers' fields lie at multiples of their size, and near the start.
                let at = at.index(bytes.len().min(256)) / 8 * 8;
                for (byte, new) in bytes[at..].iter_mut().zip(word.to_le_bytes()) {
                    *byte = new;
                }
            }
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Damage::Grow(by) => bytes.resize(bytes.len() + usize::from(*by), 0x5a),
        }
    }
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn format() -> impl Strategy<Value = Option<Format>> {
    prop::sample::select(vec![
        None,
        Some(Format::Image),
        Some(Format::Elf),
        Some(Format::Flat),
    ])
}

fn guest() -> impl Strategy<Value = Guest> {
    let kernel = (
        valid_kernel(),
        prop::collection::vec(damage(), 0..4),
        any::<bool>(),
        prop::collection::vec(damage(), 0..2),
    );
    let kernel = kernel.prop_map(|(mut bytes, inside, pack, outside)| {
        harm(&mut bytes, &inside);
        if pack {
            bytes = packed(&bytes);
            harm(&mut bytes, &outside);
        }
        bytes
    });
    let initrd = prop::option::of(prop::collection::vec(any::<u8>(), 0..5000));
    let memory = prop_oneof![
        (4..64_u64).prop_map(|mib| mib * MIB),
        Just(2048 * MIB),
        any::<u64>()
    ];
    let cmdline = prop_oneof![
        Just(String::new()),
        ".{0,80}",
        "[ -~]{2040,2050}",
        any::<String>()
    ];
    let blob = |bytes| Blob {
        name: "it".into(),
        bytes,
    };
    (kernel, format(), initrd, cmdline, memory, any::<bool>()).prop_map(
        move |(kernel, format, initrd, cmdline, memory, ramoops)| Guest {
            kernel: blob(kernel),
            format,
            initrd: initrd.map(blob),
            cmdline,
            memory,
            ramoops,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_plan_lies_in_ram_or_is_an_error(guest in guest()) {
        if let Ok(layout) = Layout::plan(guest) {
            layout.check();
        }
    }
}

fn mpidrs() -> impl Strategy<Value = Vec<Mpidr>> {
    prop::collection::btree_set(
        any::<u64>().prop_map(|bits| Mpidr::from_register(bits).bits()),
        1..40,
    )
    .prop_map(|bits| bits.into_iter().map(Mpidr::from_register).collect())
}

proptest! {
    /// Whatever a machine is like, its tree parses and says what the machine has; and what no tree can say is an error.
    #[test]
    fn any_machine_has_a_tree_that_parses(
        cpus in mpidrs(),
        memory in any::<u64>(),
        cmdline in ".{0,200}",
        initrd in prop::option::of((any::<u64>(), any::<u64>())),
        kaslr in any::<u64>(),
        rng in any::<[u8; 32]>(),
    ) {
        let initrd = initrd.map(|(start, end)| start..end);
        let board = Board { cpus: &cpus, memory, cmdline: &cmdline, initrd: initrd.clone(), seeds: Seeds { kaslr, rng }, ramoops: None };
        let tree = fdt::write(&board);
        if cmdline.contains('\0') {
            prop_assert!(tree.is_err());
            return Ok(());
        }
        let tree = tree.unwrap();
        let tree = Fdt::new(&tree).unwrap();
        let chosen = tree.find_node("/chosen").unwrap();
        prop_assert_eq!(chosen.property("bootargs").unwrap().value_as::<&str>().unwrap(), cmdline.as_str());
        let start = chosen.property("linux,initrd-start").map(|start| start.value_as::<u64>().unwrap());
        prop_assert_eq!(start, initrd.map(|range| range.start));
        let nodes = tree.find_node("/cpus").unwrap();
        prop_assert_eq!(nodes.children().count(), cpus.len());
    }
}
