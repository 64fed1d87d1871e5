//! Rules of others that take packets away by port or by address, or keep them from connection tracking,
//! and what bridges and bonds of this node do to them. Judges what was read.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};

use super::finding::{Finding, Level, Section};
use super::machine::Link;
use super::running::Running;
use crate::apply::nftables::others::{Others, Taking};
use crate::config::Config;
use crate::model::cluster::ClusterState;
use crate::model::family::Protocol;

/// Findings of one kind that are told one by one.
const MOST_NAMED: usize = 3;

/// What must not be taken away: protocol and port, with what they are for.
struct Wanted {
    ports: Vec<(Protocol, u16, String)>,
    addresses: Vec<(IpAddr, String)>,
}

/// The findings, which stand beside those of the firewall.
pub(super) fn examine(
    config: &Config,
    others: &Others,
    running: Option<&Running>,
    cluster: Option<&ClusterState>,
) -> Vec<Finding> {
    let wanted = wanted(config, running, cluster);
    let mut findings = refusals(&others.refusing, &wanted);
    findings.extend(untracked(&others.untracking, &wanted));
    findings.extend(elsewhere(others));
    if running.is_some() && !others.has_ours {
        let message = "the nftables table inet edgelb is gone: nothing is translated or filtered";
        let told = finding(Level::Problem, message.to_owned());
        findings.push(told.mend(
            "see who flushes rulesets (nftables.service, firewalld); systemctl restart edgelb puts it back",
        ));
    }
    findings
}

fn finding(level: Level, message: String) -> Finding {
    Finding::new(Section::Firewall, level, message)
}

fn wanted(config: &Config, running: Option<&Running>, cluster: Option<&ClusterState>) -> Wanted {
    let mut ports = Vec::new();
    let mut addresses = Vec::new();
    if !config.membership.key_files.is_empty() {
        let port = config.membership.listen.port.get();
        ports.push((
            Protocol::Udp,
            port,
            "membership: peers do not hear this node".to_owned(),
        ));
    }
    let health = config.observability.health_listen;
    if !health.ip().is_loopback() {
        let what = "health checks from outside".to_owned();
        ports.push((Protocol::Tcp, health.port(), what));
    }
    for service in running.into_iter().flat_map(|it| &it.services.services) {
        let name = format!("{}/{}", service.namespace, service.name);
        addresses.extend(
            service
                .vips
                .iter()
                .map(|vip| (vip.address, format!("a VIP of {name}"))),
        );
        for port in &service.ports {
            let outside = (!service.vips.is_empty()).then_some(port.port);
            let numbers = outside.into_iter().chain(port.node_port);
            ports.extend(numbers.map(|it| (port.protocol, it, name.clone())));
        }
    }
    // Behind the translation packets have the port and address of an endpoint.
    for slice in cluster.into_iter().flat_map(|it| it.slices.values()) {
        let name = &slice.service;
        let targets = slice.ports.iter();
        ports.extend(targets.map(|it| (it.protocol, it.port, format!("endpoints of {name}"))));
        let endpoints = slice.endpoints.iter();
        addresses.extend(endpoints.map(|it| (it.address, format!("an endpoint of {name}"))));
    }
    Wanted { ports, addresses }
}

fn chain(rule: &Taking) -> String {
    let name = &rule.name;
    format!("{} {} {}", name.family, name.table, name.chain)
}

fn refusals(rules: &[Taking], wanted: &Wanted) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in rules {
        let what = &rule.what;
        // A rule with a destination says nothing of others; a rule with ports nothing of other ports.
        let by_address = (wanted.addresses.iter())
            .find(|(address, _)| what.takes_address(*address))
            .map(|(_, name)| name);
        let by_port = (wanted.ports.iter())
            .find(|(protocol, port, _)| what.takes_port(*protocol, *port))
            .map(|(.., name)| name);
        let harmed = match (what.destination, what.ports) {
            (Some(_), Some(_)) => by_address.and(by_port),
            (Some(_), None) => by_address,
            (None, _) => by_port,
        };
        let Some(harmed) = harmed else { continue };
        let level = if what.partly {
            Level::Warning
        } else {
            Level::Problem
        };
        let place = chain(rule);
        let message = format!("a rule in chain {place} drops what goes {what}: {harmed}");
        findings.push(finding(level, message).mend(format!(
            "nft -a list chain {place} shows its handle; nft delete rule {place} handle N, and the same in \
             the file that makes it"
        )));
    }
    findings.truncate(MOST_NAMED);
    findings
}

/// A cache for DNS and the like keep their own packets untracked, which harms nobody.
fn untracked(rules: &[Taking], wanted: &Wanted) -> Option<Finding> {
    let judged = rules.iter().map(|rule| {
        let what = &rule.what;
        let meant = (wanted.addresses.iter()).any(|(address, _)| what.takes_address(*address))
            || (what.destination.is_none()
                && (wanted.ports.iter())
                    .any(|(protocol, port, _)| what.takes_port(*protocol, *port)));
        let level = match (what.is_everything(), meant, what.partly) {
            (true, ..) | (_, true, false) => Level::Problem,
            (_, true, true) => Level::Warning,
            _ => Level::Info,
        };
        (level, rule)
    });
    let (level, rule) = judged.max_by_key(|(level, _)| *level)?;
    let place = chain(rule);
    let message = format!(
        "a rule in chain {place} keeps packets from connection tracking (NOTRACK): they are not translated"
    );
    Some(finding(level, message).seen(format!("it takes {}", rule.what)).mend(format!(
        "nft -a list chain {place}; nft delete rule {place} handle N (iptables -t raw -S shows it too), and \
         the same in the file that makes it"
    )))
}

/// Chains on other hooks that drop what they do not know.
fn elsewhere(others: &Others) -> Vec<Finding> {
    let told = others.dropping_elsewhere.iter().map(|name| {
        let place = format!("{} {} {}", name.family, name.table, name.chain);
        let (level, what) = match name.family {
            "arp" => (Level::Problem, "ARP that none of its rules lets through: VIPs cannot be announced"),
            _ => (Level::Warning, "packets that none of its rules lets through"),
        };
        finding(level, format!("chain {place} drops {what}")).mend(format!(
            "nft list chain {place}, and let Service traffic, ARP and UDP to membership.listen through in \
             the file that makes it"
        ))
    });
    told.take(MOST_NAMED).collect()
}

/// What links do to packets on their way.
pub(super) fn links<'l>(
    links: impl Iterator<Item = &'l Link>,
    pods: &dyn Fn(&Link) -> bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for link in links {
        let name = &link.name;
        if link.kind.as_deref() == Some("bond") {
            let text = fs::read_to_string(format!("/proc/self/net/bonding/{name}"));
            findings.extend(bond(name, &text.unwrap_or_default()));
        }
        let path = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        let calls = fs::read_to_string(path).ok();
        if link.kind.as_deref() == Some("bridge")
            && pods(link)
            && calls.is_some_and(|it| it.trim() == "0")
        {
            findings.push(
                Finding::new(
                    Section::Network,
                    Level::Warning,
                    format!(
                        "pods on the bridge {name} do not reach one another by ClusterIPs: answers go \
                         through the bridge untranslated"
                    ),
                )
                .seen("net.bridge.bridge-nf-call-iptables = 0, wanted 1")
                .mend("sysctl -w net.bridge.bridge-nf-call-iptables=1, and the same in /etc/sysctl.d"),
            );
        }
    }
    findings
}

/// IPv6 addresses of this node that another host has too: `IFA_F_DADFAILED` in `/proc/net/if_inet6`.
pub(super) fn duplicates(text: &str) -> Vec<Finding> {
    let failed = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, _, flags, name] = words.as_slice() else {
            return None;
        };
        let failed = u32::from_str_radix(flags, 16).ok()? & 0x08 != 0;
        let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
        failed.then(|| {
            let message = format!(
                "another host on the LAN has {address}, an address of this node on {name}: duplicate \
                 address detection failed"
            );
            Finding::new(Section::Network, Level::Problem, message)
                .mend(format!("give one of them another address; ip -6 address show dev {name} dadfailed"))
        })
    });
    failed.take(MOST_NAMED).collect()
}

/// `balance-alb` answers ARP with the address of whichever card it likes.
fn bond(name: &str, text: &str) -> Option<Finding> {
    let mode = text
        .lines()
        .find_map(|line| line.strip_prefix("Bonding Mode: "))?;
    mode.contains("adaptive load balancing").then(|| {
        let message = format!(
            "bond {name} rewrites ARP (balance-alb): clients learn the address of a card that may not have \
             the VIP's traffic"
        );
        Finding::new(Section::Network, Level::Warning, message)
            .seen(format!("mode {mode}"))
            .mend("use mode 802.3ad or active-backup in the bond's configuration")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::apply::nftables::others::ChainName;
    use crate::apply::nftables::restriction::Restriction;

    fn rule(what: Restriction) -> Taking {
        Taking {
            name: ChainName {
                family: "inet",
                table: "filter".to_owned(),
                chain: "input".to_owned(),
            },
            what,
        }
    }

    fn wanted() -> Wanted {
        Wanted {
            ports: vec![(Protocol::Udp, 9751, "membership".to_owned())],
            addresses: vec![(
                "192.0.2.200".parse().unwrap(),
                "a VIP of default/web".to_owned(),
            )],
        }
    }

    #[test]
    fn a_rule_is_judged_by_what_it_takes() {
        let port = |protocol, port| Restriction {
            protocol,
            ports: Some((port, port)),
            ..Restriction::default()
        };
        let to = |text: &str| Restriction {
            destination: Some(text.parse().unwrap()),
            ..Restriction::default()
        };
        let partly = |what: Restriction| Restriction {
            partly: true,
            ..what
        };
        let both = Restriction {
            ports: Some((443, 443)),
            ..to("192.0.2.200/32")
        };
        for (what, level) in [
            (port(Some(17), 9751), Some(Level::Problem)),
            (port(None, 9751), Some(Level::Problem)),
            (partly(port(Some(17), 9751)), Some(Level::Warning)),
            (port(Some(6), 9751), None),
            (port(Some(17), 53), None),
            (to("192.0.2.0/24"), Some(Level::Problem)),
            (to("198.51.100.0/24"), None),
            (both, None),
        ] {
            let found = refusals(&[rule(what.clone())], &wanted());
            assert_eq!(found.first().map(|it| it.level), level, "{what}");
        }
        let found = refusals(&[rule(port(Some(17), 9751))], &wanted());
        assert_eq!(
            found.first().unwrap().message,
            "a rule in chain inet filter input drops what goes udp port 9751: membership"
        );
    }

    #[test]
    fn what_is_not_tracked_is_told() {
        assert_eq!(untracked(&[], &wanted()), None);
        let port = |port, partly| Restriction {
            ports: Some((port, port)),
            partly,
            ..Restriction::default()
        };
        for (what, level) in [
            (Restriction::default(), Level::Problem),
            (port(53, false), Level::Info),
            (port(9751, false), Level::Problem),
            (port(9751, true), Level::Warning),
        ] {
            assert_eq!(untracked(&[rule(what)], &wanted()).unwrap().level, level);
        }
    }

    #[test]
    fn an_address_that_another_host_has_is_told() {
        let line = |flags| format!("fd000002000000000000000000000011 02 40 00 {flags}     eth0\n");
        assert!(duplicates(&line("80")).is_empty());
        let found = duplicates(&line("88"));
        assert!(
            found
                .first()
                .unwrap()
                .message
                .contains("has fd00:2::11, an address of this node on eth0")
        );
        assert!(duplicates("nonsense\n").is_empty());
    }

    #[test]
    fn a_bond_that_rewrites_arp_is_told() {
        let text =
            |mode: &str| format!("Ethernet Channel Bonding Driver\n\nBonding Mode: {mode}\n");
        assert!(bond("bond0", &text("adaptive load balancing")).is_some());
        assert_eq!(
            bond("bond0", &text("IEEE 802.3ad Dynamic link aggregation")),
            None
        );
        assert_eq!(bond("bond0", ""), None);
    }
}
