//! Plain data that the other folders share. Knows nobody.

pub mod address_range;
pub mod interface_pattern;
pub mod pool;
pub mod port_range;
pub mod scheduler;
pub mod selector;
