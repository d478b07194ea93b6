//! The files in examples are what the programs that read them take.

use std::process::Command;

use e2e::{checkers, root};

/// Whether a checker of this name takes a text, which stands in a file.
fn takes(checker: &[&str], text: &str, name: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    let output = Command::new("/usr/bin/python3")
        .env("PYTHONPATH", checkers())
        .arg("-m")
        .args(checker)
        .arg(&file)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8(said).unwrap()),
    }
}

fn example(name: &str) -> String {
    std::fs::read_to_string(root().join("examples").join(name)).unwrap()
}

/// It takes the file, and not one with this mistake in it.
#[track_caller]
fn checked(checker: &[&str], name: &str, right: &str, wrong: &str) {
    let text = example(name);
    takes(checker, &text, name).unwrap_or_else(|said| panic!("{name}:\n{said}"));
    assert_eq!(text.matches(right).count(), 1, "{right}");
    let mistaken = text.replace(right, wrong);
    takes(checker, &mistaken, name).expect_err("the checker is to find it");
}

#[test]
fn a_job_of_kubernetes() {
    let checker = ["kubernetes_validate", "--strict"];
    checked(
        &checker,
        "kubernetes.yaml",
        "  completions: 4",
        "  completions: four",
    );
    checked(
        &checker,
        "kubernetes.yaml",
        "backoffLimitPerIndex",
        "backoffLimitPerPart",
    );
}

#[test]
fn a_workflow_of_github_s() {
    let checker = [
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
    ];
    checked(
        &checker,
        "github-actions.yml",
        "    needs: part\n",
        "    need: part\n",
    );
}

#[test]
fn an_array_of_slurm_s() {
    let output = Command::new("sh")
        .args(["-n", "examples/slurm.sh"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success());
    // Slurm reads no directive behind the first command.
    let text = example("slurm.sh");
    let behind = text.lines().skip_while(|line| line.starts_with('#'));
    assert!(text.contains("\n#SBATCH --array="));
    assert_eq!(behind.filter(|line| line.starts_with("#SBATCH")).count(), 0);
}
