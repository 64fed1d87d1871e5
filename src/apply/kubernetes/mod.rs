//! Writes to the Kubernetes API, without decisions: `lease` says which node may allocate, `claims`
//! keeps who holds which address in objects that only one writer can change at a time, `status` tells
//! Services their addresses, `events` tells people. Kubernetes types start again in this folder.

pub mod catalogue;
pub mod claims;
pub mod events;
pub mod lease;
pub mod status;
