//! Nothing may hang `make test`: a test that waits for threads, processes and files ends in time or says where it hangs.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;
use std::{fs, process, thread};

/// Longer than any test takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(180);

/// Held by a test for as long as it runs.
#[derive(Debug)]
pub(crate) struct Deadline {
    /// Nothing is ever sent: the watch ends when this is dropped.
    _watched: Sender<()>,
}

impl Deadline {
    /// Of the test that calls this. It ends with the whole program, for a thread that hangs can't be ended alone.
    pub(crate) fn set() -> Self {
        let test = thread::current().name().unwrap_or("a test").to_owned();
        let (watched, watch) = mpsc::channel();
        thread::spawn(move || {
            if watch.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                // Not `eprintln!`, which the test harness would keep for a test that ends.
                let _ = write!(
                    io::stderr(),
                    "{test} did not end within {} s. Its threads, and where the kernel has them wait:\n{}",
                    PATIENCE.as_secs(),
                    threads()
                );
                process::abort();
            }
        });
        Self { _watched: watched }
    }
}

fn threads() -> String {
    let mut said = String::new();
    for thread in fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let read = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let _ = writeln!(said, "  {}: {}", read("comm").trim(), read("wchan").trim());
    }
    said
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_threads_are_named_as_their_tests_are() {
        let threads = super::threads();
        // The kernel keeps fifteen bytes of a name.
        let name: String = std::thread::current()
            .name()
            .unwrap()
            .chars()
            .take(15)
            .collect();
        assert!(threads.contains(&name), "{threads}");
    }
}
