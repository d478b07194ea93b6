//! Interrupt numbers.

use std::fmt;

/// An interrupt as the GIC numbers it (GICv3 IHI 0069, 2.2.1).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct IntId(u32);

impl IntId {
    /// The software-generated interrupt `n`, 0 to 15.
    pub const fn sgi(n: u32) -> Self {
        assert!(n < 16, "an SGI is 0 to 15");
        Self(n)
    }

    /// The private peripheral interrupt `n`, 0 to 15.
    pub const fn ppi(n: u32) -> Self {
        assert!(n < 16, "a PPI is 0 to 15");
        Self(16 + n)
    }

    /// The shared peripheral interrupt `n`, 0 to 987.
    pub const fn spi(n: u32) -> Self {
        assert!(n < 988, "an SPI is 0 to 987");
        Self(32 + n)
    }

    /// The number itself, as `KVM_IRQ_LINE` and the registers of the GIC want it.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Type and number as the first two cells of a device tree's interrupt specifier hold them
    /// (Devicetree bindings, `arm,gic-v3.yaml`): 0 and INTID - 32 for an SPI, 1 and INTID - 16 for a PPI.
    pub const fn specifier(self) -> [u32; 2] {
        if self.0 >= 32 {
            [0, self.0 - 32]
        } else {
            [1, self.0 - 16]
        }
    }
}

impl fmt::Display for IntId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n @ 0..=15 => write!(f, "SGI {n}"),
            n @ 16..=31 => write!(f, "PPI {}", n - 16),
            n => write!(f, "SPI {}", n - 32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::IntId;

    #[test]
    fn an_interrupt_prints_and_specifies_itself() {
        assert_eq!(IntId::spi(1).to_string(), "SPI 1");
        assert_eq!(IntId::spi(1).number(), 33);
        assert_eq!(IntId::spi(1).specifier(), [0, 1]);
        assert_eq!(IntId::ppi(11).to_string(), "PPI 11");
        assert_eq!(IntId::ppi(11).number(), 27);
        assert_eq!(IntId::ppi(11).specifier(), [1, 11]);
    }
}
