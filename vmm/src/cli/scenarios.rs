//! The scenarios that come with the command, and those of the user.

use std::path::Path;

use vmm_core::scenario::Family;

macro_rules! embedded {
    ($($name:literal,)+) => {
        /// The scenarios of tests/scenarios, by name.
        const EMBEDDED: &[(&str, &str)] = &[$((
            $name,
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/scenarios/", $name, ".toml")),
        ),)+];
    };
}

embedded! {
    "all-masked",
    "any-crash-3",
    "any-crash-4",
    "any-give-up-3",
    "any-kexec-3",
    "any-nbcon-3",
    "any-nbcon-reset-3",
    "any-nmi-crash-3",
    "any-nmi-plain-3",
    "any-online-3",
    "any-park-3",
    "any-plain-3",
    "any-plain-4",
    "any-restart-3",
    "any-restart-panic-3",
    "any-restart-panic-plain-3",
    "any-sdei-3",
    "any-sdei-plain-3",
    "any-two-panics-3",
    "any-two-talk-3",
    "any-unplug-3",
    "console-locked",
    "console-locked-forever",
    "console-nbcon",
    "console-nbcon-lost",
    "console-nbcon-lost-no-nmi",
    "console-nbcon-reset",
    "console-write-anyway",
    "daif-masked",
    "e1-nmi-after-ack",
    "e2-panic-in-restart",
    "e4-nmi-at-the-door",
    "e5-online-late",
    "e6-not-run",
    "idle-crash",
    "idle-kexec",
    "idle-plain",
    "kexec-locked-forever",
    "late-stores",
    "lockup-found",
    "no-pseudo-nmi",
    "not-run-in-section",
    "online-again",
    "restart-stalled",
    "retry-for-nobody",
    "save-held",
    "stop-64",
    "thawed-at-nmi-send",
    "thawed-in-capture",
    "three-panics",
    "v1-1-empty-note",
    "v1-2a-nested-nmi",
    "v1-2b-note-twice",
    "v1-3-two-senders",
    "v1-4-two-panics",
    "v1-5-unplug",
    "wedged",
    "wedged-anywhere",
}

/// The names of those that come with the command.
pub(super) fn known() -> impl Iterator<Item = &'static str> {
    EMBEDDED.iter().map(|(name, _)| *name)
}

/// The scenario of this name, or of the file where the name ends in `.toml`, with its variants.
pub(super) fn family(name: &str) -> Result<Family, String> {
    if name.ends_with(".toml") {
        let text = std::fs::read_to_string(Path::new(name))
            .map_err(|error| format!("cannot read {name}: {error}"))?;
        return Family::parse(name, &text).map_err(|error| error.to_string());
    }
    let Some((_, text)) = EMBEDDED.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = known().collect();
        return Err(format!(
            "there is no scenario `{name}`; a path that ends in .toml, or one of: {}",
            known.join(", ")
        ));
    };
    Family::parse(&format!("tests/scenarios/{name}.toml"), text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_scenarios_of_the_tree_are_embedded_under_their_names() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios");
        let entries = std::fs::read_dir(folder).expect("the scenarios are in the tree");
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("the folder can be read")
                    .file_name()
                    .into_string()
                    .expect("an ASCII name")
            })
            .map(|file| {
                file.strip_suffix(".toml")
                    .expect("nothing but scenarios")
                    .to_owned()
            })
            .collect();
        names.sort();
        let embedded: Vec<&str> = EMBEDDED.iter().map(|(name, _)| *name).collect();
        assert_eq!(embedded, names);
        for (name, _) in EMBEDDED {
            assert_eq!(family(name).expect("it parses").own.name, *name);
        }
    }
}
