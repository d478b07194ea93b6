//! How long it takes to bring every vCPU out of the guest.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bare::{self, SPIN};
use crate::conductor::{self, Conductor};
use crate::kvm::KvmVcpu;
use crate::machine::{Bus, Uart, map};

/// Why it could not be measured.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum Error {
    #[error(transparent)]
    Bare(#[from] bare::Error),
    #[error(transparent)]
    Kvm(#[from] crate::kvm::Error),
    #[error(transparent)]
    Conductor(#[from] conductor::Error),
    #[error("cannot tell how long the vCPUs' threads have run: {0}")]
    Threads(io::Error),
    #[error("the thread of vCPU {0} is gone")]
    Gone(usize),
}

/// A vCPU whose thread has had the processor that long is in the guest: what lies before takes a small part of it.
const IN_THE_GUEST: Duration = Duration::from_millis(2);

/// From the kick to quiescence, so many times, with every vCPU spinning in the guest before.
pub(super) fn latencies(vcpus: usize, times: usize) -> Result<Vec<Duration>, Error> {
    let uart = Arc::new(Uart::new(Box::new(|_| {})));
    let bus = Arc::new(Bus::new(uart, Arc::default()));
    let conductor = Conductor::start(bare::create(SPIN, vcpus)?, &bus)?;
    conductor.run();
    // Every thread has answered by then, so each bears its name.
    let mut spinning = all_spin(&conductor)?;
    let threads = (0..vcpus)
        .map(Thread::find)
        .collect::<Result<Vec<_>, _>>()?;
    while !spinning {
        wait_until_in_the_guest(&threads[..1])?;
        spinning = all_spin(&conductor)?;
    }
    let mut latencies = Vec::new();
    for _ in 0..times {
        wait_until_in_the_guest(&threads)?;
        let start = Instant::now();
        let quiesced = conductor.quiesce();
        latencies.push(start.elapsed());
        drop(quiesced);
    }
    conductor.finish();
    Ok(latencies)
}

/// Whether each stands on the last instruction.
fn all_spin(conductor: &Conductor<KvmVcpu>) -> Result<bool, Error> {
    let last = map::FLAT + 4 * (SPIN.len() as u64 - 1);
    let mut all = true;
    for (index, standing) in conductor.quiesce().standings().into_iter().enumerate() {
        let standing = standing.ok_or(Error::Gone(index))??;
        all &= !standing.off && standing.pc == last;
    }
    Ok(all)
}

/// A vCPU's thread, as the scheduler sees it.
struct Thread {
    folder: std::path::PathBuf,
}

impl Thread {
    fn find(index: usize) -> Result<Self, Error> {
        let name = format!("vcpu{index}\n");
        for entry in fs::read_dir("/proc/self/task").map_err(Error::Threads)? {
            let folder = entry.map_err(Error::Threads)?.path();
            if fs::read_to_string(folder.join("comm")).map_err(Error::Threads)? == name {
                return Ok(Self { folder });
            }
        }
        Err(Error::Gone(index))
    }

    /// The time that it has had a processor: the first field of schedstat, in nanoseconds (Documentation/scheduler/sched-stats.rst).
    fn has_run(&self) -> Result<Duration, Error> {
        let text = fs::read_to_string(self.folder.join("schedstat")).map_err(Error::Threads)?;
        let first = text.split(' ').next().and_then(|field| field.parse().ok());
        let nanoseconds = first.ok_or_else(|| Error::Threads(io::ErrorKind::InvalidData.into()))?;
        Ok(Duration::from_nanos(nanoseconds))
    }
}

fn wait_until_in_the_guest(threads: &[Thread]) -> Result<(), Error> {
    let before = threads
        .iter()
        .map(Thread::has_run)
        .collect::<Result<Vec<_>, _>>()?;
    for (thread, before) in threads.iter().zip(before) {
        while thread.has_run()? < before + IN_THE_GUEST {
            std::thread::yield_now();
        }
    }
    Ok(())
}
