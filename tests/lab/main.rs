//! Tests against this machine's own kernel, each in network namespaces of its own. They need root
//! and fail without it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod announcer;
mod announcing;
mod demo;
mod host;
mod incremental;
mod ipvs;
mod lab_itself;
mod monitor;
mod netlink;
mod operation;
mod ranges;
mod rig;
mod routes;
mod sysctls;
mod traffic;
