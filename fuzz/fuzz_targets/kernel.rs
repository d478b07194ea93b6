//! Whatever a user gives `vmm boot`: an error, or a plan that lies inside the guest's RAM.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vmm::machine::{Blob, Format, Guest};

#[derive(Arbitrary, Debug)]
struct Wish {
    format: Option<u8>,
    mebibytes: u16,
    odd_bytes: u8,
    ramoops: bool,
    initrd: Option<u32>,
    cmdline: String,
    kernel: Vec<u8>,
}

fn blob(bytes: Vec<u8>) -> Blob {
    Blob {
        name: "fuzz".into(),
        bytes,
    }
}

fuzz_target!(|wish: Wish| {
    // What an initrd holds is the guest's business; how much it is, ours. Nothing is gained by waiting for the allocation of more.
    let initrd = wish.initrd.map(|size| vec![0; size as usize % (8 << 20)]);
    vmm::machine::fuzz(Guest {
        kernel: blob(wish.kernel),
        format: wish
            .format
            .map(|format| [Format::Image, Format::Elf, Format::Flat][usize::from(format % 3)]),
        initrd: initrd.map(blob),
        cmdline: wish.cmdline,
        memory: (u64::from(wish.mebibytes) << 20) + u64::from(wish.odd_bytes / 255),
        ramoops: wish.ramoops,
    });
});
