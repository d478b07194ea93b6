//! Hands the linker its scripts: aarch64-rt's layout of the sections and our own memory.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=memory.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let here = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        // aarch64-rt's build script adds the directory of image.ld to the search path.
        println!("cargo::rustc-link-arg-bins=-Timage.ld");
        println!("cargo::rustc-link-arg-bins=-T{here}/memory.ld");
    }
}
