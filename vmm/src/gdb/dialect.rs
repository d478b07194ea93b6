//! What LLDB (14) says and understands otherwise than gdb.
//!
//! It has all threads go on by a plain `c`, and never says by `Hc` that all are meant; to gdbstub (0.7) that is the one that stopped last,
//! and the others would be left where they are. And the addresses that `qOffsets` may tell for segments are distances to it.

/// Its third word, which gdb never says.
const LLDB: &[u8] = b"$QThreadSuffixSupported#e4";

/// A plain `c`, and what of gdb's words means the same.
const CONTINUE: &[u8] = b"$c#63";
const ALL_CONTINUE: &[u8] = b"$vCont;c#a8";

/// How a debugger speaks.
#[derive(Default)]
pub(super) struct Dialect {
    /// How much of its word has come.
    introduced: usize,
    /// The beginning of what may become a plain `c`.
    held_back: usize,
}

impl Dialect {
    /// Whether it is LLDB's.
    pub(super) fn is_lldb(&self) -> bool {
        self.introduced == LLDB.len()
    }

    /// What comes by this byte, in gdb's words.
    pub(super) fn hear(&mut self, byte: u8) -> Vec<u8> {
        // A packet begins wherever its first byte stands: in a packet it would be escaped.
        if !self.is_lldb() {
            self.introduced = match byte {
                byte if byte == LLDB[self.introduced] => self.introduced + 1,
                byte => usize::from(byte == LLDB[0]),
            };
            return vec![byte];
        }
        if byte == CONTINUE[self.held_back] {
            self.held_back += 1;
            if self.held_back < CONTINUE.len() {
                return Vec::new();
            }
            self.held_back = 0;
            return ALL_CONTINUE.to_vec();
        }
        let mut heard = CONTINUE[..std::mem::take(&mut self.held_back)].to_vec();
        if byte == CONTINUE[0] {
            self.held_back = 1;
        } else {
            heard.push(byte);
        }
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::{Dialect, LLDB};

    fn heard(dialect: &mut Dialect, said: &[u8]) -> Vec<u8> {
        said.iter().flat_map(|byte| dialect.hear(*byte)).collect()
    }

    #[test]
    fn a_plain_continue_of_lldb_is_for_all() {
        let mut dialect = Dialect::default();
        assert_eq!(heard(&mut dialect, b"$QThread$c#63"), b"$QThread$c#63");
        assert_eq!(heard(&mut dialect, LLDB), LLDB);
        assert!(dialect.is_lldb());
        assert_eq!(heard(&mut dialect, b"+$c#63+"), b"+$vCont;c#a8+");
        let said = b"$g#67$c#63$c#63";
        assert_eq!(heard(&mut dialect, said), b"$g#67$vCont;c#a8$vCont;c#a8");
        assert_eq!(heard(&mut dialect, b"$$c#63"), b"$$vCont;c#a8");
    }

    #[test]
    fn all_else_is_as_it_was() {
        let mut dialect = Dialect::default();
        heard(&mut dialect, LLDB);
        for said in [
            b"+$vCont;c:1#f4".as_slice(),
            b"$c40#c7",
            b"\x03",
            b"$c#64$g#67",
        ] {
            assert_eq!(heard(&mut dialect, said), said);
        }
    }
}
