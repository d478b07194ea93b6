//! Affinities.

use std::fmt;

/// The affinity fields of `MPIDR_EL1` (Arm ARM DDI 0487, D24.2.123), without its flags.
///
/// KVM alone assigns them; they are read back from it and never computed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mpidr(u64);

impl Mpidr {
    /// Aff3 in bits 39 to 32, Aff2 in 23 to 16, Aff1 in 15 to 8, Aff0 in 7 to 0.
    const AFFINITY: u64 = 0x0000_00ff_00ff_ffff;

    /// Takes a value of `MPIDR_EL1`; U, MT and the bits that read as one are dropped.
    pub const fn from_register(value: u64) -> Self {
        Self(value & Self::AFFINITY)
    }

    /// The affinity bits in their places, which is also what `reg` of a device tree's cpu node and PSCI's
    /// `target_cpu` hold (Devicetree bindings, `arm/cpus.yaml`; PSCI DEN 0022, 5.1.4).
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The four fields side by side, as `GICR_TYPER` has them (GICv3 IHI 0069, 12.11).
    pub const fn packed(self) -> u64 {
        self.0 >> 32 << 24 | self.0 & 0xff_ffff
    }
}

impl fmt::Display for Mpidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [aff0, aff1, aff2, _, aff3, ..] = self.0.to_le_bytes();
        write!(f, "{aff3}.{aff2}.{aff1}.{aff0}")
    }
}

#[cfg(test)]
mod tests {
    use super::Mpidr;

    #[test]
    fn flags_are_dropped_and_affinities_printed() {
        // A vCPU 17 of KVM: 16 CPUs an Aff0 group, RES1 set.
        let mpidr = Mpidr::from_register(0x8000_0101);
        assert_eq!(mpidr.bits(), 0x101);
        assert_eq!(mpidr.to_string(), "0.0.1.1");
        let wide = Mpidr::from_register(0x05_4300_0201);
        assert_eq!(wide.to_string(), "5.0.2.1");
        assert_eq!(wide.packed(), 0x0500_0201);
    }
}
