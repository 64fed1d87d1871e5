//! The conformance cases of a node's service proxy, each a test with real packets, named by its
//! number: what a client gets, whom the endpoint saw, and what `nft`, `ipvsadm`, `ip`, `conntrack`
//! and packet counters of the kernel say. One source for both datapaths.
//!
//! Numbers up to 85 are those of the specification's table; from 101 on they are cases that its
//! numbered statements imply. `bench` describes the rig: N1 under test, its peer N2, the LAN clients C
//! and B, the pods A, A2, P on N1 and R on N2.

mod affinity;
mod announcement;
pub mod bench;
mod cluster_ip;
mod endpoints;
mod flows;
mod health;
mod load_balancer;
mod network;
mod node_port;
pub mod objects;
pub mod observe;
mod operation;
mod policy;
mod reach;
mod selection;
mod source_ranges;
mod statements;
mod watches;
