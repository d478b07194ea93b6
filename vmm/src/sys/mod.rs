//! Process plumbing that std has no safe word for. One of the rooms where unsafe code may live.

pub(crate) mod inherited;
pub(crate) mod spawn;
