//! What the end-to-end tests share: the command under test, the guests, and one lab for all of them.

mod flat;
mod guests;
mod line;
mod processes;
mod readers;
mod terminal;
mod vmm;

pub use flat::{RESET, SAY_R, SPIN, flat, image};
pub use guests::{Guest, built, initrd, payload};
pub use line::Line;
pub use processes::Marked;
pub use readers::{checkers, read};
pub use terminal::OnTerminal;
pub use vmm::{Lab, Outcome, Running, Vmm, root};
