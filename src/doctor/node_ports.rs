//! Whether a process of this node waits on a node port: the packets go to the Service, and the
//! process hears of none of them (NP-11). And what became of the health-check node ports.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::running::Running;
use super::sockets::{Waiting, own_addresses};
use super::{Finding, Level, Section};
use crate::admin::client::AskError;
use crate::config::Config;
use crate::model::family::{Family, Protocol};
use crate::model::port_range::PortRange;

/// The kind of failure of a health-check port.
const UNOPENED: &str = "health_check_port";

/// The findings of this section.
pub(super) fn examine(
    config: &Config,
    running: Result<&Running, &AskError>,
    sockets: &io::Result<Vec<Waiting>>,
) -> Vec<Finding> {
    let sockets = match sockets {
        Ok(sockets) => sockets.as_slice(),
        Err(error) => {
            let message = format!("cannot see which ports processes listen on: {error}");
            let remedy = Some("mount /proc".to_owned());
            return vec![finding(Level::Warning, message, remedy)];
        }
    };
    let node = Node {
        ranges: &config.proxy.node_port_addresses,
        own: &own_addresses(),
    };
    let mut findings = match running {
        Ok(running) => shadowed(&node, &open(running), sockets),
        Err(_) => in_range(config.proxy.node_port_range, &node, sockets),
    };
    findings.extend(running.into_iter().flat_map(unopened));
    if findings.is_empty() {
        let message = match running {
            Ok(_) => "no process listens on a node port of a Service",
            Err(_) => "no process listens in proxy.node_port_range",
        };
        findings.push(finding(Level::Fine, message.to_owned(), None));
    }
    findings
}

fn finding(level: Level, message: String, remedy: Option<String>) -> Finding {
    Finding {
        remedy,
        ..Finding::new(Section::NodePorts, level, message)
    }
}

/// A node port, and who has it.
struct NodePort {
    protocol: Protocol,
    port: u16,
    /// NAMESPACE/NAME
    service: String,
    /// Those of the Service.
    families: Vec<Family>,
}

/// The node ports of all Services.
fn open(running: &Running) -> Vec<NodePort> {
    let services = running.services.services.iter();
    let ports = services.flat_map(|service| {
        let mut families = Family::BOTH.to_vec();
        let has = |family: &Family| {
            service
                .cluster_ips
                .iter()
                .any(|ip| Family::of(*ip) == *family)
        };
        // Without a ClusterIP nothing says which it has.
        if Family::BOTH.iter().any(has) {
            families.retain(has);
        }
        (service.ports.iter()).filter_map(move |port| {
            Some(NodePort {
                protocol: port.protocol,
                port: port.node_port?,
                service: format!("{}/{}", service.namespace, service.name),
                families: families.clone(),
            })
        })
    });
    ports.collect()
}

/// Which packets a socket loses to a node port.
#[derive(Debug, PartialEq, Eq)]
enum Loses {
    Nothing,
    /// Those to these addresses; it has others.
    Some(Vec<IpAddr>),
    All,
}

/// The node itself.
struct Node<'n> {
    /// `proxy.node_port_addresses`; none: all addresses.
    ranges: &'n [IpNet],
    own: &'n [IpAddr],
}

impl Node<'_> {
    fn is_open(&self, address: &IpAddr) -> bool {
        self.ranges.is_empty() || self.ranges.iter().any(|range| range.contains(address))
    }

    /// What a socket at this address loses to a node port of these families.
    fn loses(&self, address: IpAddr, families: &[Family]) -> Loses {
        let address = address.to_canonical();
        let served = |address: &IpAddr| families.contains(&Family::of(*address));
        if !address.is_unspecified() {
            let open = !address.is_loopback() && served(&address) && self.is_open(&address);
            return if open { Loses::All } else { Loses::Nothing };
        }
        // A socket at [::] has packets of both families.
        let (mut lost, kept): (Vec<IpAddr>, Vec<IpAddr>) = (self.own.iter())
            .filter(|own| address.is_ipv6() || own.is_ipv4())
            .partition(|own| served(own) && self.is_open(own));
        lost.sort_unstable();
        let concerned = address.is_ipv6() || families.contains(&Family::V4);
        match (lost.is_empty(), kept.is_empty()) {
            (true, true) if concerned => Loses::All,
            (true, _) => Loses::Nothing,
            (false, true) => Loses::All,
            (false, false) => Loses::Some(lost),
        }
    }
}

/// A process with a port, and what it loses there.
#[derive(Default)]
struct Loss {
    sockets: Vec<SocketAddr>,
    /// Whether a socket gets nothing at all.
    all: bool,
    /// Where the others get nothing.
    at: BTreeSet<IpAddr>,
}

/// Protocol, port and process.
type LossKey = (Protocol, u16, Option<(String, u32)>);

type Losses = BTreeMap<LossKey, Loss>;

fn note(found: &mut Losses, socket: &Waiting, loses: Loses) {
    if loses == Loses::Nothing {
        return;
    }
    let key = (socket.protocol, socket.port, socket.process.clone());
    let entry = found.entry(key).or_default();
    entry
        .sockets
        .push(SocketAddr::new(socket.address, socket.port));
    match loses {
        Loses::Some(addresses) => entry.at.extend(addresses),
        Loses::All | Loses::Nothing => entry.all = true,
    }
}

fn shadowed(node: &Node, open: &[NodePort], sockets: &[Waiting]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for NodePort {
        protocol,
        port,
        service,
        families,
    } in open
    {
        let mut losses = Losses::new();
        for socket in sockets {
            if (socket.protocol, socket.port) == (*protocol, *port) {
                note(&mut losses, socket, node.loses(socket.address, families));
            }
        }
        for ((protocol, _, process), loss) in losses {
            let name = name(protocol, process.as_ref(), &loss.sockets);
            let (level, gets) = if loss.all {
                (
                    Level::Problem,
                    "never gets a packet from outside".to_owned(),
                )
            } else {
                let at: Vec<String> = loss.at.iter().map(ToString::to_string).collect();
                (Level::Warning, format!("gets none at {}", at.join(", ")))
            };
            let message = format!("{name} {gets}: the port is the node port of {service}");
            let remedy = format!(
                "let the process listen on another port, or give {service} another nodePort"
            );
            findings.push(finding(level, message, Some(remedy)));
        }
    }
    findings
}

/// What is known without a daemon.
fn in_range(range: PortRange, node: &Node, sockets: &[Waiting]) -> Vec<Finding> {
    let mut losses = Losses::new();
    for socket in sockets.iter().filter(|socket| range.contains(socket.port)) {
        note(
            &mut losses,
            socket,
            node.loses(socket.address, &Family::BOTH),
        );
    }
    let warn = |((protocol, _, process), loss): (LossKey, Loss)| {
        let message = format!(
            "{} listens in proxy.node_port_range: as soon as a Service has this node port, it gets \
             no packet from outside",
            name(protocol, process.as_ref(), &loss.sockets)
        );
        let remedy = format!("let the process listen outside of {range}");
        finding(Level::Warning, message, Some(remedy))
    };
    losses.into_iter().map(warn).collect()
}

fn name(protocol: Protocol, process: Option<&(String, u32)>, sockets: &[SocketAddr]) -> String {
    let process = match process {
        Some((name, number)) => format!("{name} (process {number})"),
        None => "a process".to_owned(),
    };
    let sockets: Vec<String> = sockets.iter().map(ToString::to_string).collect();
    format!(
        "{process} on {} {}",
        protocol.lowercase(),
        sockets.join(", ")
    )
}

fn unopened(running: &Running) -> Vec<Finding> {
    let failures = running.status.last_pass.failures.iter();
    let failures = failures.filter(|failure| failure.kind == UNOPENED);
    let problem = |failure: &crate::admin::view::FailureView| {
        let (cause, remedy) = (failure.message.split_once(": "))
            .unwrap_or((&failure.message, "free the port, or name another one"));
        let message = format!("health-check port {} is not open: {cause}", failure.object);
        finding(Level::Problem, message, Some(remedy.to_owned()))
    };
    failures.map(problem).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn socket(protocol: Protocol, address: &str) -> Waiting {
        Waiting {
            protocol,
            port: 30_080,
            address: address.parse().unwrap(),
            process: Some(("nginx".to_owned(), 7)),
        }
    }

    fn port(families: &[Family]) -> NodePort {
        NodePort {
            protocol: Protocol::Tcp,
            port: 30_080,
            service: "default/web".to_owned(),
            families: families.to_vec(),
        }
    }

    #[test]
    fn a_process_on_a_node_port_is_named() {
        let own = ["192.0.2.11", "198.51.100.1", "2001:db8::11"];
        let own = own.map(|address| address.parse().unwrap());
        let (problem, warning) = (Some(Level::Problem), Some(Level::Warning));
        let (tcp, v4) = (Protocol::Tcp, [Family::V4].as_slice());
        for (ranges, families, protocol, address, level) in [
            ("", v4, tcp, "0.0.0.0", problem),
            ("", &Family::BOTH, tcp, "::", problem),
            // It has packets of IPv6 still.
            ("", v4, tcp, "::", warning),
            ("", v4, tcp, "192.0.2.11", problem),
            ("", v4, tcp, "::ffff:192.0.2.11", problem),
            ("", v4, tcp, "2001:db8::11", None),
            ("", &[Family::V6], tcp, "0.0.0.0", None),
            ("", v4, tcp, "127.0.0.1", None),
            ("", v4, Protocol::Udp, "0.0.0.0", None),
            ("198.51.100.0/24", v4, tcp, "192.0.2.11", None),
            ("198.51.100.0/24", v4, tcp, "0.0.0.0", warning),
            ("0.0.0.0/0", v4, tcp, "0.0.0.0", problem),
            ("203.0.113.0/24", v4, tcp, "0.0.0.0", None),
        ] {
            let ranges: Vec<IpNet> = ranges.parse().into_iter().collect();
            let node = Node {
                ranges: &ranges,
                own: &own,
            };
            let found = shadowed(&node, &[port(families)], &[socket(protocol, address)]);
            let found = found.first();
            assert_eq!(found.map(|it| it.level), level, "{ranges:?} {address}");
            if let Some(found) = found {
                assert!(found.message.starts_with("nginx (process 7) on tcp "));
                assert!(found.message.contains("default/web"));
                assert_eq!(found.message.contains(" gets none at 1"), level == warning);
            }
        }
    }

    #[test]
    fn a_process_is_named_once_a_port() {
        let own = ["192.0.2.11".parse().unwrap()];
        let node = Node {
            ranges: &[],
            own: &own,
        };
        let sockets = ["0.0.0.0", "::"].map(|address| socket(Protocol::Tcp, address));
        let found = shadowed(&node, &[port(&Family::BOTH)], &sockets);
        assert_eq!(found.len(), 1);
        let sockets = "nginx (process 7) on tcp 0.0.0.0:30080, [::]:30080 never gets";
        assert!(found.iter().all(|it| it.message.starts_with(sockets)));
        let sockets = ["0.0.0.0", "::"].map(|address| socket(Protocol::Udp, address));
        assert_eq!(in_range(PortRange::NODE_PORTS, &node, &sockets).len(), 1);
    }
}
