//! Tests against this machine's own kernel, each in network namespaces of its own. They need root
//! and fail without it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod affinity;
mod announcer;
mod announcing;
mod classes;
mod cluster;
mod conformance;
mod demo;
mod doctor;
mod draining;
mod explain;
mod failover;
mod fence;
mod foreign;
mod health_checks;
mod host;
mod incremental;
mod ipvs;
mod lab_faults;
mod lab_itself;
mod membership;
mod model_check;
mod monitor;
mod netlink;
mod operation;
mod packets;
mod planning;
mod ranges;
mod rig;
mod routes;
mod source_ranges;
mod strays;
mod sysctls;
mod traffic;
mod udp_flows;

// The scripted API server, of which these tests use a part.
#[allow(dead_code)]
#[path = "../kubernetes/authority.rs"]
mod authority;
#[allow(dead_code)]
#[path = "../kubernetes/http.rs"]
mod http;
#[path = "../kubernetes/kubeconfig.rs"]
mod kubeconfig;
#[allow(dead_code)]
#[path = "../kubernetes/objects.rs"]
mod objects;
#[allow(dead_code)]
#[path = "../kubernetes/roles.rs"]
mod roles;
#[allow(dead_code)]
#[path = "../kubernetes/script.rs"]
mod script;
#[allow(dead_code)]
#[path = "../kubernetes/server.rs"]
mod server;
#[allow(dead_code)]
#[path = "../kubernetes/service_status.rs"]
mod service_status;
#[allow(dead_code)]
#[path = "../kubernetes/target.rs"]
mod target;
#[allow(dead_code)]
#[path = "../kubernetes/user.rs"]
mod user;
#[allow(dead_code)]
#[path = "../kubernetes/validation.rs"]
mod validation;
#[allow(dead_code)]
#[path = "../kubernetes/write_faults.rs"]
mod write_faults;
