//! How to speak with the Kubernetes API server: `client` makes a client from files, `connection` is
//! one request and what answers it, `failure` says why that ended; `server` is a handle for requests
//! that are answered once; `lenient` reads what others spoiled; `rights` is the table of all that is asked. Knows nothing of what is asked
//! for or why: the source reads with it, apply writes with it.

pub mod client;
pub(crate) mod connection;
pub(crate) mod failure;
pub(crate) mod jitter;
pub mod lenient;
pub mod rights;
pub mod server;

#[cfg(test)]
#[path = "scripted_tests.rs"]
pub(crate) mod scripted;

/// The Services that a service proxy looks at (SEL-1, SEL-3), percent-encoded.
pub const SERVICE_SELECTORS: &str = "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name&fieldSelector=spec.clusterIP%21%3DNone";
