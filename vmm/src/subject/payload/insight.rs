//! What the payload's memory says of its stop, for a debugger.

use std::fmt::Write as _;

use guest_abi::mailbox;
use guest_abi::note::NOTE_BYTES;
use vmm_core::arm::CpuSet;
use vmm_core::evidence::Note;

use super::Image;
use super::watch::Memory as _;
use crate::gdb;
use crate::machine::Ram;

/// A payload's memory.
pub struct Insight {
    image: Image,
    ram: Ram,
    cpus: u16,
}

impl Insight {
    /// That of this image, in a guest of so many CPUs.
    pub fn new(image: Image, ram: Ram, cpus: u16) -> Self {
        Self { image, ram, cpus }
    }

    fn word(&self, at: u64) -> u32 {
        self.ram.0.word(at)
    }
}

/// A word that names a CPU, or none.
fn who(word: u32) -> String {
    match usize::try_from(word) {
        Ok(cpu) if cpu < mailbox::MAX_CPUS => format!("CPU {cpu}"),
        _ => "nobody".to_owned(),
    }
}

impl gdb::Insight for Insight {
    fn lock(&self) -> Result<String, String> {
        let statics = &self.image.statics;
        let is_unsafe = match self.word(statics.nbcon + 4) {
            0 => "",
            _ => ", in an unsafe section",
        };
        Ok(format!(
            "port lock: {}\nnbcon owner: {}{is_unsafe}\n",
            who(self.word(statics.port_lock)),
            who(self.word(statics.nbcon)),
        ))
    }

    fn stop_mask(&self) -> Result<String, String> {
        let statics = &self.image.statics;
        let mask = |at| gdb::cpus(&CpuSet::from_bits(self.ram.0.long(at)));
        Ok(format!(
            "online: {}, counted: {}\nstop mask: {}\nacks to come: {}\n",
            mask(statics.online_mask),
            self.word(statics.online_count).cast_signed(),
            mask(statics.stop_mask),
            self.word(statics.counter).cast_signed(),
        ))
    }

    fn notes(&self) -> Result<String, String> {
        let mut text = String::new();
        for cpu in 0..self.cpus {
            let mut bytes = [0; NOTE_BYTES];
            let at = self.image.statics.notes + u64::from(cpu) * mailbox::NOTE_STRIDE;
            super::watch::Memory::read(&*self.ram.0, at, &mut bytes);
            let note = Note(bytes);
            let at = self.image.places.describe(note.regs().pc);
            // Writing into a string does not fail.
            let _ = writeln!(text, "CPU {cpu}: {}", gdb::note(&note, &at));
        }
        Ok(text)
    }

    fn base(&self) -> Option<Result<gdb::Base, String>> {
        None
    }

    fn ring(&self) -> Result<String, String> {
        let log = self.image.statics.log;
        let mut text = String::new();
        for record in 0..u64::from(self.word(log)).min(mailbox::LOG_RECORDS as u64) {
            let at = log + 8 + record * mailbox::LOG_RECORD_BYTES;
            let most = mailbox::LOG_RECORD_BYTES - 8;
            let mut bytes = vec![0; u64::from(self.word(at + 4)).min(most) as usize];
            super::watch::Memory::read(&*self.ram.0, at + 8, &mut bytes);
            let words = String::from_utf8_lossy(&bytes);
            let _ = writeln!(text, "<{}> {}", self.word(at), words.trim_end());
        }
        Ok(text)
    }
}
