//! What a person or a scraper sees of the running daemon: socket, metrics, health. Reads snapshots;
//! changes nothing.

pub mod snapshot;
