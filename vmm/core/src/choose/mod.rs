//! The one door of chance: every free decision is an answer to `choose(n)`.
//!
//! The list of answers is the schedule. Answer 0 is always the default, which goes on with the same CPU until it
//! blocks; a schedule's text lists only the other answers.

mod exhaustive;
mod random;
mod schedule;
mod shrink;

pub use exhaustive::Exhaustive;
pub use random::{Pct, Random, draw};
pub use schedule::{Origin, Replay, Schedule, ScheduleError};
pub use shrink::{Segments, shrink};

use crate::arm::CpuId;

/// Who moves if an alternative is taken.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Actor {
    /// A CPU takes its next step.
    Cpu(CpuId),
    /// A CPU's late stores become visible.
    Stores(CpuId),
    /// Time passes to the next deadline.
    Time,
}

/// Answers decisions.
pub trait Choose {
    /// Picks one of the alternatives, the default first. There are at least two.
    fn choose(&mut self, alternatives: &[Actor]) -> usize;
}

/// Something that moves as it is chosen: the model, or a guest on KVM.
pub trait Moves {
    /// What can go wrong with a move.
    type Error;

    /// Who can move, the default first; nobody when it is over.
    fn moves(&self) -> Vec<Actor>;

    /// Takes one of these moves.
    fn take(&mut self, actor: Actor) -> Result<(), Self::Error>;
}

/// Moves it to its end as the strategy chooses; what was chosen, and how it ended.
pub fn drive<M: Moves>(
    machine: &mut M,
    strategy: &mut dyn Choose,
) -> (Taken, Result<(), M::Error>) {
    let mut chooser = Chooser::new(strategy);
    let end = loop {
        let moves = machine.moves();
        if moves.is_empty() {
            break Ok(());
        }
        let answer = chooser.choose(&moves);
        if let Err(error) = machine.take(moves[answer]) {
            break Err(error);
        }
    };
    (chooser.taken(), end)
}

/// What one run chose: who moved at each decision, and at which that was not the default.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Taken {
    /// Who moved, decision by decision.
    pub actors: Vec<Actor>,
    /// The answers that are not 0, by the number of their decision.
    pub deviations: Vec<(u32, u32)>,
    /// How many decisions there were.
    pub decisions: u32,
}

impl Taken {
    /// One more decision, among these, with this answer.
    pub fn add(&mut self, alternatives: &[Actor], answer: usize) {
        if answer != 0 {
            self.deviations.push((self.decisions, answer as u32));
        }
        self.decisions += 1;
        self.actors.push(alternatives[answer]);
    }
}

/// Asks a strategy, and keeps what it answered.
pub struct Chooser<'a> {
    strategy: &'a mut dyn Choose,
    taken: Taken,
}

impl<'a> Chooser<'a> {
    /// A chooser for one run.
    pub fn new(strategy: &'a mut dyn Choose) -> Self {
        Self {
            strategy,
            taken: Taken::default(),
        }
    }

    /// The answer among the alternatives, of which there is at least one. A single one is no decision.
    pub fn choose(&mut self, alternatives: &[Actor]) -> usize {
        match alternatives.len() {
            0 => panic!("a decision has no alternatives"),
            1 => 0,
            n => {
                let answer = self.strategy.choose(alternatives);
                assert!(
                    answer < n,
                    "a strategy answered {answer} of {n} alternatives"
                );
                self.taken.add(alternatives, answer);
                answer
            }
        }
    }

    /// What the run chose.
    pub fn taken(self) -> Taken {
        self.taken
    }
}

/// Always the default: the run as the holds direct it.
pub struct Directed;

impl Choose for Directed {
    fn choose(&mut self, _: &[Actor]) -> usize {
        0
    }
}
