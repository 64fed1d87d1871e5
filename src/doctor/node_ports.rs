//! Whether a process of this node waits on a node port: the packets go to the Service, and the
//! process hears of none of them (NP-11). And what became of the health-check node ports.

use std::net::IpAddr;

use super::running::Running;
use super::sockets::{Waiting, waiting};
use super::{Finding, Level, Section};
use crate::admin::client::AskError;
use crate::config::Config;
use crate::model::family::Protocol;

/// The kind of failure of a health-check port.
const UNOPENED: &str = "health_check_port";

/// The findings of this section.
pub(super) fn examine(config: &Config, running: Result<&Running, &AskError>) -> Vec<Finding> {
    let sockets = match waiting() {
        Ok(sockets) => sockets,
        Err(error) => {
            let message = format!("cannot see which ports processes listen on: {error}");
            let remedy = Some("mount /proc".to_owned());
            return vec![finding(Level::Warning, message, remedy)];
        }
    };
    let mut findings = match running {
        Ok(running) => shadowed(config, &open(running), &sockets),
        Err(_) => in_range(config, &sockets),
    };
    findings.extend(running.into_iter().flat_map(unopened));
    if findings.is_empty() {
        let message = match running {
            Ok(_) => "no process listens on a node port of a Service",
            Err(_) => "no process listens in proxy.node_port_range",
        };
        findings.push(finding(Level::Fine, message.to_owned(), None));
    }
    if let Err(error) = running {
        let message = "the Services were not asked for: no answer of a daemon on this node";
        let remedy = error.to_string();
        findings.push(finding(Level::Info, message.to_owned(), Some(remedy)));
    }
    findings
}

fn finding(level: Level, message: String, remedy: Option<String>) -> Finding {
    Finding {
        section: Section::NodePorts,
        level,
        message,
        remedy,
    }
}

/// The node ports of all Services.
fn open(running: &Running) -> Vec<(Protocol, u16, String)> {
    let services = running.services.services.iter();
    let ports = services.flat_map(|service| {
        let name = format!("{}/{}", service.namespace, service.name);
        (service.ports.iter())
            .filter_map(move |port| Some((port.protocol, port.node_port?, name.clone())))
    });
    ports.collect()
}

/// Whether packets for a node port would have come to this socket.
fn is_reached(config: &Config, address: IpAddr) -> bool {
    let ranges = &config.proxy.node_port_addresses;
    address.is_unspecified()
        || (!address.is_loopback()
            && (ranges.is_empty() || ranges.iter().any(|range| range.contains(&address))))
}

fn shadowed(
    config: &Config,
    open: &[(Protocol, u16, String)],
    sockets: &[Waiting],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (protocol, port, service) in open {
        let sockets = sockets.iter().filter(|socket| {
            (socket.protocol, socket.port) == (*protocol, *port)
                && is_reached(config, socket.address)
        });
        for socket in sockets {
            let message = format!(
                "{} never gets a packet from outside: the port is the node port of {service}",
                name(socket)
            );
            let remedy = format!(
                "let the process listen on another port, or give {service} another nodePort"
            );
            findings.push(finding(Level::Problem, message, Some(remedy)));
        }
    }
    findings
}

/// What is known without a daemon.
fn in_range(config: &Config, sockets: &[Waiting]) -> Vec<Finding> {
    let range = &config.proxy.node_port_range;
    let sockets = sockets
        .iter()
        .filter(|socket| range.contains(socket.port) && is_reached(config, socket.address));
    let warn = |socket: &Waiting| {
        let message = format!(
            "{} listens in proxy.node_port_range: as soon as a Service has this node port, it gets \
             no packet from outside",
            name(socket)
        );
        let remedy = format!("let the process listen outside of {range}");
        finding(Level::Warning, message, Some(remedy))
    };
    sockets.map(warn).collect()
}

fn name(socket: &Waiting) -> String {
    let Waiting {
        protocol,
        port,
        address,
        process,
    } = socket;
    let process = match process {
        Some((name, number)) => format!("{name} (process {number})"),
        None => "a process".to_owned(),
    };
    let at = std::net::SocketAddr::new(*address, *port);
    format!("{process} on {} {at}", protocol.lowercase())
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

    #[test]
    fn a_process_on_a_node_port_is_named() {
        let mut config = Config::defaults("edge-a");
        let open = [(Protocol::Tcp, 30_080, "default/web".to_owned())];
        for (ranges, protocol, address, shadows) in [
            ("", Protocol::Tcp, "0.0.0.0", true),
            ("", Protocol::Tcp, "::", true),
            ("", Protocol::Tcp, "192.0.2.11", true),
            ("", Protocol::Tcp, "127.0.0.1", false),
            ("", Protocol::Udp, "0.0.0.0", false),
            ("198.51.100.0/24", Protocol::Tcp, "192.0.2.11", false),
            ("198.51.100.0/24", Protocol::Tcp, "0.0.0.0", true),
        ] {
            config.proxy.node_port_addresses = ranges.parse().into_iter().collect();
            let sockets = [socket(protocol, address)];
            let found = shadowed(&config, &open, &sockets);
            assert_eq!(found.len(), usize::from(shadows), "{ranges} {address}");
            for finding in found {
                assert_eq!(finding.level, Level::Problem);
                assert!(finding.message.starts_with("nginx (process 7) on tcp "));
                assert!(finding.message.contains("default/web"));
            }
        }
        let sockets = [socket(Protocol::Udp, "0.0.0.0")];
        assert_eq!(in_range(&config, &sockets).len(), 1);
    }
}
