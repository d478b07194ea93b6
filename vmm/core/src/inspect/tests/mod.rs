//! The parsers on memory that these tests make themselves, whole and damaged.

mod image;
mod space;
mod tables;
mod vmcoreinfo;
mod walk;
