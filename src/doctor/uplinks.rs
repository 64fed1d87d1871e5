//! What happens to packets on the interfaces of VIPs, and of pods, before a chain of a firewall sees them:
//! XDP, traffic control, ARP that is switched off, forwarding that is off for one interface. Judges what was
//! read.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::finding::{Finding, Level, Section};
use super::machine::Link;
use crate::config::Config;
use crate::model::host::Host;

/// Values of `arp_ignore` from which on the node does not answer for an address of its own either
/// (Documentation/networking/ip-sysctl): 3 for those of scope host, 8 for all.
const SILENT: u8 = 8;

/// What traffic control has on an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Control {
    /// Kinds of its queueing disciplines.
    pub(super) kinds: BTreeSet<String>,
    /// Filters on what comes in.
    pub(super) filters: usize,
}

/// What is judged.
pub(super) struct Uplinks<'u> {
    pub(super) config: &'u Config,
    pub(super) host: &'u Host,
    pub(super) links: Vec<&'u Link>,
    /// The interfaces that lead to pods.
    pub(super) to_pods: BTreeSet<u32>,
    /// Cilium or another network that lives in BPF.
    pub(super) bpf_network: bool,
    pub(super) control: &'u dyn Fn(u32) -> Control,
    pub(super) sysctl: &'u dyn Fn(&str) -> Option<String>,
}

impl Uplinks<'_> {
    /// Whether an interface has the subnet of a pool and may announce.
    fn announces(&self, link: &Link) -> bool {
        let mut excluded = self.config.announce.exclude_interfaces.iter();
        if excluded.any(|pattern| pattern.matches(&link.name)) {
            return false;
        }
        let addresses = self
            .host
            .interfaces
            .get(&link.index)
            .map(|it| &it.addresses);
        let inside = |first: IpAddr| {
            let mut addresses = addresses.into_iter().flatten();
            addresses.any(|subnet| subnet.contains(&first))
        };
        self.config.pools.iter().any(|pool| {
            let mut named = pool.interfaces.iter();
            named.any(|name| name.matches(&link.name))
                || pool.ranges.iter().any(|range| inside(range.first()))
        })
    }

    /// The findings, which stand beside those of the network.
    pub(super) fn judge(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for link in &self.links {
            let announces = self.announces(link);
            if announces {
                findings.extend(self.early(link));
                findings.extend(self.arp(link));
            }
            if announces || self.to_pods.contains(&link.index) {
                findings.extend(self.forwarding(link));
            }
        }
        findings
    }

    /// What sees packets before edgelb does.
    fn early(&self, link: &Link) -> Vec<Finding> {
        let name = &link.name;
        let mut findings = Vec::new();
        // Those of a network in BPF are meant to be there.
        let level = if self.bpf_network {
            Level::Info
        } else {
            Level::Warning
        };
        if link.xdp {
            let message = format!(
                "an XDP program on {name} sees packets to VIPs before edgelb does, and may drop them"
            );
            let told = finding(level, message).seen(format!("ip -d link show dev {name} names it"));
            findings.push(told.mend(format!(
                "bpftool net show dev {name}; ip link set dev {name} xdp off (xdpgeneric off) if nobody needs it"
            )));
        }
        let control = (self.control)(link.index);
        if control.filters > 0 {
            let message = format!(
                "traffic control has filters on what comes in on {name}: they see packets to VIPs and ARP \
                 before edgelb does, and may drop them"
            );
            let seen = format!("{} filters at ingress", control.filters);
            findings.push(finding(level, message).seen(seen).mend(format!(
                "tc -s filter show dev {name} ingress; tc qdisc del dev {name} ingress (or clsact) if nobody \
                 needs it"
            )));
        }
        if control.kinds.contains("netem") {
            let message = format!("packets on {name} are delayed or lost on purpose (netem)");
            let told = finding(Level::Warning, message).seen("a tool for tests left it");
            findings.push(told.mend(format!("tc qdisc del dev {name} root")));
        }
        findings
    }

    fn arp(&self, link: &Link) -> Option<Finding> {
        let name = &link.name;
        if link.no_arp {
            let message = format!(
                "ARP is switched off on {name}: this node finds no neighbours there, and is not found"
            );
            let remedy = format!("ip link set dev {name} arp on");
            return Some(finding(Level::Problem, message).mend(remedy));
        }
        let value = |name: &str| -> u8 {
            let path = format!("net/ipv4/conf/{name}/arp_ignore");
            let text = (self.sysctl)(&path);
            text.and_then(|it| it.trim().parse().ok()).unwrap_or(0)
        };
        let (all, own) = (value("all"), value(name));
        // The kernel takes the greater one.
        (all.max(own) >= SILENT).then(|| {
            let message = format!(
                "this node does not answer ARP for its own address on {name}: neither clients of node ports \
                 nor other nodes find it"
            );
            let which = if own >= SILENT { name.as_str() } else { "all" };
            finding(Level::Problem, message)
                .seen(format!("arp_ignore is {all} (all) and {own} ({name}), wanted 1"))
                .mend(format!(
                    "sysctl -w net.ipv4.conf.{which}.arp_ignore=1, and the same in /etc/sysctl.d"
                ))
        })
    }

    /// Forwarding is asked of the interface by which a packet comes (IPv4 alone).
    fn forwarding(&self, link: &Link) -> Option<Finding> {
        let name = &link.name;
        let value = |path: &str| (self.sysctl)(path).map(|it| it.trim().to_owned());
        let own = value(&format!("net/ipv4/conf/{name}/forwarding"));
        // Without any at all it is told as the setting that it is.
        let all = value("net/ipv4/ip_forward");
        (own.as_deref() == Some("0") && all.as_deref() == Some("1")).then(|| {
            let message =
                format!("what comes in on {name} is not forwarded, so it gets to no pod or client");
            finding(Level::Problem, message)
                .seen(format!("net.ipv4.conf.{name}.forwarding = 0, wanted 1"))
                .mend(format!(
                    "sysctl -w net.ipv4.conf.{name}.forwarding=1, and the same in /etc/sysctl.d"
                ))
        })
    }
}

fn finding(level: Level, message: String) -> Finding {
    Finding::new(Section::Network, level, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::*;
    use crate::model::host::Interface;
    use crate::model::pool::Pool;

    /// One fault, and how it is told.
    type Case<'c> = (
        Link,
        Control,
        &'c [(&'c str, &'c str)],
        Option<(Level, &'c str)>,
    );

    #[test]
    fn what_happens_before_any_chain_is_told() {
        let link = || Link {
            index: 2,
            name: "eth0".to_owned(),
            running: true,
            mtu: 1500,
            ..Link::default()
        };
        let mut config = Config::defaults("edge-a");
        let range = "192.0.2.200-192.0.2.219".parse().unwrap();
        config.pools.push(Pool::new("lan", vec![range]));
        let interface = Interface {
            index: 2,
            name: "eth0".to_owned(),
            mac: None,
            running: true,
            loopback: false,
            addresses: vec!["192.0.2.11/24".parse().unwrap()],
        };
        let host = Host {
            interfaces: [(2, interface)].into(),
            infrastructure: Vec::new(),
        };
        let netem = Control {
            kinds: BTreeSet::from(["netem".to_owned()]),
            filters: 0,
        };
        let filtered = Control {
            kinds: BTreeSet::from(["clsact".to_owned()]),
            filters: 2,
        };
        let (none, on) = (Control::default(), ("net/ipv4/ip_forward", "1\n"));
        let off = ("net/ipv4/conf/eth0/forwarding", "0\n");
        let xdp = Link {
            xdp: true,
            ..link()
        };
        let no_arp = Link {
            no_arp: true,
            ..link()
        };
        let cases: [Case<'_>; 9] = [
            (link(), none.clone(), &[on], None),
            (
                link(),
                none.clone(),
                &[on, off],
                Some((Level::Problem, "is not forwarded")),
            ),
            (
                link(),
                none.clone(),
                &[("net/ipv4/ip_forward", "0"), off],
                None,
            ),
            (
                xdp,
                none.clone(),
                &[],
                Some((Level::Warning, "an XDP program on eth0")),
            ),
            (
                no_arp,
                none.clone(),
                &[],
                Some((Level::Problem, "ARP is switched off")),
            ),
            (link(), netem, &[], Some((Level::Warning, "netem"))),
            (
                link(),
                filtered,
                &[],
                Some((Level::Warning, "traffic control has filters")),
            ),
            (
                link(),
                none.clone(),
                &[("net/ipv4/conf/eth0/arp_ignore", "8\n")],
                Some((Level::Problem, "does not answer ARP")),
            ),
            (
                link(),
                none,
                &[("net/ipv4/conf/all/arp_ignore", "1\n")],
                None,
            ),
        ];
        for (link, control, sysctls, wanted) in &cases {
            let sysctls: BTreeMap<&str, &str> = sysctls.iter().copied().collect();
            let found = Uplinks {
                config: &config,
                host: &host,
                links: vec![link],
                to_pods: BTreeSet::new(),
                bpf_network: false,
                control: &|_| control.clone(),
                sysctl: &|path| sysctls.get(path).map(ToString::to_string),
            }
            .judge();
            let told: Vec<_> = found.iter().map(|it| (it.level, &it.message)).collect();
            match wanted {
                None => assert_eq!(told, []),
                Some((level, words)) => {
                    assert_eq!(told.len(), 1, "{told:?}");
                    assert!(
                        told.iter().all(|it| it.0 == *level && it.1.contains(words)),
                        "{told:?}"
                    );
                }
            }
        }
    }
}
