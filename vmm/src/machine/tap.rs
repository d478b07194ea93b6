//! A tap on the bus: it sees every access before the devices do, and may answer in their place.

use crate::vcpu::Width;

/// What a tap makes of an access.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tapped {
    /// What a load gets, or that a store is taken; none leaves the access to the devices.
    pub answer: Option<u64>,
    /// Whether the vCPU stays out of the guest when the access is done.
    pub trap: bool,
}

impl Tapped {
    /// The access goes on to the devices.
    pub const PASSED: Self = Self {
        answer: None,
        trap: false,
    };
}

/// Sees the accesses of every vCPU, on that vCPU's thread.
pub trait Tap: Send + Sync + 'static {
    /// A load by this vCPU.
    fn read(&self, vcpu: usize, address: u64, width: Width) -> Tapped;
    /// A store by this vCPU.
    fn write(&self, vcpu: usize, address: u64, width: Width, value: u64) -> Tapped;
}

/// The tap of a machine that nobody taps.
pub(crate) struct NoTap;

impl Tap for NoTap {
    fn read(&self, _: usize, _: u64, _: Width) -> Tapped {
        Tapped::PASSED
    }

    fn write(&self, _: usize, _: u64, _: Width, _: u64) -> Tapped {
        Tapped::PASSED
    }
}
