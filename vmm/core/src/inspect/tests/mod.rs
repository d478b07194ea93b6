//! The parsers on memory that these tests make themselves, whole and damaged.

mod image;
mod vmcoreinfo;
