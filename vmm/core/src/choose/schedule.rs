//! A schedule as text: `1:HASH:12=1,17=2`: the format, what it belongs to, the answers that are not 0.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::{Actor, Choose, Taken};

const FORMAT: &str = "1";

/// What a schedule belongs to, as a short hash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin(String);

impl Origin {
    /// Runs of what these texts describe.
    pub fn of(texts: &[&str]) -> Self {
        let mut digest = Sha256::new();
        for text in texts {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        }
        let hash = digest.finalize();
        Self(
            hash.iter()
                .take(4)
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        )
    }
}

/// A list of answers, and what it belongs to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Schedule {
    origin: Origin,
    deviations: Vec<(u32, u32)>,
}

/// Why a text is no schedule, or not one for this.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// It is no schedule.
    #[error(
        "`{0}` is no schedule; `1:HASH:12=1,17=2` is meant, decisions ascending, answers from 1"
    )]
    Malformed(String),
    /// It is one of another version.
    #[error("the schedule has format {0}; this program reads format {FORMAT}")]
    Format(String),
    /// It belongs to something else.
    #[error(
        "the schedule belongs to {found}, and this is {here}: scenario, protocol or model have changed since"
    )]
    Stale {
        /// What it belongs to.
        found: String,
        /// What it was given to.
        here: String,
    },
    /// The run did not have the decision that it answers.
    #[error("decision {decision} has no answer {answer}: the schedule does not fit this run")]
    Misfit {
        /// The decision.
        decision: u32,
        /// The answer.
        answer: u32,
    },
}

impl Schedule {
    /// The schedule of a run.
    pub fn new(origin: Origin, taken: &Taken) -> Self {
        Self {
            origin,
            deviations: taken.deviations.clone(),
        }
    }

    /// How many answers are not the default.
    pub fn deviations(&self) -> usize {
        self.deviations.len()
    }

    /// The strategy that repeats it, if it belongs there.
    pub fn replay(&self, origin: &Origin) -> Result<Replay, ScheduleError> {
        if self.origin != *origin {
            return Err(ScheduleError::Stale {
                found: self.origin.0.clone(),
                here: origin.0.clone(),
            });
        }
        Ok(Replay {
            deviations: self.deviations.clone(),
            next: 0,
            decision: 0,
            misfit: None,
        })
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers: Vec<String> = self
            .deviations
            .iter()
            .map(|(at, answer)| format!("{at}={answer}"))
            .collect();
        write!(f, "{FORMAT}:{}:{}", self.origin.0, answers.join(","))
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ScheduleError::Malformed(text.to_owned());
        let (format, rest) = text.split_once(':').ok_or_else(wrong)?;
        if format != FORMAT {
            let version = !format.is_empty() && format.bytes().all(|byte| byte.is_ascii_digit());
            return Err(if version {
                ScheduleError::Format(format.to_owned())
            } else {
                wrong()
            });
        }
        let (hash, answers) = rest.split_once(':').ok_or_else(wrong)?;
        let number = |digits: &str| {
            digits
                .parse()
                .ok()
                .filter(|number: &u32| number.to_string() == digits)
        };
        let deviation = |answer: &str| {
            let (at, answer) = answer.split_once('=')?;
            Some((number(at)?, number(answer).filter(|answer| *answer > 0)?))
        };
        let answers = answers.split(',').filter(|_| !answers.is_empty());
        let deviations: Vec<(u32, u32)> = answers
            .map(deviation)
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        let hex = hash.len() == 8
            && hash
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !hex || !deviations.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err(wrong());
        }
        Ok(Self {
            origin: Origin(hash.to_owned()),
            deviations,
        })
    }
}

/// Gives the answers of a schedule.
pub struct Replay {
    deviations: Vec<(u32, u32)>,
    next: usize,
    decision: u32,
    misfit: Option<(u32, u32)>,
}

impl Replay {
    /// Whether every answer found its decision.
    pub fn fitted(&self) -> Result<(), ScheduleError> {
        let left = self.deviations.get(self.next).copied();
        match self.misfit.or(left) {
            Some((decision, answer)) => Err(ScheduleError::Misfit { decision, answer }),
            None => Ok(()),
        }
    }
}

impl Choose for Replay {
    fn choose(&mut self, alternatives: &[Actor]) -> usize {
        let decision = self.decision;
        self.decision += 1;
        let Some((_, answer)) = self
            .deviations
            .get(self.next)
            .filter(|(at, _)| *at == decision)
        else {
            return 0;
        };
        self.next += 1;
        if *answer as usize >= alternatives.len() {
            self.misfit.get_or_insert((decision, *answer));
            return 0;
        }
        *answer as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(deviations: Vec<(u32, u32)>) -> Schedule {
        Schedule {
            origin: Origin::of(&["a"]),
            deviations,
        }
    }

    proptest! {
        #[test]
        fn parse_undoes_print(answers in proptest::collection::btree_map(any::<u32>(), 1u32.., 0..20)) {
            let schedule = schedule(answers.into_iter().collect());
            prop_assert_eq!(schedule.to_string().parse::<Schedule>(), Ok(schedule));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String, tail in "[0-9a-f:=,]{0,30}") {
            let _ = text.parse::<Schedule>();
            let _ = format!("1:00000000:{tail}").parse::<Schedule>();
        }
    }

    #[test]
    fn refuses_what_it_does_not_belong_to() {
        let schedule = schedule(vec![(1, 2)]);
        assert!(schedule.replay(&Origin::of(&["a"])).is_ok());
        assert!(matches!(
            schedule.replay(&Origin::of(&["b"])),
            Err(ScheduleError::Stale { .. })
        ));
        assert!(matches!(
            "2:00000000:".parse::<Schedule>(),
            Err(ScheduleError::Format(_))
        ));
        for text in [
            "",
            "1:",
            "1:0000000:",
            "1:00000000:2=1,1=1",
            "1:00000000:1=0",
            "1:00000000:01=1",
            "x:00000000:",
        ] {
            assert!(
                matches!(text.parse::<Schedule>(), Err(ScheduleError::Malformed(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn an_answer_without_its_decision_is_a_misfit() {
        let mut replay = schedule(vec![(0, 5)])
            .replay(&Origin::of(&["a"]))
            .expect("it belongs here");
        assert_eq!(replay.choose(&[Actor::Time, Actor::Time]), 0);
        assert_eq!(
            replay.fitted(),
            Err(ScheduleError::Misfit {
                decision: 0,
                answer: 5
            })
        );
        let replay = schedule(vec![(9, 1)])
            .replay(&Origin::of(&["a"]))
            .expect("it belongs here");
        assert_eq!(
            replay.fitted(),
            Err(ScheduleError::Misfit {
                decision: 9,
                answer: 1
            })
        );
    }
}
