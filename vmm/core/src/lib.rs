//! All that decides in Holdpoint: no unsafe, no I/O, no clock; it builds and tests on any machine.
#![forbid(unsafe_code)]

pub mod arm;
pub mod choose;
pub mod console;
pub mod document;
pub mod era;
pub mod evidence;
pub mod host;
pub mod inspect;
pub mod matrix;
pub mod model;
pub mod oracle;
pub mod pl011;
pub mod report;
pub mod scenario;
pub mod story;
