//! VMCOREINFO: what a kernel says about itself for those who read its memory from outside.
//!
//! Lines `KEY=value` in an ELF note (Documentation/admin-guide/kdump/vmcoreinfo.rst; kernel/vmcore_info.c, up to 6.8
//! kernel/crash_core.c). The kernel keeps two page-aligned copies: the bare text, and the note, which it makes anew from
//! the text when it crashes.

use std::collections::BTreeMap;

use super::{InspectError, Memory, memory};
use crate::arm::{KernelVa, PhysicalAddress};

/// Both copies are aligned to a page, and no page is smaller.
const STEP: u64 = 4096;
/// `VMCOREINFO_BYTES` is a page, and no page is larger.
const MOST_BYTES: usize = 65536;
/// Bytes of the note before the text: n_namesz, n_descsz, n_type, and the name padded to words.
const HEADER: usize = 24;
/// `n_namesz` is 11 and `n_type` 0.
const NAME: &[u8; 12] = b"VMCOREINFO\0\0";
/// The text's first line (`VMCOREINFO_OSRELEASE`).
const FIRST: &str = "OSRELEASE=";
/// Candidates that an error lists: memory that is full of them says nothing more by listing all.
const MOST_LISTED: usize = 8;
/// `release` in `struct new_utsname` (include/uapi/linux/utsname.h): the third array of 65 bytes.
const RELEASE_IN_UTSNAME: u64 = 130;

/// The lines of a VMCOREINFO.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Vmcoreinfo {
    lines: BTreeMap<String, String>,
}

impl Vmcoreinfo {
    /// Looks through all of RAM. Memory may hold several: an older kernel's, a copy in a file. Taken is the one whose
    /// `init_uts_ns` in memory bears the release that it names; among several such, or if there is none, a note before a
    /// bare text, then the one with the most lines, then the first.
    pub fn find(memory: &(impl Memory + ?Sized)) -> Result<Self, InspectError> {
        let mut best: Option<((bool, bool, usize), Self)> = None;
        let mut candidates = Vec::new();
        let mut scanned = 0;
        for range in memory.ram() {
            let mut at = range.start.0.next_multiple_of(STEP);
            while at.checked_add(STEP).is_some_and(|end| end <= range.end.0) {
                scanned += 1;
                let here = PhysicalAddress(at);
                match candidate(memory, here, range.end) {
                    None => {}
                    Some(Err(why)) => candidates.push((here, why)),
                    Some(Ok((is_note, found))) => {
                        let rank = (found.is_alive(memory), is_note, found.lines.len());
                        if best.as_ref().is_none_or(|(best, _)| *best < rank) {
                            best = Some((rank, found));
                        }
                    }
                }
                at += STEP;
            }
        }
        candidates.truncate(MOST_LISTED);
        best.map(|(_, found)| found)
            .ok_or(InspectError::NoVmcoreinfo {
                scanned,
                candidates,
            })
    }

    /// The lines of a text, or what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with(FIRST) {
            return Err(format!("the text does not begin with {FIRST}"));
        }
        let mut lines = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let Some((key, value)) = line.split_once('=') else {
                return Err(format!("line {number} has no equals sign"));
            };
            if key.is_empty() || line.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
                return Err(format!("line {number} is not printable text"));
            }
            // A crash that returns and a second one each append their CRASHTIME: the last is the crash at hand.
            let before = lines.insert(key.to_owned(), value.to_owned());
            if key != "CRASHTIME" && before.is_some_and(|before| before != value) {
                return Err(format!("line {number} says {key} again, otherwise"));
            }
        }
        Ok(Self { lines })
    }

    /// Whether memory bears it out: the running kernel's name space of `uname` holds the same release.
    fn is_alive(&self, memory: &(impl Memory + ?Sized)) -> bool {
        let release = || {
            let uts = self.symbol("init_uts_ns").ok()?;
            let name = self.offset("uts_namespace.name").ok()?;
            let image = self.number("kimage_voffset").ok()?;
            let at = uts
                .plus(name)
                .plus(RELEASE_IN_UTSNAME)
                .0
                .wrapping_sub(image);
            memory::read::<65>(memory, "init_uts_ns", PhysicalAddress(at)).ok()
        };
        release().is_some_and(|bytes| {
            bytes.split(|byte| *byte == 0).next() == Some(self.os_release().as_bytes())
        })
    }

    /// The value of a line.
    pub fn line(&self, key: &str) -> Result<&str, InspectError> {
        self.lines
            .get(key)
            .map(String::as_str)
            .ok_or_else(|| InspectError::NoLine {
                key: key.to_owned(),
            })
    }

    fn parsed(
        &self,
        key: String,
        wanted: &'static str,
        parse: impl FnOnce(&str) -> Option<u64>,
    ) -> Result<u64, InspectError> {
        let value = self.line(&key)?;
        parse(value).ok_or_else(|| InspectError::BadLine {
            key,
            value: value.to_owned(),
            wanted,
        })
    }

    /// The kernel's release, as `uname -r` prints it.
    pub fn os_release(&self) -> &str {
        &self.lines["OSRELEASE"]
    }

    /// The build id in hexadecimal, which a vmlinux of the same build bears too (since Linux 5.14).
    pub fn build_id(&self) -> Option<&str> {
        self.lines.get("BUILD-ID").map(String::as_str)
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> Result<u64, InspectError> {
        self.parsed("PAGESIZE".to_owned(), "4096, 16384 or 65536", |value| {
            let bytes = value.parse().ok()?;
            [4096, 16384, 65536].contains(&bytes).then_some(bytes)
        })
    }

    /// How far KASLR has moved the image from where it was linked.
    pub fn kernel_offset(&self) -> Result<u64, InspectError> {
        self.parsed("KERNELOFFSET".to_owned(), "a hexadecimal number", hex)
    }

    /// The address of a symbol.
    pub fn symbol(&self, name: &str) -> Result<KernelVa, InspectError> {
        self.parsed(
            format!("SYMBOL({name})"),
            "an address of the kernel",
            |value| hex(value).filter(|va| KernelVa(*va).is_upper()),
        )
        .map(KernelVa)
    }

    /// The offset of a field, as `struct.field`.
    pub fn offset(&self, field: &str) -> Result<u64, InspectError> {
        self.bytes(format!("OFFSET({field})"))
    }

    /// The size of a type.
    pub fn size(&self, of: &str) -> Result<u64, InspectError> {
        self.bytes(format!("SIZE({of})"))
    }

    /// The number of an array's elements.
    pub fn length(&self, of: &str) -> Result<u64, InspectError> {
        self.bytes(format!("LENGTH({of})"))
    }

    /// Sizes and offsets are those of structs: none is as large as 2^32.
    fn bytes(&self, key: String) -> Result<u64, InspectError> {
        self.parsed(key, "a decimal number below 2^32", |value| {
            value.parse::<u32>().ok().map(u64::from)
        })
    }

    /// A number: decimal, or hexadecimal behind `0x`. A negative one is its two's complement.
    pub fn number(&self, of: &str) -> Result<u64, InspectError> {
        self.parsed(format!("NUMBER({of})"), "a number", |value| {
            match value.strip_prefix("0x") {
                Some(digits) => hex(digits),
                None => (value.parse::<u64>().ok())
                    .or_else(|| value.parse::<i64>().ok().map(i64::cast_unsigned)),
            }
        })
    }
}

fn hex(digits: &str) -> Option<u64> {
    // from_str_radix takes a sign, the kernel prints none.
    (!digits.starts_with('+')).then_some(())?;
    u64::from_str_radix(digits, 16).ok()
}

/// What begins at this page, if it begins as VMCOREINFO does: a note or a bare text, with what is wrong with it.
fn candidate(
    memory: &(impl Memory + ?Sized),
    at: PhysicalAddress,
    end: PhysicalAddress,
) -> Option<Result<(bool, Vmcoreinfo), String>> {
    let head: [u8; HEADER] = memory::read(memory, "page", at).ok()?;
    let room = usize::try_from(end.0 - at.0).unwrap_or(usize::MAX);
    let (is_note, from, bytes) = if &head[12..] == NAME {
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let bytes = word(4) as usize;
        if word(0) != 11 || word(8) != 0 {
            let (size, kind) = (word(0), word(8));
            return Some(Err(format!(
                "a note of type {kind} has a name of {size} bytes, not type 0 and 11"
            )));
        }
        if bytes > MOST_BYTES || bytes > room - HEADER {
            return Some(Err(format!("a note claims a text of {bytes} bytes")));
        }
        (true, HEADER as u64, bytes)
    } else if head.starts_with(FIRST.as_bytes()) {
        (false, 0, room.min(MOST_BYTES))
    } else {
        return None;
    };
    let mut text = vec![0; bytes];
    if let Err(outside) = memory.read(PhysicalAddress(at.0 + from), &mut text) {
        return Some(Err(outside.to_string()));
    }
    // A bare text ends where the zeros of its page begin.
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let parsed = match str::from_utf8(text) {
        Ok(text) => Vmcoreinfo::parse(text),
        Err(error) => Err(format!(
            "the text is damaged at byte {}",
            error.valid_up_to()
        )),
    };
    Some(parsed.map(|found| (is_note, found)))
}
