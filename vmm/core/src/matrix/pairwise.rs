//! Every value of an axis together with every value of every other one, in few cells.
//!
//! The rule of R. Mandl (Orthogonal Latin Squares, CACM 28, 1985) and of D. Cohen et al. (The AETG System, IEEE TSE 23, 1997), greedily: as
//! long as a pair is missing, the cell with the most missing pairs is taken, of several the first.

use std::collections::BTreeSet;
use std::fmt;

use super::Cell;

/// What a thinned set covers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Coverage {
    /// Cells that are left.
    pub cells: usize,
    /// Of so many.
    pub of: usize,
    /// Pairs of values that stand together in some cell, all of which are covered.
    pub pairs: usize,
    /// Pairs that no cell has: what cannot be.
    pub impossible: usize,
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cells,
            of,
            pairs,
            impossible,
        } = self;
        write!(
            f,
            "pairwise: {cells} of {of} cells cover all {pairs} pairs of values that can be; {impossible} cannot"
        )
    }
}

/// An axis with a value, and another one with one of its.
type Pair = ((usize, String), (usize, String));

fn pairs(cell: &Cell) -> Vec<Pair> {
    let values: Vec<(usize, String)> = cell.axes().into_iter().enumerate().collect();
    let mut pairs = Vec::new();
    for (at, first) in values.iter().enumerate() {
        let others = values[at + 1..].iter();
        pairs.extend(others.map(|second| (first.clone(), second.clone())));
    }
    pairs
}

/// The fewest cells that a greedy choice finds to cover all pairs, in the order in which they were.
pub(super) fn thin(cells: Vec<Cell>) -> (Vec<Cell>, Coverage) {
    let of = cells.len();
    let all: Vec<Vec<Pair>> = cells.iter().map(pairs).collect();
    let mut missing: BTreeSet<&Pair> = all.iter().flatten().collect();
    let pairs = missing.len();
    let mut values: Vec<BTreeSet<String>> = Vec::new();
    for cell in &cells {
        let axes = cell.axes();
        values.resize(axes.len(), BTreeSet::new());
        for (value, known) in axes.into_iter().zip(&mut values) {
            known.insert(value);
        }
    }
    let conceivable: usize = (0..values.len())
        .flat_map(|a| (a + 1..values.len()).map(move |b| (a, b)))
        .map(|(a, b)| values[a].len() * values[b].len())
        .sum();
    let mut taken = BTreeSet::new();
    while !missing.is_empty() {
        let gain = |at: &usize| {
            let new = all[*at].iter().filter(|pair| missing.contains(pair));
            (new.count(), std::cmp::Reverse(*at))
        };
        let best = (0..of)
            .max_by_key(gain)
            .expect("a pair that is missing is of some cell");
        for pair in &all[best] {
            missing.remove(pair);
        }
        taken.insert(best);
    }
    let kept = cells.into_iter().enumerate();
    let kept: Vec<Cell> = kept
        .filter(|(at, _)| taken.contains(at))
        .map(|(_, cell)| cell)
        .collect();
    let coverage = Coverage {
        cells: kept.len(),
        of,
        pairs,
        impossible: conceivable - pairs,
    };
    (kept, coverage)
}
