//! How much memory a lab needs, and whether the host has it.

use std::fs;

use super::Error;

const MIB: u64 = 1 << 20;

/// What a verb needs in the lab beside its guest's memory and its input files: its own, and room for its output files.
const OF_VERB: u64 = 128 * MIB;

/// What the lab's kernel, agent and root file system take.
const OF_LAB: u64 = 256 * MIB;

/// What a verb needs in all, from what its guest has and what its input files hold.
pub(super) fn of_verb(guest: u64, inputs: u64) -> u64 {
    guest.saturating_add(inputs).saturating_add(OF_VERB)
}

/// How large a machine must be for its verbs to have this much. Linux keeps 64 bytes for each page of 4096 (`struct page`).
pub(super) fn of_machine(verbs: u64) -> u64 {
    verbs.saturating_add(verbs / 64).saturating_add(OF_LAB)
}

/// Refuses a machine that the host has no memory for.
pub(super) fn check(machine: u64) -> Result<(), Error> {
    // Where /proc says nothing, QEMU's own failure will have to do.
    let Some(free) = fs::read_to_string("/proc/meminfo")
        .ok()
        .as_deref()
        .and_then(available)
    else {
        return Ok(());
    };
    if machine > free {
        return Err(Error::Memory {
            needed: machine.div_ceil(MIB),
            free: free / MIB,
        });
    }
    Ok(())
}

/// MemAvailable, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_of_the_kernel_is_read() {
        assert_eq!(
            available("MemTotal: 9 kB\nMemAvailable:   20480 kB\n"),
            Some(20 * MIB)
        );
        assert_eq!(available("MemTotal: 9 kB\n"), None);
    }

    #[test]
    fn more_than_the_host_has_is_refused_with_both_figures() {
        let error = check(u64::MAX).unwrap_err();
        assert!(matches!(error, Error::Memory { needed, free } if needed > free));
    }
}
