//! Kubernetes objects: reading their types and turning them into the model. Kubernetes types are
//! known in this folder alone.

pub mod address;
pub mod convert;
pub mod decode;
mod fields;
pub mod slice;

#[cfg(test)]
mod slice_tests;
#[cfg(test)]
mod tests;
