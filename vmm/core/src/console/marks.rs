//! A break in a stream of bytes, as Telnet writes it (RFC 854): IAC BRK; a byte of IAC's value is doubled.
//!
//! So what was typed reaches the device in its order through a pipe, and through the lab's port.

use crate::pl011::Symbol;

const IAC: u8 = 255;
const BRK: u8 = 243;

/// A break, marked.
pub const BREAK: [u8; 2] = [IAC, BRK];

/// Appends a byte.
pub fn push_byte(byte: u8, to: &mut Vec<u8>) {
    to.push(byte);
    if byte == IAC {
        to.push(IAC);
    }
}

/// Reads marks.
#[derive(Clone, Debug, Default)]
pub struct Unmark {
    begun: bool,
}

impl Unmark {
    /// The symbol that this byte completes, if it does. What Telnet knows beside is not a symbol.
    pub fn next(&mut self, byte: u8) -> Option<Symbol> {
        match (std::mem::take(&mut self.begun), byte) {
            (false, IAC) => {
                self.begun = true;
                None
            }
            (false, byte) => Some(Symbol::Byte(byte)),
            (true, IAC) => Some(Symbol::Byte(IAC)),
            (true, BRK) => Some(Symbol::Break),
            (true, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BREAK, Unmark, push_byte};
    use crate::pl011::Symbol;

    fn unmark(marked: &[u8]) -> Vec<Symbol> {
        let mut unmark = Unmark::default();
        marked
            .iter()
            .filter_map(|&byte| unmark.next(byte))
            .collect()
    }

    #[test]
    fn as_the_rfc_has_it() {
        assert_eq!(BREAK, [255, 243]);
        assert_eq!(
            unmark(b"a\xff\xf3\xff\xffb\xf3"),
            [
                Symbol::Byte(b'a'),
                Symbol::Break,
                Symbol::Byte(255),
                Symbol::Byte(b'b'),
                Symbol::Byte(0xf3)
            ]
        );
        assert_eq!(unmark(b"\xff\xf1a"), [Symbol::Byte(b'a')], "NOP");
    }

    proptest! {
        #[test]
        fn what_is_marked_returns(symbols in prop::collection::vec(
            prop_oneof![
                any::<u8>().prop_map(Symbol::Byte),
                Just(Symbol::Byte(255)),
                Just(Symbol::Break)
            ],
            0..200,
        )) {
            let mut marked = Vec::new();
            for symbol in &symbols {
                match symbol {
                    Symbol::Byte(byte) => push_byte(*byte, &mut marked),
                    _ => marked.extend(BREAK),
                }
            }
            prop_assert_eq!(unmark(&marked), symbols);
        }
    }
}
