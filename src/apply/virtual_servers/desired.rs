//! What IPVS is to hold for the frontends of a state: virtual servers with their real servers. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use super::names;
use crate::apply::forwarder::{Forwarder, forwarder};
use crate::apply::ipvs::types::{
    Family as IpvsFamily, ForwardingMethod, Granularity, Persistence, Protocol as IpvsProtocol,
    RealServerKey, SCHEDULER_FLAG_PORT, Tunnel, VirtualServer, VirtualServerKey,
};
use crate::model::family::{Family, Protocol};
use crate::model::frontend::{
    ForwardingMethod as Method, Frontend, FrontendAddress, FrontendPort, SourceClass,
};
use crate::model::node_state::NodeState;
use crate::model::scheduler::Scheduler;

/// Weight of a real server that takes connections.
pub(super) const SERVING: u32 = 1;

/// What a frontend wants: attributes and real servers.
pub(super) type Wanted = (VirtualServer, BTreeSet<RealServerKey>);

/// How a frontend's packets get to its real servers. Direct routing and tunnels leave the packet as
/// it is: they need the frontend's own port at the real server, and no address that is this node's.
pub(super) fn method(port: FrontendPort, frontend: &Frontend) -> ForwardingMethod {
    let lists = SourceClass::ALL.map(|class| frontend.real_servers(class));
    let mut real_servers = lists.into_iter().flatten();
    let same_port = real_servers.all(|real_server| real_server.port == port.port);
    let unchanged = same_port && matches!(port.address, FrontendAddress::Address(_));
    match frontend.forwarding_method {
        Method::DirectRouting if unchanged => ForwardingMethod::DirectRouting,
        Method::Tunnel if unchanged => ForwardingMethod::Tunnel(Tunnel::IPIP),
        Method::Masquerade | Method::DirectRouting | Method::Tunnel => ForwardingMethod::Masquerade,
    }
}

/// Real servers whose connections go on though no new ones come (CT-3, POL-13).
pub(super) fn keeps(frontend: &Frontend) -> BTreeSet<RealServerKey> {
    let key = |real_server: &crate::model::frontend::RealServer| RealServerKey {
        address: real_server.address,
        port: real_server.port,
    };
    frontend.keeps.iter().map(key).collect()
}

/// The virtual servers of a frontend: one, or one for each node address.
pub(super) fn keys(
    port: FrontendPort,
    state: &NodeState,
) -> impl Iterator<Item = VirtualServerKey> {
    let addresses: Vec<IpAddr> = match port.address {
        FrontendAddress::Address(address) => vec![address],
        FrontendAddress::NodePort(family) => state
            .node_addresses
            .iter()
            .copied()
            .filter(|address| Family::of(*address) == family)
            .collect(),
    };
    let protocol = match port.protocol {
        Protocol::Tcp => IpvsProtocol::Tcp,
        Protocol::Udp => IpvsProtocol::Udp,
        Protocol::Sctp => IpvsProtocol::Sctp,
    };
    addresses
        .into_iter()
        .map(move |address| VirtualServerKey::Address {
            protocol,
            address,
            port: port.port,
        })
}

/// What IPVS is to do for a frontend: nothing where nftables forwards for every class. One virtual
/// server cannot tell who asks: where outside clients have a list of their own it is theirs alone,
/// and where they have none the guard keeps them away.
pub(super) fn of_frontend(port: FrontendPort, frontend: &Frontend) -> Wanted {
    let ipvs = |class| forwarder(frontend, class, Forwarder::Ipvs) == Forwarder::Ipvs;
    let list = [SourceClass::Outside, SourceClass::Pod]
        .into_iter()
        .filter(|class| ipvs(*class))
        .map(|class| frontend.real_servers(class))
        .find(|list| !list.is_empty())
        .unwrap_or_default();
    let family = match port.address.family() {
        Family::V4 => IpvsFamily::Ipv4,
        Family::V6 => IpvsFamily::Ipv6,
    };
    let mut attributes = VirtualServer::new(frontend.scheduler.as_str());
    if frontend.scheduler == Scheduler::Mh {
        attributes.scheduler_flags = SCHEDULER_FLAG_PORT;
    }
    let affinity = frontend.session_affinity.filter(|_| !list.is_empty());
    attributes.persistence = affinity.map(|affinity| Persistence {
        timeout: u32::try_from(affinity.timeout.as_secs()).unwrap_or(u32::MAX),
        granularity: Granularity::host(family),
    });
    let real_servers = list
        .iter()
        .map(|real_server| RealServerKey {
            address: real_server.address,
            port: real_server.port,
        })
        .collect();
    (attributes, real_servers)
}

/// What IPVS would hold for a state, as `ipvsadm --save --numeric` (`-Sn`) writes it. A frontend
/// without real servers has no virtual server: the table refuses or drops its packets.
pub fn describe(state: &NodeState) -> String {
    let mut servers: BTreeMap<VirtualServerKey, (Wanted, &str)> = BTreeMap::new();
    for (port, frontend) in &state.frontends {
        let wanted = of_frontend(*port, frontend);
        let method = names::method(method(*port, frontend));
        if !wanted.1.is_empty() {
            servers.extend(keys(*port, state).map(|key| (key, (wanted.clone(), method))));
        }
    }
    let mut text = String::new();
    for (key, ((attributes, real_servers), method)) in &servers {
        let at = names::place(key);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "-A {at}{}", names::attributes(attributes));
        for real_server in real_servers {
            let _ = writeln!(text, "-a {at} -r {real_server} {method} -w {SERVING}");
        }
    }
    text
}
