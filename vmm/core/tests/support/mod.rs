//! What the tests of the model share: the scenarios of the tree, and tables that are kept in files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use vmm_core::oracle::Rule;
use vmm_core::scenario::{Family, Scenario};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The scenario of tests/scenarios with this name.
#[allow(dead_code)] // Not every test asks for one by name.
pub(crate) fn scenario(name: &str) -> Scenario {
    family(name).own
}

/// The same with its variants.
#[allow(dead_code)] // Not every test asks for them.
pub(crate) fn family(name: &str) -> Family {
    let path = root().join("tests/scenarios").join(format!("{name}.toml"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Family::parse(&path.display().to_string(), &text).unwrap_or_else(|error| panic!("{error}"))
}

/// A file of the tree.
#[allow(dead_code)] // Not every test reads one.
pub(crate) fn text_of(file: &str) -> String {
    let path = root().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of all scenarios of tests/scenarios, by their files.
#[allow(dead_code)] // Not every test asks for all.
pub(crate) fn scenario_names() -> Vec<String> {
    let folder =
        std::fs::read_dir(root().join("tests/scenarios")).expect("the scenarios are in the tree");
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.expect("the folder can be read").file_name();
        name.to_string_lossy().into_owned()
    };
    let mut files: Vec<String> = folder.map(file).collect();
    files.sort();
    let names = files.iter().map(|file| file.trim_end_matches(".toml"));
    names.map(str::to_owned).collect()
}

/// All scenarios of tests/scenarios that the model can run.
#[allow(dead_code)] // Not every test asks for all.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let all = scenario_names().into_iter().map(|name| scenario(&name));
    all.filter(|scenario| scenario.cpus <= vmm_core::model::MAX_CPUS)
        .collect()
}

/// Compares a table with the file that keeps it; with HOLDPOINT_UPDATE=1 writes it instead.
#[allow(dead_code)] // Not every test keeps one.
pub(crate) fn kept(file: &str, now: &str) {
    let path = root().join(file);
    if std::env::var_os("HOLDPOINT_UPDATE").is_some() {
        std::fs::write(&path, now).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        return;
    }
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    if before != now {
        let differs = before.lines().zip(now.lines()).find(|(a, b)| a != b);
        let (was, is) = differs.unwrap_or(("its length", "another length"));
        panic!(
            "{file} is stale: it says\n  {was}\nand now it is\n  {is}\nIf that is meant, run the test with HOLDPOINT_UPDATE=1 and read the difference."
        );
    }
}

/// The names of rules.
#[allow(dead_code)] // For messages.
pub(crate) fn names(rules: &BTreeSet<Rule>) -> String {
    rules
        .iter()
        .map(|rule| rule.name())
        .collect::<Vec<_>>()
        .join(" ")
}
