//! A part of a matrix for one of several machines, the same on each of them.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use super::Cell;

/// Part I of N.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shard {
    /// Which, from 1.
    pub part: usize,
    /// Of how many.
    pub of: usize,
}

/// It is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("I/N is meant, with I from 1 to N")]
pub struct ShardError;

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let (part, of) = text.split_once('/').ok_or(ShardError)?;
        let (part, of) = (part.parse(), of.parse());
        match (part, of) {
            (Ok(part), Ok(of)) if (1..=of).contains(&part) => Ok(Self { part, of }),
            _ => Err(ShardError),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.part, self.of)
    }
}

impl Shard {
    /// Its cells: the most costly cell goes first, each to the part with the least to do. The order is kept.
    pub fn take(self, cells: Vec<Cell>) -> Vec<Cell> {
        let mut order: Vec<usize> = (0..cells.len()).collect();
        order.sort_by_key(|at| (Reverse(cells[*at].cost()), cells[*at].name()));
        let mut load = vec![0; self.of];
        let mut part = vec![0; cells.len()];
        for at in order {
            let least = (0..self.of)
                .min_by_key(|part| load[*part])
                .expect("there is a part");
            load[least] += cells[at].cost();
            part[at] = least + 1;
        }
        let cells = cells.into_iter().zip(part);
        cells
            .filter(|(_, part)| *part == self.part)
            .map(|(cell, _)| cell)
            .collect()
    }
}
