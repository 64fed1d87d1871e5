//! The answer to `drain` and `undrain`: what this node was told. What becomes of its VIPs the other
//! views tell.

use serde::{Deserialize, Serialize};

/// The flag after the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// This node.
    pub node: String,
    /// Whether it gives its VIPs up.
    pub draining: bool,
    /// Whether that was different before.
    pub changed: bool,
}
