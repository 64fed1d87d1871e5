//! How to speak with the Kubernetes API server: `client` makes a client from files, `connection` is
//! one request and what answers it, `failure` says why that ended; `server` is a handle for requests
//! that are answered once; `rights` is the table of all that is asked. Knows nothing of what is asked
//! for or why: the source reads with it, apply writes with it.

pub mod client;
pub(crate) mod connection;
pub(crate) mod failure;
pub(crate) mod jitter;
pub mod rights;
pub mod server;

#[cfg(test)]
#[path = "scripted_tests.rs"]
pub(crate) mod scripted;
