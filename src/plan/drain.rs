//! When a real server that takes no new connections may go: once nobody uses it, or after the
//! deadline (GT-1, GT-2, D-5). Purely a question of numbers.

use std::time::Duration;

/// A real server with weight 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draining {
    /// How long it has had weight 0.
    pub age: Duration,
    /// Connections that it still has, in any state.
    pub connections: u32,
}

/// Whether it may be removed.
pub fn finished(draining: Draining, deadline: Duration) -> bool {
    draining.connections == 0 || draining.age >= deadline
}
