//! Who owns which VIP, decided beside the passes and on a thread of its own: a node that dies is
//! followed at once, however long a pass takes.
//!
//! ```text
//! thread "membership"   membership ◄─ Publication, Peers ─► task (engine) ── lease: a frame to lo
//!                                                            │      ▲
//!                                                      Order ▼      │ Progress (what may be spoken for)
//! thread "fence"                                            fencing ──► nf_tables
//! ```
//!
//! The engine and the heartbeats share a thread on purpose: whoever does not decide any more is silent in
//! both ways, and is followed. No transaction on `nf_tables` may hold that thread up.

pub mod announcing;
mod asking;
pub mod counters;
pub mod digest;
pub mod engine;
pub mod farewell;
mod fencing;
pub mod guard;
pub mod handover;
pub mod pause;
mod present;
pub mod record;
#[cfg(test)]
mod simulation_tests;
pub mod task;
#[cfg(test)]
mod tests;
pub mod thread;
mod turn;
