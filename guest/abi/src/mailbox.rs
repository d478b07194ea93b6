//! The mailbox: how the VMM tells the payload what to do, and how a CPU tells where it stands.
//!
//! It is an array of 64-bit words, the payload's static [`SYMBOL`]. Before the first instruction the VMM writes the
//! configuration into it. At every step a CPU writes its slot and then rings the doorbell, a store of 64 bits to
//! [`DOORBELL_BASE`](crate::memory_map::DOORBELL_BASE): the CPU stands *before* the step, and an interrupt that is
//! let in is taken at the instruction behind the store.

use crate::point::Point;
use crate::protocol::{Request, Step};

/// The static that holds it.
pub const SYMBOL: &str = "mailbox";

/// CPUs that a run can have.
pub const MAX_CPUS: usize = 64;

/// In word [`MAGIC_AT`]: the payload is to stop by a protocol. Anything else leaves it to its checks.
pub const MAGIC: u64 = u64::from_le_bytes(*b"holdpt 1");

/// Word of the magic.
pub const MAGIC_AT: usize = 0;
/// Word of the protocol: its number in [`PROTOCOLS`](crate::protocol::PROTOCOLS).
pub const PROTOCOL_AT: usize = 1;
/// Word of the flags below.
pub const FLAGS_AT: usize = 2;
/// Word of the way on after the stop: one of the `AFTER_` numbers.
pub const AFTER_AT: usize = 3;
/// Word of the console driver: one of the `DRIVER_` numbers.
pub const DRIVER_AT: usize = 4;
/// Word of the number of CPUs.
pub const CPUS_AT: usize = 5;
/// Word of those that are not up at the start, a bit each.
pub const OFFLINE_AT: usize = 6;
/// First word of the handlers: the plain stop's steps, then the crash stop's, a byte each ([`steps_word`]).
pub const HANDLERS_AT: usize = 7;
/// First word of the tasks: [`TASKS`] words a CPU, in the order in which it does them, 0 for none.
pub const TASKS_AT: usize = 9;
/// Tasks of a CPU at most.
pub const TASKS: usize = 4;
/// First word of the slots.
pub const SLOTS_AT: usize = TASKS_AT + MAX_CPUS * TASKS;
/// Words of a slot.
pub const SLOT_WORDS: usize = 32;
/// Words of the mailbox.
pub const WORDS: usize = SLOTS_AT + MAX_CPUS * SLOT_WORDS;

/// Flag: pseudo-NMIs.
pub const PSEUDO_NMI: u64 = 1 << 0;
/// Flag: a CPU that stops may power off.
pub const CAN_DIE: u64 = 1 << 1;
/// Flag: a panic calls the crash stop, else the plain one.
pub const CRASH_STOP: u64 = 1 << 2;
/// Flag: the rung by SDEI is there to be climbed.
pub const SDEI: u64 = 1 << 3;

/// The panic ends in its loop.
pub const AFTER_PANIC_END: u64 = 0;
/// The panic leaves for the capture kernel.
pub const AFTER_KEXEC: u64 = 1;
/// The panic resets the machine.
pub const AFTER_RESET: u64 = 2;

/// In panic the driver tries the lock and writes nothing without it.
pub const DRIVER_GIVE_UP: u64 = 0;
/// In panic the driver tries the lock and writes without it.
pub const DRIVER_WRITE_ANYWAY: u64 = 1;
/// Owner, unsafe sections, hand-over.
pub const DRIVER_NBCON: u64 = 2;

/// What a CPU is to do: the low byte of its word; the next byte is the argument.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Job {
    /// Panics.
    Panic,
    /// Restarts the machine.
    Restart,
    /// Stores so many records.
    Talk(u8),
    /// Goes down by hot-unplug.
    Unplug,
    /// Comes online.
    Online,
    /// Sends an NMI that is no stop to this CPU.
    Nmi(u8),
    /// Spins with interrupts masked.
    MaskIrqs,
    /// Spins with all of DAIF masked.
    MaskDaif,
    /// Spins with interrupts masked, in a loop of many instructions that change all registers.
    Wedge,
}

impl Job {
    /// As a word.
    pub const fn word(self) -> u64 {
        match self {
            Job::Panic => 1,
            Job::Restart => 2,
            Job::Talk(records) => 3 | (records as u64) << 8,
            Job::Unplug => 4,
            Job::Online => 5,
            Job::Nmi(cpu) => 6 | (cpu as u64) << 8,
            Job::MaskIrqs => 7,
            Job::MaskDaif => 8,
            Job::Wedge => 9,
        }
    }

    /// From a word; none for 0, and for what is no job.
    pub const fn of(word: u64) -> Option<Self> {
        let argument = (word >> 8) as u8;
        match word as u8 {
            1 => Some(Job::Panic),
            2 => Some(Job::Restart),
            3 => Some(Job::Talk(argument)),
            4 => Some(Job::Unplug),
            5 => Some(Job::Online),
            6 => Some(Job::Nmi(argument)),
            7 => Some(Job::MaskIrqs),
            8 => Some(Job::MaskDaif),
            9 => Some(Job::Wedge),
            _ => None,
        }
    }
}

/// The steps by their number in a word of [`HANDLERS_AT`]; 0 is none.
const STEPS: [Step; 8] = [
    Step::Save,
    Step::ClearStopMask,
    Step::DropCounter,
    Step::Offline,
    Step::MaskIrqs,
    Step::MaskDaif,
    Step::DieOrPark,
    Step::Park,
];

/// The steps of a handler, of which there are at most eight, as a word.
pub fn steps_word(steps: &[Step]) -> u64 {
    let number = |step: &Step| 1 + STEPS.iter().position(|known| known == step).unwrap_or(0);
    let numbers = steps.iter().take(8).enumerate();
    numbers.fold(0, |word, (at, step)| {
        word | (number(step) as u64) << (8 * at)
    })
}

/// The step at this place of such a word.
pub fn step_of(word: u64, at: usize) -> Option<Step> {
    let number = (word.checked_shr(8 * at as u32)? as u8).checked_sub(1)?;
    STEPS.get(usize::from(number)).copied()
}

/// Why the doorbell rings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Why {
    /// The CPU stands before a step, at a point or at none.
    Step = 0,
    /// It has no next step: only an interrupt moves it.
    Idle = 1,
    /// It has booted and waits for the run to begin. The interrupt that moves it on is none: the VMM lets it go.
    Ready = 2,
    /// It is in `cpu_park_loop()`, all of DAIF masked.
    Parked = 3,
    /// The ladder has come to a rung that this machine does not have.
    NoSuchRung = 4,
}

/// What the doorbell is rung with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ring {
    /// Why.
    pub why: Why,
    /// The point, if there is one.
    pub point: Option<Point>,
    /// D, A, I, F as bits 3 to 0.
    pub daif: u8,
    /// ICC_PMR_EL1.
    pub pmr: u8,
    /// The masks are those that the [`OPENING`] instructions behind the store make: until then nothing gets in.
    pub opens: bool,
}

/// How many instructions of four bytes behind the store unmask, where a ring [`opens`](Ring::opens): one writes
/// ICC_PMR_EL1, the other clears DAIF.
pub const OPENING: u64 = 2;

impl Ring {
    /// As the value that is stored.
    pub const fn word(self) -> u64 {
        let point = match self.point {
            Some(point) => point.id(),
            None => 0,
        };
        point as u64
            | (self.pmr as u64) << 16
            | (self.daif as u64) << 24
            | (self.why as u64) << 32
            | (self.opens as u64) << 40
    }

    /// From the value that was stored; none if no CPU of ours stored it.
    pub fn of(word: u64) -> Option<Self> {
        if word >> 41 != 0 {
            return None;
        }
        let why = match (word >> 32) as u8 {
            0 => Why::Step,
            1 => Why::Idle,
            2 => Why::Ready,
            3 => Why::Parked,
            4 => Why::NoSuchRung,
            _ => return None,
        };
        let point = match word as u16 {
            0 => None,
            id => Some(Point::of_id(id)?),
        };
        Some(Self {
            why,
            point,
            daif: (word >> 24) as u8 & 0xf,
            pmr: (word >> 16) as u8,
            opens: word >> 40 & 1 == 1,
        })
    }
}

/// Word of a slot: how many conditions stand in it. With none the CPU can take its step at once.
pub const CONDITIONS_AT: usize = 0;
/// Conditions of a slot at most: the CPU can take its step when any of them is true.
pub const CONDITIONS: usize = 4;
/// Word of a slot: how many things are told in it. The VMM sets it back to 0.
pub const TOLD_AT: usize = 1 + 3 * CONDITIONS;
/// Things told in a step at most.
pub const TOLDS: usize = 5;

/// A condition on guest memory or on guest time, three words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Condition {
    /// The 32-bit word at an address has this value.
    Is(u64, u32),
    /// It has not.
    IsNot(u64, u32),
    /// The signed 32-bit word at an address is at most this.
    AtMost(u64, i32),
    /// The 32-bit word at the first address is at least that at the second.
    Reaches(u64, u64),
    /// So many bytes (a multiple of 8) at an address are zero.
    Zero(u64, u64),
    /// The virtual counter has come to this, which is so many microseconds after the wait began.
    Counter(u64, u64),
}

impl Condition {
    /// As words.
    pub const fn words(self) -> [u64; 3] {
        match self {
            Condition::Is(at, value) => [1, at, value as u64],
            Condition::IsNot(at, value) => [2, at, value as u64],
            Condition::AtMost(at, value) => [3, at, value as u32 as u64],
            Condition::Reaches(at, other) => [4, at, other],
            Condition::Zero(at, bytes) => [5, at, bytes],
            Condition::Counter(ticks, us) => [6, ticks, us],
        }
    }

    /// From words.
    pub const fn of(words: [u64; 3]) -> Option<Self> {
        let [kind, a, b] = words;
        Some(match kind {
            1 => Condition::Is(a, b as u32),
            2 => Condition::IsNot(a, b as u32),
            3 => Condition::AtMost(a, b as u32 as i32),
            4 => Condition::Reaches(a, b),
            5 => Condition::Zero(a, b),
            6 => Condition::Counter(a, b),
            _ => return None,
        })
    }
}

/// What a CPU tells of the step that it has just taken, three words. What can be read in memory, on the wire or in
/// the vGIC is not told: it is read there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tell {
    /// It calls a stop: the crash stop or the plain one.
    Calls {
        /// Which.
        crash: bool,
    },
    /// It has passed the guard, has read who else is online, and climbs a ladder.
    Climbs {
        /// Which.
        crash: bool,
        /// Whether `system_state` <= SYSTEM_RUNNING.
        running: bool,
        /// The others that are online, a bit each.
        others: u64,
    },
    /// It has read who is left.
    Reads(u64),
    /// It has sent a rung's request.
    Requests(Request, u64),
    /// A rung has run out.
    RungOut(Request),
    /// The stop returns.
    Returns,
    /// It goes on: one of the `AFTER_` numbers.
    Goes(u64),
    /// The last flush is over.
    Flushed,
    /// It begins to stop itself.
    SelfStops,
}

const fn request(request: Request) -> u64 {
    match request {
        Request::Irq => 0,
        Request::Nmi => 1,
        Request::Sdei => 2,
    }
}

const fn request_of(number: u64) -> Option<Request> {
    match number {
        0 => Some(Request::Irq),
        1 => Some(Request::Nmi),
        2 => Some(Request::Sdei),
        _ => None,
    }
}

impl Tell {
    /// As words.
    pub const fn words(self) -> [u64; 3] {
        match self {
            Tell::Calls { crash } => [1, crash as u64, 0],
            Tell::Climbs {
                crash,
                running,
                others,
            } => [2, crash as u64 | (running as u64) << 1, others],
            Tell::Reads(mask) => [3, 0, mask],
            Tell::Requests(via, to) => [4, request(via), to],
            Tell::RungOut(via) => [5, request(via), 0],
            Tell::Returns => [6, 0, 0],
            Tell::Goes(onward) => [7, onward, 0],
            Tell::Flushed => [8, 0, 0],
            Tell::SelfStops => [9, 0, 0],
        }
    }

    /// From words.
    pub const fn of(words: [u64; 3]) -> Option<Self> {
        let [kind, a, b] = words;
        Some(match kind {
            1 => Tell::Calls { crash: a & 1 != 0 },
            2 => Tell::Climbs {
                crash: a & 1 != 0,
                running: a & 2 != 0,
                others: b,
            },
            3 => Tell::Reads(b),
            4 => match request_of(a) {
                Some(via) => Tell::Requests(via, b),
                None => return None,
            },
            5 => match request_of(a) {
                Some(via) => Tell::RungOut(via),
                None => return None,
            },
            6 => Tell::Returns,
            7 => Tell::Goes(a),
            8 => Tell::Flushed,
            9 => Tell::SelfStops,
            _ => return None,
        })
    }
}

/// The payload's statics that are read from outside, named as the kernel's where the kernel has them.
pub mod symbol {
    /// 512 bytes, as for 4096 CPUs: a bit for each CPU that is online.
    pub const ONLINE_MASK: &str = "__cpu_online_mask";
    /// A signed 32-bit word.
    pub const ONLINE_COUNT: &str = "__num_online_cpus";
    /// 512 bytes, aligned to them.
    pub const STOP_MASK: &str = "stop_mask";
    /// A signed 32-bit word.
    pub const COUNTER: &str = "waiting_for_crash_ipi";
    /// A note for each CPU, [`NOTE_STRIDE`](super::NOTE_STRIDE) bytes apart.
    pub const NOTES: &str = "crash_notes";
    /// The owner of the port lock: a 32-bit word, [`NOBODY`](super::NOBODY) if it is free.
    pub const PORT_LOCK: &str = "port_lock";
    /// nbcon's state: a 32-bit word for its owner, one that is not 0 in an unsafe section, one for who waits.
    pub const NBCON: &str = "nbcon_state";
    /// The log ring: a 32-bit count of records, a 32-bit count of those shown, then the records.
    pub const LOG: &str = "log_ring";
}

/// No CPU's number.
pub const NOBODY: u32 = u32::MAX;
/// Bytes from one CPU's note to the next.
pub const NOTE_STRIDE: u64 = 512;
/// Records that the ring has room for.
pub const LOG_RECORDS: usize = 32;
/// Bytes of a record: its level and its length, 32 bits each, then its text.
pub const LOG_RECORD_BYTES: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back() {
        for point in [None, Some(Point::Save), Some(Point::ConsoleMid)] {
            for why in [
                Why::Step,
                Why::Idle,
                Why::Ready,
                Why::Parked,
                Why::NoSuchRung,
            ] {
                let ring = Ring {
                    why,
                    point,
                    daif: 0b1010,
                    pmr: 0xc0,
                    opens: point.is_some(),
                };
                assert_eq!(Ring::of(ring.word()), Some(ring));
            }
        }
        assert_eq!(Ring::of(0xffff), None);
        assert_eq!(Ring::of(9 << 32), None);
        for job in [
            Job::Panic,
            Job::Restart,
            Job::Talk(3),
            Job::Unplug,
            Job::Online,
            Job::Nmi(2),
            Job::MaskIrqs,
            Job::MaskDaif,
            Job::Wedge,
        ] {
            assert_eq!(Job::of(job.word()), Some(job));
        }
        assert_eq!(Job::of(0), None);
        for condition in [
            Condition::Is(8, NOBODY),
            Condition::IsNot(8, 1),
            Condition::AtMost(8, -1),
            Condition::Reaches(8, 16),
            Condition::Zero(8, 512),
            Condition::Counter(1 << 40, 10_000),
        ] {
            assert_eq!(Condition::of(condition.words()), Some(condition));
        }
        for tell in [
            Tell::Calls { crash: true },
            Tell::Climbs {
                crash: false,
                running: true,
                others: 0xe,
            },
            Tell::Reads(6),
            Tell::Requests(Request::Nmi, 2),
            Tell::RungOut(Request::Irq),
            Tell::Returns,
            Tell::Goes(AFTER_RESET),
            Tell::Flushed,
            Tell::SelfStops,
        ] {
            assert_eq!(Tell::of(tell.words()), Some(tell));
        }
    }

    #[test]
    fn handlers_come_back() {
        for protocol in crate::protocol::PROTOCOLS {
            for stop in [&protocol.plain, &protocol.crash] {
                let steps = stop.handler.is;
                let word = steps_word(steps);
                for (at, step) in steps.iter().enumerate() {
                    assert_eq!(step_of(word, at), Some(*step));
                }
                assert_eq!(step_of(word, steps.len()), None);
            }
        }
        assert_eq!(step_of(u64::MAX, 0), None);
    }

    #[test]
    fn a_slot_has_room() {
        const { assert!(TOLD_AT + 1 + 3 * TOLDS <= SLOT_WORDS) }
    }
}
