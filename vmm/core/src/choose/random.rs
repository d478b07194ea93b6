//! Strategies that draw: uniformly, and by random priorities (PCT).

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{Actor, Choose};

/// A number below `n`, by rejection, so that the stream alone decides it.
fn below(rng: &mut ChaCha8Rng, n: u64) -> u64 {
    let limit = u64::MAX - u64::MAX % n;
    loop {
        let draw = rng.next_u64();
        if draw < limit {
            return draw % n;
        }
    }
}

/// A number below `n` that a seed decides, a different one for each `stream`.
pub fn draw(seed: u64, stream: u64, n: u64) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    below(&mut rng, n)
}

/// Each alternative alike. ChaCha8's stream is specified, so a seed replays for ever.
pub struct Random(ChaCha8Rng);

impl Random {
    /// The strategy of this seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }
}

impl Choose for Random {
    fn choose(&mut self, alternatives: &[Actor]) -> usize {
        below(&mut self.0, alternatives.len() as u64) as usize
    }
}

/// Probabilistic concurrency testing: random priorities, and `depth` - 1 moments at which the one that leads
/// falls behind all others (Burckhardt and others, ASPLOS 2010). A run of k decisions among n actors finds a
/// fault of depth d with probability of at least 1/(n k^(d-1)).
pub struct Pct {
    rng: ChaCha8Rng,
    priorities: BTreeMap<Actor, u64>,
    // The decisions at which the leader falls, and the priority that it falls to.
    falls: Vec<(u64, u64)>,
    decision: u64,
}

impl Pct {
    /// The strategy of this seed for faults of this depth in runs of about `decisions` decisions.
    pub fn new(seed: u64, depth: u32, decisions: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let falls = (1..depth)
            .map(|n| (below(&mut rng, decisions.max(1)), u64::from(depth - n)))
            .collect();
        Self {
            rng,
            priorities: BTreeMap::new(),
            falls,
            decision: 0,
        }
    }

    /// The least probability that one run finds a fault of this depth.
    pub fn bound(actors: u32, depth: u32, decisions: u64) -> f64 {
        1.0 / (f64::from(actors) * (decisions.max(1) as f64).powi(depth as i32 - 1))
    }
}

impl Choose for Pct {
    fn choose(&mut self, alternatives: &[Actor]) -> usize {
        // Priorities of actors lie above those that a fall leads to.
        for actor in alternatives {
            let rng = &mut self.rng;
            self.priorities
                .entry(*actor)
                .or_insert_with(|| (1 << 32) + below(rng, 1 << 32));
        }
        let leader = |priorities: &BTreeMap<Actor, u64>| {
            let best = alternatives
                .iter()
                .enumerate()
                .max_by_key(|(_, actor)| priorities[actor]);
            best.expect("there are alternatives").0
        };
        let falls = self.falls.iter().filter(|(at, _)| *at == self.decision);
        for (_, priority) in falls {
            let first = leader(&self.priorities);
            self.priorities.insert(alternatives[first], *priority);
        }
        self.decision += 1;
        leader(&self.priorities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::CpuId;

    fn answers(strategy: &mut dyn Choose) -> Vec<usize> {
        let actors: Vec<Actor> = (0..4).map(|n| Actor::Cpu(CpuId(n))).collect();
        (0..32)
            .map(|n| strategy.choose(&actors[..2 + n % 3]))
            .collect()
    }

    #[test]
    fn a_seed_decides_all_answers() {
        assert_eq!(answers(&mut Random::new(7)), answers(&mut Random::new(7)));
        assert_ne!(answers(&mut Random::new(7)), answers(&mut Random::new(8)));
        assert_eq!(
            answers(&mut Pct::new(7, 3, 32)),
            answers(&mut Pct::new(7, 3, 32))
        );
    }

    #[test]
    fn pct_of_depth_one_never_changes_its_leader() {
        let actors = [Actor::Time, Actor::Cpu(CpuId(0)), Actor::Cpu(CpuId(1))];
        let mut strategy = Pct::new(3, 1, 32);
        let first = strategy.choose(&actors);
        assert!((0..32).all(|_| strategy.choose(&actors) == first));
    }

    #[test]
    fn the_bound_is_the_papers() {
        assert_eq!(Pct::bound(2, 1, 100), 0.5);
        assert_eq!(Pct::bound(2, 3, 10), 1.0 / 200.0);
    }
}
