//! Why the kernel cannot be used, and what helps.

use super::{conntrack, ipvs, module, nftables, route};

/// Why the kernel cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `proxy.datapath` says IPVS, and there is none.
    #[error("proxy.datapath is \"ipvs\": {0}{remedy}", remedy = ipvs_remedy(.0))]
    Ipvs(#[source] ipvs::Error),
    #[error(transparent)]
    Nftables(#[from] nftables::Error),
    #[error(transparent)]
    Routes(#[from] route::Error),
    #[error(transparent)]
    Conntrack(#[from] conntrack::Error),
    #[error(transparent)]
    State(#[from] super::state_directory::Error),
}

/// Why the timeouts of IPVS could not be set.
#[derive(Debug, thiserror::Error)]
pub enum TimeoutsError {
    #[error("cannot set the timeouts of IPVS")]
    Ipvs(#[from] ipvs::Error),
    #[error("cannot record the timeouts of IPVS")]
    State(#[from] super::state_directory::Error),
}

/// How to get IPVS, where the kernel has none.
fn ipvs_remedy(error: &ipvs::Error) -> String {
    match error {
        ipvs::Error::NotAvailable => format!("; {}", module::remedy("ip_vs")),
        _ => String::new(),
    }
}
