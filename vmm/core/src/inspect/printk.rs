//! The kernel's log ring, `struct printk_ringbuffer` (kernel/printk/printk_ringbuffer.h, since Linux v5.10), decoded to
//! records.
//!
//! Descriptors and infos are two arrays that share their index, an ID modulo the count. IDs count up from the tail to the
//! head; a descriptor's state word holds the ID that it belongs to and, in its top two bits, its state. A text lies
//! between two logical positions in a ring of bytes, behind the ID it belongs to; one that would reach beyond the ring's
//! end lies at its start. Offsets come from VMCOREINFO.

use std::collections::BTreeSet;

use super::{InspectError, KernelSpace, Memory, Vmcoreinfo};
use crate::arm::{CpuId, KernelVa};

/// CONFIG_LOG_BUF_SHIFT is at most 25, `log_buf_len=` at most 2 GiB; a descriptor stands for 32 bytes.
const MOST_COUNT_BITS: u32 = 24;
const MOST_SIZE_BITS: u32 = 31;
/// IDs and states share a word (DESC_FLAGS_SHIFT).
const ID_MASK: u64 = u64::MAX >> 2;
/// Bit 0 of a position: there is no text (LPOS_DATALESS()).
const DATALESS: u64 = 1;
/// FAILED_LPOS: the ring had no room for the text. Another such position stands for an empty line.
const FAILED: u64 = 1;
/// A text lies behind the ID it belongs to (`struct prb_data_block`).
const ID_BYTES: u64 = 8;

/// How far the writer of a record has come (`enum desc_state`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RecordState {
    /// Written; the writer may still add to it.
    Committed,
    /// Written for good.
    Finalized,
}

/// Who printed (`caller_id`). Without CONFIG_PRINTK_CALLER it is always task 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Caller {
    /// A task, by its pid.
    Task(u32),
    /// A CPU in an interrupt.
    Cpu(CpuId),
}

/// A record of the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Its sequence number.
    pub seq: u64,
    /// When it was written, in nanoseconds of the kernel's clock.
    pub ts_nsec: u64,
    /// Its level, 0 (emergency) to 7 (debug).
    pub level: u8,
    /// Its facility: 0 is the kernel.
    pub facility: u8,
    /// Its flags, five bits (`enum printk_info_flags`).
    pub flags: u8,
    /// Who printed it.
    pub caller: Caller,
    /// How far it is written.
    pub state: RecordState,
    /// Its text, without the newline that ends it.
    pub text: Vec<u8>,
}

/// A place between tail and head where no record can be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gap {
    /// The descriptor's ID.
    pub id: u64,
    /// Why there is none.
    pub why: GapReason,
}

/// Why there is no record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum GapReason {
    /// A writer has reserved it and not committed: it was stopped while it wrote.
    Reserved,
    /// The descriptor belongs to another ID: it was being recycled.
    Recycled,
    /// The ring had no room for the text, or it has been overwritten.
    TextLost,
    /// No kernel writes what is there.
    Damaged(String),
}

/// The log ring.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogRing {
    /// What can be read, in the order of the ring.
    pub records: Vec<Record>,
    /// What can't.
    pub gaps: Vec<Gap>,
}

/// Follows a ring as it fills: every record once.
#[derive(Clone, Debug, Default)]
pub struct LogReader {
    /// All older ones have been read.
    next: u64,
    /// What has been read of the others: a record that was being written was left out.
    beyond: BTreeSet<u64>,
}

impl LogReader {
    /// One that has read all that is in the ring and finished.
    pub fn behind(ring: &LogRing) -> Self {
        let mut reader = Self::default();
        reader.read(ring, false);
        reader
    }

    /// Records that are finished and have not been read yet. One that is being written keeps those behind it from being read if
    /// `in_turn`, as it keeps them from the console (prb_read_valid()); without that it is read when it is finished.
    pub fn read<'a>(&mut self, ring: &'a LogRing, in_turn: bool) -> Vec<&'a Record> {
        let mut read = Vec::new();
        let mut previous = None;
        for record in &ring.records {
            let whole_so_far = previous.is_none_or(|seq| record.seq == seq + 1);
            let finished = record.state == RecordState::Finalized;
            if in_turn && !(whole_so_far && finished) {
                break;
            }
            previous = Some(record.seq);
            if finished && record.seq >= self.next && self.beyond.insert(record.seq) {
                read.push(record);
            }
        }
        // What was lost before it was read does not come back.
        if let Some(oldest) = ring.records.first() {
            self.next = self.next.max(oldest.seq);
        }
        while self.beyond.remove(&self.next) {
            self.next += 1;
        }
        self.beyond = self.beyond.split_off(&self.next);
        read
    }
}

/// The layout, as this kernel's VMCOREINFO tells it.
struct Layout {
    descs: KernelVa,
    infos: KernelVa,
    desc_size: u64,
    info_size: u64,
    state_var: u64,
    begin: u64,
    next: u64,
    seq: u64,
    ts_nsec: u64,
    text_len: u64,
    caller_id: u64,
    count_bits: u32,
    data: KernelVa,
    size_bits: u32,
    tail_lpos: u64,
    head_lpos: u64,
}

impl LogRing {
    /// Reads the ring that `prb` points at: `printk_rb_static`, or one that `log_buf_len=` asked for. It takes no locks: in
    /// a guest that still runs, a record that is being written is a gap.
    pub fn read(
        space: &KernelSpace<'_, impl Memory + ?Sized>,
        info: &Vmcoreinfo,
    ) -> Result<Self, InspectError> {
        let ring = KernelVa(space.u64("prb", info.symbol("prb")?)?);
        let desc_ring = ring.plus(info.offset("printk_ringbuffer.desc_ring")?);
        let data_ring = ring.plus(info.offset("printk_ringbuffer.text_data_ring")?);
        let in_desc = |field| Ok(desc_ring.plus(info.offset(field)?));
        let in_data = |field| Ok(data_ring.plus(info.offset(field)?));
        let lpos = info.offset("prb_desc.text_blk_lpos")?;
        let layout = Layout {
            descs: KernelVa(space.u64("desc_ring.descs", in_desc("prb_desc_ring.descs")?)?),
            infos: KernelVa(space.u64("desc_ring.infos", in_desc("prb_desc_ring.infos")?)?),
            desc_size: info.size("prb_desc")?,
            info_size: info.size("printk_info")?,
            state_var: info.offset("prb_desc.state_var")?,
            begin: lpos + info.offset("prb_data_blk_lpos.begin")?,
            next: lpos + info.offset("prb_data_blk_lpos.next")?,
            seq: info.offset("printk_info.seq")?,
            ts_nsec: info.offset("printk_info.ts_nsec")?,
            text_len: info.offset("printk_info.text_len")?,
            caller_id: info.offset("printk_info.caller_id")?,
            count_bits: space.u32("desc_ring.count_bits", in_desc("prb_desc_ring.count_bits")?)?,
            data: KernelVa(space.u64("text_data_ring.data", in_data("prb_data_ring.data")?)?),
            size_bits: space.u32(
                "text_data_ring.size_bits",
                in_data("prb_data_ring.size_bits")?,
            )?,
            tail_lpos: space.u64(
                "text_data_ring.tail_lpos",
                in_data("prb_data_ring.tail_lpos")?,
            )?,
            head_lpos: space.u64(
                "text_data_ring.head_lpos",
                in_data("prb_data_ring.head_lpos")?,
            )?,
        };
        if !(1..=MOST_COUNT_BITS).contains(&layout.count_bits)
            || !(1..=MOST_SIZE_BITS).contains(&layout.size_bits)
        {
            let (count, size) = (layout.count_bits, layout.size_bits);
            return Err(damaged(format!(
                "2^{count} descriptors for 2^{size} bytes of text"
            )));
        }
        let head = space.u64("desc_ring.head_id", in_desc("prb_desc_ring.head_id")?)?;
        let tail = space.u64("desc_ring.tail_id", in_desc("prb_desc_ring.tail_id")?)?;
        let behind = head.wrapping_sub(tail) & ID_MASK;
        if behind >> layout.count_bits != 0 {
            let what =
                format!("the head {head:#x} is {behind} descriptors before the tail {tail:#x}");
            return Err(damaged(what));
        }
        let mut read = Self {
            records: Vec::new(),
            gaps: Vec::new(),
        };
        for id in (0..=behind).map(|nth| tail.wrapping_add(nth) & ID_MASK) {
            match layout.record(space, id) {
                Ok(Some(record)) => read.records.push(record),
                Ok(None) => {}
                Err(why) => read.gaps.push(Gap { id, why }),
            }
        }
        Ok(read)
    }

    /// What no kernel of so many CPUs writes, in a guest that stands still: in one that runs it may be a record that was being
    /// overwritten.
    pub fn damage(&self, cpus: u16) -> Result<(), InspectError> {
        let mut recycled = 0;
        for gap in &self.gaps {
            match &gap.why {
                GapReason::Damaged(what) => {
                    return Err(damaged(format!("of record {:#x}: {what}", gap.id)));
                }
                // Each CPU can be about to take one descriptor (desc_reserve()).
                GapReason::Recycled => recycled += 1,
                GapReason::Reserved | GapReason::TextLost => {}
            }
        }
        if recycled > cpus {
            let what = format!("{recycled} descriptors belong to other records");
            return Err(damaged(what));
        }
        Ok(())
    }
}

fn damaged(what: String) -> InspectError {
    InspectError::Damaged {
        object: "the printk ring".to_owned(),
        what,
    }
}

fn unreadable(error: InspectError) -> GapReason {
    GapReason::Damaged(error.to_string())
}

impl Layout {
    /// The record of an ID; none where the ring has not come to yet.
    fn record(
        &self,
        space: &KernelSpace<'_, impl Memory + ?Sized>,
        id: u64,
    ) -> Result<Option<Record>, GapReason> {
        let index = id & ((1 << self.count_bits) - 1);
        let desc = self.descs.plus(index * self.desc_size);
        let info = self.infos.plus(index * self.info_size);
        let word = |object, at| space.u64(object, at).map_err(unreadable);
        let state = word("prb_desc", desc.plus(self.state_var))?;
        // The two bits tell reserved, committed, finalized and reusable.
        let state = match (state & ID_MASK == id, state >> 62) {
            // The bootstrap descriptor, or the tail about to be taken.
            (true, 3) => return Ok(None),
            (true, 0) => return Err(GapReason::Reserved),
            (true, 1) => RecordState::Committed,
            (true, _) => RecordState::Finalized,
            (false, _) => return Err(GapReason::Recycled),
        };
        let text_len: [u8; 4] = space
            .array("printk_info", info.plus(self.text_len))
            .map_err(unreadable)?;
        // facility follows text_len, then a byte with flags:5 and level:3, from the low end: the exported offsets leave
        // these two out, makedumpfile and crash read them likewise.
        let [low, high, facility, bits] = text_len;
        let text_len = u64::from(u16::from_le_bytes([low, high]));
        let caller = space
            .u32("printk_info", info.plus(self.caller_id))
            .map_err(unreadable)?;
        let text = self.text(
            space,
            id,
            word("prb_desc", desc.plus(self.begin))?,
            word("prb_desc", desc.plus(self.next))?,
            text_len,
        )?;
        Ok(Some(Record {
            seq: word("printk_info", info.plus(self.seq))?,
            ts_nsec: word("printk_info", info.plus(self.ts_nsec))?,
            level: bits >> 5,
            facility,
            flags: bits & 0x1f,
            caller: match caller & 1 << 31 {
                0 => Caller::Task(caller),
                _ => Caller::Cpu(CpuId(caller as u16)),
            },
            state,
            text,
        }))
    }

    fn text(
        &self,
        space: &KernelSpace<'_, impl Memory + ?Sized>,
        id: u64,
        begin: u64,
        next: u64,
        text_len: u64,
    ) -> Result<Vec<u8>, GapReason> {
        if begin & DATALESS != 0 && next & DATALESS != 0 {
            return if begin == FAILED && next == FAILED {
                Err(GapReason::TextLost)
            } else {
                Ok(Vec::new())
            };
        }
        let size = 1u64 << self.size_bits;
        // A block whose end is the ring's own end has not wrapped (since Linux commit 67e1b0052f6b, in v6.18; before, no
        // block ended there).
        let wraps = |position: u64| position >> self.size_bits;
        let (from, block) = if wraps(begin) == wraps(next.wrapping_sub(1)) {
            (begin & (size - 1), next.wrapping_sub(begin))
        } else if wraps(begin.wrapping_add(size)) == wraps(next.wrapping_sub(1)) {
            (0, next & (size - 1))
        } else {
            let what = format!("a text from {begin:#x} to {next:#x} in a ring of {size} bytes");
            return Err(GapReason::Damaged(what));
        };
        // The tail has passed what has been overwritten (data_push_tail()).
        if begin.wrapping_sub(self.tail_lpos) >= self.head_lpos.wrapping_sub(self.tail_lpos) {
            return Err(GapReason::TextLost);
        }
        if block < ID_BYTES + text_len || block > size - from {
            let what = format!("a text of {text_len} bytes in a block of {block}");
            return Err(GapReason::Damaged(what));
        }
        let at = self.data.plus(from);
        let owner = space.u64("text_data_ring", at).map_err(unreadable)?;
        if owner != id {
            let what = format!("its text belongs to {owner:#x}");
            return Err(GapReason::Damaged(what));
        }
        let mut text = vec![0; text_len as usize];
        space
            .read("text_data_ring", at.plus(ID_BYTES), &mut text)
            .map_err(unreadable)?;
        Ok(text)
    }
}
