//! The device tree of a capture kernel: the one that this kernel was given, with another /chosen.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use vm_fdt::FdtWriter;

/// What it says of the capture kernel (dt-schema's chosen.yaml).
pub(super) struct Chosen<'a> {
    pub(super) cmdline: &'a str,
    pub(super) initrd: Range<u64>,
    pub(super) elfcorehdr: Range<u64>,
    pub(super) usable: Range<u64>,
}

/// What of /chosen is the other kernel's.
const OURS: [&str; 7] = [
    "bootargs",
    "kaslr-seed",
    "rng-seed",
    "linux,initrd-start",
    "linux,initrd-end",
    "linux,elfcorehdr",
    "linux,usable-memory-range",
];

/// The tree whose nodes are folders and whose properties are files, as the kernel shows its own.
pub(super) fn with_chosen(root: &Path, chosen: &Chosen<'_>) -> io::Result<Vec<u8>> {
    let mut writer = FdtWriter::new().map_err(io::Error::other)?;
    copy(root, "", chosen, &mut writer)?;
    writer.finish().map_err(io::Error::other)
}

fn copy(folder: &Path, name: &str, chosen: &Chosen<'_>, writer: &mut FdtWriter) -> io::Result<()> {
    let open = writer.begin_node(name).map_err(io::Error::other)?;
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(|entry| entry.file_name());
    let mut nodes = Vec::new();
    let is_chosen = name == "chosen";
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy().into_owned();
        // The kernel makes `name` of the node's own.
        if entry.file_type()?.is_dir() {
            nodes.push((path, name));
        } else if name != "name" && !(is_chosen && OURS.contains(&name.as_str())) {
            let value = fs::read(path)?;
            writer.property(&name, &value).map_err(io::Error::other)?;
        }
    }
    if is_chosen {
        choose(chosen, writer).map_err(io::Error::other)?;
    }
    for (path, name) in nodes {
        copy(&path, &name, chosen, writer)?;
    }
    writer.end_node(open).map_err(io::Error::other)
}

fn choose(chosen: &Chosen<'_>, writer: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
    // Two cells each for address and size, as the root of our machine says.
    let range = |range: &Range<u64>| [range.start, range.end - range.start];
    writer.property_string("bootargs", chosen.cmdline)?;
    writer.property_u64("linux,initrd-start", chosen.initrd.start)?;
    writer.property_u64("linux,initrd-end", chosen.initrd.end)?;
    writer.property_array_u64("linux,elfcorehdr", &range(&chosen.elfcorehdr))?;
    writer.property_array_u64("linux,usable-memory-range", &range(&chosen.usable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_chosen_and_the_rest_as_it_was() {
        let root = std::env::temp_dir().join(format!("tree-{}", std::process::id()));
        let file = |path: &str, value: &[u8]| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        };
        file("#address-cells", &[0, 0, 0, 2]);
        file("name", b"\0");
        file("chosen/bootargs", b"quiet\0");
        file("chosen/kaslr-seed", &[0; 8]);
        file("chosen/stdout-path", b"/uart\0");
        file("uart@9000000/dma-coherent", b"");
        let (initrd, elfcorehdr, usable) = (0x1000..0x1800, 0x3000..0x4000, 0..0x10000);
        let chosen = Chosen {
            cmdline: "init.vmcore",
            initrd,
            elfcorehdr,
            usable,
        };
        let tree = with_chosen(&root, &chosen).unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert!(with_chosen(&root, &chosen).is_err());

        let mut writer = FdtWriter::new().unwrap();
        let root = writer.begin_node("").unwrap();
        writer.property_u32("#address-cells", 2).unwrap();
        let node = writer.begin_node("chosen").unwrap();
        writer.property_string("stdout-path", "/uart").unwrap();
        choose(&chosen, &mut writer).unwrap();
        writer.end_node(node).unwrap();
        let node = writer.begin_node("uart@9000000").unwrap();
        writer.property_null("dma-coherent").unwrap();
        writer.end_node(node).unwrap();
        writer.end_node(root).unwrap();
        assert_eq!(tree, writer.finish().unwrap());
    }
}
