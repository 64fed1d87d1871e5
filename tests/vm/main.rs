//! Tests that need a kernel with IPVS, each in network namespaces of its own. They need root and
//! fail without it, as without IPVS. Run: `tests/vm/run` with this test binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod announcer;
mod conformance;
mod datapath;
mod fence;
mod ipvs;
#[path = "../lab/fence/lan.rs"]
#[allow(dead_code)]
mod lan;
mod methods;
mod methods_moved;
mod missing;
#[path = "../lab/rig.rs"]
#[allow(dead_code)]
mod rig;
