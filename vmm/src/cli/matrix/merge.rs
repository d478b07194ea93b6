//! `vmm report`.

use std::fs;
use std::path::{Path, PathBuf};

use vmm_core::report::{FORMAT, Report, html};

use super::journal::{self, Journal};
use super::page::Page;
use super::{Exit, Format, REPORT, exit, json, story, tell_all};

/// Work on the reports of matrices
#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    Merge(Merge),
}

/// Of the folders of all parts of a matrix (vmm matrix --shard I/N --out DIR) make what one machine would have given
#[derive(clap::Args)]
#[command(after_help = Exit::TABLE)]
struct Merge {
    /// The folders, in any order
    #[arg(value_name = "DIR", required = true)]
    parts: Vec<PathBuf>,
    /// Keep all evidence and the report in this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write the report as a page of HTML, on which each cell opens to its story
    #[arg(long, value_name = "FILE", requires = "out")]
    report: Option<PathBuf>,
    /// Print the result for a machine
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
}

pub(in crate::cli) fn main(args: &Args) -> Exit {
    let Verb::Merge(merge) = &args.verb;
    self::merge(merge).unwrap_or_else(|error| {
        eprintln!("vmm: {error}");
        Exit::HostOrUsage
    })
}

fn merge(args: &Merge) -> Result<Exit, String> {
    let parts = args
        .parts
        .iter()
        .map(|part| Ok((part.display().to_string(), read(part)?)));
    let parts = parts.collect::<Result<_, String>>()?;
    let report = Report::merge(parts).map_err(|error| error.to_string())?;
    let page = args.report.as_deref().map(Page::open).transpose()?;
    if let Some(out) = &args.out {
        Journal::merge(&args.parts, out)?.keep(REPORT, &json(&report))?;
        if let Some(page) = page {
            page.write(&html(&report, &|cell, run| story(out, cell, run)))?;
        }
    }
    tell_all(args.format, &report)?;
    Ok(exit(&report))
}

/// The report of a folder.
fn read(folder: &Path) -> Result<Report, String> {
    let path = folder.join(REPORT);
    let text = fs::read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound if folder.join(journal::NAME).exists() => format!(
            "{} has no {REPORT}: its matrix was broken off; the same command with --resume goes on with it",
            folder.display()
        ),
        _ => format!("cannot read {}: {error}", path.display()),
    })?;
    let damaged = |error: serde_json::Error| format!("{}: it is damaged: {error}", path.display());
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
    if value["format"] != FORMAT {
        return Err(format!(
            "{} has format {}; this program reads format {FORMAT}",
            path.display(),
            value["format"]
        ));
    }
    serde_json::from_value(value).map_err(damaged)
}
