//! Tests on this machine's kernel: they need root, or at least the right to create network namespaces.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod demo;
mod lab_itself;
