//! The packets that have to come through the hooks of this node, and where each of them passes: the one list
//! by which chains of others are judged. On nftables a packet for a VIP is translated before it is routed
//! and goes through forward; IPVS takes it at input and sends it on through output, and the answer of the
//! real server comes back through forward.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::machine::Machine;
use super::passing::{Needs, Path, Purpose};
use super::running::Running;
use super::sockets::own_addresses;
use crate::apply::nftables::DESTINATION_PRIORITY;
use crate::apply::nftables::others::{Hook, Packet};
use crate::config::Config;
use crate::model::address_range::AddressRange;
use crate::model::cluster::ClusterState;
use crate::model::family::{Family, Protocol};
use crate::model::host::Host;
use crate::model::service::TrafficPolicy;

/// Packets of Services, and of endpoints, that are taken through the chains at most, or a few more.
const MOST_PATHS: usize = 1500;
/// Endpoints of a Service that are asked for.
const MOST_ENDPOINTS: usize = 2;
/// `NF_IP_PRI_CONNTRACK`, where edgelb translates, and where IPVS takes a packet at input.
const TRACKED: i32 = -200;
const TRANSLATED: i32 = DESTINATION_PRIORITY;
const TAKEN_BY_IPVS: i32 = 98;

type Link = Option<(u32, String)>;

/// What is looked up for the list.
pub(super) struct Roads<'r> {
    pub(super) config: &'r Config,
    pub(super) running: Option<&'r Running>,
    pub(super) cluster: Option<&'r ClusterState>,
    pub(super) host: Option<&'r Host>,
    pub(super) machine: Option<&'r mut Machine>,
    pub(super) needs: &'r Needs,
    pub(super) found: Vec<Path>,
}

fn packet(family: Family, protocol: Protocol) -> Packet {
    Packet {
        family,
        protocol: protocol.number(),
        source: None,
        source_port: None,
        destination: None,
        destination_port: None,
        comes_by: None,
        leaves_by: None,
        answer: false,
        translated: false,
        tracked: true,
        original: (None, None),
        local: false,
        bridged: false,
        arp: None,
    }
}

/// A VIP or node port, as far as it is known.
#[derive(Clone, Copy)]
struct Front {
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl Roads<'_> {
    /// All of them.
    pub(super) fn all(mut self) -> Vec<Path> {
        // What has a name is told rather than what has none.
        self.services();
        self.endpoints();
        for family in Family::BOTH {
            self.own_ports(family);
            self.generic(family);
        }
        self.arp();
        self.found
    }

    fn add(&mut self, hook: Hook, (above, below): (i32, i32), path: (Packet, Purpose, &str)) {
        let (mut packet, purpose, label) = path;
        let link = packet.comes_by.as_ref().or(packet.leaves_by.as_ref());
        packet.bridged = link.is_some_and(|(index, _)| {
            let link = self.machine.as_ref().and_then(|it| it.links.get(index));
            link.is_some_and(|link| link.kind.as_deref() == Some("bridge"))
        });
        self.found.push(Path {
            hook,
            above,
            below,
            packet,
            purpose,
            label: label.to_owned(),
        });
    }

    /// The interface by which clients' packets for an address come: that with its subnet, or the way out.
    fn uplink(&mut self, address: Option<IpAddr>, family: Family) -> Link {
        let first = address.or_else(|| {
            let ranges = self.config.pools.iter().flat_map(|pool| &pool.ranges);
            ranges
                .map(AddressRange::first)
                .find(|it| Family::of(*it) == family)
        });
        let inside = first.and_then(|first| {
            let mut interfaces = self.host?.interfaces.values().filter(|it| !it.loopback);
            let found =
                interfaces.find(|it| it.addresses.iter().any(|net| net.contains(&first)))?;
            Some((found.index, found.name.clone()))
        });
        inside.or_else(|| self.way(super::network::outside(family)))
    }

    fn way(&mut self, to: IpAddr) -> Link {
        let machine = self.machine.as_mut()?;
        let way = machine.way(to)?;
        let link = machine.links.get(&way.link?)?;
        (!way.local).then(|| (link.index, link.name.clone()))
    }

    fn own_ports(&mut self, family: Family) {
        let own = own_addresses()
            .into_iter()
            .find(|it| Family::of(*it) == family);
        let comes_by = self.uplink(own, family);
        let to = |protocol, port| Packet {
            destination: own,
            destination_port: Some(port),
            comes_by: comes_by.clone(),
            local: true,
            ..packet(family, protocol)
        };
        let everywhere = (i32::MIN, i32::MAX);
        if let Some(port) = self.needs.health {
            let label = format!("tcp port {port}: who asks this node for its health");
            let path = (to(Protocol::Tcp, port), Purpose::Health, label.as_str());
            self.add(Hook::Input, everywhere, path);
        }
        for port in self.needs.health_checks.clone() {
            let label = format!("tcp port {port}: the health checks of a Service");
            let path = (
                to(Protocol::Tcp, port),
                Purpose::HealthCheck,
                label.as_str(),
            );
            self.add(Hook::Input, everywhere, path);
        }
        let Some(port) = self.needs.membership else {
            return;
        };
        let comes = to(Protocol::Udp, port);
        let goes = Packet {
            destination: None,
            leaves_by: comes.comes_by.clone(),
            comes_by: None,
            local: false,
            ..comes.clone()
        };
        let label =
            format!("udp port {port}: membership, so peers and this node do not hear one another");
        for hook in [Hook::Ingress, Hook::Prerouting, Hook::Input] {
            let path = (comes.clone(), Purpose::Membership, label.as_str());
            self.add(hook, everywhere, path);
        }
        for hook in [Hook::Output, Hook::Postrouting, Hook::Egress] {
            let path = (goes.clone(), Purpose::Membership, label.as_str());
            self.add(hook, everywhere, path);
        }
    }

    /// What there will be as soon as there is a Service.
    fn generic(&mut self, family: Family) {
        let mut ranges = self.config.pools.iter().flat_map(|pool| &pool.ranges);
        let first = ranges
            .find(|it| it.family() == family)
            .map(AddressRange::first);
        if first.is_none() && !self.config.pools.is_empty() {
            return;
        }
        let front = Front {
            address: first,
            port: None,
        };
        self.arriving(family, Protocol::Tcp, front, "VIPs and node ports");
        self.sent(family, Protocol::Tcp, (None, None), front, "endpoints");
        if !self.needs.ipvs {
            let own = own_addresses()
                .into_iter()
                .find(|it| Family::of(*it) == family);
            let known = self.running.is_some_and(|it| {
                let mut own = it.status.passing.own_endpoints.iter();
                own.any(|it| Family::of(*it) == family)
            });
            let to = Packet {
                destination: own,
                comes_by: self.uplink(first, family),
                translated: true,
                local: true,
                original: (first, None),
                ..packet(family, Protocol::Tcp)
            };
            let label = "endpoints on this node's own addresses";
            let path = (to, Purpose::OwnEndpoint(known), label);
            self.add(Hook::Input, (i32::MIN, i32::MAX), path);
        }
    }

    /// Towards a VIP or a node port.
    fn arriving(&mut self, family: Family, protocol: Protocol, front: Front, label: &str) {
        let comes = Packet {
            destination: front.address,
            destination_port: front.port,
            original: (front.address, front.port),
            comes_by: self.uplink(front.address, family),
            local: true,
            ..packet(family, protocol)
        };
        let early = Packet {
            tracked: false,
            ..comes.clone()
        };
        let of = |packet: &Packet| (packet.clone(), Purpose::Arriving, label);
        self.add(Hook::Ingress, (i32::MIN, i32::MAX), of(&early));
        self.add(Hook::Prerouting, (i32::MIN, TRACKED), of(&early));
        if self.needs.ipvs {
            self.add(Hook::Prerouting, (TRACKED, i32::MAX), of(&comes));
            self.add(Hook::Input, (i32::MIN, TAKEN_BY_IPVS), of(&comes));
        } else {
            self.add(Hook::Prerouting, (TRACKED, TRANSLATED), of(&comes));
        }
    }

    /// From the translation to an endpoint, and back.
    fn sent(
        &mut self,
        family: Family,
        protocol: Protocol,
        endpoint: (Option<IpAddr>, Option<u16>),
        front: Front,
        label: &str,
    ) {
        let (address, port) = endpoint;
        let uplink = self.uplink(front.address, family);
        let leaves_by = address.and_then(|it| self.way(it));
        let ipvs = self.needs.ipvs;
        let to = Packet {
            destination: address,
            destination_port: port,
            original: (front.address, front.port),
            comes_by: uplink.clone(),
            leaves_by: leaves_by.clone(),
            translated: !ipvs,
            ..packet(family, protocol)
        };
        let answer = Packet {
            source: address,
            source_port: port,
            destination: None,
            destination_port: None,
            comes_by: leaves_by,
            leaves_by: uplink,
            answer: true,
            ..to.clone()
        };
        let all = (i32::MIN, i32::MAX);
        if ipvs {
            let sent = Packet {
                comes_by: None,
                ..to
            };
            self.add(
                Hook::Output,
                all,
                (sent.clone(), Purpose::Translated, label),
            );
            self.add(Hook::Postrouting, all, (sent, Purpose::Translated, label));
        } else {
            let after = (TRANSLATED, i32::MAX);
            self.add(
                Hook::Prerouting,
                after,
                (to.clone(), Purpose::Translated, label),
            );
            self.add(Hook::Forward, all, (to.clone(), Purpose::Translated, label));
            self.add(Hook::Postrouting, all, (to, Purpose::Translated, label));
        }
        self.add(Hook::Forward, all, (answer, Purpose::Answer, label));
    }

    /// From a client far away to an endpoint that is to see its address.
    fn seen(
        &mut self,
        family: Family,
        protocol: Protocol,
        (address, port): (IpAddr, u16),
        label: &str,
    ) {
        let to = Packet {
            source: Some(super::network::outside(family)),
            destination: Some(address),
            destination_port: Some(port),
            comes_by: self.uplink(None, family),
            leaves_by: self.way(address),
            translated: !self.needs.ipvs,
            ..packet(family, protocol)
        };
        let path = (to, Purpose::Sender, label);
        self.add(Hook::Postrouting, (i32::MIN, i32::MAX), path);
    }

    fn services(&mut self) {
        let own = own_addresses();
        let services = self
            .running
            .into_iter()
            .flat_map(|it| &it.services.services);
        for service in services {
            if self.found.len() >= MOST_PATHS {
                return;
            }
            let name = format!("{}/{}", service.namespace, service.name);
            for port in &service.ports {
                let protocol = port.protocol;
                let words = protocol.lowercase();
                for vip in &service.vips {
                    let address = vip.address;
                    let front = Front {
                        address: Some(address),
                        port: Some(port.port),
                    };
                    let label = format!("{address} {words} port {}, a VIP of {name}", port.port);
                    self.arriving(Family::of(address), protocol, front, &label);
                }
                let Some(node_port) = port.node_port else {
                    continue;
                };
                for family in Family::BOTH {
                    let own = own.iter().copied().find(|it| Family::of(*it) == family);
                    let Some(address) = own else { continue };
                    let front = Front {
                        address: Some(address),
                        port: Some(node_port),
                    };
                    let label = format!("{words} port {node_port}, a node port of {name}");
                    self.arriving(family, protocol, front, &label);
                }
            }
        }
    }

    /// Behind the translation packets have the port and address of an endpoint.
    fn endpoints(&mut self) {
        let Some(cluster) = self.cluster else { return };
        let own: BTreeSet<IpAddr> = own_addresses().into_iter().collect();
        for slice in cluster.slices.values() {
            if self.found.len() >= 2 * MOST_PATHS {
                return;
            }
            let name = &slice.service;
            let ready = slice.endpoints.iter().filter(|it| it.conditions.ready);
            for endpoint in ready.take(MOST_ENDPOINTS) {
                let address = endpoint.address;
                let family = Family::of(address);
                for port in &slice.ports {
                    let (protocol, number) = (port.protocol, port.port);
                    let words = protocol.lowercase();
                    let label = format!("{address} {words} port {number}, an endpoint of {name}");
                    let nobody = Front {
                        address: None,
                        port: None,
                    };
                    if !own.contains(&address) {
                        let endpoint = (Some(address), Some(number));
                        self.sent(family, protocol, endpoint, nobody, &label);
                        let local = cluster
                            .services
                            .get(&slice.service)
                            .is_some_and(|it| it.external_traffic_policy == TrafficPolicy::Local);
                        if local {
                            self.seen(family, protocol, (address, number), &label);
                        }
                    } else if !self.needs.ipvs {
                        let to = Packet {
                            destination: Some(address),
                            destination_port: Some(number),
                            comes_by: self.uplink(None, family),
                            translated: true,
                            local: true,
                            ..packet(family, protocol)
                        };
                        let path = (to, Purpose::OwnEndpoint(true), label.as_str());
                        self.add(Hook::Input, (i32::MIN, i32::MAX), path);
                    }
                }
            }
        }
    }

    /// The kernel's own: what edgelb sends and hears of VIPs passes by the chains of ARP, and not by
    /// those of an interface.
    fn arp(&mut self) {
        let link = self.uplink(None, Family::V4);
        for operation in [1, 2] {
            let frame = Packet {
                comes_by: link.clone(),
                leaves_by: link.clone(),
                tracked: false,
                arp: Some(operation),
                ..packet(Family::V4, Protocol::Tcp)
            };
            for hook in [Hook::Ingress, Hook::Input, Hook::Output, Hook::Egress] {
                let path = (frame.clone(), Purpose::Arp, "ARP");
                self.add(hook, (i32::MIN, i32::MAX), path);
            }
        }
    }
}
