//! Holdpoint: holds an arm64 vCPU at a chosen point, lets the rest of the guest crash, and judges how it stops.
//!
//! ARCHITECTURE.md is the map of the rooms and of who may import whom.

pub mod cli;
