//! The keys of a console on a terminal in raw mode. All go to the guest, Ctrl-C too, but for what follows Ctrl-A.
//!
//! The letters are those that QEMU's serial console has taught people.

/// Ctrl-A.
pub const ESCAPE: u8 = 0x01;

/// For people; one line.
pub const HELP: &str = "Ctrl-A X quits, Ctrl-A B sends a break, Ctrl-A Ctrl-A is Ctrl-A, Ctrl-A H shows this; every other key is the guest's";

/// What a key means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Key {
    /// For the guest.
    Byte(u8),
    /// A break for the guest.
    Break,
    /// The person wants to leave.
    Quit,
    /// The person wants [`HELP`].
    Help,
}

/// What was typed so far, as far as it matters.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    /// What a byte from the terminal brings about: nothing yet, one thing, or two bytes.
    ///
    /// A byte that means nothing after Ctrl-A goes to the guest, and so does the Ctrl-A before it: an editor's or a shell's own Ctrl-A is
    /// typed once in most cases, and pasted text keeps what it can.
    pub fn press(&mut self, byte: u8) -> impl Iterator<Item = Key> + use<> {
        let escaped = std::mem::take(&mut self.escaped);
        let keys = match (escaped, byte) {
            (false, ESCAPE) => {
                self.escaped = true;
                [None, None]
            }
            (false, byte) => [Some(Key::Byte(byte)), None],
            (true, ESCAPE) => [Some(Key::Byte(ESCAPE)), None],
            (true, b'x' | b'X') => [Some(Key::Quit), None],
            (true, b'b' | b'B') => [Some(Key::Break), None],
            (true, b'h' | b'H' | b'?') => [Some(Key::Help), None],
            (true, byte) => [Some(Key::Byte(ESCAPE)), Some(Key::Byte(byte))],
        };
        keys.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Key, Keys};

    fn press(bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys::default();
        bytes.iter().flat_map(|&byte| keys.press(byte)).collect()
    }

    fn bytes(bytes: &[u8]) -> Vec<Key> {
        bytes.iter().copied().map(Key::Byte).collect()
    }

    #[test]
    fn control_characters_are_the_guests() {
        // Ctrl-C, Ctrl-Z, Ctrl-\, Ctrl-S, Ctrl-D.
        assert_eq!(
            press(b"\x03\x1a\x1c\x13\x04"),
            bytes(b"\x03\x1a\x1c\x13\x04")
        );
    }

    #[test]
    fn ctrl_a_and_a_letter_of_either_case() {
        for (typed, meant) in [(b"xX", Key::Quit), (b"bB", Key::Break), (b"hH", Key::Help)] {
            for letter in typed {
                assert_eq!(press(&[1, *letter]), [meant]);
            }
        }
    }

    #[test]
    fn ctrl_a_twice_is_itself() {
        assert_eq!(press(b"\x01\x01"), bytes(b"\x01"));
        assert_eq!(
            press(b"\x01\x01x"),
            bytes(b"\x01x"),
            "the second one escapes nothing"
        );
        assert_eq!(press(b"\x01\x01\x01x"), [Key::Byte(1), Key::Quit]);
    }

    #[test]
    fn ctrl_a_and_anything_else_both_pass() {
        assert_eq!(press(b"\x01cx"), bytes(b"\x01cx"));
    }

    #[test]
    fn ctrl_a_alone_waits() {
        assert_eq!(press(b"a\x01"), bytes(b"a"));
    }

    proptest! {
        #[test]
        fn what_has_no_ctrl_a_passes_as_it_is(typed in prop::collection::vec(2..=255_u8, 0..200)) {
            prop_assert_eq!(press(&typed), bytes(&typed));
        }

        #[test]
        fn every_byte_can_be_typed(meant in prop::collection::vec(any::<u8>(), 0..200)) {
            let typed: Vec<u8> = meant.iter().flat_map(|&byte| if byte == 1 { vec![1, 1] } else { vec![byte] }).collect();
            prop_assert_eq!(press(&typed), bytes(&meant));
        }
    }
}
