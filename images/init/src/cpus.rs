//! CPUs by their numbers, as the kernel writes lists of them, and the way to one of them.

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Error;

/// A list of CPUs, in the order in which it was written.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Cpus(pub(crate) Vec<u32>);

impl Cpus {
    /// Reads `1`, `0,2` or `1-3`.
    pub(crate) fn parse(list: &str) -> Option<Self> {
        let mut cpus = Vec::new();
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            cpus.extend(first..=last);
        }
        Some(Self(cpus))
    }
}

/// The number of a CPU that the system call has a bit for.
pub(crate) fn number(text: &str) -> Option<u32> {
    // str::parse takes a sign.
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
        .filter(|&cpu| (cpu as usize) < CpuSet::MAX_CPU)
}

/// Takes this process to a CPU, and keeps it there.
pub(crate) fn pin(cpu: u32) -> Result<(), Error> {
    let mut set = CpuSet::new();
    set.set(cpu as usize);
    sched_setaffinity(None, &set).map_err(|source| Error::Pin { cpu, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(Cpus::parse("1"), Some(Cpus(vec![1])));
        assert_eq!(Cpus::parse("0,2-4,9"), Some(Cpus(vec![0, 2, 3, 4, 9])));
        assert_eq!(Cpus::parse("1023"), Some(Cpus(vec![1023])));
    }

    #[test]
    fn what_is_no_list_is_none() {
        for text in [
            "", "x", "1,", "-1", "+1", "1-", "3-1", "1024", "0-1024", "1 2",
        ] {
            assert_eq!(Cpus::parse(text), None, "{text:?}");
        }
    }
}
