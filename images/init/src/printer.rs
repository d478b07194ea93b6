//! The threads by which the kernel writes to its nbcon consoles, `pr/ttyAMA0` and the like (Linux kernel/printk/nbcon.c), where it has
//! such: since Linux 6.15 the PL011's driver has.

use std::fs;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity, sched_yield};

use crate::Error;
use crate::cpus::Cpus;

/// How the kernel begins their names.
const NAME: &str = "pr/";

/// All of them.
pub(crate) struct Printers(Vec<Pid>);

impl Printers {
    /// Looks for them.
    pub(crate) fn find() -> Result<Self, Error> {
        let processes = fs::read_dir("/proc").map_err(Error::Processes)?;
        let pids = processes.filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            Pid::from_raw(pid).filter(|_| name.starts_with(NAME))
        });
        Ok(Self(pids.collect()))
    }

    /// Takes them to these CPUs: what a talker says comes over the wire by its own CPU then, as it does where whoever stores a record
    /// writes it.
    pub(crate) fn pin(&self, cpus: &Cpus) -> Result<(), Error> {
        let mut set = CpuSet::new();
        for &cpu in &cpus.0 {
            set.set(cpu as usize);
        }
        for &pid in &self.0 {
            sched_setaffinity(Some(pid), &set).map_err(|source| Error::PinPrinter {
                cpus: cpus.0.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// How often each of them has gone to sleep.
    pub(crate) fn rests(&self) -> Rests {
        Rests(self.0.iter().map(|pid| rests(*pid)).collect())
    }

    /// Comes back once each of them has gone to sleep since: it does so when nothing is left to be written. That it sleeps says nothing, for
    /// it is woken at the next tick of the CPU that stored the record (`nbcon_irq_work`, which is lazy).
    pub(crate) fn wait(&self, since: &Rests) {
        let works = |(now, then): (&Option<u64>, _)| now.is_some() && now == then;
        while self.rests().0.iter().zip(&since.0).any(works) {
            sched_yield();
        }
    }
}

/// How often each of several threads has gone to sleep; none of one that is gone.
pub(crate) struct Rests(Vec<Option<u64>>);

fn rests(pid: Pid) -> Option<u64> {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    switches(&fs::read_to_string(path).ok()?)
}

/// How often a thread has given its CPU up of its own accord, in its /proc/PID/status.
fn switches(status: &str) -> Option<u64> {
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_goes_to_sleep_of_its_own_accord() {
        let status = "Name:\tpr/ttyAMA0\nState:\tS (sleeping)\nvoluntary_ctxt_switches:\t17\nnonvoluntary_ctxt_switches:\t4\n";
        assert_eq!(switches(status), Some(17));
        assert_eq!(switches("nonvoluntary_ctxt_switches:\t4\n"), None);
    }
}
