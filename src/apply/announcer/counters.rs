//! What the announcer counts. Every clone counts into the same metrics; labels are bounded by the
//! interfaces, the reasons and the VIPs, never by what a frame says. A responder keeps the counters of
//! its interface at hand: counting a frame looks nothing up and allocates nothing.

use std::net::IpAddr;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::socket::Protocol;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    interface: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InterfaceLabels {
    interface: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GratuitousLabels {
    interface: String,
    family: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConflictLabels {
    vip: String,
}

/// The families in the labels of gratuitous frames.
const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// The result of a request that was answered.
pub const ANSWERED: &str = "answered";
/// The result of a request whose reply could not be sent.
pub const SEND_FAILED: &str = "send_failed";
/// The result of a frame whose source sends more than its share.
pub const RATE_LIMITED: &str = "rate_limited";

/// The announcer's counters since the start.
#[derive(Debug, Clone, Default)]
pub struct AnnouncerCounters {
    arp: RequestCounters,
    ndp: RequestCounters,
    gratuitous: Family<GratuitousLabels, Counter>,
    refreshes: Family<GratuitousLabels, Counter>,
    conflicts: Family<ConflictLabels, Counter>,
    rivals: Family<ConflictLabels, Counter>,
}

/// What one protocol counts.
#[derive(Debug, Clone, Default)]
struct RequestCounters {
    requests: Family<RequestLabels, Counter>,
    replies: Family<InterfaceLabels, Counter>,
}

impl AnnouncerCounters {
    /// Adds the metrics to the registry, which prefixes their names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "arp_requests",
            "ARP frames that concern a VIP, by what was done with them",
            self.arp.requests.clone(),
        );
        registry.register(
            "arp_replies",
            "ARP replies sent for VIPs",
            self.arp.replies.clone(),
        );
        registry.register(
            "ndp_requests",
            "Neighbor discovery frames that concern a VIP, by what was done with them",
            self.ndp.requests.clone(),
        );
        registry.register(
            "ndp_replies",
            "Neighbor advertisements sent in answer for VIPs",
            self.ndp.replies.clone(),
        );
        registry.register(
            "gratuitous",
            "Gratuitous ARP and unsolicited neighbor advertisement frames sent",
            self.gratuitous.clone(),
        );
        registry.register(
            "neighbour_refreshes",
            "Announcements sent by unicast to neighbours that asked for a VIP",
            self.refreshes.clone(),
        );
        registry.register(
            "address_conflicts",
            "Frames in which another host claimed a VIP that this node announces",
            self.conflicts.clone(),
        );
        registry.register(
            "rival_claims",
            "Frames in which another node claimed a VIP that this node announces",
            self.rivals.clone(),
        );
    }

    /// Frames received on the interface that ended with this result: [`ANSWERED`], [`SEND_FAILED`],
    /// [`RATE_LIMITED`] or a [`super::verdict::IgnoreReason::as_str`].
    pub fn requests(&self, protocol: Protocol, interface: &str, result: &'static str) -> u64 {
        let labels = RequestLabels {
            interface: interface.to_owned(),
            result,
        };
        self.of(protocol).requests.get_or_create(&labels).get()
    }

    /// Replies sent on the interface.
    pub fn replies(&self, protocol: Protocol, interface: &str) -> u64 {
        let labels = InterfaceLabels {
            interface: interface.to_owned(),
        };
        self.of(protocol).replies.get_or_create(&labels).get()
    }

    /// Gratuitous frames sent on the interface for VIPs of the family `ipv4` or `ipv6`.
    pub fn gratuitous(&self, interface: &str, family: &'static str) -> u64 {
        let labels = GratuitousLabels {
            interface: interface.to_owned(),
            family,
        };
        self.gratuitous.get_or_create(&labels).get()
    }

    /// Announcements sent on the interface to single neighbours, by the family of the VIP.
    pub fn refreshes(&self, interface: &str, family: &'static str) -> u64 {
        let labels = GratuitousLabels {
            interface: interface.to_owned(),
            family,
        };
        self.refreshes.get_or_create(&labels).get()
    }

    /// Claims of other hosts to the VIP.
    pub fn conflicts(&self, vip: IpAddr) -> u64 {
        let labels = ConflictLabels {
            vip: vip.to_string(),
        };
        self.conflicts.get_or_create(&labels).get()
    }

    /// Claims of other nodes to the VIP.
    pub fn rivals(&self, vip: IpAddr) -> u64 {
        let labels = ConflictLabels {
            vip: vip.to_string(),
        };
        self.rivals.get_or_create(&labels).get()
    }

    /// The counters of one interface, at hand.
    pub(super) fn on(&self, interface: &str) -> InterfaceCounters {
        let labels = InterfaceLabels {
            interface: interface.to_owned(),
        };
        let of_family = |family: &Family<GratuitousLabels, Counter>| {
            FAMILIES.map(|name| {
                let labels = GratuitousLabels {
                    interface: interface.to_owned(),
                    family: name,
                };
                family.get_or_create_owned(&labels)
            })
        };
        InterfaceCounters {
            interface: interface.to_owned(),
            results: [Vec::new(), Vec::new()],
            replies: [
                self.arp.replies.get_or_create_owned(&labels),
                self.ndp.replies.get_or_create_owned(&labels),
            ],
            gratuitous: of_family(&self.gratuitous),
            refreshes: of_family(&self.refreshes),
            all: self.clone(),
        }
    }

    const fn of(&self, protocol: Protocol) -> &RequestCounters {
        match protocol {
            Protocol::Arp => &self.arp,
            Protocol::NeighborDiscovery => &self.ndp,
        }
    }
}

/// The counters of one interface.
#[derive(Debug)]
pub(super) struct InterfaceCounters {
    interface: String,
    all: AnnouncerCounters,
    /// By protocol: those results that there were, some twenty at most.
    results: [Vec<(&'static str, Counter)>; 2],
    replies: [Counter; 2],
    gratuitous: [Counter; 2],
    refreshes: [Counter; 2],
}

impl InterfaceCounters {
    pub(super) fn count_request(&mut self, protocol: Protocol, result: &'static str) {
        let [arp, ndp] = &mut self.results;
        let known = match protocol {
            Protocol::Arp => arp,
            Protocol::NeighborDiscovery => ndp,
        };
        if let Some((_, counter)) = known.iter().find(|(name, _)| *name == result) {
            counter.inc();
            return;
        }
        let labels = RequestLabels {
            interface: self.interface.clone(),
            result,
        };
        let requests = &self.all.of(protocol).requests;
        let counter = requests.get_or_create_owned(&labels);
        counter.inc();
        known.push((result, counter));
    }

    pub(super) fn count_reply(&self, protocol: Protocol) {
        let [arp, ndp] = &self.replies;
        match protocol {
            Protocol::Arp => arp.inc(),
            Protocol::NeighborDiscovery => ndp.inc(),
        };
    }

    pub(super) fn count_gratuitous(&self, vip: IpAddr) {
        // There from the first announcement on, so that the first conflict is a rise.
        self.all.conflicts(vip);
        by_family(&self.gratuitous, vip).inc();
    }

    pub(super) fn count_refresh(&self, vip: IpAddr) {
        by_family(&self.refreshes, vip).inc();
    }

    pub(super) fn count_claim(&self, vip: IpAddr, by_peer: bool) {
        let claims = if by_peer {
            &self.all.rivals
        } else {
            &self.all.conflicts
        };
        let labels = ConflictLabels {
            vip: vip.to_string(),
        };
        claims.get_or_create(&labels).inc();
    }
}

const fn by_family(counters: &[Counter; 2], vip: IpAddr) -> &Counter {
    let [ipv4, ipv6] = counters;
    match vip {
        IpAddr::V4(_) => ipv4,
        IpAddr::V6(_) => ipv6,
    }
}
