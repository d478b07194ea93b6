//! Every answer to every decision, one run after the other, without remembering states.

use super::{Actor, Choose};

/// Counts through all lists of answers, the last decision fastest.
///
/// It drives any subject that is a function from choices to evidence. The model, whose states can be compared,
/// has a faster way (`model::explore`), which is checked against this one.
#[derive(Default)]
pub struct Exhaustive {
    // The answers of this run, and how many there were to choose from.
    path: Vec<(usize, usize)>,
    at: usize,
    done: bool,
}

impl Exhaustive {
    /// Whether there is another run to make; it starts that run.
    pub fn next_run(&mut self) -> bool {
        self.at = 0;
        !self.done
    }

    /// Ends a run and turns to the next list of answers.
    pub fn end_run(&mut self) {
        self.path.truncate(self.at);
        while let Some((answer, of)) = self.path.pop() {
            if answer + 1 < of {
                self.path.push((answer + 1, of));
                return;
            }
        }
        self.done = true;
    }
}

impl Choose for Exhaustive {
    fn choose(&mut self, alternatives: &[Actor]) -> usize {
        if self.at == self.path.len() {
            self.path.push((0, alternatives.len()));
        }
        let (answer, of) = self.path[self.at];
        assert_eq!(
            of,
            alternatives.len(),
            "the same answers led to another decision: the subject is not deterministic"
        );
        self.at += 1;
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::CpuId;

    #[test]
    fn sees_every_list_once() {
        let cpus: Vec<Actor> = (0..3).map(|n| Actor::Cpu(CpuId(n))).collect();
        let mut seen = Vec::new();
        let mut strategy = Exhaustive::default();
        while strategy.next_run() {
            // A second decision only after the first answer 1.
            let first = strategy.choose(&cpus);
            let second = if first == 1 {
                strategy.choose(&cpus[..2])
            } else {
                0
            };
            seen.push((first, second));
            strategy.end_run();
        }
        assert_eq!(seen, [(0, 0), (1, 0), (1, 1), (2, 0)]);
    }
}
