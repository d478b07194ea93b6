//! What a step changed in guest memory: acks, notes, records, locks, seen from outside at the instant they change.

use std::sync::Arc;

use guest_abi::mailbox::{self, Condition, Tell};
use guest_abi::note::NOTE_BYTES;
use guest_abi::protocol::Word;
use vmm_core::arm::{CpuId, CpuSet};
use vmm_core::evidence::{Hand, Note, What};
use vmm_core::scenario::Driver;

use super::image::Statics;
use crate::vcpu::{Access, Watched, Width};

/// Guest memory, as far as a payload's statics lie in it.
pub(super) trait Memory {
    /// Reads bytes at a guest physical address. The payload's image lies in RAM, so that this cannot fail.
    fn read(&self, at: u64, bytes: &mut [u8]);
    /// Writes them.
    fn write(&self, at: u64, bytes: &[u8]);

    /// A 32-bit word.
    fn word(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Eight bytes.
    fn long(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Whether a condition holds now; one on guest time is for whoever keeps that.
    fn holds(&self, condition: Condition) -> bool {
        match condition {
            Condition::Is(at, value) => self.word(at) == value,
            Condition::IsNot(at, value) => self.word(at) != value,
            Condition::AtMost(at, value) => self.word(at).cast_signed() <= value,
            Condition::Reaches(at, other) => self.word(at) >= self.word(other),
            Condition::Zero(at, bytes) => (0..bytes).step_by(8).all(|n| self.long(at + n) == 0),
            Condition::Counter(..) => false,
        }
    }
}

/// What was in memory after the last step.
pub(super) struct Watch {
    statics: Statics,
    nbcon: bool,
    online_mask: u64,
    online_count: i32,
    stop_mask: u64,
    counter: i32,
    records: u32,
    notes: Vec<Note>,
    in_section: CpuSet,
}

impl Watch {
    /// Looks for the first time.
    pub(super) fn new(memory: &dyn Memory, statics: Statics, cpus: u16, driver: Driver) -> Self {
        let mut watch = Self {
            statics,
            nbcon: driver == Driver::Nbcon,
            online_mask: 0,
            online_count: 0,
            stop_mask: 0,
            counter: 0,
            records: memory.word(statics.log),
            notes: (0..cpus).map(|cpu| note(memory, statics, cpu)).collect(),
            in_section: CpuSet::new(),
        };
        watch.take_words(memory);
        watch
    }

    /// A word in which acks are seen.
    pub(super) fn watched(&self, word: Word) -> Watched {
        watched(&self.statics, word)
    }

    fn take_words(&mut self, memory: &dyn Memory) {
        self.online_mask = memory.long(self.statics.online_mask);
        self.online_count = memory.word(self.statics.online_count).cast_signed();
        self.stop_mask = memory.long(self.statics.stop_mask);
        self.counter = memory.word(self.statics.counter).cast_signed();
    }

    /// What a step of this CPU changed, in the order in which a step does things. `hand` is what it is doing when it
    /// clears itself somewhere; `wire` is what it sent.
    pub(super) fn changes(
        &mut self,
        memory: &dyn Memory,
        cpu: CpuId,
        hand: Option<Hand>,
        wire: Vec<u8>,
    ) -> Vec<(CpuId, What)> {
        let mut whats = Vec::new();
        let note = note(memory, self.statics, cpu.0);
        if note != self.notes[cpu.index()] {
            self.notes[cpu.index()] = note.clone();
            whats.push((cpu, What::Notes(Arc::new(note))));
        }
        self.cleared(memory, cpu, hand, &mut whats);
        self.logged(memory, cpu, &mut whats);
        let inside = self.is_inside(memory, cpu);
        if inside && !self.in_section.contains(cpu) {
            self.in_section.insert(cpu);
            whats.push((cpu, What::Enters));
        }
        if !wire.is_empty() {
            whats.push((cpu, What::Wire(wire.into())));
        }
        if !inside && self.in_section.contains(cpu) {
            self.in_section.remove(cpu);
            whats.push((cpu, What::Leaves));
        }
        whats
    }

    fn cleared(
        &mut self,
        memory: &dyn Memory,
        cpu: CpuId,
        hand: Option<Hand>,
        whats: &mut Vec<(CpuId, What)>,
    ) {
        let (mask, stop_mask, count, counter) = (
            self.online_mask,
            self.stop_mask,
            self.online_count,
            self.counter,
        );
        self.take_words(memory);
        let gone = |before: u64, after: u64| CpuSet::from_bits(before & !after);
        // What a sender does with its own bit and with the words that it fills is nobody's ack.
        if let Some(by) = hand {
            let mut clears = |cpu, word| whats.push((cpu, What::Clears { word, by }));
            for gone in gone(stop_mask, self.stop_mask).iter() {
                clears(gone, Word::StopMask);
            }
            if self.counter < counter {
                clears(cpu, Word::Counter);
            }
            for gone in gone(mask, self.online_mask).iter() {
                clears(gone, Word::OnlineMask);
            }
            if self.online_count < count {
                clears(cpu, Word::OnlineCount);
            }
        }
        for came in gone(self.online_mask, mask).iter() {
            whats.push((came, What::ComesUp));
        }
    }

    fn logged(&mut self, memory: &dyn Memory, cpu: CpuId, whats: &mut Vec<(CpuId, What)>) {
        let records = memory.word(self.statics.log);
        for record in self.records..records.min(mailbox::LOG_RECORDS as u32) {
            let at = self.statics.log + 8 + u64::from(record) * mailbox::LOG_RECORD_BYTES;
            let most = mailbox::LOG_RECORD_BYTES - 8;
            let mut text = vec![0; u64::from(memory.word(at + 4)).min(most) as usize];
            memory.read(at + 8, &mut text);
            let what = What::Logs {
                level: memory.word(at) as u8,
                text: String::from_utf8_lossy(&text).into(),
                shown: true,
            };
            whats.push((cpu, what));
        }
        self.records = records;
    }

    /// Whether a CPU is in the critical section: it has the port lock, or owns nbcon in an unsafe section.
    fn is_inside(&self, memory: &dyn Memory, cpu: CpuId) -> bool {
        let own = u32::from(cpu.0);
        if self.nbcon {
            memory.word(self.statics.nbcon) == own && memory.word(self.statics.nbcon + 4) != 0
        } else {
            memory.word(self.statics.port_lock) == own
        }
    }
}

/// Where a word lies in which acks are seen. With no more than 64 CPUs a mask is its first eight bytes.
pub(super) fn watched(statics: &Statics, word: Word) -> Watched {
    let (address, width) = match word {
        Word::StopMask => (statics.stop_mask, Width::Doubleword),
        Word::Counter => (statics.counter, Width::Word),
        Word::OnlineMask => (statics.online_mask, Width::Doubleword),
        Word::OnlineCount => (statics.online_count, Width::Word),
    };
    Watched {
        address,
        width,
        access: Access::Store,
    }
}

fn note(memory: &dyn Memory, statics: Statics, cpu: u16) -> Note {
    let mut bytes = [0; NOTE_BYTES];
    memory.read(
        statics.notes + u64::from(cpu) * mailbox::NOTE_STRIDE,
        &mut bytes,
    );
    Note(bytes)
}

/// What a CPU's slot says, and takes note that it was read.
pub(super) fn slot(memory: &dyn Memory, mailbox: u64, cpu: CpuId) -> (Vec<Condition>, Vec<Tell>) {
    let slot = mailbox + 8 * (mailbox::SLOTS_AT + cpu.index() * mailbox::SLOT_WORDS) as u64;
    let long = |word: usize| memory.long(slot + 8 * word as u64);
    let three = |word: usize| [long(word), long(word + 1), long(word + 2)];
    let count = |at: usize, most: usize| usize::try_from(long(at)).map_or(most, |n| n.min(most));
    let conditions = (0..count(mailbox::CONDITIONS_AT, mailbox::CONDITIONS))
        .filter_map(|n| Condition::of(three(mailbox::CONDITIONS_AT + 1 + 3 * n)))
        .collect();
    let told = (0..count(mailbox::TOLD_AT, mailbox::TOLDS))
        .filter_map(|n| Tell::of(three(mailbox::TOLD_AT + 1 + 3 * n)))
        .collect();
    memory.write(slot + 8 * mailbox::TOLD_AT as u64, &0_u64.to_le_bytes());
    (conditions, told)
}
