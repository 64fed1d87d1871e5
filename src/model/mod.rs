//! Plain data that the other folders share: what the cluster, this host and the LAN look like, and
//! what this node must hold. Knows nobody: no kernel, no Kubernetes types, no clock.

pub mod cluster;
pub mod endpoint;
pub mod family;
pub mod host;
pub mod service;
