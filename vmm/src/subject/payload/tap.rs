//! The tap of a payload's run: the doorbell, the wire, and the UART that is stuck for one vCPU.

use std::sync::{Mutex, MutexGuard};

use guest_abi::memory_map::{DOORBELL_BASE, PL011_BASE};
use vmm_core::pl011::spec::{Flag, Register};

use crate::machine;
use crate::vcpu::Width;

/// What has come by since it was last asked.
#[derive(Default)]
struct Seen {
    /// The vCPU whose reads of UARTFR say that the transmitter is full.
    stalled: Option<usize>,
    ring: Option<u64>,
    wire: Vec<u8>,
}

/// The tap.
#[derive(Default)]
pub(super) struct Tap(Mutex<Seen>);

impl Tap {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().expect("nobody panics while holding the tap")
    }

    /// Answers this vCPU alone that the transmitter is full. A stated deviation from hardware: were all answered so, the
    /// panicking CPU would hang in the same loop.
    pub(super) fn stall(&self, vcpu: Option<usize>) {
        self.lock().stalled = vcpu;
    }

    /// The value with which the doorbell was rung, and the bytes that were sent, since this was last asked.
    pub(super) fn take(&self) -> (Option<u64>, Vec<u8>) {
        let mut seen = self.lock();
        (seen.ring.take(), std::mem::take(&mut seen.wire))
    }
}

impl machine::Tap for Tap {
    fn read(&self, vcpu: usize, address: u64, _: Width) -> machine::Tapped {
        let seen = self.lock();
        let flags = address == PL011_BASE + Register::Fr as u64;
        if flags && seen.stalled == Some(vcpu) {
            // It has polled, and it is to be seen that nothing else comes of it.
            return machine::Tapped {
                answer: Some((Flag::TXFF | Flag::BUSY).bits().into()),
                trap: true,
            };
        }
        machine::Tapped::PASSED
    }

    fn write(&self, _: usize, address: u64, width: Width, value: u64) -> machine::Tapped {
        if address == PL011_BASE + Register::Dr as u64 {
            self.lock().wire.push(value as u8);
        }
        if (address, width) == (DOORBELL_BASE, Width::Doubleword) {
            self.lock().ring = Some(value);
            return machine::Tapped {
                answer: Some(0),
                trap: true,
            };
        }
        machine::Tapped::PASSED
    }
}
