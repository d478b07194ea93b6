use proptest::prelude::*;

use super::guest::{Guest, KERNEL};
use crate::arm::CpuId;
use crate::inspect::{
    Caller, Gap, GapReason, InspectError, LogReader, LogRing, Record, RecordState,
};

const COUNT_BITS: u64 = 3;
const SIZE_BITS: u64 = 7;
const SIZE: u64 = 1 << SIZE_BITS;
/// Logical positions and IDs begin just below their overflow (BLK0_LPOS, DESC0_ID).
const LPOS0: u64 = 0u64.wrapping_sub(SIZE);
const ID_MASK: u64 = u64::MAX >> 2;

/// Writes records as the kernel does; the layout is that of 6.12 with `infos` and `descs` exchanged, to see that the
/// offsets are those of VMCOREINFO.
struct Writer {
    guest: Guest,
    ring: u64,
    descs: u64,
    infos: u64,
    data: u64,
    head: u64,
    tail: u64,
    lpos: u64,
    seq: u64,
}

impl Writer {
    fn new() -> Self {
        let mut guest = Guest::new();
        let lines = "SIZE(prb_desc)=24\nSIZE(printk_info)=88\nOFFSET(printk_ringbuffer.desc_ring)=0\n\
            OFFSET(printk_ringbuffer.text_data_ring)=48\nOFFSET(prb_desc_ring.count_bits)=0\n\
            OFFSET(prb_desc_ring.infos)=8\nOFFSET(prb_desc_ring.descs)=16\nOFFSET(prb_desc_ring.head_id)=24\n\
            OFFSET(prb_desc_ring.tail_id)=32\nOFFSET(prb_desc.state_var)=0\nOFFSET(prb_desc.text_blk_lpos)=8\n\
            OFFSET(prb_data_blk_lpos.begin)=0\nOFFSET(prb_data_blk_lpos.next)=8\nOFFSET(printk_info.seq)=0\n\
            OFFSET(printk_info.ts_nsec)=8\nOFFSET(printk_info.text_len)=16\nOFFSET(printk_info.caller_id)=20\n\
            OFFSET(prb_data_ring.size_bits)=0\nOFFSET(prb_data_ring.data)=8\nOFFSET(prb_data_ring.head_lpos)=16\n\
            OFFSET(prb_data_ring.tail_lpos)=24";
        guest.line(lines);
        let descs = guest.put(8, &[0; 24 << COUNT_BITS]);
        let infos = guest.put(8, &[0; 88 << COUNT_BITS]);
        let data = guest.put(8, &[0; SIZE as usize]);
        let ring = guest.put(8, &[0; 88]);
        let prb = guest.put(8, &ring.to_le_bytes());
        guest.line(&format!("SYMBOL(prb)={prb:x}"));
        let id = 0u64.wrapping_sub((1 << COUNT_BITS) + 1) & ID_MASK;
        let mut writer = Self {
            guest,
            ring,
            descs,
            infos,
            data,
            head: id,
            tail: id,
            lpos: LPOS0,
            seq: 0,
        };
        writer.state(id, 3);
        writer.close(LPOS0);
        writer
    }

    fn word(&mut self, at: u64, word: u64) {
        self.guest.write(at, &word.to_le_bytes());
    }

    fn desc(&self, id: u64) -> u64 {
        self.descs + 24 * (id % (1 << COUNT_BITS))
    }

    fn state(&mut self, id: u64, state: u64) {
        self.word(self.desc(id), id | state << 62);
    }

    /// The words of the two rings.
    fn close(&mut self, tail_lpos: u64) {
        let words = [
            (0, COUNT_BITS),
            (8, self.infos),
            (16, self.descs),
            (24, self.head),
            (32, self.tail),
            (48, SIZE_BITS),
            (56, self.data),
            (64, self.lpos),
            (72, tail_lpos),
        ];
        for (at, word) in words {
            self.word(self.ring + at, word);
        }
    }

    /// A record in this state, with a text or a dataless position.
    fn push(&mut self, state: u64, text: Result<&str, u64>) -> u64 {
        self.head = (self.head + 1) & ID_MASK;
        let id = self.head;
        if self.head.wrapping_sub(self.tail) & ID_MASK >= 1 << COUNT_BITS {
            self.tail = (self.tail + 1) & ID_MASK;
        }
        let (begin, next) = match text {
            Err(dataless) => (dataless, dataless),
            Ok(text) => {
                let block = (8 + text.len() as u64).next_multiple_of(8);
                let begin = self.lpos;
                let mut next = begin.wrapping_add(block);
                let mut from = begin % SIZE;
                if begin >> SIZE_BITS != next.wrapping_sub(1) >> SIZE_BITS {
                    from = 0;
                    next = (next >> SIZE_BITS << SIZE_BITS).wrapping_add(block);
                }
                self.word(self.data + from, id);
                self.guest.write(self.data + from + 8, text.as_bytes());
                self.lpos = next;
                (begin, next)
            }
        };
        let desc = self.desc(id);
        self.state(id, state);
        self.word(desc + 8, begin);
        self.word(desc + 16, next);
        let info = self.infos + 88 * (id % (1 << COUNT_BITS));
        self.word(info, self.seq);
        self.word(info + 8, 1000 * self.seq);
        let length = text.map_or(0, str::len) as u16;
        self.guest.write(info + 16, &length.to_le_bytes());
        // Facility 3, level 6, the flag LOG_NEWLINE, printed by CPU 2.
        self.guest.write(info + 18, &[3, 6 << 5 | 2, 2, 0, 0, 0x80]);
        self.seq += 1;
        id
    }

    fn read(&self) -> Result<LogRing, InspectError> {
        self.guest.with(LogRing::read)
    }
}

fn texts(ring: &LogRing) -> Vec<String> {
    let text = |text: &Vec<u8>| String::from_utf8(text.clone()).unwrap();
    ring.records
        .iter()
        .map(|record| text(&record.text))
        .collect()
}

#[test]
fn a_new_ring_is_empty() {
    let ring = Writer::new().read().unwrap();
    assert_eq!((ring.records.len(), ring.gaps.len()), (0, 0));
}

#[test]
fn records_come_in_order_with_what_belongs_to_them() {
    let mut writer = Writer::new();
    writer.push(2, Ok("first"));
    writer.push(1, Ok("second"));
    writer.push(2, Err(3));
    writer.close(LPOS0);
    let ring = writer.read().unwrap();
    assert_eq!(texts(&ring), ["first", "second", ""]);
    let record = &ring.records[1];
    assert_eq!((record.seq, record.ts_nsec), (1, 1000));
    assert_eq!((record.level, record.facility, record.flags), (6, 3, 2));
    assert_eq!(record.caller, Caller::Cpu(CpuId(2)));
    assert_eq!(record.state, RecordState::Committed);
    assert_eq!(ring.gaps, []);
}

#[test]
fn what_can_not_be_read_is_a_gap_with_its_reason() {
    let mut writer = Writer::new();
    writer.push(2, Ok("whole"));
    let reserved = writer.push(0, Ok("half of it"));
    let failed = writer.push(2, Err(1));
    let recycled = writer.push(2, Ok("gone"));
    writer.state(recycled - 8, 2);
    let foreign = writer.push(2, Ok("of another"));
    writer.close(LPOS0);
    let begin = writer
        .guest
        .with(|space, _| space.u64("", crate::arm::KernelVa(writer.desc(foreign) + 8)));
    let at = writer.data + begin.unwrap() % SIZE;
    writer.word(at, 0x77);
    let ring = writer.read().unwrap();
    assert_eq!(texts(&ring), ["whole"]);
    let gaps: Vec<(u64, GapReason)> = ring.gaps.into_iter().map(|gap| (gap.id, gap.why)).collect();
    assert_eq!(
        gaps,
        [
            (reserved, GapReason::Reserved),
            (failed, GapReason::TextLost),
            (recycled, GapReason::Recycled),
            (
                foreign,
                GapReason::Damaged("its text belongs to 0x77".to_owned())
            ),
        ]
    );
}

#[test]
fn a_ring_without_bounds_is_refused() {
    let mut writer = Writer::new();
    writer.word(writer.ring, 40);
    let error = writer.read().unwrap_err().to_string();
    assert!(error.starts_with("the printk ring is damaged"), "{error}");
    writer.word(writer.ring, COUNT_BITS);
    writer.word(writer.ring + 24, 5);
    let error = writer.read().unwrap_err().to_string();
    assert!(
        error.contains("the head 0x5 is 14 descriptors before"),
        "{error}"
    );
}

proptest! {
    /// Whatever was written, the last texts that fit are read back across the end of both rings.
    #[test]
    fn both_rings_wrap(lengths in prop::collection::vec(1usize..40, 1..60)) {
        let mut writer = Writer::new();
        let mut written = Vec::new();
        for (number, length) in lengths.iter().enumerate() {
            let letter = char::from(b'a' + (number % 26) as u8);
            let text: String = std::iter::repeat_n(letter, *length).collect();
            let begin = writer.lpos;
            writer.push(2, Ok(&text));
            written.push((begin, text));
        }
        // The ring's size behind the head, nothing is left.
        let oldest = writer.lpos.wrapping_sub(SIZE);
        let live = |begin: &u64| begin.wrapping_sub(oldest) < SIZE;
        let kept: Vec<_> = written.iter().rev().take(8).take_while(|(begin, _)| live(begin)).collect();
        let tail = kept.last().map_or(writer.lpos, |(begin, _)| *begin);
        writer.close(tail);
        let ring = writer.read().unwrap();
        let expected: Vec<String> = kept.into_iter().rev().map(|(_, text)| text.clone()).collect();
        prop_assert_eq!(texts(&ring), expected);
        prop_assert!(ring.gaps.iter().all(|gap| gap.why == GapReason::TextLost));
    }

    #[test]
    fn any_damage_gives_a_ring_or_an_error(
        damage in prop::collection::vec((0u64..0x500, any::<u8>()), 1..30),
    ) {
        let mut writer = Writer::new();
        for text in ["one", "two", "three", "four"] {
            writer.push(2, Ok(text));
        }
        writer.close(LPOS0);
        for (at, byte) in damage {
            writer.guest.write(KERNEL + 0x1000 + at, &[byte]);
        }
        if let Ok(ring) = writer.read() {
            prop_assert!(ring.records.len() + ring.gaps.len() <= 1 << 24);
        }
    }
}

#[test]
fn a_reader_reads_every_record_once_and_in_turn_where_there_is_time() {
    use RecordState::{Committed, Finalized};
    let ring = |records: &[(u64, RecordState)]| LogRing {
        records: records
            .iter()
            .map(|&(seq, state)| Record {
                seq,
                ts_nsec: 0,
                level: 6,
                facility: 0,
                flags: 0,
                caller: Caller::Task(0),
                state,
                text: Vec::new(),
            })
            .collect(),
        gaps: Vec::new(),
    };
    let mut reader = LogReader::behind(&ring(&[(5, Finalized), (6, Finalized)]));
    let mut read = |records: &[(u64, RecordState)], in_turn| -> Vec<u64> {
        let ring = ring(records);
        let read = reader.read(&ring, in_turn).into_iter();
        read.map(|record| record.seq).collect()
    };
    let all = |records: &[u64]| -> Vec<_> { records.iter().map(|&seq| (seq, Finalized)).collect() };
    assert_eq!(read(&all(&[5, 6, 7]), true), [7]);
    // 8 is reserved only, and 9 could still be added to.
    assert_eq!(read(&all(&[6, 7, 9]), true), []);
    assert_eq!(
        read(&[(7, Finalized), (8, Committed), (9, Finalized)], true),
        []
    );
    assert_eq!(read(&all(&[6, 7, 9]), false), [9]);
    assert_eq!(read(&all(&[7, 8, 9, 10]), true), [8, 10]);
    // The ring has come round.
    assert_eq!(read(&all(&[20, 21]), true), [20, 21]);
    assert_eq!(read(&all(&[20, 21]), false), []);
}

#[test]
fn a_ring_is_damaged_that_no_kernel_could_leave_behind() {
    let ring = |gaps: &[GapReason]| LogRing {
        records: Vec::new(),
        gaps: (0..)
            .zip(gaps.iter().cloned())
            .map(|(id, why)| Gap { id, why })
            .collect(),
    };
    let damage = |gaps| ring(gaps).damage(2).err().map(|error| error.to_string());
    assert_eq!(damage(&[GapReason::Reserved, GapReason::TextLost]), None);
    assert_eq!(damage(&[GapReason::Recycled, GapReason::Recycled]), None);
    let three = [
        GapReason::Recycled,
        GapReason::Recycled,
        GapReason::Recycled,
    ];
    assert!(
        damage(&three)
            .unwrap()
            .ends_with("3 descriptors belong to other records")
    );
    let foreign = [GapReason::Damaged("its text belongs to 0x77".to_owned())];
    assert!(
        damage(&foreign)
            .unwrap()
            .ends_with("of record 0x0: its text belongs to 0x77")
    );
}
