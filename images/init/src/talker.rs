//! Processes that keep the console busy.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::cpus::{Cpus, pin};
use crate::knobs::{open, put};
use crate::process::{begun, say_begun};
use crate::{Error, process};

/// The first argument of a process that is a talker; its CPU is the second.
pub(crate) const ROLE: &str = "talk";

const LOG: &str = "/dev/kmsg";
const RATE: &str = "/proc/sys/kernel/printk_devkmsg";

/// Starts a talker on each of these CPUs; on return each has written its first record.
pub(crate) fn start(cpus: &Cpus) -> Result<(), Error> {
    if !cpus.0.is_empty() && std::fs::read_to_string(RATE).is_ok_and(|rate| rate.trim() != "on") {
        // Otherwise the kernel lets a writer have ten lines in five seconds (Linux kernel/printk/printk.c, devkmsg_write()). Where its
        // command line has printk.devkmsg= it takes nothing else. It wants the end of the line.
        put(RATE, "on\n", "the kernel has no CONFIG_PRINTK")?;
    }
    for &cpu in &cpus.0 {
        let mut child = process::spawn(
            Command::new("/proc/self/exe")
                .args([ROLE, &cpu.to_string()])
                .stdout(Stdio::piped()),
        )?;
        begun(&mut child, || format!("the talker on CPU {cpu}"))?;
    }
    Ok(())
}

/// A record: the level is one that `quiet` lets through, the length one that takes the console its time.
fn record(cpu: u32, number: u64) -> String {
    format!("<2>CPU {cpu} talks, record {number}: {:.<300}|\n", "")
}

/// Talks on a CPU; comes back only with what went wrong.
pub(crate) fn talk(cpu: u32) -> Error {
    let say = |log: &mut File, number| {
        log.write_all(record(cpu, number).as_bytes())
            .map_err(|source| Error::Write {
                path: LOG,
                text: "a record",
                source,
            })
    };
    let first = || {
        pin(cpu)?;
        let mut log = open(LOG, "the kernel has no CONFIG_PRINTK")?;
        say(&mut log, 0)?;
        Ok(log)
    };
    let mut log = match first() {
        Ok(log) => log,
        Err(error) => return error,
    };
    say_begun();
    (1..)
        .find_map(|number| say(&mut log, number).err())
        .expect("the numbers do not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_that_says_who_and_which() {
        let record = record(3, 17);
        assert!(
            record.starts_with("<2>CPU 3 talks, record 17: ..."),
            "{record}"
        );
        assert!(record.ends_with("...|\n"), "{record}");
        assert_eq!(record.lines().count(), 1);
        // What is longer than the kernel takes at once would be refused (PRINTKRB_RECORD_MAX, 1024).
        assert!((300..1024).contains(&record.len()));
    }
}
