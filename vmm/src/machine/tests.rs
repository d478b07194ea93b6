//! Laying out guests, and their device trees.

use std::io::Write;
use std::process::{Command, Stdio};

use vmm_core::arm::Mpidr;

use super::fdt::{self, Board};
use super::layout::{Blob, Error, Guest, Layout};
use super::{Format, check_cpus, kernel, map, seeds};

const MIB: usize = 1 << 20;

/// The least that is an Image: the header and nothing (booting.rst, 3).
pub(super) fn image(size: usize, text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
    let mut bytes = vec![0; size.max(64)];
    bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
    bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
    bytes[24..32].copy_from_slice(&flags.to_le_bytes());
    bytes[56..60].copy_from_slice(b"ARM\x64");
    bytes
}

/// An ELF64 file with one segment, whose second instruction is its entry point.
fn elf(machine: u16, physical: u64, memory: u64, data: &[u8]) -> Vec<u8> {
    let segment = (physical, memory, 0, data.len() as u64);
    elf_of(machine, physical.wrapping_add(4), &[segment], data)
}

/// An ELF64 file with these segments: physical address, size in memory, place in `body`, bytes of it.
pub(super) fn elf_of(
    machine: u16,
    entry: u64,
    segments: &[(u64, u64, u64, u64)],
    body: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(b"\x7fELF\x02\x01\x01");
    bytes.resize(16, 0);
    bytes.extend(2_u16.to_le_bytes());
    bytes.extend(machine.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(entry.to_le_bytes());
    bytes.extend(64_u64.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, segments.len() as u16, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    let start = 64 + 56 * segments.len() as u64;
    for &(physical, memory, at, stored) in segments {
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(5_u32.to_le_bytes());
        for word in [
            start.wrapping_add(at),
            physical,
            physical,
            stored,
            memory,
            8,
        ] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes.extend(body);
    bytes
}

fn guest(kernel: Vec<u8>) -> Guest {
    Guest {
        kernel: Blob {
            name: "kernel".into(),
            bytes: kernel,
        },
        format: None,
        initrd: None,
        cmdline: String::new(),
        memory: 64 * MIB as u64,
        ramoops: false,
    }
}

fn kernel_error(guest: Guest) -> kernel::Error {
    match Layout::plan(guest) {
        Err(Error::Kernel { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_image_goes_behind_the_device_tree_and_its_bss_counts() {
    let layout = Layout::plan(guest(image(MIB, 0, 3 * MIB as u64, 0xa))).unwrap();
    assert_eq!(layout.kernel.entry, 0x4020_0000);
    assert_eq!(layout.kernel.segments[0].0, 0x4020_0000);
    assert_eq!(layout.kernel.end, 0x4050_0000);
    let layout = Layout::plan(guest(image(MIB, 0x8_0000, MIB as u64, 0xa))).unwrap();
    assert_eq!(layout.kernel.entry, 0x4028_0000);
    let layout = Layout::plan(guest(image(100, 0xdead_0000, 0, 0))).unwrap();
    assert_eq!(
        layout.kernel.entry, 0x4028_0000,
        "before 3.17 the offset was 512 KiB whatever the header says"
    );
}

#[test]
fn a_gzip_image_is_unpacked() {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&image(MIB, 0, MIB as u64, 0xa)).unwrap();
    let packed = packer.finish().unwrap();
    let layout = Layout::plan(guest(packed.clone())).unwrap();
    assert_eq!(layout.kernel.segments[0].1.len(), MIB);
    let cut = packed[..packed.len() / 2].to_vec();
    assert!(matches!(kernel_error(guest(cut)), kernel::Error::Gzip(_)));
}

#[test]
fn an_elf_file_goes_where_its_segments_say() {
    let layout = Layout::plan(guest(elf(183, 0x4020_0000, 0x1000, b"code"))).unwrap();
    assert_eq!(layout.kernel.segments, [(0x4020_0000, b"code".to_vec())]);
    assert_eq!(
        (layout.kernel.entry, layout.kernel.end),
        (0x4020_0004, 0x4020_1000)
    );
    for outside in [0x4000_0000, 0x4007_f000, 0x43ff_f800, 0, u64::MAX - 16] {
        let error = kernel_error(guest(elf(183, outside, 0x1000, b"code")));
        assert!(
            matches!(error, kernel::Error::Segment { .. }),
            "{outside:#x}: {error:?}"
        );
    }
}

#[test]
fn an_elf_file_whose_segments_deceive_is_refused() {
    let base = 0x4020_0000;
    let error = |entry, segments: &[_]| {
        kernel_error(guest(elf_of(183, entry, segments, b"12345678"))).to_string()
    };
    // More bytes than it says to fill: they would spill, at the end of RAM out of it.
    assert!(
        error(0x43ff_f000, &[(0x43ff_f000, 4, 0, 8)])
            .contains("its segment at 0x43fff000 has 8 bytes for the 4 that it fills")
    );
    // The same bytes again and again: a small file, a large allocation.
    assert!(
        error(base, &[(base, 8, 0, 8); 1000])
            .contains("its segments at 0x40200000 and 0x40200000 overlap")
    );
    assert!(error(base + 8, &[(base, 8, 0, 8)]).contains("starts at 0x40200008"));
    assert!(
        error(base, &[(base, 8, 4, 8)])
            .contains("is cut off: 128 bytes, where its header says 132")
    );
    assert!(error(base, &[]).contains("no segment to load"));

    let bss = [(base, 8, 0, 8), (base + 8, 16, 8, 0), (base + 8, 8, 8, 0)];
    let layout = Layout::plan(guest(elf_of(183, base, &bss, b"12345678"))).unwrap();
    assert_eq!(
        (layout.kernel.segments.len(), layout.kernel.end),
        (1, base + 24),
        "what is only zeroed may overlap"
    );
}

#[test]
fn a_flat_binary_has_its_device_tree_behind_it_and_an_initrd_before_that() {
    let flat = |size: usize, memory: usize| Guest {
        format: Some(Format::Flat),
        memory: memory as u64,
        initrd: Some(Blob {
            name: "initrd".into(),
            bytes: vec![0; 4096],
        }),
        ..guest(vec![0; size])
    };
    let layout = Layout::plan(flat(MIB, 64 * MIB)).unwrap();
    assert_eq!(layout.dtb, 0x43f8_0000);
    assert_eq!(layout.initrd.unwrap().0, 0x43f7_f000..0x43f8_0000);
    assert_eq!(
        Layout::plan(flat(MIB, 4096 * MIB)).unwrap().dtb,
        0x7ff8_0000
    );
    assert_eq!(
        kernel_error(flat(63 * MIB + 1, 64 * MIB)),
        kernel::Error::TooLarge {
            needs: 0x43f8_0001,
            end_most: 0x43f8_0000
        }
    );
    assert_eq!(
        Layout::plan(guest(image(64, 0, 64, 0))).unwrap().dtb,
        0x4000_0000
    );
}

#[test]
fn a_flat_binary_is_taken_as_it_is_but_only_when_asked_for() {
    let flat = Guest {
        format: Some(Format::Flat),
        ..guest(vec![1, 2, 3])
    };
    let layout = Layout::plan(flat).unwrap();
    assert_eq!(
        (layout.kernel.entry, layout.kernel.end),
        (0x4008_0000, 0x4008_0003)
    );
    assert_eq!(kernel_error(guest(vec![1; 100])), kernel::Error::Unknown);
}

#[test]
fn what_is_no_kernel_is_named() {
    let mut x86 = vec![0; 0x1000];
    x86[0x202..0x206].copy_from_slice(b"HdrS");
    let mut arm = vec![0; 0x100];
    arm[0x24..0x28].copy_from_slice(&0x016f_2818_u32.to_le_bytes());
    let mut zboot = b"MZ\0\0zimg".to_vec();
    zboot.resize(0x100, 0);
    for (bytes, words) in [
        (x86, "is an x86 bzImage"),
        (arm, "is a 32-bit Arm zImage"),
        (zboot, "EFI zboot"),
        (Vec::new(), "is cut off: 0 bytes"),
        (image(64, 0, 64, 1), "big-endian"),
        (elf(62, 0x4020_0000, 8, b"code"), "another machine"),
        (b"\x7fELF".to_vec(), "is cut off: 4 bytes"),
    ] {
        let error = kernel_error(guest(bytes)).to_string();
        assert!(error.contains(words), "{error}");
    }
    let asked = |format, bytes| {
        kernel_error(Guest {
            format: Some(format),
            ..guest(bytes)
        })
    };
    assert_eq!(
        asked(Format::Elf, image(64, 0, 64, 0)),
        kernel::Error::NotOfFormat("an ELF file")
    );
    assert_eq!(
        asked(Format::Image, vec![0; 64]),
        kernel::Error::NotOfFormat("an arm64 Image")
    );
}

#[test]
fn what_does_not_fit_is_refused_with_the_figures() {
    let error = kernel_error(guest(image(MIB, 0, 63 * MIB as u64, 0)));
    assert_eq!(
        error,
        kernel::Error::TooLarge {
            needs: 0x4410_0000,
            end_most: 0x4400_0000
        }
    );
    assert!(matches!(
        kernel_error(guest(image(MIB, u64::MAX, u64::MAX, 0))),
        kernel::Error::TooLarge { .. }
    ));

    let with_initrd = |size: usize, memory: usize| Guest {
        initrd: Some(Blob {
            name: "initrd".into(),
            bytes: vec![0; size],
        }),
        memory: memory as u64,
        ..guest(image(MIB, 0, MIB as u64, 0))
    };
    let (range, _) = Layout::plan(with_initrd(5000, 64 * MIB))
        .unwrap()
        .initrd
        .unwrap();
    assert_eq!(
        range,
        0x43ff_e000..0x43ff_f388,
        "it ends with RAM and starts on a page"
    );
    let (range, _) = Layout::plan(with_initrd(4096, 4096 * MIB))
        .unwrap()
        .initrd
        .unwrap();
    assert_eq!(range.end, map::WINDOW_END);
    let error = Layout::plan(with_initrd(62 * MIB, 64 * MIB))
        .unwrap_err()
        .to_string();
    assert!(
        error
            .contains("initrd initrd does not fit: 65011712 bytes, and the kernel leaves 63963136"),
        "{error}"
    );

    for memory in [0, MIB as u64, 64 * MIB as u64 + 1, 256 << 30, u64::MAX] {
        let error = Layout::plan(Guest {
            memory,
            ..guest(image(64, 0, 64, 0))
        });
        assert_eq!(error, Err(Error::Memory { have: memory }));
    }
    let long = Guest {
        cmdline: "x".repeat(2048),
        ..guest(image(64, 0, 64, 0))
    };
    assert_eq!(
        Layout::plan(long),
        Err(Error::CmdlineTooLong { have: 2048 })
    );
    let most = Guest {
        cmdline: "x".repeat(2047),
        ..guest(image(64, 0, 64, 0))
    };
    assert!(Layout::plan(most).is_ok());
    assert!(
        check_cpus(0).is_err()
            && check_cpus(1).is_ok()
            && check_cpus(512).is_ok()
            && check_cpus(10_000).is_err()
    );
}

/// A machine as KVM numbers it.
fn tree(cpus: usize) -> Vec<u8> {
    let cpus: Vec<_> = (0..cpus as u64)
        .map(|n| Mpidr::from_register((n % 16) | ((n / 16) << 8)))
        .collect();
    let board = Board {
        cpus: &cpus,
        memory: 1 << 30,
        cmdline: "console=ttyAMA0",
        initrd: Some(0x7fff_0000..0x7fff_1234),
        seeds: seeds(7),
        ramoops: Some(0x7ff0_0000..0x7ff8_0000),
    };
    fdt::write(&board).unwrap()
}

/// Has dtc turn one form of a device tree into another; gives what it made and what it complained of.
fn dtc(from: &str, to: &str, tree: &[u8]) -> (Vec<u8>, String) {
    let mut dtc = Command::new("dtc")
        .args(["-I", from, "-O", to, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("dtc of the package device-tree-compiler, which `make test` installs");
    dtc.stdin.take().unwrap().write_all(tree).unwrap();
    let output = dtc.wait_with_output().unwrap();
    (output.stdout, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn dtc_finds_no_fault_in_any_tree() {
    for cpus in [1, 16, 124, 512] {
        let (_, complaints) = dtc("dtb", "dts", &tree(cpus));
        assert_eq!(complaints, "", "{cpus} CPUs");
    }
}

#[test]
fn the_tree_is_the_golden_one() {
    let source = |dtb: &[u8]| String::from_utf8(dtc("dtb", "dts", dtb).0).unwrap();
    // Through the same dtc, since its versions write the same tree differently.
    let (golden, _) = dtc("dts", "dtb", include_bytes!("golden/two-cpus.dts"));
    let tree = source(&tree(2));
    assert_eq!(
        tree,
        source(&golden),
        "a wanted change goes into golden/two-cpus.dts:\n{tree}"
    );
}

#[test]
fn the_device_tree_of_the_largest_machine_fits() {
    assert!(tree(map::CPUS_MOST).len() as u64 <= map::DTB.end - map::DTB.start);
}

#[test]
fn the_same_seed_gives_the_same_chance() {
    assert_eq!(seeds(7), seeds(7));
    assert_ne!(seeds(7).kaslr, seeds(8).kaslr);
    assert_ne!(seeds(7).rng, seeds(8).rng);
}
