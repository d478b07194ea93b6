//! What a VMM keeps in memory beside its guest.

/// Bytes that are resident beyond the mapping that holds the guest's RAM, the largest one, from the text of /proc/PID/smaps. `None` if
/// there is no mapping that large.
pub(super) fn beyond_guest(smaps: &str, guest: u64) -> Option<u64> {
    let mut mappings: Vec<(u64, u64)> = Vec::new();
    for line in smaps.lines() {
        if let Some(size) = range(line) {
            mappings.push((size, 0));
        } else if let Some(rest) = line.strip_prefix("Rss:") {
            let kib: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
            mappings.last_mut()?.1 = kib << 10;
        }
    }
    let (size, ram) = mappings.iter().max()?;
    let all: u64 = mappings.iter().map(|(_, resident)| resident).sum();
    (*size >= guest).then(|| all - ram)
}

/// The size of a mapping whose first line this is: `START-END PERMISSIONS …` (proc(5)).
fn range(line: &str) -> Option<u64> {
    let (range, _) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some(address(end)? - address(start)?)
}

#[cfg(test)]
mod tests {
    use super::beyond_guest;

    #[test]
    fn the_guests_mapping_does_not_count() {
        let smaps = "\
00400000-00500000 r-xp 00000000 00:02 7    /bin/vmm
Size:               1024 kB
Rss:                 300 kB
Anonymous:             0 kB
ffff60000000-ffff80000000 rw-p 00000000 00:00 0
Size:             524288 kB
Rss:              123456 kB
ffff80000000-ffff80001000 rw-s 00000000 00:0b 3    anon_inode:kvm-vcpu:0
Rss:                   4 kB
";
        assert_eq!(beyond_guest(smaps, 512 << 20), Some(304 << 10));
        assert_eq!(beyond_guest(smaps, 513 << 20), None, "none is that large");
    }
}
