//! From a schedule that shows something to a small one that shows it too.

use super::{Actor, Choose, Taken};

/// A run as stretches: so many decisions for one actor, then so many for another.
///
/// As a strategy it is lenient: an actor that cannot move is passed over, and after the last stretch the default
/// answers. So a stretch can be taken out without making the rest senseless, which answers by number could not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Segments {
    stretches: Vec<(Actor, u32)>,
    at: usize,
    used: u32,
}

impl Segments {
    /// The stretches of a run.
    pub fn of(taken: &Taken) -> Self {
        let mut stretches: Vec<(Actor, u32)> = Vec::new();
        for actor in &taken.actors {
            match stretches.last_mut() {
                Some((last, steps)) if last == actor => *steps += 1,
                _ => stretches.push((*actor, 1)),
            }
        }
        Self {
            stretches,
            at: 0,
            used: 0,
        }
    }

    fn without(&self, at: usize) -> Self {
        let mut stretches = self.stretches.clone();
        stretches.remove(at);
        Self {
            stretches,
            at: 0,
            used: 0,
        }
    }

    fn cut(&self, at: usize) -> Self {
        Self {
            stretches: self.stretches[..at].to_vec(),
            at: 0,
            used: 0,
        }
    }

    /// The stretch runs on to where its actor blocks, and the next of the same actor is dropped.
    fn joined(&self, at: usize) -> Option<Self> {
        let (actor, _) = self.stretches[at];
        let next = self.stretches[at + 1..]
            .iter()
            .position(|(other, _)| *other == actor)?
            + at
            + 1;
        let mut stretches = self.stretches.clone();
        let (_, steps) = stretches.remove(next);
        stretches[at].1 += steps;
        Some(Self {
            stretches,
            at: 0,
            used: 0,
        })
    }
}

impl Choose for Segments {
    fn choose(&mut self, alternatives: &[Actor]) -> usize {
        while let Some((actor, steps)) = self.stretches.get(self.at) {
            let found = alternatives
                .iter()
                .position(|alternative| alternative == actor);
            match found.filter(|_| self.used < *steps) {
                Some(answer) => {
                    self.used += 1;
                    return answer;
                }
                None => (self.at, self.used) = (self.at + 1, 0),
            }
        }
        0
    }
}

/// Shrinks a run while `shows` holds: `run` repeats a run by its stretches and says what it took, or `None` if it
/// no longer shows what it should. Nothing can be taken out of the result any more, neither a stretch nor the
/// switch between two.
pub fn shrink(first: Taken, mut run: impl FnMut(Segments) -> Option<Taken>) -> Taken {
    let mut best = first;
    loop {
        let segments = Segments::of(&best);
        let count = segments.stretches.len();
        let cuts = (0..count).map(|at| segments.cut(at));
        let removals = (0..count).rev().map(|at| segments.without(at));
        let joins = (0..count).filter_map(|at| segments.joined(at));
        let better = |taken: &Taken| {
            let size = |taken: &Taken| (taken.deviations.len(), taken.actors.len());
            size(taken) < size(&best)
        };
        match cuts
            .chain(removals)
            .chain(joins)
            .find_map(|candidate| run(candidate).filter(better))
        {
            Some(taken) => best = taken,
            None => return best,
        }
    }
}
