//! The other edge nodes, as membership tells of them, and what this one tells of itself. Plain data:
//! who exchanges it (membership) and who decides from it (plan) meet here only.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::allocation::Allocations;
use super::foreign::MacAddress;

/// The VIPs that one node says it owns, each with the number of its claim.
///
/// A node alone writes its claims. Of two claims to one VIP the greater number is the later one, and
/// of equal numbers that of the lower node name: see [`supersedes`].
pub type Claims = OrdMap<IpAddr, u64>;

/// Set in the number of a claim that was made, or is kept, while some other node was there: such a claim
/// is greater than all that a node made alone. So a node that was cut off takes nothing from those who
/// went on together.
pub const IN_COMPANY: u64 = 1 << 63;

/// Who owns each VIP now, as far as this node knows.
pub type Owners = OrdMap<IpAddr, String>;

/// Whether one node's claim to a VIP takes it from another's. Total: of two different claimants
/// exactly one supersedes the other, so that all who see both agree.
pub fn supersedes(claim: (u64, &str), other: (u64, &str)) -> bool {
    claim.0 > other.0 || (claim.0 == other.0 && claim.1 < other.1)
}

/// An interface on which a node could announce: up, with carrier and an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedInterface {
    /// Its name on that node.
    pub name: String,
    /// What neighbours learn there.
    pub mac: MacAddress,
    /// Its addresses with their prefix lengths, link-local ones left out.
    pub subnets: Vec<IpNet>,
}

/// What a node says of itself. What an older version does not say has its default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is told and heeded by itself"
)]
#[serde(default)]
pub struct MemberState {
    /// It holds the forwarding state of its first complete list: it may own VIPs.
    pub ready: bool,
    /// It gives its VIPs up, make-before-break, and takes none.
    pub draining: bool,
    /// It stops and comes back within `restart_grace`.
    pub restarting: bool,
    /// Where it could announce.
    pub interfaces: Vec<PublishedInterface>,
    /// VIPs that Services hold and that it does not serve, although it is ready: those of
    /// [`Exceptions::vips`].
    pub exceptions: BTreeSet<IpAddr>,
    /// [`Exceptions::more`]
    pub more_exceptions: bool,
    /// Of the decisions that its configuration makes; equal configurations have equal digests.
    pub configuration_digest: u64,
    /// Of the VIPs and Services that it holds in its kernel.
    pub snapshot_digest: u64,
}

/// Exceptions that are told one by one. The state of a node goes over the wire in pieces of 880 octets
/// that are pushed whole at each change: so many IPv6 addresses make three of them.
pub const MOST_EXCEPTIONS: usize = 64;

/// What a node does not serve, as all nodes hear of it. It decides for the node itself by the very same
/// list: what it thinks of itself and nobody else does would be owned by none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exceptions {
    /// At most [`MOST_EXCEPTIONS`].
    pub vips: BTreeSet<IpAddr>,
    /// Its kernel lacks more than that: the node counts as one that serves no VIP whole. Others that do
    /// own them, and where there is none it is asked all the same.
    pub more: bool,
}

/// A node that serves everything.
pub static NO_EXCEPTIONS: Exceptions = Exceptions {
    vips: BTreeSet::new(),
    more: false,
};

impl Exceptions {
    /// The lowest of what is planned and could not be put into the kernel, then of what is not planned
    /// at all. The latter need not be told whole: the node claims none of them, and whoever waits for it
    /// claims them after its turn.
    pub fn of(
        unserved: impl IntoIterator<Item = IpAddr>,
        unplanned: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        let mut unserved = unserved.into_iter();
        let mut vips: BTreeSet<IpAddr> = unserved.by_ref().take(MOST_EXCEPTIONS).collect();
        let more = unserved.next().is_some();
        for vip in unplanned {
            if vips.len() >= MOST_EXCEPTIONS {
                break;
            }
            vips.insert(vip);
        }
        Self { vips, more }
    }
}

/// Whether a node is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It answers.
    Alive,
    /// It said that it restarts, and its time is not over. It keeps what it owns.
    Restarting,
    /// It does not answer, or left.
    Down,
}

/// One other node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Whether it is there.
    pub presence: Presence,
    /// The start of its present run, in milliseconds since 1970: a restarted node has a later one.
    pub epoch: u64,
    /// What it said last of itself.
    pub state: MemberState,
    /// What it owns, as it said last.
    pub claims: Claims,
    /// How it is heard.
    pub heard: Heard,
}

/// The ways by which a node is heard now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Heard {
    /// By UDP.
    pub udp: bool,
    /// By frames on a LAN that both are on.
    pub lan: bool,
}

/// All other nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Peers {
    /// Nodes talk with one another; without it every node decides alone, from Nodes.
    pub enabled: bool,
    /// Whoever is there has been heard by now: who is not in here is not there. Before that a VIP
    /// whose owner is unknown is nobody's.
    pub settled: bool,
    /// By name, without this node.
    pub members: OrdMap<String, Arc<Peer>>,
}

impl Peers {
    /// Whether nobody's part in deciding about owners changed: who is there, and what each says of
    /// itself. Claims and digests do not count.
    pub fn decide_like(&self, other: &Self) -> bool {
        let same = |one: &Peer, other: &Peer| {
            let (a, b) = (&one.state, &other.state);
            one.presence == other.presence
                && (a.ready, a.draining, &a.interfaces) == (b.ready, b.draining, &b.interfaces)
                && (&a.exceptions, a.more_exceptions) == (&b.exceptions, b.more_exceptions)
        };
        self.enabled == other.enabled
            && self.members.len() == other.members.len()
            && (self.members.iter())
                .zip(other.members.iter())
                .all(|(one, other)| one.0 == other.0 && same(one.1, other.1))
    }
}

/// What this node tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publication {
    /// Of itself.
    pub state: MemberState,
    /// What it owns.
    pub claims: Claims,
    /// Who holds which address, where the nodes agree on that among themselves.
    pub allocations: Allocations,
}
