//! What a person sees of a matrix while it runs: on a terminal a live view, in a pipe a line a finished cell.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use vmm_core::report::{CellReport, line};

use crate::cli::stdout::print;

/// How.
pub(super) struct Show {
    /// Whether finished cells are printed.
    lines: bool,
    strict: bool,
    /// A live view.
    bar: Option<ProgressBar>,
    state: Mutex<State>,
}

struct State {
    begun: Instant,
    running: BTreeMap<String, Instant>,
    /// The cost of what was to be done, of what is done, and of the part of that which was done before.
    cost: u64,
    done: u64,
    surprises: usize,
}

/// How much there is to do.
pub(super) struct Work {
    pub(super) runs: usize,
    pub(super) done: usize,
    pub(super) cost: u64,
}

impl Show {
    /// `quiet`: no cell is told of. `data`: standard output is for a format. `strict`: no rule may be broken.
    pub(super) fn new(quiet: bool, data: bool, strict: bool, work: &Work) -> Self {
        let terminal = std::io::stderr().is_terminal() && (data || std::io::stdout().is_terminal());
        let bar = (terminal && !quiet).then(|| {
            let bar = ProgressBar::with_draw_target(
                Some(work.runs as u64),
                ProgressDrawTarget::stderr_with_hz(4),
            );
            let style = ProgressStyle::with_template(
                "{bar:24} {pos} of {len}, {prefix} after {elapsed}\n{wide_msg}",
            );
            bar.set_style(style.expect("the template is right"));
            bar.set_position(work.done as u64);
            bar.enable_steady_tick(Duration::from_secs(1));
            bar
        });
        let show = Self {
            lines: !terminal && !quiet && !data,
            strict,
            bar,
            state: Mutex::new(State {
                begun: Instant::now(),
                running: BTreeMap::new(),
                cost: work.cost,
                done: 0,
                surprises: 0,
            }),
        };
        show.draw(&show.state());
        show
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run has begun.
    pub(super) fn begins(&self, cell: &str) {
        let mut state = self.state();
        state.running.insert(cell.to_owned(), Instant::now());
        self.draw(&state);
    }

    /// A run has ended, and with it perhaps its cell.
    pub(super) fn ends(&self, cell: &str, cost: u64, finished: Option<&CellReport>) {
        let mut state = self.state();
        state.running.remove(cell);
        state.done += cost;
        if let Some(finished) = finished {
            let good = finished.standing.is_good();
            state.surprises += usize::from(!good);
            match &self.bar {
                // Above the live view, so that what somebody has to look at is not scrolled away by what nobody has to.
                Some(bar) if !good => bar.println(line(finished, self.strict)),
                Some(_) => {}
                None if self.lines => print(&format!("{}\n", line(finished, self.strict))),
                None => {}
            }
        }
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
        self.draw(&state);
    }

    fn draw(&self, state: &State) {
        let Some(bar) = &self.bar else { return };
        let left = match state.done {
            0 => "time left not known yet".to_owned(),
            done => {
                let each = state.begun.elapsed().as_secs_f64() / done as f64;
                let left = each * state.cost.saturating_sub(done) as f64;
                format!("{} left", HumanDuration(Duration::from_secs_f64(left)))
            }
        };
        let surprises = match state.surprises {
            0 => "no surprise".to_owned(),
            1 => "1 surprise".to_owned(),
            count => format!("{count} surprises"),
        };
        bar.set_prefix(format!("{surprises}, {left}"));
        let running = state.running.iter().map(|(cell, since)| {
            let seconds = since.elapsed().as_secs();
            format!("{cell} ({seconds} s)")
        });
        bar.set_message(running.collect::<Vec<_>>().join("; "));
    }

    /// Takes the live view away.
    pub(super) fn end(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
