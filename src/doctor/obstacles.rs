//! What of our own was taken away, and what bridges and bonds of this node do to packets. Judges what was
//! read.

use std::fs;
use std::net::Ipv6Addr;

use super::finding::{Finding, Level, Section};
use super::machine::Link;
use super::running::Running;
use crate::apply::nftables::others::Others;

/// Findings of one kind that are told one by one.
const MOST_NAMED: usize = 3;

/// The finding that stands beside those of the firewall.
pub(super) fn gone(others: &Others, running: Option<&Running>) -> Option<Finding> {
    (running.is_some() && !others.has_ours).then(|| {
        let message = "the nftables table inet edgelb is gone: nothing is translated or filtered";
        Finding::new(Section::Firewall, Level::Problem, message).mend(
            "see who flushes rulesets (nftables.service, firewalld); systemctl restart edgelb puts it back",
        )
    })
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
        if link.kind.as_deref() == Some("bridge") && pods(link) {
            findings.extend(bridge(name, fs::read_to_string(path).ok().as_deref()));
        }
    }
    findings
}

/// Without the module `br_netfilter` there is no such setting, and the bridge asks nobody either.
fn bridge(name: &str, calls: Option<&str>) -> Option<Finding> {
    const SET: &str =
        "sysctl -w net.bridge.bridge-nf-call-iptables=1, and the same in /etc/sysctl.d";
    let (seen, remedy) = match calls.map(str::trim) {
        Some("0") => (
            "net.bridge.bridge-nf-call-iptables = 0, wanted 1",
            SET.to_owned(),
        ),
        Some(_) => return None,
        None => (
            "there is no net.bridge.bridge-nf-call-iptables: br_netfilter is not loaded",
            format!(
                "modprobe br_netfilter && echo br_netfilter > /etc/modules-load.d/br_netfilter.conf && {SET}"
            ),
        ),
    };
    let message = format!(
        "pods on the bridge {name} do not reach one another by ClusterIPs: answers go through the bridge \
         untranslated"
    );
    Some(
        Finding::new(Section::Network, Level::Warning, message)
            .seen(seen)
            .mend(remedy),
    )
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
    fn a_bridge_that_asks_nobody_is_told() {
        assert_eq!(bridge("cni0", Some("1\n")), None);
        let seen = |calls| bridge("cni0", calls).unwrap().evidence.unwrap();
        assert!(seen(Some("0\n")).contains("= 0, wanted 1"));
        assert!(seen(None).contains("br_netfilter is not loaded"));
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
