//! The PL011's wiring: its registers on the bus, its line into the GIC, its two ends on the console.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use vmm_core::pl011::spec::FIFO_DEPTH;
use vmm_core::pl011::{Effects, Pl011, Symbol};

use super::Error;
use super::console::{Console, OnLost, Outlet};
use crate::vcpu::Width;

/// What sets the level of the PL011's interrupt.
pub(crate) type Line = Box<dyn FnMut(bool) + Send>;

/// Bytes that wait for a slow console before the guest sees a full transmitter.
const OUTBOX: usize = 64 << 10;

/// The device, between the bus and the console.
pub struct Uart {
    wired: Mutex<Wired>,
    /// There is something to take out, or room to put something in, or it is over.
    changed: Condvar,
}

struct Wired {
    device: Pl011,
    line: Line,
    level: bool,
    outbox: VecDeque<u8>,
    /// The console takes no more: what is sent goes nowhere.
    deaf: bool,
    closing: bool,
}

impl Wired {
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
            line,
            level: false,
            outbox: VecDeque::new(),
            deaf: false,
            closing: false,
        };
        Self {
            wired: Mutex::new(wired),
            changed: Condvar::new(),
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
        let read = wired.device.read(offset, width.bytes() as u8);
        self.after(&mut wired, &read.effects);
        read.value
    }

    pub(crate) fn write(&self, offset: u16, width: Width, value: u64) {
        let mut wired = self.lock();
        let effects = wired.device.write(offset, width.bytes() as u8, value);
        self.after(&mut wired, &effects);
    }

    fn after(&self, wired: &mut Wired, effects: &Effects) {
        wired.settle(effects);
        if effects.room || !effects.sent().is_empty() {
            self.changed.notify_all();
        }
    }

    // The console's side.

    /// Waits for bytes that the guest has sent.
    pub(crate) fn take(&self) -> Outgoing {
        let mut wired = self.lock();
        while wired.outbox.is_empty() && !wired.closing {
            wired = self
                .changed
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

    /// Waits until the guest can receive something, and says how much; zero when there will be no more.
    pub(crate) fn room(&self) -> usize {
        let mut wired = self.lock();
        while wired.device.room() == 0 && !wired.closing {
            wired = self
                .changed
                .wait(wired)
                .expect("nobody panics while holding the PL011");
        }
        if wired.closing {
            0
        } else {
            wired.device.room()
        }
    }

    /// The guest receives bytes, no more than there is [`room`](Uart::room); `idle` says that no more follow for now.
    pub(crate) fn receive(&self, bytes: &[u8], idle: bool) {
        let mut wired = self.lock();
        for &byte in bytes {
            wired.device.receive(Symbol::Byte(byte));
        }
        if idle {
            wired.device.idle();
        }
        wired.settle(&Effects::default());
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
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use vmm_core::pl011::spec::{Flag, Interrupt, Register};

    use super::{OUTBOX, Outgoing, Uart};
    use crate::vcpu::Width;

    fn offset(register: Register) -> u16 {
        register.offset()
    }

    #[test]
    fn the_line_changes_only_when_its_level_does() {
        let levels = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&levels);
        let uart = Uart::new(Box::new(move |up| seen.lock().unwrap().push(up)));
        uart.write(
            offset(Register::Imsc),
            Width::Word,
            Interrupt::RX.bits().into(),
        );
        uart.receive(b"ab", true);
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
        let uart = Arc::new(Uart::new(Box::new(|_| {})));
        assert_eq!(uart.room(), 1, "after reset the FIFO is off");
        uart.receive(b"a", true);
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
}
