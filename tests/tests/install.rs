//! What `make install` puts somewhere, and what people do with it there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use e2e::{Vmm, payload, root};

/// `make GOAL` with everything below `destination`. A test under `make test` is not part of that make.
fn make(goal: &str, destination: &Path) {
    let output = Command::new("make")
        .args(["-C", root().to_str().unwrap(), goal, "PREFIX=/usr"])
        .arg(format!("DESTDIR={}", destination.display()))
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .output()
        .expect("make is there");
    assert!(output.status.success(), "{}", story(&output));
}

fn story(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{}\n--- stderr\n{}",
        text(&output.stdout),
        text(&output.stderr)
    )
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// One test of all, for each installs and none takes long.
#[test]
fn what_is_installed_works_and_goes_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    make("install", folder.path());
    let usr = folder.path().join("usr");

    let vmm = usr.join("bin/vmm");
    Vmm::at(&vmm, ["--version"])
        .run()
        .exits(0)
        .says(env!("CARGO_PKG_VERSION"));
    // The lab's image of the tree lies elsewhere as seen from here: where one is needed it is the installed one.
    Vmm::at(&vmm, ["boot", "--kernel", payload().to_str().unwrap()])
        .run()
        .exits(0)
        .says("payload: 1 CPUs, all checks passed");
    Vmm::at(&vmm, ["run", "idle-crash", "-q"])
        .run()
        .exits(0)
        .says("idle-crash               v1-proposal   as expected: ack-after-save broken");

    let pages: Vec<_> = files(&usr.join("share/man/man1"));
    assert!(
        pages.contains(&usr.join("share/man/man1/vmm-boot.1")),
        "{pages:?}"
    );
    for page in &pages {
        // -ww: every warning; -z: nothing else.
        let groff = Command::new("groff")
            .args(["-man", "-ww", "-z"])
            .arg(page)
            .output();
        let groff = groff.expect("groff is there; tools/packages names it");
        assert!(
            groff.status.success() && groff.stderr.is_empty(),
            "{}: {}",
            page.display(),
            story(&groff)
        );
    }

    let bash = usr.join("share/bash-completion/completions/vmm");
    let parsed = Command::new("bash")
        .arg("-n")
        .arg(&bash)
        .output()
        .expect("bash is there");
    assert!(
        parsed.status.success() && parsed.stderr.is_empty(),
        "{}",
        story(&parsed)
    );
    // What bash offers after `vmm bo` and Tab.
    let offer = "source \"$1\"; COMP_WORDS=(vmm bo); COMP_CWORD=1; _vmm vmm bo vmm; echo \"${COMPREPLY[@]}\"";
    let offered = Command::new("bash")
        .args(["-c", offer, "bash"])
        .arg(&bash)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&offered.stdout),
        "boot\n",
        "{}",
        story(&offered)
    );
    for script in [
        "zsh/site-functions/_vmm",
        "fish/vendor_completions.d/vmm.fish",
    ] {
        let text = fs::read_to_string(usr.join("share").join(script)).unwrap();
        assert!(text.contains("on-reset"), "{script}:\n{text}");
    }

    fs::write(usr.join("lib/holdpoint/somebody's"), "").unwrap();
    make("uninstall", folder.path());
    assert_eq!(files(&usr), [usr.join("lib/holdpoint/somebody's")]);
}
