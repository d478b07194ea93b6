//! CPUs as the guest counts them, and sets of them as Linux prints them.

use std::fmt;
use std::str::FromStr;

/// A CPU's number in the guest (`smp_processor_id()`), not its MPIDR.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CpuId(pub u16);

impl CpuId {
    /// The number as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of CPUs. It prints and parses as the kernel's `%*pbl`: `0-2,5`; the empty set is the empty string.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct CpuSet {
    // Without trailing zero words, so that equal sets are equal values.
    words: Vec<u64>,
}

impl CpuSet {
    /// The largest number that a set can hold: `NR_CPUS` of arm64 is at most 4096.
    pub const MAX: u16 = 4095;

    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The set whose bit n is CPU n.
    pub fn from_bits(bits: u64) -> Self {
        let words = if bits == 0 { Vec::new() } else { vec![bits] };
        Self { words }
    }

    /// CPUs 0 to `count` - 1.
    pub fn first(count: u16) -> Self {
        (0..count).map(CpuId).collect()
    }

    /// Adds a CPU.
    pub fn insert(&mut self, cpu: CpuId) {
        assert!(
            cpu.0 <= Self::MAX,
            "CPU {cpu} is beyond the largest that a set holds"
        );
        let word = cpu.index() / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (cpu.index() % 64);
    }

    /// Takes a CPU out.
    pub fn remove(&mut self, cpu: CpuId) {
        if let Some(word) = self.words.get_mut(cpu.index() / 64) {
            *word &= !(1 << (cpu.index() % 64));
        }
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }

    /// Whether the CPU is in it.
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.words
            .get(cpu.index() / 64)
            .is_some_and(|word| word & (1 << (cpu.index() % 64)) != 0)
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The CPUs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        self.words.iter().enumerate().flat_map(|(word, bits)| {
            (0..64)
                .filter(move |bit| bits & (1 << bit) != 0)
                .map(move |bit| CpuId((word * 64 + bit) as u16))
        })
    }
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        let mut set = Self::new();
        for cpu in cpus {
            set.insert(cpu);
        }
        set
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut comma = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if(|next| next.0 == last.0 + 1) {
                last = next;
            }
            write!(f, "{comma}{first}")?;
            if last != first {
                write!(f, "-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

/// A list of CPUs that is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is no list of CPUs such as `0-2,5` (ascending, at most {max})", max = CpuSet::MAX)]
pub struct ParseCpuSetError(String);

impl FromStr for CpuSet {
    type Err = ParseCpuSetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseCpuSetError(text.to_owned());
        let number = |digits: &str| -> Result<u16, ParseCpuSetError> {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let value = digits.parse().ok().filter(|value| *value <= Self::MAX);
            value.filter(|_| plain).ok_or_else(wrong)
        };
        let mut set = Self::new();
        if text.is_empty() {
            return Ok(set);
        }
        for range in text.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(wrong());
            }
            for cpu in first..=last {
                set.insert(CpuId(cpu));
            }
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_as_the_kernel_does() {
        let set: CpuSet = [0, 1, 2, 5, 64, 65].into_iter().map(CpuId).collect();
        assert_eq!(set.to_string(), "0-2,5,64-65");
        assert_eq!(CpuSet::new().to_string(), "");
        assert_eq!(CpuSet::first(64).to_string(), "0-63");
    }

    #[test]
    fn refuses_what_the_kernel_never_prints() {
        for text in [",", "1-", "2-1", "4096", "+1", "1,,2", "a"] {
            assert!(text.parse::<CpuSet>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parse_undoes_print(cpus in proptest::collection::vec(0..=CpuSet::MAX, 0..40)) {
            let set: CpuSet = cpus.iter().copied().map(CpuId).collect();
            prop_assert_eq!(set.to_string().parse::<CpuSet>(), Ok(set));
        }

        #[test]
        fn removing_what_was_added_leaves_nothing(cpus in proptest::collection::vec(0..=CpuSet::MAX, 0..40)) {
            let mut set: CpuSet = cpus.iter().copied().map(CpuId).collect();
            for cpu in cpus {
                set.remove(CpuId(cpu));
                prop_assert!(!set.contains(CpuId(cpu)));
            }
            prop_assert_eq!(set, CpuSet::new());
        }
    }
}
