//! The parsers on memory that these tests make themselves, whole and damaged.

mod corpus;
mod facts;
mod guest;
mod image;
mod kallsyms;
mod ksymtab;
mod printk;
mod space;
mod tables;
mod vmcoreinfo;
mod vmlinux;
mod walk;
