//! What the lab's kernel logs while a verb runs: a process that crashes leaves the place and its registers there.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// The kernel's log from some time on.
pub(super) struct Journal(File);

impl Journal {
    /// From now on.
    pub(super) fn open() -> io::Result<Self> {
        let mut log = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open("/dev/kmsg")?;
        log.seek(SeekFrom::End(0))?;
        Ok(Self(log))
    }

    /// All that was logged until now, a line each.
    pub(super) fn read(mut self) -> String {
        // The kernel's CONSOLE_EXT_LOG_MAX: a shorter buffer could not take each record.
        let mut record = vec![0; 8192];
        let mut text = String::new();
        loop {
            match self.0.read(&mut record) {
                Ok(0) => return text,
                Ok(count) => text.push_str(&message(&String::from_utf8_lossy(&record[..count]))),
                // Records were overwritten before they were read; the next read has the oldest that is left.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                // Nothing more is there, or nothing can be read: either way this is all.
                Err(_) => return text,
            }
        }
    }
}

/// The message of a record, "level,number,time,flags;message" with a dictionary in indented lines after it
/// (Documentation/ABI/testing/dev-kmsg).
fn message(record: &str) -> String {
    let (_, text) = record.split_once(';').unwrap_or(("", record));
    let line = text.lines().next().unwrap_or_default();
    format!("{line}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_its_message() {
        assert_eq!(
            message("6,339,5140900,-;vmm[77]: unhandled exception: DABT\n SUBSYSTEM=acpi\n"),
            "vmm[77]: unhandled exception: DABT\n"
        );
        assert_eq!(message("torn"), "torn\n");
    }
}
