//! The tap of a Linux guest's run: who is inside the console driver's critical section, what came over the wire, and the
//! UART that is stuck for one vCPU.
//!
//! `pl011_console_write()` reads UARTCR, writes it, sends its bytes and writes UARTCR again (Linux
//! drivers/tty/serial/amba-pl011.c): the first write is behind the port lock, the second before it is let go. It changes no more
//! than it must to send: who opens the terminal enables the receiver, too.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use guest_abi::memory_map::PL011_BASE;
use vmm_core::evidence::without_prefix;
use vmm_core::pl011::spec::{Control, Flag, Register};

use crate::machine::{self, Tapped};
use crate::vcpu::Width;

/// The byte by which init asks whether it may go on (ASCII ENQ).
pub(super) const ENQUIRY: u8 = 0x05;
/// The answer (ASCII ACK).
pub(super) const ACKNOWLEDGE: u8 = 0x06;

/// The bytes by which a capture kernel's init says how far it is (ASCII STX, ETX and EOT; images/init/src/vmcore.rs).
const STAGES: [(u8, Stage); 3] = [
    (0x02, Stage::Up),
    (0x03, Stage::Written),
    (0x04, Stage::Done),
];

/// What a capture kernel says of CPUs that it cannot bring online (Linux arch/arm64/kernel/smp.c, __cpu_up()).
const COMPLAINTS: [&str; 2] = [": failed to come online", ": failed to boot"];
/// What it says when it panics (Linux kernel/panic.c).
const PANICS: &str = "Kernel panic - not syncing: ";

/// Bytes of a record that are out when it is caught in its middle: more than the time that stands before it.
const MIDDLE: usize = 24;

/// How many bytes are kept of what a guest said last.
const TAIL: usize = 400;

/// What a CPU did at the console.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    /// It sends the first byte of a section.
    Enters,
    /// Bytes of a section.
    Wire(Vec<u8>),
    /// It ends a section.
    Leaves,
}

/// How far a capture kernel is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// In user space.
    Up,
    /// Its memory has what it hands over.
    Written,
    /// All is done.
    Done,
    /// It complains of a CPU.
    Complains(String),
}

/// Where in the section a CPU is to be caught.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Catch {
    /// The section is open, no byte is out.
    Locked,
    /// In the middle of a record.
    Middle,
    /// The record is out.
    Unlock,
}

/// How far a CPU is in a console write.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Section {
    #[default]
    Outside,
    /// It has read UARTCR, and nothing since.
    ControlRead,
    /// It has written UARTCR behind that: if a byte follows this is the console.
    Opened,
    /// It has sent bytes; so many since the last end of a line.
    Inside(usize),
}

struct State {
    cpus: Vec<Section>,
    /// Whether init's question is waited for, or the section is recorded.
    recording: bool,
    seen: Vec<(usize, Seen)>,
    /// UARTCR.
    control: Control,
    catch: Option<(usize, Catch)>,
    stalled: Vec<usize>,
    /// The last bytes of all, whoever sent them.
    tail: VecDeque<u8>,
    /// Who runs the capture kernel, as far as is known.
    capture: Vec<usize>,
    /// How far that is, if it has not been asked since.
    stage: Option<Stage>,
    /// What its init has said.
    said: Vec<u8>,
    /// The line of its log that is under way.
    line: Vec<u8>,
    /// What it panicked with.
    panicked: Option<String>,
}

/// The tap.
pub(super) struct Tap(Mutex<State>);

impl Tap {
    /// For so many vCPUs.
    pub(super) fn new(cpus: usize) -> Self {
        Self(Mutex::new(State {
            cpus: vec![Section::default(); cpus],
            recording: false,
            seen: Vec::new(),
            // As after reset (ARM DDI 0183, 3.3.8).
            control: Control::TXE | Control::RXE,
            catch: None,
            stalled: Vec::new(),
            tail: VecDeque::new(),
            capture: Vec::new(),
            stage: None,
            said: Vec::new(),
            line: Vec::new(),
            panicked: None,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics while holding the tap")
    }

    /// From now on what happens at the console is kept, and init's question means nothing more.
    pub(super) fn record(&self) {
        self.lock().recording = true;
    }

    /// Who is in a section.
    pub(super) fn inside(&self) -> Vec<usize> {
        let state = self.lock();
        let inside = |section: &Section| matches!(section, Section::Inside(_));
        (0..state.cpus.len())
            .filter(|cpu| inside(&state.cpus[*cpu]))
            .collect()
    }

    /// What has happened since this was last asked.
    pub(super) fn take(&self) -> Vec<(usize, Seen)> {
        std::mem::take(&mut self.lock().seen)
    }

    /// The guest's last words.
    pub(super) fn last_words(&self) -> String {
        let mut state = self.lock();
        let tail = String::from_utf8_lossy(state.tail.make_contiguous());
        match tail.trim() {
            "" => "nothing".to_owned(),
            words => words.escape_debug().to_string(),
        }
    }

    /// This CPU runs the capture kernel: what it sends from now on belongs to nobody's section. It is trapped at each of its stages.
    pub(super) fn capture(&self, cpu: usize) {
        let mut state = self.lock();
        state.cpus[cpu] = Section::Outside;
        state.capture.push(cpu);
    }

    /// How far the capture kernel has come, and what its init has said.
    pub(super) fn stage(&self) -> (Option<Stage>, Vec<u8>) {
        let mut state = self.lock();
        (state.stage.take(), state.said.clone())
    }

    /// What the capture kernel has panicked with, if it has.
    pub(super) fn capture_panicked(&self) -> Option<String> {
        self.lock().panicked.clone()
    }

    /// Last words are those from now on.
    pub(super) fn forget_words(&self) {
        self.lock().tail.clear();
    }

    /// Has the CPU trapped when it next comes there.
    pub(super) fn catch(&self, cpu: usize, at: Catch) {
        self.lock().catch = Some((cpu, at));
    }

    /// Answers this vCPU alone that the transmitter is full, or no longer. A stated deviation from hardware: were all answered so,
    /// the panicking CPU would hang in the same loop.
    pub(super) fn stall(&self, cpu: usize, stalled: bool) {
        let mut state = self.lock();
        state.stalled.retain(|known| *known != cpu);
        if stalled {
            state.stalled.push(cpu);
        }
    }
}

impl State {
    fn see(&mut self, cpu: usize, seen: Seen) {
        if !self.recording {
            return;
        }
        match (self.seen.last_mut(), seen) {
            (Some((last, Seen::Wire(bytes))), Seen::Wire(more)) if *last == cpu => {
                bytes.extend(more);
            }
            (_, seen) => self.seen.push((cpu, seen)),
        }
    }

    fn caught(&mut self, cpu: usize, at: Catch) -> bool {
        let caught = self.catch == Some((cpu, at));
        if caught {
            self.catch = None;
        }
        caught
    }

    /// Whether the vCPU, which runs the capture kernel, stays out of the guest after this.
    fn hands(&mut self, cpu: usize, byte: u8) -> bool {
        if self.cpus[cpu] == Section::Opened {
            // Its log.
            self.line.push(byte);
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                let text = String::from_utf8_lossy(without_prefix(line.trim_ascii()));
                if let Some(why) = text.strip_prefix(PANICS) {
                    self.panicked.get_or_insert(why.to_owned());
                }
                if COMPLAINTS.iter().any(|words| text.contains(words)) {
                    self.stage = Some(Stage::Complains(text.into_owned()));
                }
            }
        } else if let Some((_, stage)) = STAGES.iter().find(|(known, _)| *known == byte) {
            self.stage = Some(stage.clone());
        } else {
            self.said.push(byte);
        }
        self.stage.is_some()
    }

    /// A CPU is at UARTCR or UARTDR. Who opens the terminal writes UARTCR too, perhaps without a change, and then goes away; what another CPU
    /// does shows that it was not the console, whose section is behind the port lock. Nobody passes that before a panic.
    fn passes(&mut self, cpu: usize) {
        if self.recording {
            return;
        }
        let others = self.cpus.iter_mut().enumerate();
        for (_, section) in others.filter(|(other, _)| *other != cpu) {
            if matches!(section, Section::ControlRead | Section::Opened) {
                *section = Section::Outside;
            }
        }
    }

    /// Whether the vCPU stays out of the guest after this.
    fn sends(&mut self, cpu: usize, byte: u8) -> bool {
        if self.capture.contains(&cpu) {
            return self.hands(cpu, byte);
        }
        let before = match self.cpus[cpu] {
            Section::Opened => {
                self.see(cpu, Seen::Enters);
                0
            }
            Section::Inside(before) => before,
            Section::Outside | Section::ControlRead => {
                self.cpus[cpu] = Section::Outside;
                return byte == ENQUIRY && !self.recording;
            }
        };
        let out = if byte == b'\n' { 0 } else { before + 1 };
        self.cpus[cpu] = Section::Inside(out);
        self.see(cpu, Seen::Wire(vec![byte]));
        out >= MIDDLE && self.caught(cpu, Catch::Middle)
    }

    fn controls(&mut self, cpu: usize, value: Control) -> bool {
        let before = std::mem::replace(&mut self.control, value);
        let sends = (Control::UARTEN | Control::TXE).contains(value - before)
            && Control::CTSEN.contains(before - value);
        match self.cpus[cpu] {
            Section::ControlRead if sends => {
                self.cpus[cpu] = Section::Opened;
                self.caught(cpu, Catch::Locked)
            }
            Section::Inside(_) => {
                self.cpus[cpu] = Section::Outside;
                self.see(cpu, Seen::Leaves);
                self.caught(cpu, Catch::Unlock)
            }
            Section::Outside | Section::ControlRead | Section::Opened => {
                self.cpus[cpu] = Section::Outside;
                false
            }
        }
    }
}

fn register(address: u64) -> Option<Register> {
    let offset = u16::try_from(address.checked_sub(PL011_BASE)?).ok()?;
    Register::at(offset)
}

impl machine::Tap for Tap {
    fn read(&self, vcpu: usize, address: u64, _: Width) -> Tapped {
        let mut state = self.lock();
        match (register(address), state.cpus[vcpu]) {
            (Some(Register::Cr), Section::Outside | Section::ControlRead | Section::Opened) => {
                state.cpus[vcpu] = Section::ControlRead;
            }
            (Some(Register::Fr), _) if state.stalled.contains(&vcpu) => {
                return Tapped {
                    answer: Some((Flag::TXFF | Flag::BUSY).bits().into()),
                    trap: false,
                };
            }
            (Some(Register::Fr), Section::Opened | Section::Inside(_))
            | (_, Section::Inside(_)) => {}
            _ => state.cpus[vcpu] = Section::Outside,
        }
        Tapped::PASSED
    }

    fn write(&self, vcpu: usize, address: u64, _: Width, value: u64) -> Tapped {
        let mut state = self.lock();
        let register = register(address);
        if matches!(register, Some(Register::Dr | Register::Cr)) {
            state.passes(vcpu);
        }
        let trap = match register {
            Some(Register::Dr) => {
                state.tail.push_back(value as u8);
                if state.tail.len() > TAIL {
                    state.tail.pop_front();
                }
                state.sends(vcpu, value as u8)
            }
            Some(Register::Cr) => state.controls(vcpu, Control::from_bits_truncate(value as u16)),
            _ if matches!(state.cpus[vcpu], Section::Inside(_)) => false,
            _ => {
                state.cpus[vcpu] = Section::Outside;
                false
            }
        };
        Tapped { answer: None, trap }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Tap as _;

    const WORD: Width = Width::Word;

    fn at(register: Register) -> u64 {
        PL011_BASE + u64::from(register.offset())
    }

    fn console_write(tap: &Tap, cpu: usize, text: &[u8]) -> Vec<bool> {
        tap.read(cpu, at(Register::Cr), WORD);
        let mut trapped = vec![tap.write(cpu, at(Register::Cr), WORD, 0x301).trap];
        for byte in text {
            tap.read(cpu, at(Register::Fr), WORD);
            trapped.push(
                tap.write(cpu, at(Register::Dr), WORD, u64::from(*byte))
                    .trap,
            );
        }
        tap.read(cpu, at(Register::Fr), WORD);
        trapped.push(tap.write(cpu, at(Register::Cr), WORD, 0x300).trap);
        trapped
    }

    fn recording() -> Tap {
        let tap = Tap::new(2);
        tap.record();
        assert!(tap.inside().is_empty());
        tap
    }

    #[test]
    fn a_console_write_is_a_section_with_its_bytes() {
        let tap = recording();
        console_write(&tap, 1, b"abc\n");
        assert_eq!(
            tap.take(),
            [
                (1, Seen::Enters),
                (1, Seen::Wire(b"abc\n".to_vec())),
                (1, Seen::Leaves)
            ]
        );
    }

    #[test]
    fn what_a_terminal_sends_is_no_section() {
        let tap = recording();
        // The driver's probe writes zero; pl011_startup() reads UARTCR and enables the receiver as well, perhaps to be moved to another
        // CPU behind that; then bytes are sent.
        tap.write(0, at(Register::Cr), WORD, 0);
        tap.read(0, at(Register::Cr), WORD);
        tap.write(0, at(Register::Cr), WORD, 0x301);
        tap.read(0, at(Register::Fr), WORD);
        tap.write(1, at(Register::Imsc), WORD, 0x50);
        tap.write(0, at(Register::Dr), WORD, u64::from(b'x'));
        assert!(tap.take().is_empty());
        console_write(&tap, 0, b"y\n");
        assert_eq!(tap.take().len(), 3);
    }

    #[test]
    fn who_opens_the_terminal_and_goes_away_is_heard_as_a_terminal() {
        let tap = Tap::new(2);
        // UARTCR is written as it was.
        let as_it_was = tap.lock().control.bits().into();
        tap.read(0, at(Register::Cr), WORD);
        tap.write(0, at(Register::Cr), WORD, as_it_was);
        console_write(&tap, 1, b"y\n");
        let asks = tap.write(0, at(Register::Dr), WORD, ENQUIRY.into());
        assert!(asks.trap);
    }

    #[test]
    fn a_cpu_is_caught_where_it_was_asked_for_and_once() {
        let text = [b'x'; 2 * MIDDLE];
        let all = |at| {
            let tap = recording();
            tap.catch(1, at);
            assert!(!console_write(&tap, 0, &text).contains(&true), "not CPU 0");
            let traps = console_write(&tap, 1, &text);
            assert!(!console_write(&tap, 1, &text).contains(&true), "once");
            let caught: Vec<usize> = (0..traps.len()).filter(|n| traps[*n]).collect();
            caught
        };
        assert_eq!(all(Catch::Locked), [0]);
        assert_eq!(all(Catch::Middle), [MIDDLE]);
        assert_eq!(all(Catch::Unlock), [text.len() + 1]);
    }

    #[test]
    fn a_stalled_cpu_alone_sees_a_full_transmitter() {
        let tap = recording();
        tap.stall(1, true);
        let full = Some(u64::from((Flag::TXFF | Flag::BUSY).bits()));
        assert_eq!(tap.read(1, at(Register::Fr), WORD).answer, full);
        assert_eq!(tap.read(0, at(Register::Fr), WORD).answer, None);
        tap.stall(1, false);
        assert_eq!(tap.read(1, at(Register::Fr), WORD).answer, None);
    }

    #[test]
    fn a_capture_kernel_says_how_far_it_is_and_its_log_says_what_it_cannot() {
        let tap = recording();
        tap.capture(1);
        let send = |byte: u8| tap.write(1, at(Register::Dr), WORD, u64::from(byte)).trap;
        assert!(send(2));
        assert_eq!(tap.stage(), (Some(Stage::Up), Vec::new()));
        assert!(!send(b'a'));
        let log = console_write(&tap, 1, b"[    1.000000] l\x02\x03\r\n");
        assert!(!log.contains(&true));
        assert!(!send(b'b') && send(3));
        assert_eq!(tap.stage(), (Some(Stage::Written), b"ab".to_vec()));
        let log = console_write(&tap, 1, b"[    2.000000] CPU3: failed to come online\r\n");
        assert_eq!(log.iter().filter(|trapped| **trapped).count(), 1);
        let complaint = "CPU3: failed to come online".to_owned();
        assert_eq!(tap.stage().0, Some(Stage::Complains(complaint)));
        assert_eq!(tap.capture_panicked(), None);
        console_write(
            &tap,
            1,
            b"[    3.000000] Kernel panic - not syncing: why\r\n",
        );
        assert_eq!(tap.capture_panicked().unwrap(), "why");
        assert!(tap.take().is_empty());
        // The other CPU is still the old kernel's.
        console_write(&tap, 0, b"late\n");
        assert_eq!(tap.take().len(), 3);
    }

    #[test]
    fn init_is_heard_before_the_run_is_recorded_and_outside_of_the_console() {
        let tap = Tap::new(1);
        let ask = |tap: &Tap| {
            tap.write(0, at(Register::Dr), WORD, u64::from(ENQUIRY))
                .trap
        };
        assert!(!console_write(&tap, 0, &[ENQUIRY]).contains(&true));
        assert!(ask(&tap));
        tap.record();
        assert!(!ask(&tap));
    }
}
