use proptest::prelude::*;

use super::guest::{Guest, KERNEL};
use super::image::RAM;
use crate::arm::KernelVa;
use crate::era::Era;
use crate::inspect::{InspectError, Kernel, Symbols, Vmcoreinfo, VmlinuxError};

/// How far KASLR has moved the kernel.
const MOVED: u64 = 0x1f_0000;
/// Where it was linked.
const LINKED: u64 = KERNEL - MOVED;
const ID: [u8; 4] = [0x0d, 0xec, 0xaf, 0x00];

const NULL: u32 = 0;
const PROGBITS: u32 = 1;
const SYMTAB: u32 = 2;
const STRTAB: u32 = 3;
const NOTE: u32 = 7;
const NOBITS: u32 = 8;
const WRITE: u64 = 1;
const ALLOC: u64 = 2;
const EXEC: u64 = 4;

/// Name, type and flags of the sections (ELF-64 Object File Format, "Sections").
const SECTIONS: [(&str, u32, u64); 10] = [
    ("", NULL, 0),
    (".text", PROGBITS, ALLOC | EXEC),
    (".rodata", PROGBITS, ALLOC),
    (".data", PROGBITS, ALLOC | WRITE),
    (".bss", NOBITS, ALLOC | WRITE),
    (".debug_str", PROGBITS, 0),
    (".notes", NOTE, ALLOC),
    (".symtab", SYMTAB, 0),
    (".strtab", STRTAB, 0),
    (".shstrtab", STRTAB, 0),
];
const TEXT: u16 = 1;
const RODATA: u16 = 2;
const DATA: u16 = 3;
const BSS: u16 = 4;
const DEBUG: u16 = 5;
const ABSOLUTE: u16 = 0xfff1;
const UNDEFINED: u16 = 0;

const LOCAL: u8 = 0;
const GLOBAL: u8 = 1;
const WEAK: u8 = 2;
const NOTYPE: u8 = 0;
const OBJECT: u8 = 1;
const FUNC: u8 = 2;
const FILE: u8 = 4;

/// A symbol: name, binding, type, section, distance from where the kernel was linked.
type Row = (&'static str, u8, u8, u16, u64);

const SYMBOLS: [Row; 17] = [
    ("smp.c", LOCAL, FILE, ABSOLUTE, 0),
    ("$x", LOCAL, NOTYPE, TEXT, 0x100),
    (".Lloop", LOCAL, NOTYPE, TEXT, 0x104),
    ("_stext", GLOBAL, NOTYPE, TEXT, 0),
    ("local_cpu_stop", LOCAL, FUNC, TEXT, 0x80),
    ("crash_smp_send_stop", GLOBAL, FUNC, TEXT, 0x100),
    ("arch_trigger_cpumask_backtrace", GLOBAL, FUNC, TEXT, 0x180),
    ("nmi_panic_self_stop", WEAK, FUNC, TEXT, 0x200),
    ("linux_banner", GLOBAL, OBJECT, RODATA, 0x1000),
    ("swapper_pg_dir", GLOBAL, OBJECT, RODATA, 0x7_0000),
    ("__cpu_online_mask", GLOBAL, OBJECT, DATA, 0x9_0000),
    ("weak_data", WEAK, OBJECT, DATA, 0x9_0040),
    ("crash_stop", LOCAL, OBJECT, BSS, 0x9_1000),
    ("stop_in_progress.0", LOCAL, OBJECT, BSS, 0x9_1008),
    ("a_string", LOCAL, OBJECT, DEBUG, 0x40),
    ("_kernel_size_le_lo32", GLOBAL, NOTYPE, ABSOLUTE, 0x1234),
    ("elsewhere", GLOBAL, NOTYPE, UNDEFINED, 0),
];

struct Elf {
    machine: u16,
    id: Option<&'static [u8]>,
    symbols: &'static [Row],
}

const VMLINUX: Elf = Elf {
    machine: 183,
    id: Some(&ID),
    symbols: &SYMBOLS,
};

impl Elf {
    fn bytes(&self) -> Vec<u8> {
        let mut names = vec![0];
        let mut symbols = vec![0; 24];
        for (name, binding, kind, section, distance) in self.symbols {
            symbols.extend((names.len() as u32).to_le_bytes());
            symbols.extend([binding << 4 | kind, 0]);
            symbols.extend(section.to_le_bytes());
            symbols.extend((LINKED + distance).to_le_bytes());
            symbols.extend(8u64.to_le_bytes());
            names.extend(name.bytes().chain([0]));
        }
        // Another note first, as the kernel's own have it.
        let mut notes = [6u32, 4, 0x100].map(u32::to_le_bytes).concat();
        notes.extend(b"Linux\0\0\0\0\0\0\0");
        if let Some(id) = self.id {
            notes.extend([4, id.len() as u32, 3].map(u32::to_le_bytes).concat());
            notes.extend(b"GNU\0");
            notes.extend(id);
        }
        let mut section_names = Vec::new();
        let mut starts = Vec::new();
        for (name, ..) in SECTIONS {
            starts.push(section_names.len() as u32);
            section_names.extend(name.bytes().chain([0]));
        }

        let mut bytes = vec![0; 64];
        let mut headers = Vec::new();
        for ((name, kind, flags), start) in SECTIONS.into_iter().zip(starts) {
            let contents = match name {
                ".notes" => &notes[..],
                ".symtab" => &symbols,
                ".strtab" => &names,
                ".shstrtab" => &section_names,
                _ => &[],
            };
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            let entry = if kind == SYMTAB { 24u64 } else { 0 };
            headers.extend(start.to_le_bytes());
            headers.extend(kind.to_le_bytes());
            for word in [flags, 0, bytes.len() as u64, contents.len() as u64] {
                headers.extend(word.to_le_bytes());
            }
            // The table of symbols names that of their names.
            let link = SECTIONS.iter().position(|it| it.0 == ".strtab").unwrap();
            headers.extend((if kind == SYMTAB { link as u32 } else { 0 }).to_le_bytes());
            headers.extend([0; 4]);
            headers.extend(4u64.to_le_bytes());
            headers.extend(entry.to_le_bytes());
            bytes.extend(contents);
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let table = bytes.len() as u64;
        bytes.extend(headers);

        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(16, 0);
        header.extend(3u16.to_le_bytes());
        header.extend(self.machine.to_le_bytes());
        header.extend(1u32.to_le_bytes());
        for word in [LINKED, 0, table] {
            header.extend(word.to_le_bytes());
        }
        header.extend(0u32.to_le_bytes());
        let count = SECTIONS.len() as u16;
        for half in [64, 56, 0, 64, count, count - 1] {
            header.extend(u16::to_le_bytes(half));
        }
        bytes[..64].copy_from_slice(&header);
        bytes
    }
}

fn info() -> Vmcoreinfo {
    let swapper = KERNEL + 0x7_0000;
    let text = format!(
        "OSRELEASE=6.12.0\nBUILD-ID=0decaf00\nKERNELOFFSET={MOVED:x}\nSYMBOL(_stext)={KERNEL:x}\n\
         SYMBOL(swapper_pg_dir)={swapper:x}"
    );
    Vmcoreinfo::parse(&text).unwrap()
}

fn error(file: &[u8], info: &Vmcoreinfo) -> String {
    Symbols::of_vmlinux(file, info).unwrap_err().to_string()
}

#[test]
fn symbols_are_those_in_memory_moved_and_lettered() {
    let symbols = Symbols::of_vmlinux(&VMLINUX.bytes(), &info()).unwrap();
    let found: Vec<(char, &str, u64)> = (symbols.all().iter())
        .map(|symbol| (symbol.kind, symbol.name.as_str(), symbol.at.0 - KERNEL))
        .collect();
    assert_eq!(
        found,
        [
            ('T', "_stext", 0),
            ('t', "local_cpu_stop", 0x80),
            ('T', "crash_smp_send_stop", 0x100),
            ('T', "arch_trigger_cpumask_backtrace", 0x180),
            ('W', "nmi_panic_self_stop", 0x200),
            ('R', "linux_banner", 0x1000),
            ('R', "swapper_pg_dir", 0x7_0000),
            ('D', "__cpu_online_mask", 0x9_0000),
            ('V', "weak_data", 0x9_0040),
            ('b', "crash_stop", 0x9_1000),
            ('b', "stop_in_progress.0", 0x9_1008),
        ]
    );
    assert_eq!(symbols.form(), None);
    assert_eq!(Era::of(&symbols).to_string(), "irq-then-nmi");
}

#[test]
fn a_kernel_without_kallsyms_is_read_by_its_vmlinux() {
    let mut guest = Guest::new();
    guest.line("BUILD-ID=0decaf00");
    guest.line(&format!("KERNELOFFSET={MOVED:x}"));
    guest.write(KERNEL + 0x9_0000, &[0b101]);
    guest.write(KERNEL + 0x9_1000, &[1]);
    guest.describe(RAM + 0x6_0000);
    let Err(without) = Kernel::find(&guest.image, 3) else {
        panic!("it has no kallsyms");
    };
    assert!(matches!(without, InspectError::NoLine { .. }), "{without}");
    let kernel = Kernel::with_vmlinux(&guest.image, 3, &VMLINUX.bytes()).unwrap();
    assert_eq!(kernel.online(), Ok("0,2".parse().unwrap()));
    let stop = kernel.stop().unwrap();
    assert_eq!(
        (stop.crash_stop, stop.stop_in_progress, stop.stop_mask),
        (Some(true), Some(false), None)
    );
}

#[test]
fn what_is_not_its_vmlinux_is_told() {
    let info = info();
    let begins = |file: &[u8], what: &str| {
        let error = error(file, &info);
        let what = format!("the vmlinux is of no use: {what}");
        assert!(error.starts_with(&what), "{error}");
    };
    begins(b"MZ\0\x14an Image", "it is no ELF file of 64 bits (");
    begins(b"", "it is no ELF file of 64 bits (");
    let mut narrow = VMLINUX.bytes();
    narrow[4] = 1;
    begins(&narrow, "it is no ELF file of 64 bits (but Elf32)");
    let x86 = Elf {
        machine: 62,
        ..VMLINUX
    };
    begins(&x86.bytes(), "it is not for arm64, but for X86_64");
    let nameless = Elf {
        id: None,
        ..VMLINUX
    };
    begins(&nameless.bytes(), "it has no build id");
    let other = Elf {
        id: Some(&[0xbe, 0xef]),
        ..VMLINUX
    };
    begins(
        &other.bytes(),
        "it is of another build: its build id is beef, and the running kernel's is 0decaf00; give ",
    );
    let stripped = Elf {
        symbols: &[],
        ..VMLINUX
    };
    begins(
        &stripped.bytes(),
        "it has no symbol table: it has been stripped",
    );
    let part = Elf {
        symbols: &SYMBOLS[5..],
        ..VMLINUX
    };
    begins(
        &part.bytes(),
        "VMCOREINFO says that _stext lies at 0xffff800080000000, and by the file, moved by KERNELOFFSET, it lies nowhere",
    );
}

#[test]
fn a_kernel_that_says_too_little_or_lies_is_told() {
    let file = VMLINUX.bytes();
    let swapper = KERNEL + 0x7_0000;
    let lines = |lines: &str| {
        let text = format!(
            "OSRELEASE=1\nSYMBOL(_stext)={KERNEL:x}\nSYMBOL(swapper_pg_dir)={swapper:x}\n{lines}"
        );
        Vmcoreinfo::parse(&text).unwrap()
    };
    let old = error(&file, &lines("KERNELOFFSET=1f0000"));
    assert!(old.contains("does not say its build id"), "{old}");
    assert_eq!(
        error(&file, &lines("BUILD-ID=0decaf00")),
        "VMCOREINFO has no line KERNELOFFSET="
    );
    assert_eq!(
        Symbols::of_vmlinux(&file, &lines("BUILD-ID=0decaf00\nKERNELOFFSET=0")).unwrap_err(),
        InspectError::Vmlinux {
            error: VmlinuxError::Misplaced {
                symbol: "_stext",
                here: Some(KernelVa(LINKED)),
                there: KernelVa(KERNEL)
            }
        }
    );
}

#[test]
fn a_file_cut_off_anywhere_is_an_error() {
    let (file, info) = (VMLINUX.bytes(), info());
    for end in 0..file.len() {
        let error = Symbols::of_vmlinux(&file[..end], &info).unwrap_err();
        // Below the size of its header it can't be told for an ELF file.
        let told = match &error {
            InspectError::Vmlinux { error } if end < 64 => {
                matches!(
                    error,
                    VmlinuxError::NotElf { .. } | VmlinuxError::Damaged { .. }
                )
            }
            InspectError::Vmlinux { error } => matches!(error, VmlinuxError::Damaged { .. }),
            _ => false,
        };
        assert!(told, "{end}: {error}");
    }
}

proptest! {
    #[test]
    fn damage_gives_symbols_or_an_error(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let (mut file, info) = (VMLINUX.bytes(), info());
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Ok(symbols) = Symbols::of_vmlinux(&file, &info) {
            prop_assert!(symbols.named("_stext").any(|symbol| symbol.at == KernelVa(KERNEL)));
            prop_assert!(symbols.all().len() < file.len() / 24);
        }
    }
}
