//! `vmm man`: a manual page a verb, from the same text as `--help`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::{Cli, Exit, complain};

/// Write the manual pages (for `make man`)
#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder that they go to
    folder: PathBuf,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
struct Error {
    path: PathBuf,
    source: io::Error,
}

pub(super) fn main(args: &Args) -> Exit {
    write(&args.folder).map_or_else(|error| complain(&error), |()| Exit::Expected)
}

fn write(folder: &Path) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    for (name, text) in pages() {
        let path = folder.join(name);
        fs::write(&path, text).map_err(failed(&path))?;
    }
    Ok(())
}

/// The pages by their file names, of every verb that people are told of.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut top = Cli::command().disable_help_subcommand(true);
    top.build();
    let mut commands = vec![top];
    let mut pages = Vec::new();
    while let Some(command) = commands.pop() {
        let told_of = |verb: &&Command| !verb.is_hide_set();
        commands.extend(command.get_subcommands().filter(told_of).cloned());
        let page = page(command).expect("memory takes what is written to it");
        pages.push(page);
    }
    pages
}

fn page(command: Command) -> io::Result<(String, Vec<u8>)> {
    let after = command.get_after_help().map(ToString::to_string);
    let verbs = command.has_subcommands();
    let version = command.get_version().unwrap_or_default();
    let source = format!("Holdpoint {version}");
    let man = Man::new(command)
        .source(source)
        .manual("Holdpoint's manual");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if verbs {
        man.render_subcommands_section(&mut text)?;
    }
    if let Some(after) = after {
        text.write_all(table(&after).as_bytes())?;
    }
    Ok((man.get_filename(), text))
}

/// A text under its own heading, with its lines as they are: clap_mangen would name it EXTRA, and fill a table's lines to a paragraph.
fn table(text: &str) -> String {
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default().trim_end_matches(':');
    let mut roff = Roff::new();
    roff.control("SH", [heading.to_uppercase().as_str()]);
    roff.control("nf", []);
    for line in lines {
        roff.text([roman(line.trim_start())]);
    }
    roff.control("fi", []);
    // Without the preamble that the page's title has brought already.
    roff.to_roff()
}

#[cfg(test)]
mod tests {
    use super::{pages, table};

    #[test]
    fn every_verb_has_a_page_that_names_it_and_no_page_is_of_a_hidden_one() {
        let pages = pages();
        let page = |name: &str| {
            let (_, text) = pages.iter().find(|(page, _)| page == name)?;
            Some(String::from_utf8(text.clone()).unwrap())
        };
        assert!(page("vmm.1").unwrap().contains("vmm\\-boot(1)"));
        let boot = page("vmm-boot.1").unwrap();
        assert!(
            boot.contains("\\-\\-kernel") && boot.contains("EXIT CODES"),
            "{boot}"
        );
        assert!(page("vmm-lab-shell.1").is_some());
        assert!(page("vmm-man.1").is_none() && page("vmm-lab-agent.1").is_none());
    }

    #[test]
    fn a_table_keeps_its_lines() {
        let text = table("Exit codes:\n  0    fine\n  2    .not");
        assert!(
            text.contains(".SH \"EXIT CODES\"\n.nf\n0    fine\n2    .not\n.fi"),
            "{text}"
        );
    }
}
