//! What a host offers, what that is needed for, and what can therefore run on it.

use std::fmt;

use serde::Serialize;

/// What KVM on arm64 offers.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct KvmOffer {
    /// KVM_GET_API_VERSION.
    pub api_version: i32,
    /// Whether a vGICv3 can be made.
    pub gicv3: bool,
    /// Most bits of a guest physical address.
    pub ipa_bits: u32,
    /// Hardware breakpoints.
    pub breakpoints: u32,
    /// Hardware watchpoints.
    pub watchpoints: u32,
    /// KVM_CAP_COUNTER_OFFSET (Linux 6.4).
    pub counter_offset: bool,
    /// KVM_ARM_VM_SMCCC_FILTER (Linux 6.4).
    pub smccc_filter: bool,
    /// Most vCPUs of a VM.
    pub vcpus: usize,
}

/// Why there is no KVM of use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoKvm {
    /// The processor is another one.
    #[error("this host is {0}: its KVM runs no arm64 guest")]
    OtherArchitecture(String),
    /// No device.
    #[error("there is no /dev/kvm: the kernel has no KVM, or the firmware left no EL2 to it")]
    NoDevice,
    /// No permission.
    #[error(
        "no permission to open /dev/kvm: join the group that owns it (sudo usermod -aG kvm $USER, then log in again)"
    )]
    NotPermitted,
    /// It is there and does not work.
    #[error("/dev/kvm does not work: {0}")]
    Broken(String),
}

impl Serialize for NoKvm {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What opening /dev/kvm met.
impl From<std::io::Error> for NoKvm {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => NoKvm::NoDevice,
            std::io::ErrorKind::PermissionDenied => NoKvm::NotPermitted,
            _ => NoKvm::Broken(error.to_string()),
        }
    }
}

/// The version of the KVM API that has been the only one since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// Why a guest can't run on this host although it has KVM.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Lack {
    /// No KVM at all.
    #[error(transparent)]
    Kvm(NoKvm),
    /// An interrupt controller that can do no pseudo-NMI.
    #[error(
        "this host's KVM offers no GICv3, only GICv2: it has no priority mask register for EL1, so no pseudo-NMI; use --lab"
    )]
    NoGicV3,
    /// A KVM of another age.
    #[error("this host's KVM has API version {0}, not {API_VERSION}")]
    ApiVersion(i32),
    /// More vCPUs than it can make.
    #[error("--cpus {asked}: this host's KVM makes at most {most} vCPUs a guest")]
    Vcpus {
        /// How many were wanted.
        asked: usize,
        /// How many there can be.
        most: usize,
    },
    /// Not enough address space.
    #[error(
        "the guest needs {needed} bits of physical address, and this host's KVM offers {most}: fewer --cpus or less --memory"
    )]
    IpaBits {
        /// How many the guest needs.
        needed: u32,
        /// How many there are.
        most: u32,
    },
}

/// What a guest asks of a host.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// vCPUs.
    pub vcpus: usize,
    /// The end of its physical address space.
    pub top: u64,
}

impl Need {
    /// The smallest guest's.
    pub const LEAST: Self = Self {
        vcpus: 1,
        top: 1 << 31,
    };
}

impl KvmOffer {
    /// Whether a guest can run here.
    pub fn suffices(&self, need: Need) -> Result<(), Lack> {
        let bits = u64::BITS - (need.top - 1).leading_zeros();
        if self.api_version != API_VERSION {
            Err(Lack::ApiVersion(self.api_version))
        } else if !self.gicv3 {
            Err(Lack::NoGicV3)
        } else if need.vcpus > self.vcpus {
            Err(Lack::Vcpus {
                asked: need.vcpus,
                most: self.vcpus,
            })
        } else if bits > self.ipa_bits {
            Err(Lack::IpaBits {
                needed: bits,
                most: self.ipa_bits,
            })
        } else {
            Ok(())
        }
    }
}

/// One thing that a host has or lacks.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Row {
    /// What.
    pub what: &'static str,
    /// What there is of it.
    pub found: String,
    /// Whether that is enough.
    pub enough: bool,
    /// What it is needed for.
    pub needed_for: &'static str,
}

/// The rows of `vmm host`.
pub fn rows(architecture: &str, kvm: &Result<KvmOffer, NoKvm>) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |what, found: &dyn fmt::Display, enough, needed_for| {
        rows.push(Row {
            what,
            found: found.to_string(),
            enough,
            needed_for,
        });
    };
    row(
        "architecture",
        &architecture,
        architecture == "aarch64",
        "arm64 guests without emulation",
    );
    let kvm = match kvm {
        Ok(kvm) => kvm,
        Err(error) => {
            row("KVM", error, false, "running a guest at all");
            return rows;
        }
    };
    let yes_no = |yes| if yes { "yes" } else { "no" };
    row("KVM", &"/dev/kvm opens", true, "running a guest at all");
    row(
        "KVM API",
        &kvm.api_version,
        kvm.api_version == API_VERSION,
        "running a guest at all",
    );
    row(
        "GICv3",
        &yes_no(kvm.gicv3),
        kvm.gicv3,
        "every guest: stop IPIs, pseudo-NMI",
    );
    row(
        "most vCPUs",
        &kvm.vcpus,
        kvm.vcpus >= 4,
        "4 in most scenarios, 64 in the largest",
    );
    row(
        "IPA bits",
        &kvm.ipa_bits,
        kvm.ipa_bits >= 39,
        "39 for 255 GiB of RAM or more than 123 vCPUs; small guests need 32",
    );
    row(
        "hardware breakpoints",
        &kvm.breakpoints,
        kvm.breakpoints >= 4,
        "holding a vCPU at an instruction; Linux scenarios use up to 4",
    );
    row(
        "hardware watchpoints",
        &kvm.watchpoints,
        kvm.watchpoints >= 2,
        "seeing an ack and a note at the instant they are stored",
    );
    row(
        "counter offset",
        &yes_no(kvm.counter_offset),
        kvm.counter_offset,
        "giving held time back to the guest; slower without (Linux 6.4)",
    );
    row(
        "SMCCC filter",
        &yes_no(kvm.smccc_filter),
        kvm.smccc_filter,
        "seeing CPU_ON and CPU_OFF as they happen (Linux 6.4)",
    );
    rows
}

/// Where a verb runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// On this host.
    Here,
    /// In the lab.
    Lab,
    /// Not at all.
    Nowhere,
}

/// Where a verb runs on this host, and why.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct VerbPlace {
    /// The verb.
    pub verb: &'static str,
    /// Where it runs.
    pub place: Place,
    /// Why not here.
    pub why: Option<String>,
}

/// Verbs that run guests.
const ON_KVM: [&str; 3] = ["boot", "matrix", "run"];
/// Verbs that run on every machine.
const EVERYWHERE: [&str; 3] = ["explore", "host", "judge"];

/// Says where each verb runs, given what of KVM and of the lab this host lacks.
pub fn places(kvm: Result<(), String>, lab: Result<(), String>) -> Vec<VerbPlace> {
    let everywhere = EVERYWHERE.map(|verb| VerbPlace {
        verb,
        place: Place::Here,
        why: None,
    });
    let on_kvm = ON_KVM.map(|verb| match (&kvm, &lab) {
        (Ok(()), _) => VerbPlace {
            verb,
            place: Place::Here,
            why: None,
        },
        (Err(why), Ok(())) => VerbPlace {
            verb,
            place: Place::Lab,
            why: Some(why.clone()),
        },
        (Err(here), Err(there)) => VerbPlace {
            verb,
            place: Place::Nowhere,
            why: Some(format!("{here}; {there}")),
        },
    });
    let lab = match lab {
        Ok(()) => VerbPlace {
            verb: "lab",
            place: Place::Here,
            why: None,
        },
        Err(why) => VerbPlace {
            verb: "lab",
            place: Place::Nowhere,
            why: Some(why),
        },
    };
    everywhere.into_iter().chain(on_kvm).chain([lab]).collect()
}

#[cfg(test)]
mod tests {
    use super::{KvmOffer, Lack, Need, NoKvm, Place, places, rows};

    fn good() -> KvmOffer {
        KvmOffer {
            api_version: 12,
            gicv3: true,
            ipa_bits: 40,
            breakpoints: 6,
            watchpoints: 4,
            counter_offset: true,
            smccc_filter: true,
            vcpus: 512,
        }
    }

    const SMALL: Need = Need {
        vcpus: 4,
        top: 0x8000_0000,
    };

    #[test]
    fn a_good_host_suffices() {
        assert_eq!(good().suffices(SMALL), Ok(()));
        assert_eq!(
            good().suffices(Need {
                vcpus: 512,
                top: 0x40_0400_0000
            }),
            Ok(())
        );
        assert!(rows("aarch64", &Ok(good())).iter().all(|row| row.enough));
    }

    #[test]
    fn a_host_with_gicv2_only_says_so() {
        let lack = KvmOffer {
            gicv3: false,
            ..good()
        }
        .suffices(SMALL)
        .unwrap_err();
        assert_eq!(lack, Lack::NoGicV3);
        assert!(
            lack.to_string().contains("only GICv2") && lack.to_string().contains("--lab"),
            "{lack}"
        );
    }

    #[test]
    fn what_a_guest_needs_is_compared_with_what_there_is() {
        let lack = KvmOffer {
            vcpus: 16,
            ..good()
        }
        .suffices(Need { vcpus: 17, ..SMALL });
        assert_eq!(
            lack,
            Err(Lack::Vcpus {
                asked: 17,
                most: 16
            })
        );
        let lack = KvmOffer {
            ipa_bits: 36,
            ..good()
        }
        .suffices(Need {
            top: 0x40_0002_0000,
            ..SMALL
        });
        assert_eq!(
            lack,
            Err(Lack::IpaBits {
                needed: 39,
                most: 36
            })
        );
        assert_eq!(
            KvmOffer {
                api_version: 11,
                ..good()
            }
            .suffices(SMALL),
            Err(Lack::ApiVersion(11))
        );
    }

    #[test]
    fn a_host_without_kvm_has_two_rows_and_a_cure() {
        let rows = rows("aarch64", &Err(NoKvm::NotPermitted));
        assert_eq!(rows.len(), 2);
        assert!(
            rows[1].found.contains("usermod -aG kvm"),
            "{}",
            rows[1].found
        );
    }

    #[test]
    fn a_verb_that_runs_guests_runs_here_or_in_the_lab_or_nowhere() {
        let boot = |kvm: Result<(), &str>, lab: Result<(), &str>| {
            let places = places(kvm.map_err(str::to_owned), lab.map_err(str::to_owned));
            let boot = places
                .into_iter()
                .find(|place| place.verb == "boot")
                .expect("it is a verb");
            (boot.place, boot.why)
        };
        assert_eq!(boot(Ok(()), Err("no QEMU")), (Place::Here, None));
        assert_eq!(
            boot(Err("no KVM"), Ok(())),
            (Place::Lab, Some("no KVM".to_owned()))
        );
        assert_eq!(
            boot(Err("no KVM"), Err("no QEMU")),
            (Place::Nowhere, Some("no KVM; no QEMU".to_owned()))
        );
    }

    #[test]
    fn what_opening_the_device_says_is_told_apart() {
        use std::io::ErrorKind;
        assert_eq!(
            NoKvm::from(std::io::Error::from(ErrorKind::NotFound)),
            NoKvm::NoDevice
        );
        assert_eq!(
            NoKvm::from(std::io::Error::from(ErrorKind::PermissionDenied)),
            NoKvm::NotPermitted
        );
        assert!(matches!(
            NoKvm::from(std::io::Error::from(ErrorKind::ResourceBusy)),
            NoKvm::Broken(_)
        ));
    }
}
