//! Who owns which VIP, decided beside the passes and on a thread of its own: a node that dies is
//! followed at once, however long a pass takes.

pub mod announcing;
pub mod digest;
pub mod engine;
pub mod guard;
pub mod handover;
pub mod pause;
mod present;
#[cfg(test)]
mod simulation_tests;
pub mod task;
#[cfg(test)]
mod tests;
pub mod thread;
mod turn;
