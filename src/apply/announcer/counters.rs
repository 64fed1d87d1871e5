//! What the announcer counts. Every clone counts into the same metrics; labels are bounded by the
//! interfaces, the reasons and the VIPs, never by what a frame says.

use std::net::IpAddr;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

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

/// The result of a request that was answered.
pub const ANSWERED: &str = "answered";
/// The result of a request whose reply could not be sent.
pub const SEND_FAILED: &str = "send_failed";

/// The announcer's counters since the start.
#[derive(Debug, Clone, Default)]
pub struct AnnouncerCounters {
    requests: Family<RequestLabels, Counter>,
    replies: Family<InterfaceLabels, Counter>,
    gratuitous: Family<GratuitousLabels, Counter>,
    conflicts: Family<ConflictLabels, Counter>,
}

impl AnnouncerCounters {
    /// Adds the metrics to the registry, which prefixes their names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "arp_requests",
            "ARP frames that concern a VIP, by what was done with them",
            self.requests.clone(),
        );
        registry.register(
            "arp_replies",
            "ARP replies sent for VIPs",
            self.replies.clone(),
        );
        registry.register(
            "gratuitous",
            "Gratuitous ARP and unsolicited neighbor advertisement frames sent",
            self.gratuitous.clone(),
        );
        registry.register(
            "address_conflicts",
            "Frames in which another host claimed a VIP that this node announces",
            self.conflicts.clone(),
        );
    }

    /// ARP frames received on the interface that ended with this result: [`ANSWERED`],
    /// [`SEND_FAILED`] or an [`super::arp::IgnoreReason::as_str`].
    pub fn requests(&self, interface: &str, result: &'static str) -> u64 {
        self.requests
            .get_or_create(&RequestLabels {
                interface: interface.to_owned(),
                result,
            })
            .get()
    }

    /// ARP replies sent on the interface.
    pub fn replies(&self, interface: &str) -> u64 {
        self.replies
            .get_or_create(&InterfaceLabels {
                interface: interface.to_owned(),
            })
            .get()
    }

    /// Gratuitous frames sent on the interface for VIPs of the family `ipv4` or `ipv6`.
    pub fn gratuitous(&self, interface: &str, family: &'static str) -> u64 {
        self.gratuitous
            .get_or_create(&GratuitousLabels {
                interface: interface.to_owned(),
                family,
            })
            .get()
    }

    /// Claims of other hosts to the VIP.
    pub fn conflicts(&self, vip: IpAddr) -> u64 {
        self.conflicts
            .get_or_create(&ConflictLabels {
                vip: vip.to_string(),
            })
            .get()
    }

    pub(super) fn count_request(&self, interface: &str, result: &'static str) {
        self.requests
            .get_or_create(&RequestLabels {
                interface: interface.to_owned(),
                result,
            })
            .inc();
    }

    pub(super) fn count_reply(&self, interface: &str) {
        self.replies
            .get_or_create(&InterfaceLabels {
                interface: interface.to_owned(),
            })
            .inc();
    }

    pub(super) fn count_gratuitous(&self, interface: &str, family: &'static str) {
        self.gratuitous
            .get_or_create(&GratuitousLabels {
                interface: interface.to_owned(),
                family,
            })
            .inc();
    }

    pub(super) fn count_conflict(&self, vip: IpAddr) {
        self.conflicts
            .get_or_create(&ConflictLabels {
                vip: vip.to_string(),
            })
            .inc();
    }
}
