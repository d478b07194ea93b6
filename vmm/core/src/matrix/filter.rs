//! Which cells are wanted.

use std::str::FromStr;

use super::{AXES, Cell};

/// Cells of which one of its terms is true.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Filter {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Term {
    /// Whether those are wanted that are not so.
    not: bool,
    what: What,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum What {
    /// The name has this in it.
    Name(String),
    /// The cell has this value on the axis of that number.
    Axis(usize, String),
}

/// It is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FilterError {
    /// An axis that is not known.
    #[error("there is no axis `{axis}`; there are {}", AXES.join(", "))]
    Axis {
        /// As it was called.
        axis: String,
    },
    /// Nothing.
    #[error(
        "a part of a cell's name or AXIS=VALUE is meant; several with commas between, `!` before what is not wanted"
    )]
    Nothing,
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let terms: Result<Vec<Term>, FilterError> = text.split(',').map(term).collect();
        Ok(Self { terms: terms? })
    }
}

fn term(text: &str) -> Result<Term, FilterError> {
    let (not, text) = match text.trim().strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, text.trim()),
    };
    let what = match text.split_once('=') {
        Some((axis, value)) => {
            let known = AXES.iter().position(|known| *known == axis);
            let axis = known.ok_or_else(|| FilterError::Axis {
                axis: axis.to_owned(),
            })?;
            What::Axis(axis, value.to_owned())
        }
        None if text.is_empty() => return Err(FilterError::Nothing),
        None => What::Name(text.to_owned()),
    };
    Ok(Term { not, what })
}

impl Filter {
    /// Whether a cell is wanted.
    pub fn wants(&self, cell: &Cell) -> bool {
        let (name, axes) = (cell.name(), cell.axes());
        self.terms.iter().any(|term| {
            let so = match &term.what {
                What::Name(part) => name.contains(part.as_str()),
                What::Axis(axis, value) => axes[*axis] == *value,
            };
            so != term.not
        })
    }
}
