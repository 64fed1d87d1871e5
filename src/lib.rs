//! edgelb: an edge load balancer for bare-metal Kubernetes, one daemon on each edge node.
//!
//! *Sources* fill the *model*, *plan* decides, *apply* makes it so, *admin* tells.

pub mod admin;
pub mod allocator;
pub mod api_server;
pub mod apply;
pub mod cli;
pub mod cluster_record;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod drain_flag;
pub mod explain;
pub mod lab;
pub mod membership;
pub mod migrate;
pub mod model;
pub mod netlink_listener;
pub mod owner;
pub mod owning;
pub mod plan;
pub mod probing;
pub mod publisher;
pub mod reconcile;
pub mod source;
pub mod sources;
pub mod stopping;
pub mod tasks;
pub mod unopened;
pub mod watchdog;
