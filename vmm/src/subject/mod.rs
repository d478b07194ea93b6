//! What is put to the test on KVM: how to boot it, and what its points are.

#[cfg_attr(
    not(target_arch = "aarch64"),
    expect(dead_code, reason = "only arm64 has a KVM that runs it")
)]
pub mod payload;
