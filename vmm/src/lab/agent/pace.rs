//! How often small pieces are sent.

use std::time::{Duration, Instant};

/// A frame costs the emulated machine some 200 us however little it carries, so small pieces that follow one another closely are gathered:
/// the first goes at once, and so does whatever comes after a large one.
pub(super) struct Pace {
    gap: Duration,
    last_small: Option<Instant>,
}

/// A piece that is worth its frame.
const LARGE: usize = 8 << 10;

impl Pace {
    pub(super) fn new(gap: Duration) -> Self {
        Self {
            gap,
            last_small: None,
        }
    }

    /// How long to gather before the next piece.
    pub(super) fn left(&self) -> Duration {
        self.last_small.map_or(Duration::ZERO, |last| {
            self.gap.saturating_sub(last.elapsed())
        })
    }

    /// A piece of this many bytes goes.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.last_small = (bytes < LARGE).then(Instant::now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_follows_a_small_piece_is_held_back() {
        let gap = Duration::from_secs(1000);
        let mut pace = Pace::new(gap);
        assert_eq!(pace.left(), Duration::ZERO);
        pace.sent(1);
        assert!(pace.left() > gap / 2);
        pace.sent(LARGE);
        assert_eq!(pace.left(), Duration::ZERO);
    }
}
