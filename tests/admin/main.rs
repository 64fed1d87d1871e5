//! What the daemon tells: its views, its admin socket with the commands that ask it, its metrics and
//! its health. No root, no kernel: a planned world stands behind it all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    // Counts in samples are exact.
    clippy::float_cmp,
    clippy::cast_precision_loss
)]

mod cli;
mod drain;
mod explain;
mod health;
mod metrics;
mod node_port;
mod openmetrics;
#[path = "../schemas/validator.rs"]
mod schema_validator;
mod socket;
mod views;
mod world;
