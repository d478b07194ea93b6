use proptest::prelude::*;

use super::image::{Image, RAM};
use crate::arm::{KernelVa, PhysicalAddress};
use crate::inspect::{InspectError, Vmcoreinfo};

const TEXT: &str = "OSRELEASE=6.12.0-test\nBUILD-ID=00ff\nPAGESIZE=4096\n\
    SYMBOL(init_uts_ns)=ffff800080010000\nOFFSET(uts_namespace.name)=4\nSIZE(page)=64\n\
    LENGTH(printk_info_device)=48\nNUMBER(VA_BITS)=48\nNUMBER(kimage_voffset)=0xffff800040000000\n\
    NUMBER(PG_slab)=-7\nKERNELOFFSET=1f0000\n";

#[test]
fn lines_have_types() {
    let mut image = Image::new(0x20000);
    image.write_vmcoreinfo(RAM + 0x3000, TEXT);
    let info = Vmcoreinfo::find(&image).unwrap();
    assert_eq!(info.os_release(), "6.12.0-test");
    assert_eq!(info.build_id(), Some("00ff"));
    assert_eq!(info.page_size(), Ok(4096));
    assert_eq!(
        info.symbol("init_uts_ns"),
        Ok(KernelVa(0xffff_8000_8001_0000))
    );
    assert_eq!(info.offset("uts_namespace.name"), Ok(4));
    assert_eq!(info.size("page"), Ok(64));
    assert_eq!(info.length("printk_info_device"), Ok(48));
    assert_eq!(info.number("VA_BITS"), Ok(48));
    assert_eq!(info.number("kimage_voffset"), Ok(0xffff_8000_4000_0000));
    assert_eq!(info.number("PG_slab"), Ok((-7i64).cast_unsigned()));
    assert_eq!(info.kernel_offset(), Ok(0x1f_0000));
    assert_eq!(
        info.symbol("prb").unwrap_err().to_string(),
        "VMCOREINFO has no line SYMBOL(prb)="
    );
}

#[test]
fn a_line_of_another_type_is_quoted() {
    let info = Vmcoreinfo::parse("OSRELEASE=1\nPAGESIZE=4095\nSYMBOL(x)=12\nSIZE(y)=-1").unwrap();
    assert_eq!(
        info.page_size().unwrap_err().to_string(),
        "VMCOREINFO says PAGESIZE=4095, which is not 4096, 16384 or 65536"
    );
    assert!(matches!(
        info.symbol("x"),
        Err(InspectError::BadLine { .. })
    ));
    assert!(matches!(info.size("y"), Err(InspectError::BadLine { .. })));
}

#[test]
fn the_running_kernels_wins_over_an_older_one() {
    let mut image = Image::new(0x20000);
    let old = TEXT.replace("6.12.0-test", "6.11.0-gone") + "NUMBER(one_more)=1\n";
    image.write_vmcoreinfo(RAM + 0x1000, &old);
    image.write(RAM + 0x4000, TEXT.as_bytes());
    // init_uts_ns less kimage_voffset, the field name, and the third string in it.
    image.write(RAM + 0x10000 + 4 + 130, b"6.12.0-test\0");
    assert_eq!(
        Vmcoreinfo::find(&image).unwrap().os_release(),
        "6.12.0-test"
    );
    image.write(RAM + 0x10000 + 4 + 130, b"6.11.0-gone\0");
    assert_eq!(
        Vmcoreinfo::find(&image).unwrap().os_release(),
        "6.11.0-gone"
    );
}

#[test]
fn the_bare_text_stands_in_for_a_damaged_note() {
    let mut image = Image::new(0x20000);
    image.write(RAM + 0x1000, TEXT.as_bytes());
    image.write_vmcoreinfo(RAM + 0x8000, TEXT);
    image.write(RAM + 0x8000 + 30, &[0xff]);
    assert_eq!(
        Vmcoreinfo::find(&image).unwrap().os_release(),
        "6.12.0-test"
    );
}

#[test]
fn an_error_says_what_was_found() {
    let mut image = Image::new(0x20000);
    assert_eq!(
        Vmcoreinfo::find(&image),
        Err(InspectError::NoVmcoreinfo {
            scanned: 32,
            candidates: Vec::new()
        })
    );
    image.write_vmcoreinfo(RAM + 0x1000, "OSRELEASE=a\nnothing\n");
    image.write_vmcoreinfo(RAM + 0x3000, TEXT);
    image.write(RAM + 0x3004, &0x0010_0000u32.to_le_bytes());
    image.write(RAM + 0x6000, b"OSRELEASE=a\nX=1\nX=2\n");
    let Err(InspectError::NoVmcoreinfo { candidates, .. }) = Vmcoreinfo::find(&image) else {
        panic!("none is valid");
    };
    let page = |n: u64, why: &str| (PhysicalAddress(RAM + n), why.to_owned());
    assert_eq!(
        candidates,
        [
            page(0x1000, "line 2 has no equals sign"),
            page(0x3000, "a note claims a text of 1048576 bytes"),
            page(0x6000, "line 3 says X again, otherwise"),
        ]
    );
}

proptest! {
    #[test]
    fn damage_gives_the_lines_or_an_error(
        damage in prop::collection::vec((0usize..1024, any::<u8>()), 1..40),
        end in 0x1400usize..0x3000,
    ) {
        let mut image = Image::new(end);
        image.write_vmcoreinfo(RAM + 0x1000, TEXT);
        for (at, byte) in damage {
            image.0[0x1000 + at] = byte;
        }
        if let Ok(info) = Vmcoreinfo::find(&image) {
            // Reading may fail, but not panic.
            let _ = (info.page_size(), info.kernel_offset(), info.symbol("init_uts_ns"));
            let release = info.os_release().as_bytes();
            let written = &image.0[0x1000..];
            prop_assert!(release.is_empty() || written.windows(release.len()).any(|at| at == release));
        }
    }
}
