//! Plain data that the other folders share: what the cluster, this host and the LAN look like, and
//! what this node must hold. Knows nobody: no kernel, no Kubernetes types, no clock.

pub mod address_range;
pub mod allocation;
pub mod announcement;
pub mod cluster;
pub mod compact_set;
pub mod endpoint;
pub mod family;
pub mod foreign;
pub mod frontend;
pub mod host;
pub mod interface_pattern;
pub mod node_state;
pub mod observation;
pub mod peer;
pub mod pool;
pub mod port_range;
pub mod scheduler;
pub mod selector;
pub mod service;
pub mod standing;
pub mod sysctl;
pub mod text;
