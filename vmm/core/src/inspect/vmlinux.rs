//! The symbols of a vmlinux: the ELF file that a kernel's build leaves beside its Image, with all functions and variables.
//!
//! It holds for the kernel in memory if both bear the same build id, and its addresses lie where KASLR has moved them. The
//! separate debug file of a distribution will do: it has the symbols and the notes, though no code.

use object::read::elf::ElfFile64;
use object::{
    Architecture, FileKind, LittleEndian, Object, ObjectSection, ObjectSymbol, SectionFlags,
    SymbolKind, elf,
};

use super::{InspectError, Symbol, Symbols, Vmcoreinfo};
use crate::arm::KernelVa;

/// What is longer than kallsyms takes (`KSYM_NAME_LEN` is 512) nobody asks for.
const MOST_NAME_BYTES: usize = 512;

/// Why a file is not the vmlinux of the running kernel.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum VmlinuxError {
    /// Something else.
    #[error(
        "it is no ELF file of 64 bits ({what}): give the vmlinux from the top of the kernel's build tree, not Image or vmlinuz"
    )]
    NotElf {
        /// What was wrong.
        what: String,
    },
    /// A kernel of another architecture.
    #[error("it is not for arm64, but for {machine}")]
    OtherMachine {
        /// Its architecture.
        machine: String,
    },
    /// Bytes that no linker writes.
    #[error("it is damaged: {what}; copy or build it again")]
    Damaged {
        /// What is wrong.
        what: String,
    },
    /// Nothing to compare.
    #[error(
        "it has no build id, so that nothing tells of which kernel it is: link it with --build-id, as Linux's Makefile does"
    )]
    NoBuildId,
    /// Nothing to compare it with.
    #[error(
        "the running kernel does not say its build id (VMCOREINFO has no line BUILD-ID=, since 5.14 it has), so that nothing \
         tells whether the file is its own"
    )]
    KernelWithoutBuildId,
    /// Another kernel's.
    #[error(
        "it is of another build: its build id is {file}, and the running kernel's is {kernel}; give the vmlinux that was linked \
         together with the Image that runs"
    )]
    OtherBuild {
        /// The file's, in hexadecimal.
        file: String,
        /// The kernel's.
        kernel: String,
    },
    /// No symbols.
    #[error(
        "it has no symbol table: it has been stripped; give the one that has not been, or its separate debug file"
    )]
    Stripped,
    /// VMCOREINFO places it otherwise.
    #[error(
        "VMCOREINFO says that {symbol} lies at {there}, and by the file, moved by KERNELOFFSET, it lies {}: one of the two is \
         damaged",
        here.map_or("nowhere".to_owned(), |va| format!("at {va}"))
    )]
    Misplaced {
        /// A symbol that both should have.
        symbol: &'static str,
        /// Where the file puts it.
        here: Option<KernelVa>,
        /// Where VMCOREINFO does.
        there: KernelVa,
    },
}

impl Symbols {
    /// The symbols of the running kernel's vmlinux, where they are in memory.
    pub fn of_vmlinux(file: &[u8], info: &Vmcoreinfo) -> Result<Self, InspectError> {
        let offset = info.kernel_offset()?;
        let symbols = parse(file, info)
            .and_then(|file| symbols(&file, offset))
            .map(Self::new)
            .map_err(|error| InspectError::Vmlinux { error })?;
        for symbol in ["_stext", "swapper_pg_dir"] {
            let there = info.symbol(symbol)?;
            if symbols.named(symbol).all(|found| found.at != there) {
                let here = symbols.named(symbol).next().map(|found| found.at);
                let error = VmlinuxError::Misplaced {
                    symbol,
                    here,
                    there,
                };
                return Err(InspectError::Vmlinux { error });
            }
        }
        Ok(symbols)
    }
}

/// The file, if it is the vmlinux of the kernel that says this of itself.
fn parse<'f>(
    file: &'f [u8],
    info: &Vmcoreinfo,
) -> Result<ElfFile64<'f, LittleEndian>, VmlinuxError> {
    let not_elf = |what: String| VmlinuxError::NotElf { what };
    match FileKind::parse(file) {
        Ok(FileKind::Elf64) => {}
        Ok(kind) => return Err(not_elf(format!("but {kind:?}"))),
        Err(error) => return Err(not_elf(error.to_string())),
    }
    let file = ElfFile64::<LittleEndian>::parse(file).map_err(|error| VmlinuxError::Damaged {
        what: error.to_string(),
    })?;
    if file.architecture() != Architecture::Aarch64 {
        let machine = format!("{:?}", file.architecture());
        return Err(VmlinuxError::OtherMachine { machine });
    }
    let id = file.build_id().map_err(|error| VmlinuxError::Damaged {
        what: format!("its notes: {error}"),
    })?;
    let id = hex(id.ok_or(VmlinuxError::NoBuildId)?);
    match info.build_id() {
        None => Err(VmlinuxError::KernelWithoutBuildId),
        Some(kernel) if kernel != id => Err(VmlinuxError::OtherBuild {
            file: id,
            kernel: kernel.to_owned(),
        }),
        Some(_) => Ok(file),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What of the file's symbols is an address, moved.
fn symbols(file: &ElfFile64<'_, LittleEndian>, offset: u64) -> Result<Vec<Symbol>, VmlinuxError> {
    let letters: Vec<Option<char>> = file.sections().map(|section| letter(&section)).collect();
    // Sections are counted from 1: the table's first entry is none.
    let letter_of = |number: usize| *letters.get(number.checked_sub(1)?)?;
    let mut found = Vec::new();
    for symbol in file.symbols() {
        let kind = match symbol.kind() {
            SymbolKind::Text | SymbolKind::Data | SymbolKind::Label | SymbolKind::Unknown => {
                symbol.section_index().and_then(|at| letter_of(at.0))
            }
            _ => None,
        };
        // Absolute and undefined symbols have no section, and debug information's none in memory.
        let Some(letter) = kind else {
            continue;
        };
        let name = symbol.name_bytes().map_err(|error| VmlinuxError::Damaged {
            what: format!("symbol {}: {error}", symbol.index().0),
        })?;
        let is_text = name.iter().all(|byte| (b'!'..=b'~').contains(byte));
        if name.len() > MOST_NAME_BYTES || name.is_empty() || !is_text || is_of_the_tools(name) {
            continue;
        }
        found.push(Symbol {
            name: name.iter().copied().map(char::from).collect(),
            kind: match letter {
                _ if symbol.is_weak() && symbol.kind() == SymbolKind::Data => 'V',
                _ if symbol.is_weak() => 'W',
                letter if symbol.is_global() => letter.to_ascii_uppercase(),
                letter => letter,
            },
            at: KernelVa(symbol.address().wrapping_add(offset)),
        });
    }
    match found[..] {
        [] => Err(VmlinuxError::Stripped),
        _ => Ok(found),
    }
}

/// The letter by which `nm` calls local symbols of a section, if it is one of those in memory. Its type tells less than its
/// flags: in a separate debug file no section has contents.
fn letter<'f>(section: &impl ObjectSection<'f>) -> Option<char> {
    let SectionFlags::Elf { sh_flags, .. } = section.flags() else {
        return None;
    };
    let nobits = section.kind() == object::SectionKind::UninitializedData;
    match () {
        () if !sh_flags.contains(elf::SHF_ALLOC) => None,
        () if sh_flags.contains(elf::SHF_EXECINSTR) => Some('t'),
        () if !sh_flags.contains(elf::SHF_WRITE) => Some('r'),
        () if nobits => Some('b'),
        () => Some('d'),
    }
}

/// Marks of the assembler, where code turns to data (ELF for the Arm 64-bit Architecture, "Mapping symbols"), and its local
/// labels; kallsyms leaves them out too (scripts/mksysmap).
fn is_of_the_tools(name: &[u8]) -> bool {
    name.starts_with(b"$") || name.starts_with(b".L") || name.windows(2).any(|at| at == b"_$")
}
