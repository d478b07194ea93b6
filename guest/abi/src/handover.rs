//! How a capture kernel's init hands over what it has found: in pages of its memory that whoever sees all of RAM can tell.
//!
//! Each begins with a mark and says which of how many it is. What they hold, one behind the other, is `note` lines, each with a note of
//! the vmcore in hexadecimal digits, a line `dmesg`, and the log.

/// Bytes of a page, which is its alignment, too.
pub const PAGE_BYTES: usize = 4096;
/// What a page begins with.
pub const MARK: [u8; 16] = *b"holdpoint vmcore";
/// Bytes before what a page holds: the mark, its number, the number of all, its length and its sum, as little-endian words.
pub const HEAD_BYTES: usize = 32;

/// Which page it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// Its number, from 0.
    pub number: u32,
    /// How many there are.
    pub of: u32,
    /// How many bytes it holds.
    pub bytes: u32,
    /// Their [sum](sum): a head alone may lie at the beginning of a page as well, where it was made on a stack, say.
    pub sum: u32,
}

/// A sum of what a page holds (FNV-1a, 32 bits).
pub fn sum(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    bytes.iter().fold(0x811c_9dc5, step)
}

impl Head {
    /// As it lies in memory.
    pub fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..16].copy_from_slice(&MARK);
        bytes[16..20].copy_from_slice(&self.number.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.of.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[28..].copy_from_slice(&self.sum.to_le_bytes());
        bytes
    }

    /// The head of a page, if it is one.
    pub fn from_bytes(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(word)
        };
        let head = Self {
            number: word(16),
            of: word(20),
            bytes: word(24),
            sum: word(28),
        };
        let fits = head.number < head.of && head.bytes as usize <= PAGE_BYTES - HEAD_BYTES;
        (bytes[..16] == MARK && fits).then_some(head)
    }
}
