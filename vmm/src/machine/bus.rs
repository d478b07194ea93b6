//! What answers a guest's access to anything but memory.

use std::sync::Arc;

use super::map;
use super::tally::{Tally, Told};
use super::tap::{NoTap, Tap};
use super::uart::Uart;
use crate::vcpu::Width;

/// The devices by address. The interrupt controller is not here: KVM answers for it.
pub struct Bus {
    uart: Arc<Uart>,
    strays: Arc<Tally>,
    tap: Arc<dyn Tap>,
}

/// How an access ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Access {
    /// What a load got, or that a store was taken; none when nothing is there.
    pub answer: Option<u64>,
    /// Whether the vCPU is to stay out of the guest now.
    pub trap: bool,
}

impl Bus {
    /// `strays` outlives a reset of the guest, as the log does.
    pub(crate) fn new(uart: Arc<Uart>, strays: Arc<Tally>) -> Self {
        Self {
            uart,
            strays,
            tap: Arc::new(NoTap),
        }
    }

    /// The same bus with a tap in front of it.
    #[must_use]
    pub fn tapped(&self, tap: Arc<dyn Tap>) -> Self {
        Self {
            uart: Arc::clone(&self.uart),
            strays: Arc::clone(&self.strays),
            tap,
        }
    }

    /// A load by a vCPU.
    pub fn read(&self, vcpu: usize, address: u64, width: Width) -> Access {
        let tapped = self.tap.read(vcpu, address, width);
        Access {
            answer: tapped.answer.or_else(|| self.load(address, width)),
            trap: tapped.trap,
        }
    }

    /// A store by a vCPU.
    pub fn write(&self, vcpu: usize, address: u64, width: Width, value: u64) -> Access {
        let tapped = self.tap.write(vcpu, address, width, value);
        Access {
            answer: tapped
                .answer
                .or_else(|| self.store(address, width, value).map(|()| 0)),
            trap: tapped.trap,
        }
    }

    fn load(&self, address: u64, width: Width) -> Option<u64> {
        if let Some(offset) = uart_offset(address, width) {
            return Some(self.uart.read(offset, width));
        }
        self.stray(format_args!(
            "read of {} bytes at {address:#x}",
            width.bytes()
        ));
        None
    }

    fn store(&self, address: u64, width: Width, value: u64) -> Option<()> {
        if let Some(offset) = uart_offset(address, width) {
            self.uart.write(offset, width, value);
            return Some(());
        }
        self.stray(format_args!(
            "write of {value:#x}, {} bytes, at {address:#x}",
            width.bytes()
        ));
        None
    }

    /// An access that can't be emulated: the processor doesn't say which register it moves.
    pub fn no_syndrome(&self, address: u64, iss: u64) {
        self.stray(format_args!(
            "access at {address:#x} by an instruction without a syndrome (ISS {iss:#x})"
        ));
    }

    fn stray(&self, access: std::fmt::Arguments<'_>) {
        match self.strays.add() {
            Told::Yes => tracing::warn!("stray {access}: external abort"),
            Told::NoLonger => {
                tracing::warn!("more stray accesses: counted, but no longer logged");
            }
            Told::No => {}
        }
    }
}

fn uart_offset(address: u64, width: Width) -> Option<u16> {
    let last = address.checked_add(width.bytes() as u64 - 1)?;
    let inside = map::UART.contains(&address) && map::UART.contains(&last);
    inside.then(|| (address - map::UART.start) as u16)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Bus, Tally};
    use crate::machine::uart::Uart;
    use crate::vcpu::Width;

    #[test]
    fn only_whole_accesses_inside_a_window_reach_a_device() {
        let strays = Arc::new(Tally::default());
        let bus = Bus::new(Arc::new(Uart::new(Box::new(|_| {}))), Arc::clone(&strays));
        assert_eq!(
            bus.load(0x0900_0fe0, Width::Word),
            Some(0x11),
            "UARTPeriphID0"
        );
        assert_eq!(
            bus.load(0x0900_0ffc, Width::Doubleword),
            None,
            "half of it lies outside"
        );
        assert_eq!(bus.load(0x0900_1000, Width::Byte), None);
        assert_eq!(bus.store(0x08ff_ffff, Width::Halfword, 0), None);
        assert_eq!(bus.load(u64::MAX, Width::Doubleword), None);
        assert_eq!(strays.count(), 4);
    }
}
