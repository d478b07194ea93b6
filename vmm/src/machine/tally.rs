//! Events that a guest can bring about without end, and a log must not grow without end for.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts events of one kind, and says which of them to tell of one by one.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

/// Whether to tell of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Told {
    /// Tell of it.
    Yes,
    /// Say that from now on they are only counted.
    NoLonger,
    /// It has been counted.
    No,
}

/// Enough to see a pattern.
const TOLD_MOST: u64 = 10;

impl Tally {
    /// One more.
    pub fn add(&self) -> Told {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            0..TOLD_MOST => Told::Yes,
            TOLD_MOST => Told::NoLonger,
            _ => Told::No,
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// How many there were, if they were more than have been told of.
    pub fn untold(&self) -> Option<u64> {
        Some(self.count()).filter(|count| *count > TOLD_MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::{Tally, Told};

    #[test]
    fn ten_are_told_of_and_all_are_counted() {
        let tally = Tally::default();
        let told: Vec<_> = (0..13).map(|_| tally.add()).collect();
        assert_eq!(told[..10], [Told::Yes; 10]);
        assert_eq!(told[10..], [Told::NoLonger, Told::No, Told::No]);
        assert_eq!(tally.untold(), Some(13));

        let few = Tally::default();
        assert_eq!((few.add(), few.untold()), (Told::Yes, None));
    }
}
