use proptest::prelude::*;

use super::guest::{Guest, KERNEL};
use crate::arm::KernelVa;
use crate::inspect::{Form, InspectError, Symbols};

/// Lays a table for these symbols, sorted by address, into a guest.
///
/// The tokens here are the letters, each its own, and two longer ones; scripts/kallsyms.c picks better ones.
pub(super) fn lay(guest: &mut Guest, symbols: &[(u64, &str)], form: Form) {
    const LONG: [(u8, &str); 2] = [(0x80, "cpu_"), (0x81, "Tpa")];
    let text = |code: u8| match LONG.iter().find(|(long, _)| *long == code) {
        Some((_, text)) => (*text).to_owned(),
        None if code.is_ascii_graphic() => char::from(code).to_string(),
        None => String::new(),
    };
    let mut names = Vec::new();
    let mut markers = Vec::new();
    for (number, (_, name)) in symbols.iter().enumerate() {
        if number % 256 == 0 {
            markers.extend((names.len() as u32).to_le_bytes());
        }
        let mut codes = Vec::new();
        let mut rest = *name;
        while let Some(letter) = rest.bytes().next() {
            let long = LONG.iter().find(|(_, text)| rest.starts_with(text));
            codes.push(long.map_or(letter, |(code, _)| *code));
            rest = &rest[long.map_or(1, |(_, text)| text.len())..];
        }
        match codes.len() {
            short @ 0..=127 => names.push(short as u8),
            long => names.extend([long as u8 & 0x7f | 0x80, (long >> 7) as u8]),
        }
        names.extend(codes);
    }
    let mut table = Vec::new();
    let mut index = Vec::new();
    for code in 0..=255 {
        index.extend((table.len() as u16).to_le_bytes());
        table.extend(text(code).bytes());
        table.push(0);
    }
    let align = if form == Form::Place { 4 } else { 8 };
    let count = guest.put(align, &(symbols.len() as u32).to_le_bytes());
    let names = guest.put(align, &names);
    guest.put(align, &markers);
    let table = guest.put(align, &table);
    let index = guest.put(align, &index);
    let offsets = guest.put(align, &vec![0; 4 * symbols.len()]);
    let base = KERNEL + 0x100;
    for (number, (at, _)) in symbols.iter().enumerate() {
        let place = offsets + 4 * number as u64;
        let offset = match form {
            Form::Relative => at - base,
            Form::AbsolutePerCpu if *at < KERNEL => *at,
            Form::AbsolutePerCpu => (base - 1).wrapping_sub(*at),
            Form::Place => at.wrapping_sub(place),
        };
        guest.write(place, &(offset as u32).to_le_bytes());
    }
    if form != Form::Place {
        let base = guest.put(8, &base.to_le_bytes());
        guest.line(&format!("SYMBOL(kallsyms_relative_base)={base:x}"));
    }
    let known = [
        ("num_syms", count),
        ("names", names),
        ("token_table", table),
        ("token_index", index),
        ("offsets", offsets),
    ];
    for (name, at) in known {
        guest.line(&format!("SYMBOL(kallsyms_{name})={at:x}"));
    }
}

const SYMBOLS: [(u64, &str); 6] = [
    (KERNEL + 0x100, "T_stext"),
    (KERNEL + 0x200, "Tpanic"),
    (KERNEL + 0x200, "tpanic_alias"),
    (KERNEL + 0x280, "bstop_in_progress.7"),
    (KERNEL + 0x300, "tdup"),
    (KERNEL + 0x400, "tdup"),
];

fn symbols(guest: &Guest) -> Result<Symbols, InspectError> {
    guest.with(Symbols::read)
}

#[test]
fn every_form_gives_the_same_table() {
    for form in [Form::Relative, Form::AbsolutePerCpu, Form::Place] {
        let mut guest = Guest::new();
        let mut with_absolute = vec![(0x40, "Acpu_number")];
        with_absolute.extend(SYMBOLS);
        let list = match form {
            Form::AbsolutePerCpu => &with_absolute[..],
            _ => &SYMBOLS[..],
        };
        lay(&mut guest, list, form);
        let symbols = symbols(&guest).unwrap();
        assert_eq!(symbols.form(), Some(form));
        let read: Vec<(u64, String)> = (symbols.all().iter())
            .map(|symbol| (symbol.at.0, format!("{}{}", symbol.kind, symbol.name)))
            .collect();
        let written: Vec<(u64, String)> = list
            .iter()
            .map(|(at, name)| (*at, (*name).to_owned()))
            .collect();
        assert_eq!(read, written, "{form:?}");
    }
}

#[test]
fn names_lead_to_addresses_and_back() {
    let mut guest = Guest::new();
    lay(&mut guest, &SYMBOLS, Form::Relative);
    let symbols = symbols(&guest).unwrap();
    assert_eq!(symbols.address("panic"), Ok(KernelVa(KERNEL + 0x200)));
    assert_eq!(symbols.resolve("panic+0x10"), Ok(KernelVa(KERNEL + 0x210)));
    assert_eq!(symbols.resolve("panic+16"), Ok(KernelVa(KERNEL + 0x210)));
    assert!(matches!(
        symbols.resolve("panic+x"),
        Err(InspectError::BadOffset { .. })
    ));
    assert!(matches!(
        symbols.address("dup"),
        Err(InspectError::AmbiguousSymbol { times: 2, .. })
    ));
    assert!(matches!(
        symbols.address("stop_mask"),
        Err(InspectError::NoSymbol { .. })
    ));
    let statics: Vec<u64> = symbols
        .function_statics("stop_in_progress")
        .map(|symbol| symbol.at.0)
        .collect();
    assert_eq!(statics, [KERNEL + 0x280]);
    let place = |at| symbols.place(KernelVa(at)).map(|place| place.to_string());
    assert_eq!(place(KERNEL + 0x27f), Some("panic+0x7f".to_owned()));
    assert_eq!(place(KERNEL + 0x200), Some("panic+0x0".to_owned()));
    assert_eq!(place(KERNEL + 0x1ff), Some("_stext+0xff".to_owned()));
    assert_eq!(place(KERNEL + 0xff), None);
}

#[test]
fn a_name_with_a_long_length_is_read() {
    let long = format!("t{}", "x".repeat(300));
    let mut guest = Guest::new();
    let many: Vec<(u64, String)> = (0..600)
        .map(|n| (KERNEL + 0x1000 + 4 * n, format!("tname_{n}")))
        .chain([(KERNEL + 0x8000, long.clone())])
        .collect();
    let list: Vec<(u64, &str)> = many.iter().map(|(at, name)| (*at, name.as_str())).collect();
    lay(&mut guest, &list, Form::Place);
    let symbols = symbols(&guest).unwrap();
    assert_eq!(symbols.address(&long[1..]), Ok(KernelVa(KERNEL + 0x8000)));
    assert_eq!(
        symbols.address("name_599"),
        Ok(KernelVa(KERNEL + 0x1000 + 4 * 599))
    );
}

#[test]
fn damage_is_named() {
    let mut guest = Guest::new();
    lay(&mut guest, &SYMBOLS, Form::Relative);
    let at = guest.info().symbol("kallsyms_names").unwrap().0;
    guest.write(at, &[3]);
    let error = symbols(&guest).unwrap_err().to_string();
    assert!(error.starts_with("kallsyms_names is damaged"), "{error}");
    guest.write(at, &[7]);
    let at = guest.info().symbol("kallsyms_offsets").unwrap().0;
    guest.write(at + 4, &[0, 0, 1, 0]);
    let error = symbols(&guest).unwrap_err().to_string();
    assert!(
        error.ends_with("the address of symbol 2 is below that of the one before"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn any_damage_gives_a_table_in_order_or_an_error(
        form in prop::sample::select(vec![Form::Relative, Form::AbsolutePerCpu, Form::Place]),
        damage in prop::collection::vec((0u64..0x600, any::<u8>()), 1..20),
    ) {
        let mut guest = Guest::new();
        lay(&mut guest, &SYMBOLS, form);
        for (at, byte) in damage {
            guest.write(KERNEL + 0x1000 + at, &[byte]);
        }
        if let Ok(symbols) = symbols(&guest) {
            prop_assert!(symbols.all().windows(2).all(|pair| pair[0].at <= pair[1].at));
            let last = symbols.all().last().unwrap();
            prop_assert_eq!(symbols.place(last.at).unwrap().offset, 0);
        }
    }
}
