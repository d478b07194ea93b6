//! The kernel's own symbol table, kallsyms (scripts/kallsyms.c writes it, kernel/kallsyms.c reads it).
//!
//! A name is a length, of one byte or (since Linux commit 73bbb94466fd, in v6.1) of two if the first has its top bit set,
//! and that many tokens; a token's text is looked up through an index, and a name's first letter is its type as `nm`
//! prints it. Every 256th name has a marker. Addresses are 32 bits each, in one of three forms ([`Form`]).

use std::collections::BTreeMap;
use std::fmt;

use super::{InspectError, KernelSpace, Memory, Vmcoreinfo};
use crate::arm::KernelVa;

/// `KSYM_NAME_LEN` is 512 since v6.1, with room for the type and some growth.
const MOST_NAME_BYTES: usize = 1024;
/// A kernel with everything built in has about 500 000 symbols.
const MOST_SYMBOLS: u32 = 4 << 20;
/// Their names take about ten bytes each.
const MOST_NAMES_BYTES: u64 = 64 << 20;
/// Unpacked they are three times as long; this is what damaged tokens may blow them up to.
const MOST_TEXT_BYTES: usize = 128 << 20;
/// 256 tokens, few longer than some letters.
const TOKEN_TABLE_BYTES: usize = 65536;

/// What the 32 bits of a symbol's address count from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// Unsigned, from `kallsyms_relative_base`.
    Relative,
    /// Signed, and below zero from `kallsyms_relative_base` - 1 backwards; the others are addresses themselves, of per-CPU
    /// symbols (CONFIG_KALLSYMS_ABSOLUTE_PERCPU, up to v6.14; arm64 never had it).
    AbsolutePerCpu,
    /// Signed, from where the 32 bits themselves lie (since Linux commit a081b5789255, in v7.0, which took
    /// `kallsyms_relative_base` away).
    Place,
}

/// A symbol of the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Symbol {
    /// Its name.
    pub name: String,
    /// Its type, a letter as `nm` prints it; lower case is local.
    pub kind: char,
    /// Its address.
    pub at: KernelVa,
}

/// A symbol and a distance from it. It prints as the kernel's `%pS` without the size: `panic+0x10`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SymbolOffset<'s> {
    /// The symbol.
    pub name: &'s str,
    /// Bytes from its start.
    pub offset: u64,
}

impl fmt::Display for SymbolOffset<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.name, self.offset)
    }
}

/// All symbols of the kernel image.
#[derive(Clone, Debug)]
pub struct Symbols {
    /// None where they come from elsewhere than kallsyms.
    form: Option<Form>,
    /// By address.
    symbols: Vec<Symbol>,
    /// Names to indices. Statics of different files may share one.
    by_name: BTreeMap<String, Vec<usize>>,
}

impl Symbols {
    /// These, in whatever order they come.
    pub fn new(mut symbols: Vec<Symbol>) -> Self {
        // A stable sort: of those that share an address the first stays the first.
        symbols.sort_by_key(|symbol| symbol.at);
        Self::sorted(None, symbols)
    }

    fn sorted(form: Option<Form>, symbols: Vec<Symbol>) -> Self {
        let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, symbol) in symbols.iter().enumerate() {
            by_name.entry(symbol.name.clone()).or_default().push(index);
        }
        Self {
            form,
            symbols,
            by_name,
        }
    }

    /// Reads the table that VMCOREINFO says where to find (since Linux commit 5fd8fea935a1, in v6.0).
    pub fn read(
        space: &KernelSpace<'_, impl Memory + ?Sized>,
        info: &Vmcoreinfo,
    ) -> Result<Self, InspectError> {
        let count = space.u32("kallsyms_num_syms", info.symbol("kallsyms_num_syms")?)?;
        if count == 0 || count > MOST_SYMBOLS {
            return Err(damaged("kallsyms_num_syms", format!("{count} symbols")));
        }
        let tokens = Tokens::read(space, info)?;
        let names = Names::read(space, info, count, &tokens)?;
        let (form, addresses) = addresses(space, info, count)?;
        let symbols = names
            .into_iter()
            .zip(addresses)
            .map(|((kind, name), at)| Symbol { name, kind, at })
            .collect();
        Ok(Self::sorted(Some(form), symbols))
    }

    /// How kallsyms stores the addresses, if the symbols are from there.
    pub fn form(&self) -> Option<Form> {
        self.form
    }

    /// Whether variables are among them: without CONFIG_KALLSYMS_ALL kallsyms has functions only. Every kernel with SMP
    /// has this one.
    pub fn have_variables(&self) -> bool {
        self.named("__cpu_online_mask").next().is_some()
    }

    /// All symbols, by address.
    pub fn all(&self) -> &[Symbol] {
        &self.symbols
    }

    /// The symbols of a name, by address.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Symbol> {
        let indices = self.by_name.get(name).into_iter().flatten();
        indices.map(|index| &self.symbols[*index])
    }

    /// The variables that are static in a function, by the name that they have in the source: GCC adds a dot and a number,
    /// Clang puts the function and a dot before it.
    pub fn function_statics(&self, name: &str) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(move |symbol| {
            let is_number =
                |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
            match symbol.name.split_once('.') {
                Some((before, after)) => {
                    before == name && is_number(after) || !before.is_empty() && after == name
                }
                None => false,
            }
        })
    }

    /// The one symbol of a name. Several of one name are an error: to guess would be to read another file's static.
    pub fn address(&self, name: &str) -> Result<KernelVa, InspectError> {
        let mut found = self.named(name);
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only.at),
            (None, _) => Err(InspectError::NoSymbol {
                name: name.to_owned(),
            }),
            (Some(_), Some(_)) => Err(InspectError::AmbiguousSymbol {
                name: name.to_owned(),
                times: self.named(name).count(),
            }),
        }
    }

    /// The address that `name` or `name+0x10` stands for.
    pub fn resolve(&self, place: &str) -> Result<KernelVa, InspectError> {
        let Some((name, offset)) = place.split_once('+') else {
            return self.address(place);
        };
        let offset = match offset.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => offset.parse().ok(),
        };
        let offset = offset.ok_or_else(|| InspectError::BadOffset {
            place: place.to_owned(),
        })?;
        Ok(self.address(name)?.plus(offset))
    }

    /// The symbol at or before an address, the first of those that share its start. Below the first symbol there is none;
    /// above the last one the answer says how far.
    pub fn place(&self, va: KernelVa) -> Option<SymbolOffset<'_>> {
        let after = self.symbols.partition_point(|symbol| symbol.at <= va);
        let at = self.symbols.get(after.checked_sub(1)?)?.at;
        let first = self.symbols.partition_point(|symbol| symbol.at < at);
        Some(SymbolOffset {
            name: &self.symbols[first].name,
            offset: va.0 - at.0,
        })
    }
}

fn damaged(object: &str, what: String) -> InspectError {
    InspectError::Damaged {
        object: object.to_owned(),
        what,
    }
}

/// The texts of the 256 tokens.
struct Tokens(Vec<Vec<u8>>);

impl Tokens {
    fn read(
        space: &KernelSpace<'_, impl Memory + ?Sized>,
        info: &Vmcoreinfo,
    ) -> Result<Self, InspectError> {
        let index: [u8; 512] =
            space.array("kallsyms_token_index", info.symbol("kallsyms_token_index")?)?;
        let starts = index
            .chunks_exact(2)
            .map(|word| usize::from(u16::from_le_bytes([word[0], word[1]])));
        let last = starts.clone().max().unwrap_or_default();
        // The last token ends with its NUL; no token is longer than a name.
        let mut table = vec![0; TOKEN_TABLE_BYTES.min(last + MOST_NAME_BYTES)];
        let at = info.symbol("kallsyms_token_table")?;
        let bytes = table.len();
        // The table may end where the image ends: the tail is read as far as there is memory.
        while let Err(error) = space.read("kallsyms_token_table", at, &mut table) {
            if table.len() <= last + 1 {
                return Err(error);
            }
            let shorter = (last + 1).max(table.len() / 2);
            table.truncate(shorter);
        }
        let text = |from: usize| {
            let rest = &table[from.min(table.len())..];
            let end = rest.iter().position(|byte| *byte == 0)?;
            Some(rest[..end].to_vec())
        };
        let tokens: Option<Vec<Vec<u8>>> = starts.map(text).collect();
        tokens.map(Self).ok_or_else(|| {
            damaged(
                "kallsyms_token_table",
                format!("a token does not end within {bytes} bytes"),
            )
        })
    }
}

/// The compressed names.
struct Names;

impl Names {
    fn read(
        space: &KernelSpace<'_, impl Memory + ?Sized>,
        info: &Vmcoreinfo,
        count: u32,
        tokens: &Tokens,
    ) -> Result<Vec<(char, String)>, InspectError> {
        let start = info.symbol("kallsyms_names")?;
        let table = info.symbol("kallsyms_token_table")?;
        // In every order that scripts/kallsyms.c has had, the names come first, then the markers, then the tokens.
        let room = table.0.wrapping_sub(start.0);
        if room > MOST_NAMES_BYTES {
            let what = format!("it ends {room} bytes further on, at kallsyms_token_table");
            return Err(damaged("kallsyms_names", what));
        }
        let mut bytes = vec![0; room as usize];
        space.read("kallsyms_names", start, &mut bytes)?;
        let mut names = Vec::new();
        let mut markers = Vec::new();
        let mut at = 0;
        let mut text_bytes = 0;
        for number in 0..count {
            if number % 256 == 0 {
                markers.push(at as u32);
            }
            let (name, next) = one_name(&bytes, at, tokens)
                .map_err(|what| damaged("kallsyms_names", format!("name {number} {what}")))?;
            text_bytes += name.1.len();
            if text_bytes > MOST_TEXT_BYTES {
                let what = format!("{number} names have more than {MOST_TEXT_BYTES} bytes");
                return Err(damaged("kallsyms_names", what));
            }
            names.push(name);
            at = next;
        }
        // The markers follow, aligned to 8 bytes up to v6.19 and to 4 since. They are as good as a sum over the names.
        let agrees = |align: usize| {
            let from =
                (start.0 as usize % align + at).next_multiple_of(align) - start.0 as usize % align;
            let stored = bytes.get(from..from + 4 * markers.len());
            stored.is_some_and(|stored| {
                let words = stored.chunks_exact(4);
                words
                    .zip(&markers)
                    .all(|(word, marker)| word == marker.to_le_bytes())
            })
        };
        if !agrees(8) && !agrees(4) {
            let what = "they disagree with the names".to_owned();
            return Err(damaged("kallsyms_markers", what));
        }
        Ok(names)
    }
}

/// The name whose length stands at `at`, with its type, and where the next one begins.
fn one_name(
    bytes: &[u8],
    at: usize,
    tokens: &Tokens,
) -> Result<((char, String), usize), &'static str> {
    const BEYOND: &str = "reaches beyond the table";
    let first = usize::from(*bytes.get(at).ok_or(BEYOND)?);
    let (length, from) = if first & 0x80 != 0 {
        let second = usize::from(*bytes.get(at + 1).ok_or(BEYOND)?);
        (first & 0x7f | second << 7, at + 2)
    } else {
        (first, at + 1)
    };
    let codes = bytes.get(from..from + length).ok_or(BEYOND)?;
    let mut text = Vec::new();
    for code in codes {
        text.extend_from_slice(&tokens.0[usize::from(*code)]);
        if text.len() > MOST_NAME_BYTES {
            return Err("is longer than names are");
        }
    }
    let printable = text.iter().all(|byte| (b'!'..=b'~').contains(byte));
    match text.split_first() {
        Some((kind, name)) if printable && !name.is_empty() && kind.is_ascii_alphabetic() => {
            let name = name.iter().copied().map(char::from).collect();
            Ok(((char::from(*kind), name), from + length))
        }
        _ => Err("is no name"),
    }
}

/// The addresses, which ascend whatever their form.
fn addresses(
    space: &KernelSpace<'_, impl Memory + ?Sized>,
    info: &Vmcoreinfo,
    count: u32,
) -> Result<(Form, Vec<KernelVa>), InspectError> {
    let table = info.symbol("kallsyms_offsets")?;
    let mut bytes = vec![0; 4 * count as usize];
    space.read("kallsyms_offsets", table, &mut bytes)?;
    let offsets = bytes
        .chunks_exact(4)
        .map(|word| i32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    let signed = |from: u64, offset: i32| from.wrapping_add_signed(i64::from(offset));
    let (form, addresses): (Form, Vec<u64>) = match info.symbol("kallsyms_relative_base") {
        Ok(base) => {
            let base = space.u64("kallsyms_relative_base", base)?;
            // No arm64 image reaches 2 GiB from its base: a table that is mostly negative is the signed form.
            let negative = offsets.clone().filter(|offset| *offset < 0).count();
            if 2 * negative <= count as usize {
                let plain = |offset: i32| base.wrapping_add(u64::from(offset.cast_unsigned()));
                (Form::Relative, offsets.map(plain).collect())
            } else {
                let absolute = |offset: i32| match u64::try_from(offset) {
                    Ok(address) => address,
                    Err(_) => base
                        .wrapping_sub(1)
                        .wrapping_add(u64::from(offset.unsigned_abs())),
                };
                (Form::AbsolutePerCpu, offsets.map(absolute).collect())
            }
        }
        Err(InspectError::NoLine { .. }) => {
            let place = |(number, offset): (u64, i32)| signed(table.plus(4 * number).0, offset);
            (Form::Place, (0..).zip(offsets).map(place).collect())
        }
        Err(error) => return Err(error),
    };
    if let Some(at) = addresses.windows(2).position(|pair| pair[0] > pair[1]) {
        let what = format!(
            "the address of symbol {} is below that of the one before",
            at + 1
        );
        return Err(damaged("kallsyms_offsets", what));
    }
    Ok((form, addresses.into_iter().map(KernelVa).collect()))
}
