//! A running Linux kernel, read from outside: its functions, the words in which acks are seen, its notes and its log.

use std::ops::Range;

use guest_abi::note::NOTE_BYTES;
use guest_abi::point::Point;
use guest_abi::protocol::Word;
use vmm_core::arm::{CpuId, CpuSet, KernelVa, PhysicalAddress};
use vmm_core::evidence::{Note, NoteState, Place, PlaceKind, Places};
use vmm_core::inspect::{InspectError, Kernel, LogReader, Memory, Record};

use super::plan::{Unfit, Where, place};
use crate::vcpu::{Access, Watched, Width};

/// What the rules ask of the kernel's functions. The compiler makes clones of some, whose names go on behind a dot.
const KINDS: &[(&str, PlaceKind)] = &[
    ("pl011_console_write", PlaceKind::Section),
    ("pl011_console_write_thread", PlaceKind::Section),
    ("pl011_console_write_atomic", PlaceKind::Section),
    ("pl011_console_putchar", PlaceKind::Section),
    ("pl011_read", PlaceKind::Section),
    ("pl011_write", PlaceKind::Section),
    ("uart_console_write", PlaceKind::Section),
    ("nbcon_enter_unsafe", PlaceKind::Section),
    ("nbcon_exit_unsafe", PlaceKind::Section),
    ("nbcon_reacquire_nobuf", PlaceKind::Section),
    ("nbcon_context_try_acquire", PlaceKind::Section),
    ("nbcon_context_try_acquire_direct", PlaceKind::Section),
    ("panic_on_other_cpu", PlaceKind::Section),
    ("ipi_handler", PlaceKind::StopPath),
    ("do_handle_IPI", PlaceKind::StopPath),
    ("ipi_cpu_stop", PlaceKind::StopPath),
    ("ipi_cpu_crash_stop", PlaceKind::StopPath),
    ("local_cpu_stop", PlaceKind::StopPath),
    ("arm64_nmi_cpu_stop", PlaceKind::StopPath),
    ("cpu_park_loop", PlaceKind::StopPath),
    ("panic_smp_self_stop", PlaceKind::StopPath),
    ("crash_save_cpu", PlaceKind::StopPath),
    ("__cpu_try_die", PlaceKind::StopPath),
    ("cpu_psci_cpu_die", PlaceKind::StopPath),
    ("set_cpu_online", PlaceKind::StopPath),
    ("__crash_kexec", PlaceKind::CrashKexec),
];

/// The kernel's text, for people and for the rules.
pub(super) fn places<M: Memory>(kernel: &Kernel<'_, M>) -> Places {
    let symbols = kernel.symbols.all();
    let text = symbols
        .iter()
        .enumerate()
        .filter(|(_, symbol)| symbol.kind.eq_ignore_ascii_case(&'t'));
    let place = |(at, symbol): (usize, &vmm_core::inspect::Symbol)| {
        let bare = symbol.name.split('.').next();
        let kind = KINDS.iter().find(|(known, _)| Some(*known) == bare);
        let next = symbols[at..].iter().find(|next| next.at > symbol.at)?;
        Some(Place {
            start: symbol.at.0,
            end: next.at.0,
            kind: kind.map_or(PlaceKind::Other, |(_, kind)| *kind),
            name: symbol.name.clone(),
        })
    };
    Places(text.filter_map(place).collect())
}

/// The entries of the functions at which vCPUs are trapped.
#[derive(Clone, Debug)]
pub(super) struct Functions {
    pub(super) panic: u64,
    /// What a panic calls when it has masked interrupts and before it prints.
    pub(super) masked: Option<u64>,
    /// Where a panic begins that may come from an interrupt: behind it other CPUs' records are dropped.
    pub(super) nmi_panic: Option<u64>,
    pub(super) crash_stop: Option<u64>,
    pub(super) plain_stop: u64,
    /// The interrupt controller's function that writes ICC_SGI1R_EL1; the one of GICv2 has the same name.
    pub(super) send: Vec<u64>,
    pub(super) says: u64,
    /// The handler of every IPI.
    pub(super) handler: u64,
    pub(super) self_stop: u64,
    pub(super) flush: u64,
    /// Where a panic leaves for the capture kernel.
    pub(super) kexec: Option<u64>,
    pub(super) vectors: Range<u64>,
}

/// Bytes of a vector table (Arm ARM DDI 0487, D1.3.6.1: sixteen vectors of 128 bytes).
const VECTORS: u64 = 0x800;

impl Functions {
    pub(super) fn find<M: Memory>(
        kernel: &Kernel<'_, M>,
        last_flush: &str,
    ) -> Result<Self, InspectError> {
        let at = |name| kernel.symbols.address(name).map(|at| at.0);
        let send: Vec<u64> = kernel
            .symbols
            .named("gic_ipi_send_mask")
            .map(|symbol| symbol.at.0)
            .collect();
        if send.is_empty() {
            at("gic_ipi_send_mask")?;
        }
        let vectors = at("vectors")?;
        Ok(Self {
            panic: at("vpanic").or_else(|_| at("panic"))?,
            masked: at("bust_spinlocks").ok(),
            nmi_panic: at("nmi_panic").ok(),
            crash_stop: at("crash_smp_send_stop").ok(),
            plain_stop: at("smp_send_stop")?,
            send,
            says: at("_printk")?,
            handler: at("ipi_handler")?,
            self_stop: at("panic_smp_self_stop")?,
            flush: at(last_flush)?,
            kexec: at("machine_kexec").ok(),
            vectors: vectors..vectors + VECTORS,
        })
    }
}

/// The entry of the function that a point is in this kernel.
pub(super) fn entry<M: Memory>(kernel: &Kernel<'_, M>, at: Point) -> Result<Option<u64>, Unfit> {
    let place = place(at);
    let names = match &place {
        Some(Where::Entry(names)) => names,
        Some(Where::Circle(name) | Where::Behind(name)) => std::slice::from_ref(name),
        _ => return Ok(None),
    };
    let found = names
        .iter()
        .find_map(|name| kernel.symbols.address(name).ok());
    match found {
        Some(found) => Ok(Some(found.0)),
        None => Err(Unfit::NoSymbol {
            at,
            names: names.join(", "),
        }),
    }
}

/// A word in which acks are seen.
#[derive(Clone, Copy, Debug)]
struct Located {
    word: Word,
    va: KernelVa,
    at: PhysicalAddress,
}

/// What was in memory when it was looked at last.
pub(super) struct Watch {
    cpus: u16,
    words: Vec<Located>,
    values: Vec<u64>,
    notes: Vec<(PhysicalAddress, Note)>,
    log: LogReader,
}

/// The variable that a word is.
fn variable(word: Word) -> &'static str {
    match word {
        Word::OnlineMask => "__cpu_online_mask",
        Word::OnlineCount => "__num_online_cpus",
        Word::StopMask => "stop_mask",
        Word::Counter => "waiting_for_crash_ipi",
    }
}

/// How many bytes of it are looked at: of a mask those of its first 64 CPUs.
fn width(word: Word) -> Width {
    match word {
        Word::OnlineMask | Word::StopMask => Width::Doubleword,
        Word::OnlineCount | Word::Counter => Width::Word,
    }
}

impl Watch {
    /// Looks for the first time.
    pub(super) fn new<M: Memory>(
        memory: &M,
        kernel: &Kernel<'_, M>,
        cpus: u16,
    ) -> Result<Self, InspectError> {
        let mut words = Vec::new();
        for word in Word::ALL {
            let va = match kernel.symbol(variable(word)) {
                Ok(va) => va,
                Err(InspectError::NoSymbol { .. }) => continue,
                Err(error) => return Err(error),
            };
            let at = kernel.space.translate(va)?.at;
            words.push(Located { word, va, at });
        }
        let mut notes = Vec::new();
        for cpu in 0..cpus {
            match kernel.crash_note(CpuId(cpu)) {
                Ok((va, note)) => notes.push((kernel.space.translate(va)?.at, note)),
                // A kernel whose variables cannot be located: the rules on notes are not exercised then.
                Err(InspectError::NoSymbol { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        let log = kernel.log()?;
        log.damage(cpus)?;
        let mut watch = Self {
            cpus,
            words,
            values: Vec::new(),
            notes,
            log: LogReader::behind(&log),
        };
        watch.values = watch.read(memory);
        Ok(watch)
    }

    fn read<M: Memory>(&self, memory: &M) -> Vec<u64> {
        let value = |located: &Located| {
            let mut bytes = [0; 8];
            let part = &mut bytes[..width(located.word).bytes()];
            memory
                .read(located.at, part)
                .expect("it lay in RAM when it was located");
            u64::from_le_bytes(bytes)
        };
        self.words.iter().map(value).collect()
    }

    /// Whether this address lies in this word.
    pub(super) fn is_in(&self, word: Word, address: u64) -> bool {
        self.words.iter().any(|located| {
            let bytes = width(word).bytes() as u64;
            located.word == word && (located.va.0..located.va.0 + bytes).contains(&address)
        })
    }

    /// Whether acks can be seen in this word.
    pub(super) fn has(&self, word: Word) -> bool {
        self.words.iter().any(|located| located.word == word)
    }

    /// What watchpoints are set on.
    pub(super) fn watched(&self) -> Vec<Watched> {
        let watched = |located: &Located| Watched {
            address: located.va.0,
            width: width(located.word),
            access: Access::Store,
        };
        self.words.iter().map(watched).collect()
    }

    /// What a store of this CPU cleared since the last look: in a mask every CPU whose bit is gone, in a count itself.
    pub(super) fn cleared<M: Memory>(&mut self, memory: &M, cpu: CpuId) -> Vec<(CpuId, Word)> {
        let values = self.read(memory);
        let mut cleared = Vec::new();
        for ((located, before), after) in self.words.iter().zip(&self.values).zip(&values) {
            match located.word {
                Word::OnlineMask | Word::StopMask => {
                    let gone = CpuSet::from_bits(before & !after);
                    cleared.extend(gone.iter().map(|cpu| (cpu, located.word)));
                }
                Word::OnlineCount | Word::Counter if (*after as i32) < *before as i32 => {
                    cleared.push((cpu, located.word));
                }
                Word::OnlineCount | Word::Counter => {}
            }
        }
        self.values = values;
        cleared
    }

    /// A CPU's note, if it has changed.
    pub(super) fn note<M: Memory>(&mut self, memory: &M, cpu: usize) -> Option<Note> {
        let (at, known) = self.notes.get_mut(cpu)?;
        let mut bytes = [0; NOTE_BYTES];
        memory
            .read(*at, &mut bytes)
            .expect("it lay in RAM when it was located");
        if known.0 == bytes {
            return None;
        }
        *known = Note(bytes);
        Some(known.clone())
    }

    /// The notes that were not empty at the last look.
    pub(super) fn notes(&self) -> impl Iterator<Item = (usize, Note)> {
        let notes = self.notes.iter().map(|(_, note)| note.clone()).enumerate();
        notes.filter(|(_, note)| note.state() != NoteState::Empty)
    }

    /// Records that have been stored since the last look, with their level, a line each. In a stop those are read, too, that wait
    /// behind one that is never finished: its writer may have been stopped.
    pub(super) fn records<M: Memory>(
        &mut self,
        kernel: &Kernel<'_, M>,
        stops: bool,
    ) -> Result<Vec<(u8, String)>, InspectError> {
        let ring = kernel.log()?;
        let records = self.log.read(&ring, !stops).into_iter();
        let lines = |record: &Record| {
            let text = String::from_utf8_lossy(&record.text);
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            let level = record.level;
            lines.into_iter().map(move |line| (level, line))
        };
        Ok(records.flat_map(lines).collect())
    }

    /// CPUs of the guest.
    pub(super) fn cpus(&self) -> u16 {
        self.cpus
    }
}
