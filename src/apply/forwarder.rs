//! Which part of the kernel forwards for a frontend and a source class. Pure.
//!
//! IPVS has one list of real servers for whoever asks, and its persistence is a virtual server's own
//! (AFF-3). What needs more than that is translated by nftables, straight to the endpoint.

use std::collections::BTreeSet;

use crate::apply::state_directory::VirtualServerName;
use crate::model::frontend::{ForwardingMethod, Frontend, SourceClass};

/// A part of the kernel that forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Forwarder {
    Ipvs,
    Nftables,
}

/// What IPVS did not do of what it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused {
    /// Nothing is known of any virtual server.
    pub everything: bool,
    /// Virtual servers of which something was refused.
    pub servers: BTreeSet<VirtualServerName>,
}

/// Who forwards for this class where `datapath` forwards all that it can. Says nothing of frontends
/// that refuse or drop the class: these are the guard's.
pub fn forwarder(frontend: &Frontend, class: SourceClass, datapath: Forwarder) -> Forwarder {
    // Only IPVS sends packets on without a translation.
    if datapath == Forwarder::Nftables || frontend.forwarding_method != ForwardingMethod::Masquerade
    {
        return datapath;
    }
    let outside = frontend.real_servers(SourceClass::Outside);
    // Where outside clients have nothing the guard keeps them away, and the virtual server is the
    // other classes' own.
    let one_list = outside.is_empty() || outside == frontend.real_servers(class);
    if one_list && frontend.session_affinity.is_none() {
        Forwarder::Ipvs
    } else {
        Forwarder::Nftables
    }
}

/// Whether a change leaves something to IPVS that nftables forwarded.
pub fn hands_over(old: &Frontend, new: &Frontend, datapath: Forwarder) -> bool {
    SourceClass::ALL.into_iter().any(|class| {
        forwarder(old, class, datapath) == Forwarder::Nftables
            && forwarder(new, class, datapath) == Forwarder::Ipvs
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::model::frontend::{Affinity, RealServer, Treatment, Verdict};
    use crate::model::scheduler::Scheduler;
    use crate::model::service::ServiceKey;

    /// Outside clients have the first list, all others the second one.
    fn frontend(outside: &[u8], inside: &[u8], affinity: bool) -> Frontend {
        let treatment = |lasts: &[u8]| {
            let list: Vec<RealServer> = lasts
                .iter()
                .map(|last| RealServer {
                    address: [10, 244, 0, *last].into(),
                    port: 8080,
                })
                .collect();
            Treatment {
                verdict: if list.is_empty() {
                    Verdict::Drop
                } else {
                    Verdict::Forward(list.into())
                },
                masquerade: false,
            }
        };
        Frontend {
            service: ServiceKey::new("shop", "web"),
            treatments: [
                treatment(outside),
                treatment(inside),
                treatment(inside),
                treatment(outside),
            ],
            session_affinity: affinity.then_some(Affinity {
                scope: 1,
                timeout: Duration::from_secs(10),
            }),
            allowed_sources: None,
            keeps: Arc::default(),
            forwarding_method: ForwardingMethod::Masquerade,
            scheduler: Scheduler::Rr,
        }
    }

    #[test]
    fn ipvs_forwards_what_one_list_can_say() {
        use Forwarder::{Ipvs, Nftables};
        for (outside, inside, affinity, for_outside, for_inside) in [
            (&[1, 2][..], &[1, 2][..], false, Ipvs, Ipvs),
            (&[1], &[1, 2], false, Ipvs, Nftables),
            (&[], &[1, 2], false, Ipvs, Ipvs),
            (&[1, 2], &[1, 2], true, Nftables, Nftables),
            (&[1], &[1, 2], true, Nftables, Nftables),
            (&[], &[1, 2], true, Nftables, Nftables),
        ] {
            let mut frontend = frontend(outside, inside, affinity);
            for (class, expected) in [
                (SourceClass::Outside, for_outside),
                (SourceClass::Peer, for_outside),
                (SourceClass::Pod, for_inside),
                (SourceClass::Node, for_inside),
            ] {
                let found = forwarder(&frontend, class, Ipvs);
                assert_eq!(
                    found, expected,
                    "{outside:?} {inside:?} {affinity} {class:?}"
                );
                assert_eq!(forwarder(&frontend, class, Nftables), Nftables);
            }
            frontend.forwarding_method = ForwardingMethod::DirectRouting;
            for class in SourceClass::ALL {
                assert_eq!(forwarder(&frontend, class, Ipvs), Ipvs);
            }
        }
    }
}
