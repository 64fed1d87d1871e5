//! The Kubernetes API as a source, from outside: objects that a real API server (1.36) served, and
//! the real client against a scripted server that serves the same bytes and fails in every way that
//! servers fail. The scripted server is not the proof that a real one works.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod allocation;
mod allocation_moves;
mod allocation_trouble;
mod authority;
mod cases;
mod convert;
mod credentials;
mod cuts;
mod doctor;
mod faults;
mod http;
mod instance;
mod kubeconfig;
mod namespaces;
mod objects;
mod replay;
mod rig;
mod rights;
mod roles;
mod script;
mod server;
mod service_cidrs;
mod service_status;
mod snapshot;
mod target;
mod user;
mod validation;
mod write_faults;
mod write_limits;
mod writers;
mod writes;
