//! Exported symbols, for kernels whose kallsyms has no variables (no CONFIG_KALLSYMS_ALL: Debian's 6.1).
//!
//! `__ksymtab` is an array of `struct kernel_symbol` (include/linux/export-internal.h): the distances of value, name and
//! name space from the words that hold them, 32 bits each (CONFIG_HAVE_ARCH_PREL32_RELOCATIONS). Nothing says where it
//! lies, as the symbols at its ends are variables too. But the names of `__ksymtab_strings` are known, and so an entry can
//! be told by its second word, which leads to its name, and the table is what reaches to both sides of it.

use std::collections::BTreeMap;

use super::{InspectError, KernelSpace, Memory, Symbols, Vmcoreinfo};
use crate::arm::KernelVa;

const ENTRY: usize = 12;
/// An arm64 image with everything built in is smaller.
const MOST_IMAGE_BYTES: u64 = 256 << 20;
/// `MODULE_NAME_LEN` and the longest names of Rust symbols aside, an exported name is a C identifier of KSYM_NAME_LEN.
const MOST_NAME_BYTES: usize = 512;
/// Exported by every arm64 kernel with SMP, and functions in kallsyms: a table without them is none.
const ANCHORS: [&str; 3] = ["_printk", "printk", "kfree"];

/// The variables and functions that the kernel exports to modules.
#[derive(Clone, Debug)]
pub struct Exports {
    by_name: BTreeMap<String, KernelVa>,
}

impl Exports {
    /// Looks for the table in the read-only part of the image, from `_stext` to `swapper_pg_dir`, which is its end
    /// (arch/arm64/kernel/vmlinux.lds.S).
    pub fn find(
        space: &KernelSpace<'_, impl Memory + ?Sized>,
        info: &Vmcoreinfo,
        symbols: &Symbols,
    ) -> Result<Self, InspectError> {
        let start = info.symbol("_stext")?;
        let bytes = info.symbol("swapper_pg_dir")?.0.wrapping_sub(start.0);
        if bytes > MOST_IMAGE_BYTES {
            return Err(missing(format!(
                "swapper_pg_dir is {bytes} bytes above _stext"
            )));
        }
        let mut image = vec![0; bytes as usize];
        space.read("the kernel image", start, &mut image)?;
        let image = Image {
            start,
            bytes: image,
        };
        for anchor in ANCHORS {
            let Ok(function) = symbols.address(anchor) else {
                continue;
            };
            if let Some(entry) = image.entry_of(anchor, function) {
                return Ok(Self {
                    by_name: image.table_around(entry),
                });
            }
        }
        Err(missing(format!(
            "no entry of {} in {bytes} bytes from _stext",
            ANCHORS.join(" or ")
        )))
    }

    /// The address of an exported symbol.
    pub fn address(&self, name: &str) -> Result<KernelVa, InspectError> {
        self.by_name
            .get(name)
            .copied()
            .ok_or_else(|| InspectError::NoSymbol {
                name: name.to_owned(),
            })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_name.len()
    }
}

fn missing(what: String) -> InspectError {
    InspectError::Damaged {
        object: "__ksymtab".to_owned(),
        what,
    }
}

struct Image {
    start: KernelVa,
    bytes: Vec<u8>,
}

impl Image {
    /// What the word at an offset leads to, as an offset that may lie outside.
    fn target(&self, at: usize) -> Option<i64> {
        let word = self.bytes.get(at..at + 4)?;
        let word = i32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        Some(at as i64 + i64::from(word))
    }

    /// The string at an offset, if it is a C identifier or empty. The linker merges a string with another's end, so that
    /// what stands before it tells nothing.
    fn string(&self, at: i64) -> Option<&str> {
        let rest = self.bytes.get(usize::try_from(at).ok()?..)?;
        let end = rest
            .iter()
            .take(MOST_NAME_BYTES)
            .position(|byte| *byte == 0)?;
        let text = str::from_utf8(&rest[..end]).ok()?;
        // A name space may be `module:kvm`.
        let part = |c: char| c.is_ascii_alphanumeric() || "_.$:-,".contains(c);
        text.chars().all(part).then_some(text)
    }

    fn entry(&self, at: usize) -> Option<(&str, KernelVa)> {
        let value = self.target(at)?;
        let name = self.string(self.target(at + 4)?)?;
        self.string(self.target(at + 8)?)?;
        let inside = value.unsigned_abs() <= MOST_IMAGE_BYTES;
        let value = KernelVa(self.start.0.wrapping_add_signed(value));
        (!name.is_empty() && inside).then_some((name, value))
    }

    /// The entry of a function whose address is known.
    fn entry_of(&self, name: &str, value: KernelVa) -> Option<usize> {
        let wanted = value.0.wrapping_sub(self.start.0) as i64;
        (0..self.bytes.len().saturating_sub(ENTRY))
            .step_by(4)
            .filter(|at| self.target(*at) == Some(wanted))
            .find(|at| self.entry(*at).is_some_and(|(found, _)| found == name))
    }

    /// All entries from the first to the last without a break: `__ksymtab_gpl` follows `__ksymtab`.
    fn table_around(&self, entry: usize) -> BTreeMap<String, KernelVa> {
        let before = (0..=entry)
            .rev()
            .step_by(ENTRY)
            .map_while(|at| self.entry(at));
        let after = (entry..self.bytes.len())
            .step_by(ENTRY)
            .map_while(|at| self.entry(at));
        before
            .chain(after)
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}
