//! The Kubernetes API as a source: Services, `EndpointSlices`, Nodes and, where they
//! count, Namespaces, followed for good. Kubernetes
//! types that are read are known in this folder alone.
//!
//! `convert`, `slice` and `fields` turn objects into the model; `follow` keeps one collection, `gather`
//! makes one cluster of them all. How to speak with the server is in `api_server`.

pub mod address;
pub mod convert;
pub mod decode;
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
mod status_tests;
#[cfg(test)]
mod tests;

pub use self::gather::{Record, Settings, run};
