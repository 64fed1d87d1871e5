//! A frontend: where packets for a Service arrive, and what happens to them depending on who asks.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::family::{Family, Protocol};
use super::service::ServiceKey;

/// Who sent a packet. One VIP may treat each differently (POL-6), so the class is part of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SourceClass {
    /// Neither a pod nor a node: clients on the LAN and beyond.
    Outside,
    /// An address in the pod ranges.
    Pod,
    /// This node itself.
    Node,
    /// Another edge node that forwards for a VIP which it owns.
    Peer,
}

impl SourceClass {
    /// Every class, in the order of [`Treatments`].
    pub const ALL: [Self; 4] = [Self::Outside, Self::Pod, Self::Node, Self::Peer];
}

/// Where a frontend listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FrontendAddress {
    /// One address: a `ClusterIP`, a VIP or one of `externalIPs`.
    Address(IpAddr),
    /// Every node-port address of this node, in this family.
    NodePort(Family),
}

impl FrontendAddress {
    /// The family of its packets.
    pub fn family(self) -> Family {
        match self {
            Self::Address(address) => Family::of(address),
            Self::NodePort(family) => family,
        }
    }
}

/// Address, protocol and port of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FrontendPort {
    /// Where.
    pub address: FrontendAddress,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port, never 0.
    pub port: u16,
}

impl fmt::Display for FrontendPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            FrontendAddress::Address(address) => {
                write!(
                    f,
                    "{} {}",
                    self.protocol.lowercase(),
                    std::net::SocketAddr::new(address, self.port)
                )
            }
            FrontendAddress::NodePort(family) => {
                write!(
                    f,
                    "{} node port {} ({family})",
                    self.protocol.lowercase(),
                    self.port
                )
            }
        }
    }
}

/// The full key of a treatment: where the packet goes and who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FrontendKey {
    /// Where.
    pub port: FrontendPort,
    /// Who.
    pub class: SourceClass,
}

/// Where a packet may be sent: address and port of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RealServer {
    /// The endpoint's address.
    pub address: IpAddr,
    /// The port on it.
    pub port: u16,
}

impl fmt::Display for RealServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// What happens to the first packet of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// To one of these, sorted, never empty.
    Forward(Arc<[RealServer]>),
    /// Refused at once: there is no endpoint anywhere (NOEP-1).
    Refuse,
    /// Dropped in silence: a Local policy finds nothing here, but elsewhere there is (NOEP-2).
    Drop,
}

/// What one source class gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Treatment {
    /// Where to.
    pub verdict: Verdict,
    /// Whether the source address is replaced by this node's.
    pub masquerade: bool,
}

/// One treatment per source class, in the order of [`SourceClass::ALL`].
pub type Treatments = [Treatment; 4];

/// The wish of a Service port that a client stays with its endpoint (`sessionAffinity: ClientIP`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// Tells the Service port apart, the same for all its frontends (AFF-2), whatever its addresses.
    pub scope: u64,
    /// How long after its last new connection a client is forgotten, in whole seconds (AFF-4).
    pub timeout: Duration,
}

/// How a packet gets to an endpoint.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardingMethod {
    /// Addresses and ports are rewritten: any endpoint, anywhere.
    #[default]
    Masquerade,
    /// The packet goes unchanged to the endpoint's hardware address, and the endpoint, which has the
    /// VIP itself, answers the client directly. IPVS only.
    DirectRouting,
    /// The same in an IP-in-IP tunnel. IPVS only.
    Tunnel,
}

impl ForwardingMethod {
    /// Every method.
    pub const ALL: [Self; 3] = [Self::Masquerade, Self::DirectRouting, Self::Tunnel];

    /// The word for it in annotations and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Masquerade => "masquerade",
            Self::DirectRouting => "direct-routing",
            Self::Tunnel => "tunnel",
        }
    }
}

impl fmt::Display for ForwardingMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no forwarding method.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no forwarding method")]
pub struct UnknownForwardingMethod(String);

impl FromStr for ForwardingMethod {
    type Err = UnknownForwardingMethod;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|method| method.as_str() == text)
            .ok_or_else(|| UnknownForwardingMethod(text.to_owned()))
    }
}

/// Everything about one frontend port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontend {
    /// Whose it is.
    pub service: ServiceKey,
    /// What each source class gets.
    pub treatments: Treatments,
    /// Whether, and for how long, clients stay with their endpoint.
    pub session_affinity: Option<Affinity>,
    /// The IPVS scheduler, by its kernel name.
    pub scheduler: super::scheduler::Scheduler,
    /// The sources that may open connections (SR-1, SR-3): sorted, none within another, all of the
    /// frontend's family, never empty. Absent: any.
    pub allowed_sources: Option<Arc<[IpNet]>>,
    /// Endpoints that still serve, whether or not any class may be sent to them: what is connected to
    /// these goes on, whatever policies and hints say (CT-3, POL-13). Sorted.
    pub keeps: Arc<[RealServer]>,
    /// How packets get to the real servers.
    pub forwarding_method: ForwardingMethod,
}

impl Frontend {
    /// What this class gets.
    pub fn treatment(&self, class: SourceClass) -> &Treatment {
        let [outside, pod, node, peer] = &self.treatments;
        match class {
            SourceClass::Outside => outside,
            SourceClass::Pod => pod,
            SourceClass::Node => node,
            SourceClass::Peer => peer,
        }
    }

    /// The real servers that this class may reach; empty where it is refused or dropped.
    pub fn real_servers(&self, class: SourceClass) -> &[RealServer] {
        match &self.treatment(class).verdict {
            Verdict::Forward(real_servers) => real_servers,
            Verdict::Refuse | Verdict::Drop => &[],
        }
    }
}
