//! The PL011's wiring: its registers on the bus, its line into the GIC, its two ends on the console.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use vmm_core::pl011::spec::{FIFO_DEPTH, Register};
use vmm_core::pl011::{Effects, Pl011, Symbol};

use super::Error;
use super::console::{Console, OnLost, Outlet};
use super::listening::Listening;
use crate::vcpu::Width;

/// What sets the level of the PL011's interrupt.
pub(crate) type Line = Box<dyn FnMut(bool) + Send>;

/// Bytes that wait for a slow console before the guest sees a full transmitter.
const OUTBOX: usize = 64 << 10;

/// The device, between the bus and the console.
pub struct Uart {
    wired: Mutex<Wired>,
    /// There is something to take out, or it is over.
    sent: Condvar,
    /// It is time to put something in, or it is over.
    drained: Condvar,
}

struct Wired {
    device: Pl011,
    listening: Listening,
    line: Line,
    level: bool,
    outbox: VecDeque<u8>,
    /// The console takes no more: what is sent goes nowhere.
    deaf: bool,
    closing: bool,
}

impl Wired {
    /// How many symbols the guest takes, and does not lose.
    fn room(&self) -> usize {
        if self.listening.is(&self.device) {
            self.device.room()
        } else {
            0
        }
    }

    /// Whether it is time to give the guest more: not for every character that it takes, which would wake the console's reader each time,
    /// but when it has taken so many that what comes raises its interrupt again.
    fn due(&self) -> bool {
        self.device.below_level() && self.room() > 0
    }

    /// Carries out what an access or an event brought about; its last line alone sets the wire.
    fn settle(&mut self, effects: &Effects) {
        if !self.deaf {
            self.outbox.extend(effects.sent());
        }
        if let Some(refused) = effects.refused {
            tracing::debug!(%refused, "PL011");
        }
        if self.outbox.len() + 2 * FIFO_DEPTH > OUTBOX {
            // Its effects are none: nothing can leave by this.
            let _ = self.device.set_sink_full(true);
        }
        let level = self.device.line();
        if level != self.level {
            self.level = level;
            (self.line)(level);
        }
    }
}

/// What the writer of the console gets.
pub(crate) enum Outgoing {
    /// Bytes to write.
    Bytes(Vec<u8>),
    /// There will be no more.
    Closed,
}

impl Uart {
    pub(crate) fn new(line: Line) -> Self {
        let wired = Wired {
            device: Pl011::new(),
            listening: Listening::default(),
            line,
            level: false,
            outbox: VecDeque::new(),
            deaf: false,
            closing: false,
        };
        Self {
            wired: Mutex::new(wired),
            sent: Condvar::new(),
            drained: Condvar::new(),
        }
    }

    /// Connects the host's ends of a console. `on_lost` is called when its output takes no more.
    pub fn connect(self: &Arc<Self>, console: Console, on_lost: OnLost) -> Result<Outlet, Error> {
        Outlet::start(console, self, on_lost).map_err(Error::Console)
    }

    fn lock(&self) -> MutexGuard<'_, Wired> {
        self.wired
            .lock()
            .expect("nobody panics while holding the PL011")
    }

    // The bus' side.

    pub(crate) fn read(&self, offset: u16, width: Width) -> u64 {
        let mut wired = self.lock();
        let before = (wired.due(), wired.outbox.is_empty());
        let flags = wired.device.flags();
        let read = wired.device.read(offset, width.bytes() as u8);
        wired.listening.read(Register::at(offset), flags);
        self.after(&mut wired, &read.effects, before);
        read.value
    }

    pub(crate) fn write(&self, offset: u16, width: Width, value: u64) {
        let mut wired = self.lock();
        let before = (wired.due(), wired.outbox.is_empty());
        let effects = wired.device.write(offset, width.bytes() as u8, value);
        wired.listening.write(Register::at(offset));
        self.after(&mut wired, &effects, before);
    }

    /// Wakes whoever waits for what an access brought about: to wake costs far more than the rest of it, on either side.
    fn after(&self, wired: &mut Wired, effects: &Effects, (due, empty): (bool, bool)) {
        wired.settle(effects);
        if !due && wired.due() {
            self.drained.notify_one();
        }
        if empty && !wired.outbox.is_empty() {
            self.sent.notify_one();
        }
    }

    // The console's side.

    /// Waits for bytes that the guest has sent.
    pub(crate) fn take(&self) -> Outgoing {
        let mut wired = self.lock();
        while wired.outbox.is_empty() && !wired.closing {
            wired = self
                .sent
                .wait(wired)
                .expect("nobody panics while holding the PL011");
        }
        let bytes: Vec<u8> = wired.outbox.drain(..).collect();
        // Now there is room again for what the device kept back.
        let effects = wired.device.set_sink_full(false);
        wired.settle(&effects);
        if bytes.is_empty() {
            Outgoing::Closed
        } else {
            Outgoing::Bytes(bytes)
        }
    }

    /// Waits until the guest listens and it is time to give it something, and says how much; zero when there will be no more.
    pub(crate) fn room(&self) -> usize {
        let wired = self.wait_until_due();
        if wired.closing { 0 } else { wired.room() }
    }

    /// The guest receives symbols, as many at a time as there is [`room`](Uart::room); waits for that.
    pub(crate) fn receive(&self, symbols: impl IntoIterator<Item = Symbol>) {
        let mut symbols = symbols.into_iter().peekable();
        while symbols.peek().is_some() {
            let mut wired = self.wait_until_due();
            if wired.closing {
                return;
            }
            for symbol in symbols.by_ref().take(wired.room()) {
                wired.device.receive(symbol);
            }
            if !wired.due() {
                // It is for the guest to take some: it must not wait, at its end, for more.
                wired.device.idle();
            }
            wired.settle(&Effects::default());
        }
    }

    /// No more symbols follow for now.
    pub(crate) fn idle(&self) {
        let mut wired = self.lock();
        wired.device.idle();
        wired.settle(&Effects::default());
    }

    fn wait_until_due(&self) -> MutexGuard<'_, Wired> {
        self.drained
            .wait_while(self.lock(), |wired| !wired.due() && !wired.closing)
            .expect("nobody panics while holding the PL011")
    }

    /// The console takes no more: what the guest sends from now on is dropped.
    pub(crate) fn deafen(&self) {
        let mut wired = self.lock();
        wired.deaf = true;
        wired.outbox.clear();
        let effects = wired.device.set_sink_full(false);
        wired.settle(&effects);
    }

    /// The run is over: whoever waits here is told so once the outbox is empty.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.sent.notify_one();
        self.drained.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use vmm_core::pl011::Symbol;
    use vmm_core::pl011::spec::{Flag, Interrupt, LineControl, Register};

    use super::{OUTBOX, Outgoing, Uart};
    use crate::deadline::Deadline;
    use crate::vcpu::Width;

    fn offset(register: Register) -> u16 {
        register.offset()
    }

    fn unmask(uart: &Uart) {
        uart.write(
            offset(Register::Imsc),
            Width::Word,
            Interrupt::RX.bits().into(),
        );
    }

    fn bytes(text: &[u8]) -> impl Iterator<Item = Symbol> {
        text.iter().copied().map(Symbol::Byte)
    }

    #[test]
    fn the_line_changes_only_when_its_level_does() {
        let levels = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&levels);
        let uart = Uart::new(Box::new(move |up| seen.lock().unwrap().push(up)));
        unmask(&uart);
        uart.receive(bytes(b"a"));
        uart.read(offset(Register::Dr), Width::Word);
        uart.read(offset(Register::Dr), Width::Word);
        assert_eq!(*levels.lock().unwrap(), [true, false]);
    }

    #[test]
    fn a_console_that_takes_nothing_shows_as_a_full_transmitter_and_loses_no_byte() {
        let uart = Uart::new(Box::new(|_| {}));
        let full = |uart: &Uart| {
            let flags = uart.read(offset(Register::Fr), Width::Word) as u16;
            Flag::from_bits_truncate(flags).contains(Flag::TXFF)
        };
        let mut sent = 0_usize;
        while !full(&uart) {
            uart.write(offset(Register::Dr), Width::Word, (sent % 251) as u64);
            sent += 1;
            assert!(sent <= 2 * OUTBOX, "the transmitter fills at some time");
        }
        let mut taken = Vec::new();
        while taken.len() < sent {
            let Outgoing::Bytes(bytes) = uart.take() else {
                panic!("not closed")
            };
            taken.extend(bytes);
        }
        assert!(
            taken
                .iter()
                .enumerate()
                .all(|(at, &byte)| byte == (at % 251) as u8),
            "in order, none twice"
        );
        assert!(!full(&uart), "and it goes on");
    }

    #[test]
    fn closing_lets_the_last_bytes_out_first() {
        let uart = Uart::new(Box::new(|_| {}));
        uart.write(offset(Register::Dr), Width::Word, b'!'.into());
        uart.close();
        assert!(matches!(uart.take(), Outgoing::Bytes(bytes) if bytes == b"!"));
        assert!(matches!(uart.take(), Outgoing::Closed));
        assert_eq!(uart.room(), 0);
    }

    #[test]
    fn a_reader_that_waits_for_room_wakes_when_the_guest_reads() {
        let _in_time = Deadline::set();
        let uart = Arc::new(Uart::new(Box::new(|_| {})));
        unmask(&uart);
        assert_eq!(uart.room(), 1, "after reset the FIFO is off");
        uart.receive(bytes(b"a"));
        let got = Arc::new(AtomicUsize::new(0));
        let waiting = {
            let (uart, got) = (Arc::clone(&uart), Arc::clone(&got));
            std::thread::spawn(move || got.store(uart.room(), Ordering::SeqCst))
        };
        assert_eq!(
            uart.read(offset(Register::Dr), Width::Word),
            u64::from(b'a')
        );
        waiting.join().unwrap();
        assert_eq!(got.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_guest_that_takes_a_few_is_not_given_more_but_told_not_to_wait_for_them() {
        let uart = Uart::new(Box::new(|_| {}));
        let enabled = LineControl::FEN.bits().into();
        uart.write(offset(Register::LcrH), Width::Word, enabled);
        unmask(&uart);
        let raised = |uart: &Uart| {
            let raised = uart.read(offset(Register::Ris), Width::Word) as u16;
            Interrupt::from_bits_truncate(raised)
        };
        let take = |uart: &Uart, count| {
            for _ in 0..count {
                uart.read(offset(Register::Dr), Width::Word);
            }
        };
        uart.receive(bytes(&[b'a'; 7]));
        assert_eq!((uart.room(), raised(&uart)), (9, Interrupt::empty()));
        uart.receive(bytes(&[b'a'; 4]));
        assert_eq!(raised(&uart), Interrupt::RX | Interrupt::RT);
        take(&uart, 3);
        assert!(!uart.lock().due(), "eight wait: the level after reset");
        take(&uart, 1);
        assert_eq!((uart.room(), raised(&uart)), (9, Interrupt::RT));
    }

    #[test]
    fn symbols_wait_until_the_guest_listens_and_come_in_order() {
        let _in_time = Deadline::set();
        let uart = Arc::new(Uart::new(Box::new(|_| {})));
        let sending = {
            let uart = Arc::clone(&uart);
            std::thread::spawn(move || uart.receive(bytes(b"abc")))
        };
        let status = |uart: &Uart| uart.read(offset(Register::Fr), Width::Word) as u16;
        assert!(
            Flag::from_bits_truncate(status(&uart)).contains(Flag::RXFE),
            "nobody listens: nothing can be drained"
        );
        unmask(&uart);
        let mut got = Vec::new();
        while got.len() < 3 {
            if !Flag::from_bits_truncate(status(&uart)).contains(Flag::RXFE) {
                got.push(uart.read(offset(Register::Dr), Width::Word) as u8);
            }
        }
        assert_eq!(got, b"abc");
        sending.join().unwrap();
    }

    #[test]
    fn symbols_that_wait_when_it_is_over_are_let_go() {
        let _in_time = Deadline::set();
        let uart = Arc::new(Uart::new(Box::new(|_| {})));
        let sending = {
            let uart = Arc::clone(&uart);
            std::thread::spawn(move || uart.receive(bytes(b"abc")))
        };
        uart.close();
        sending.join().unwrap();
    }
}
