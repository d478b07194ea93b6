//! Figures, and how they are printed.

use std::fmt::{self, Display, Formatter};

/// One figure, measured several times.
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) unit: &'static str,
    /// What it should be, in words; empty where nothing is promised.
    pub(super) target: &'static str,
    pub(super) ours: Vec<f64>,
    /// The same of the peer, measured in turn with ours, so that the n-th of each belong together.
    pub(super) peer: Vec<f64>,
}

impl Figure {
    pub(super) fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            unit,
            target: "",
            ours: Vec::new(),
            peer: Vec::new(),
        }
    }

    pub(super) fn should_be(self, target: &'static str) -> Self {
        Self { target, ..self }
    }
}

/// Minimum, median and maximum.
struct Spread<'a>(&'a [f64]);

impl Display for Spread<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else {
            return f.write_str("-");
        };
        // The lower of the two in the middle: a value that was measured.
        let median = sorted[(sorted.len() - 1) / 2];
        // Three digits that mean something.
        let digits = if median.abs() < 10.0 {
            2
        } else if median.abs() < 100.0 {
            1
        } else {
            0
        };
        write!(f, "{least:.digits$} / {median:.digits$} / {most:.digits$}")
    }
}

/// All of them, in Markdown.
pub(super) struct Table<'a>(pub(super) &'a [Figure]);

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| figure (minimum / median / maximum) | unit | Holdpoint | QEMU | Holdpoint to QEMU | target |"
        )?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
        for figure in self.0 {
            let Figure {
                name,
                unit,
                target,
                ours,
                peer,
            } = figure;
            let ratios: Vec<f64> = ours
                .iter()
                .zip(peer)
                .map(|(ours, peer)| ours / peer)
                .collect();
            let (ours, peer, ratios) = (Spread(ours), Spread(peer), Spread(&ratios));
            writeln!(
                f,
                "| {name} | {unit} | {ours} | {peer} | {ratios} | {target} |"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Figure, Spread, Table};

    #[test]
    fn a_spread_is_sorted_and_its_median_was_measured() {
        assert_eq!(Spread(&[3.0, 1.0, 2.0]).to_string(), "1.00 / 2.00 / 3.00");
        assert_eq!(
            Spread(&[400.0, 100.0, 300.0, 200.0]).to_string(),
            "100 / 200 / 400"
        );
        assert_eq!(Spread(&[]).to_string(), "-");
    }

    #[test]
    fn ratios_are_of_the_pairs_that_were_measured_together() {
        let mut figure = Figure::new("boot", "s").should_be("0.8 of QEMU's");
        figure.ours = vec![1.0, 8.0];
        figure.peer = vec![2.0, 10.0];
        let table = Table(&[figure]).to_string();
        let row = table.lines().last().unwrap();
        assert_eq!(
            row,
            "| boot | s | 1.00 / 1.00 / 8.00 | 2.00 / 2.00 / 10.00 | 0.50 / 0.50 / 0.80 | 0.8 of QEMU's |"
        );
    }
}
