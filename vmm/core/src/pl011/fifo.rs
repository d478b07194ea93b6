//! The storage of a FIFO; how deep it is at the moment (`FEN`) is its owner's business.

use super::spec::FIFO_DEPTH;

/// Up to [`FIFO_DEPTH`] entries, the oldest first.
///
/// Free slots hold the default value, so two FIFOs with the same contents are equal whatever went through them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fifo<T> {
    slots: [T; FIFO_DEPTH],
    len: usize,
}

impl<T: Copy + Default> Fifo<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries, the oldest first.
    pub(super) fn as_slice(&self) -> &[T] {
        &self.slots[..self.len]
    }

    /// Appends an entry. The caller has seen that there is room: the index is out of bounds otherwise.
    pub(super) fn push(&mut self, entry: T) {
        self.slots[self.len] = entry;
        self.len += 1;
    }

    /// Takes the oldest entry.
    pub(super) fn pop(&mut self) -> Option<T> {
        let oldest = *self.as_slice().first()?;
        self.slots.copy_within(1..self.len, 0);
        self.len -= 1;
        self.slots[self.len] = T::default();
        Some(oldest)
    }
}
