use super::image::{Image, RAM};
use super::tables::Mapper;
use crate::arm::KernelVa;
use crate::inspect::{Granule, InspectError, KernelSpace, Vmcoreinfo};

const IMAGE: u64 = 0xffff_8000_8000_0000;
const VOFFSET: u64 = IMAGE - RAM;

fn info(page: u64, built: u32, size: Option<u32>) -> Vmcoreinfo {
    let size = size.map_or(String::new(), |size| {
        format!("NUMBER(TCR_EL1_T1SZ)={size:#x}\n")
    });
    Vmcoreinfo::parse(&format!(
        "OSRELEASE=6.12.0\nPAGESIZE={page}\nSYMBOL(swapper_pg_dir)={IMAGE:x}\n\
         NUMBER(kimage_voffset)={VOFFSET:#x}\nNUMBER(VA_BITS)={built}\n{size}"
    ))
    .unwrap()
}

/// A guest whose `swapper_pg_dir` is the first page of its image and of its RAM.
fn guest(granule: Granule, input_bits: u32) -> (Image, Mapper) {
    let mut image = Image::new(0x10_0000);
    let mut mapper = Mapper {
        granule,
        input_bits,
        lpa2: input_bits > 48 && granule != Granule::K64,
        root: RAM,
        free: RAM + 0x8_0000,
    };
    mapper.map(&mut image, IMAGE, RAM, 0);
    (image, mapper)
}

#[test]
fn a_read_crosses_pages_that_are_no_neighbours() {
    let shapes = [
        (Granule::K4, 48, info(4096, 52, Some(16))),
        (Granule::K4, 52, info(4096, 52, Some(12))),
        (Granule::K16, 47, info(16384, 52, Some(17))),
        // Built for 52 bits and run on a CPU with 48: the table is still the one for 52.
        (Granule::K64, 52, info(65536, 52, Some(16))),
    ];
    for (granule, bits, info) in shapes {
        let va = KernelVa(u64::MAX << (bits - 1));
        let (mut image, mut mapper) = guest(granule, bits);
        let page = granule.bytes();
        mapper.map(&mut image, va.0, RAM + 0x4_0000, 0);
        mapper.map(&mut image, va.0 + page, RAM + 0x2_0000, 0);
        image.write(RAM + 0x4_0000 + page - 4, &0x4433_2211u32.to_le_bytes());
        image.write(RAM + 0x2_0000, &0x8877_6655u32.to_le_bytes());
        let space = KernelSpace::new(&image, &info).unwrap();
        let across = va.plus(page - 4);
        assert_eq!(space.u64("word", across), Ok(0x8877_6655_4433_2211));
        let beyond = space.u64("word", va.plus(2 * page - 4)).unwrap_err();
        assert!(beyond.to_string().starts_with("word: 0x"), "{beyond}");
    }
}

#[test]
fn tables_that_disagree_with_vmcoreinfo_are_refused() {
    let (mut image, mut mapper) = guest(Granule::K4, 48);
    mapper.map(&mut image, IMAGE, RAM + 0x1000, 0);
    let error = KernelSpace::new(&image, &info(4096, 48, None))
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "swapper_pg_dir is damaged, or of a layout that is not known: it maps itself to 0x40001000, and \
         kimage_voffset says 0x40000000"
    );
}

#[test]
fn a_size_that_no_kernel_has_is_quoted() {
    let (image, _) = guest(Granule::K4, 48);
    let error = KernelSpace::new(&image, &info(4096, 48, Some(63)))
        .err()
        .unwrap();
    assert!(matches!(error, InspectError::BadLine { .. }));
    assert!(
        error.to_string().contains("NUMBER(TCR_EL1_T1SZ)=0x3f"),
        "{error}"
    );
}
