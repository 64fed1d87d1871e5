//! draft
pub mod core;
pub mod datagram;
pub mod keys;
pub mod replay;
pub mod seal;

#[cfg(test)]
pub(crate) mod simulation;
#[cfg(test)]
mod tests;
