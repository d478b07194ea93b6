//! End-to-end tests of the vmm command on real KVM.
