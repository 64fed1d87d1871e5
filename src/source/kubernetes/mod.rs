//! The Kubernetes API as a source: Services, `EndpointSlices` and Nodes, followed for good. Kubernetes
//! types are known in this folder alone.
//!
//! `convert`, `slice` and `fields` turn objects into the model; `client`, `connection` and `failure`
//! speak with the server; `follow` keeps one collection, `gather` makes one cluster of the three.

pub mod address;
pub mod client;
mod connection;
pub mod convert;
pub mod decode;
mod failure;
mod fields;
mod follow;
mod gather;
pub mod kind;
mod problems;
mod share;
pub mod slice;
pub mod timing;
mod wire;

#[cfg(test)]
mod slice_tests;
#[cfg(test)]
mod tests;

pub use self::gather::{Record, Settings, run};
