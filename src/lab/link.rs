//! Links, addresses and routes of a namespace, by rtnetlink: what `ip link`, `ip address` and
//! `ip route` would do. Every method names links by their name in its namespace.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{LabError, Namespace};
pub use crate::model::foreign::MacAddress;

/// A route of the main table. Without a gateway the destination is on the link itself.
#[derive(Debug, Clone)]
pub struct Route<'a> {
    /// Where to, for example `0.0.0.0/0`.
    pub destination: IpNet,
    /// The next hop; taken as on the link even where no address says so.
    pub gateway: Option<IpAddr>,
    /// The link's name.
    pub link: &'a str,
}

impl Namespace {
    /// Creates a bridge without spanning tree, and so without a forwarding delay. Multicast snooping
    /// is off: there is no querier on this LAN, and neighbor solicitations must reach every port.
    pub fn create_bridge(&self, name: &str) -> Result<(), LabError> {
        let data = InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)]);
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(data)]),
        ];
        self.create_link(&format!("create bridge {name}"), message)?;
        // A bridge would otherwise hand the frames that it switches to the IP firewall.
        for setting in ["iptables", "ip6tables", "arptables"] {
            self.set_sysctl_if_present(&format!("net/bridge/bridge-nf-call-{setting}"), "0")?;
        }
        Ok(())
    }

    /// Creates a pair of virtual Ethernet links: `name` here, `peer_name` in `peer`. Both are down.
    pub fn create_veth(
        &self,
        name: &str,
        peer: &Namespace,
        peer_name: &str,
    ) -> Result<(), LabError> {
        let mut peer_message = LinkMessage::default();
        peer_message.attributes = vec![
            LinkAttribute::IfName(peer_name.to_owned()),
            LinkAttribute::NetNsFd(peer.descriptor()),
        ];
        let data = InfoData::Veth(InfoVeth::Peer(peer_message));
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(data)]),
        ];
        self.create_link(
            &format!(
                "create link {name} with peer {peer_name} in {}",
                peer.name()
            ),
            message,
        )
    }

    /// Makes `link` a port of `bridge`.
    pub fn set_bridge(&self, link: &str, bridge: &str) -> Result<(), LabError> {
        let mut message = LinkMessage::default();
        message.header.index = self.link_index(link)?;
        message.attributes = vec![LinkAttribute::Controller(self.link_index(bridge)?)];
        self.acknowledged(
            &format!("put link {link} on bridge {bridge}"),
            RouteNetlinkMessage::SetLink(message),
            0,
        )
    }

    /// Sets the link up.
    pub fn set_up(&self, link: &str) -> Result<(), LabError> {
        self.set_link_flag(link, LinkFlags::Up, "up")
    }

    /// Sets the link down; the peer of a virtual Ethernet link loses its carrier.
    pub fn set_down(&self, link: &str) -> Result<(), LabError> {
        self.set_link_flag(link, LinkFlags::empty(), "down")
    }

    /// Removes the link, and its peer with it.
    pub fn remove_link(&self, link: &str) -> Result<(), LabError> {
        let mut message = LinkMessage::default();
        message.header.index = self.link_index(link)?;
        self.acknowledged(
            &format!("remove link {link}"),
            RouteNetlinkMessage::DelLink(message),
            0,
        )
    }

    /// The kernel's index of the link.
    pub fn link_index(&self, link: &str) -> Result<u32, LabError> {
        Ok(self.read_link(link)?.header.index)
    }

    /// The link's Ethernet address.
    pub fn mac_address(&self, link: &str) -> Result<MacAddress, LabError> {
        self.read_link(link)?
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Address(octets) => octets.as_slice().try_into().ok().map(MacAddress),
                _ => None,
            })
            .ok_or_else(|| self.incomplete(link, "an Ethernet address"))
    }

    /// Whether the other end of the link is up too.
    pub fn carrier(&self, link: &str) -> Result<bool, LabError> {
        self.read_link(link)?
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Carrier(carrier) => Some(*carrier != 0),
                _ => None,
            })
            .ok_or_else(|| self.incomplete(link, "a carrier"))
    }

    /// The names of all links, in the kernel's order.
    pub fn links(&self) -> Result<Vec<String>, LabError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let replies = self.request("list links", request, NLM_F_DUMP)?;
        Ok(replies
            .into_iter()
            .filter_map(|reply| match reply {
                RouteNetlinkMessage::NewLink(message) => {
                    message
                        .attributes
                        .into_iter()
                        .find_map(|attribute| match attribute {
                            LinkAttribute::IfName(name) => Some(name),
                            _ => None,
                        })
                }
                _ => None,
            })
            .collect())
    }

    /// Adds an address with its prefix. IPv6 addresses are usable at once (`nodad`).
    pub fn add_address(&self, link: &str, address: IpNet) -> Result<(), LabError> {
        let request = RouteNetlinkMessage::NewAddress(self.address_message(link, address)?);
        self.acknowledged(
            &format!("add address {address} to {link}"),
            request,
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Removes an address.
    pub fn remove_address(&self, link: &str, address: IpNet) -> Result<(), LabError> {
        let request = RouteNetlinkMessage::DelAddress(self.address_message(link, address)?);
        self.acknowledged(&format!("remove address {address} from {link}"), request, 0)
    }

    /// Adds a route; one that exists already is an error.
    pub fn add_route(&self, route: &Route<'_>) -> Result<(), LabError> {
        let request = RouteNetlinkMessage::NewRoute(self.route_message(route)?);
        self.acknowledged(&describe("add", route), request, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes a route.
    pub fn remove_route(&self, route: &Route<'_>) -> Result<(), LabError> {
        let request = RouteNetlinkMessage::DelRoute(self.route_message(route)?);
        self.acknowledged(&describe("remove", route), request, 0)
    }

    fn create_link(&self, what: &str, message: LinkMessage) -> Result<(), LabError> {
        self.acknowledged(
            what,
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    fn set_link_flag(&self, link: &str, flags: LinkFlags, word: &str) -> Result<(), LabError> {
        let mut message = LinkMessage::default();
        message.header.index = self.link_index(link)?;
        message.header.flags = flags;
        message.header.change_mask = LinkFlags::Up;
        self.acknowledged(
            &format!("set link {link} {word}"),
            RouteNetlinkMessage::SetLink(message),
            0,
        )
    }

    fn read_link(&self, link: &str) -> Result<LinkMessage, LabError> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(link.to_owned())];
        let replies = self.request(
            &format!("read link {link}"),
            RouteNetlinkMessage::GetLink(message),
            NLM_F_ACK,
        )?;
        replies
            .into_iter()
            .find_map(|reply| match reply {
                RouteNetlinkMessage::NewLink(message) => Some(message),
                _ => None,
            })
            .ok_or_else(|| self.incomplete(link, "a description"))
    }

    fn address_message(&self, link: &str, address: IpNet) -> Result<AddressMessage, LabError> {
        let mut message = AddressMessage::default();
        message.header.index = self.link_index(link)?;
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.attributes = vec![
            AddressAttribute::Local(address.addr()),
            AddressAttribute::Address(address.addr()),
        ];
        match address {
            IpNet::V4(network) if network.prefix_len() < 31 => {
                message
                    .attributes
                    .push(AddressAttribute::Broadcast(network.broadcast()));
            }
            IpNet::V4(_) => {}
            IpNet::V6(_) => {
                message.header.flags = AddressHeaderFlags::Nodad;
                message
                    .attributes
                    .push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
        }
        Ok(message)
    }

    fn route_message(&self, route: &Route<'_>) -> Result<RouteMessage, LabError> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(route.destination.addr()),
            destination_prefix_length: route.destination.prefix_len(),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            // An IPv4 route without a gateway has the scope of its link (rtnetlink(7)).
            scope: if route.gateway.is_none() && route.destination.addr().is_ipv4() {
                RouteScope::Link
            } else {
                RouteScope::Universe
            },
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        if route.destination.prefix_len() > 0 {
            message
                .attributes
                .push(RouteAttribute::Destination(RouteAddress::from(
                    route.destination.network(),
                )));
        }
        if let Some(gateway) = route.gateway {
            message.header.flags = RouteFlags::Onlink;
            message
                .attributes
                .push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
        }
        message
            .attributes
            .push(RouteAttribute::Oif(self.link_index(route.link)?));
        Ok(message)
    }

    fn acknowledged(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), LabError> {
        self.request(what, message, NLM_F_ACK | flags).map(|_| ())
    }

    fn incomplete(&self, link: &str, missing: &str) -> LabError {
        LabError::Netlink {
            what: format!("read link {link}"),
            namespace: self.name().to_owned(),
            source: std::io::Error::other(format!("the kernel's answer lacks {missing}")),
        }
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn describe(verb: &str, route: &Route<'_>) -> String {
    match route.gateway {
        Some(gateway) => format!(
            "{verb} route {} via {gateway} on {}",
            route.destination, route.link
        ),
        None => format!("{verb} route {} on {}", route.destination, route.link),
    }
}
