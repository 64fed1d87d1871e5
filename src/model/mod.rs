//! Plain data that the other folders share. Knows nobody.

pub mod announcement;
