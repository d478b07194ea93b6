//! Gives `vmm` a build identity: a hash over its sources, the same for every target, by which the program on the host and
//! the one inside the lab's image recognise each other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn main() -> io::Result<()> {
    let workspace = Path::new("..");
    let mut hash = Sha256::new();
    for part in ["Cargo.lock", "guest/abi", "vmm"] {
        let path = workspace.join(part);
        println!("cargo::rerun-if-changed={}", path.display());
        add(&path, &mut hash)?;
    }
    let digest: String = hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    println!("cargo::rustc-env=VMM_BUILD={digest}");
    Ok(())
}

fn add(path: &Path, hash: &mut Sha256) -> io::Result<()> {
    if path.is_dir() {
        let mut entries = fs::read_dir(path)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<PathBuf>>>()?;
        entries.sort();
        return entries.iter().try_for_each(|entry| add(entry, hash));
    }
    let contents = fs::read(path)?;
    hash.update(path.as_os_str().as_encoded_bytes());
    hash.update([0]);
    hash.update((contents.len() as u64).to_le_bytes());
    hash.update(contents);
    Ok(())
}
