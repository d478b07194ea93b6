//! Function numbers of PSCI (DEN 0022).

/// CPU_OFF (5.5).
pub const CPU_OFF: u32 = 0x8400_0002;
