//! Processes that keep the console busy.

use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::cpus::{Cpus, pin};
use crate::knobs::{open, put};
use crate::printer::Printers;
use crate::process::{begun, call_itself, say_begun};
use crate::{Error, process};

/// The first argument of a process that is a talker; its CPU is the second.
pub(crate) const ROLE: &str = "talk";

const LOG: &str = "/dev/kmsg";
const CONSOLE: &str = "/sys/class/tty/console/active";
const RATE: &str = "/proc/sys/kernel/printk_devkmsg";

/// Starts a talker on each of these CPUs; on return each has written its first record.
pub(crate) fn start(cpus: &Cpus) -> Result<(), Error> {
    if !cpus.0.is_empty() && std::fs::read_to_string(RATE).is_ok_and(|rate| rate.trim() != "on") {
        // Otherwise the kernel lets a writer have ten lines in five seconds (Linux kernel/printk/printk.c, devkmsg_write()). Where its
        // command line has printk.devkmsg= it takes nothing else. It wants the end of the line.
        put(RATE, "on\n", "the kernel has no CONFIG_PRINTK")?;
    }
    if !cpus.0.is_empty() {
        Printers::find()?.pin(cpus)?;
        keep_awake()?;
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

/// Keeps the console's UART from being suspended, which comes half a second after the terminal's last byte, where the kernel has that
/// (drivers/tty/serial/serial_port.c, since Linux 6.5): its worker takes the port lock, on whichever CPU it is, and nobody is to be at the
/// console but those that are told to.
fn keep_awake() -> Result<(), Error> {
    let consoles = std::fs::read_to_string(CONSOLE).unwrap_or_default();
    for name in consoles.split_whitespace() {
        let control = format!("/sys/class/tty/{name}/device/power/control");
        if std::fs::exists(&control).unwrap_or(false) {
            std::fs::write(&control, "on").map_err(|source| Error::Awake { control, source })?;
        }
    }
    Ok(())
}

/// A record: the level is one that `quiet` lets through, the length one that takes the console its time.
fn record(cpu: u32, number: u64) -> String {
    format!("<2>CPU {cpu} talks, record {number}: {:.<300}|\n", "")
}

/// Writes a record, and comes back once the console has it.
///
/// Whoever writes while another CPU prints only leaves its record in the ring, in microseconds, and a panic would have to print a ring
/// full of them. The name of the console is read under the console's lock, and whoever lets go of that prints what is left (Linux
/// drivers/tty/tty_io.c, show_cons_active(); kernel/printk/printk.c, console_unlock()). An nbcon console is written by a thread of its own.
fn say(log: &mut File, printers: &Printers, cpu: u32, number: u64) -> Result<(), Error> {
    let before = printers.rests();
    log.write_all(record(cpu, number).as_bytes())
        .map_err(|source| Error::Write {
            path: LOG,
            text: "a record",
            source,
        })?;
    std::fs::read(CONSOLE).map_err(|source| Error::Open {
        path: CONSOLE,
        needs: "the kernel has no CONFIG_TTY",
        source,
    })?;
    printers.wait(&before);
    Ok(())
}

/// Talks on a CPU; comes back only with what went wrong.
pub(crate) fn talk(cpu: u32) -> Error {
    match begin_and_go_on(cpu) {
        Err(error) => error,
    }
}

fn begin_and_go_on(cpu: u32) -> Result<Infallible, Error> {
    call_itself(c"talker");
    pin(cpu)?;
    let mut log = open(LOG, "the kernel has no CONFIG_PRINTK")?;
    let printers = Printers::find()?;
    say(&mut log, &printers, cpu, 0)?;
    say_begun();
    let mut number = 0;
    loop {
        number += 1;
        say(&mut log, &printers, cpu, number)?;
    }
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
