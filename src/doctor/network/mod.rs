//! Whether the interfaces, addresses and routes of this node can carry the pools: a subnet for each, no
//! address of a host in it, answers that leave where questions come in. Judges what [`Facts`] holds.

mod pods;
mod pools;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use self::pods::Stranger;
use super::finding::{Depth, Finding, Level, Section};
use super::lan::Twin;
use super::machine::{Link, Machine, Neighbour, Way};
use super::running::Running;
use crate::config::Config;
use crate::model::cluster::ClusterState;
use crate::model::family::Family;
use crate::model::foreign::MacAddress;
use crate::model::host::{Host, Interface};
use crate::model::pool::Pool;

/// Addresses on the Internet by which the way out is found; nothing is sent there.
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(1, 1, 1, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(
        0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111,
    )),
];
/// Findings of one kind that name an address each; more are left out.
const MOST_NAMED: usize = 3;
/// Switches forget an address after five minutes of silence, as a rule.
const COMMON_AGEING_SECONDS: u64 = 300;

/// What is judged.
pub(super) struct Facts<'f> {
    pub(super) config: &'f Config,
    pub(super) host: &'f Host,
    pub(super) links: &'f BTreeMap<u32, Link>,
    pub(super) neighbours: &'f [Neighbour],
    /// The way out by family.
    pub(super) outside: [Option<Way>; 2],
    /// The cluster, as far as it can be read.
    pub(super) cluster: Option<&'f ClusterState>,
    /// Address, whether this node announces it, and the way to it; none without a daemon.
    pub(super) vips: Vec<(IpAddr, bool, Option<Way>)>,
    /// VIPs that no node announces.
    pub(super) unowned: Vec<IpAddr>,
    pub(super) has_daemon: bool,
    /// Pods in no known range.
    strangers: Vec<Stranger>,
    /// Reads below `/proc/sys`.
    pub(super) sysctl: &'f dyn Fn(&str) -> Option<String>,
}

/// That address of a family.
pub(super) fn outside(family: Family) -> IpAddr {
    let [v4, v6] = OUTSIDE;
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

impl<'f> Facts<'f> {
    /// Asks the kernel for the ways.
    pub(super) fn new(
        config: &'f Config,
        host: &'f Host,
        machine: &mut Machine,
        kernel: (&'f BTreeMap<u32, Link>, &'f [Neighbour]),
        cluster: Option<&'f ClusterState>,
        running: Option<&Running>,
        sysctl: &'f dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let views = || running.into_iter().flat_map(|it| &it.vips.vips);
        let unowned = (views().filter(|vip| vip.owner.is_none()))
            .map(|vip| vip.address)
            .collect();
        let vips = views()
            .filter(|vip| vip.held)
            .map(|vip| (vip.address, vip.owned_here, machine.way(vip.address)))
            .collect();
        let own = |address: IpAddr| {
            let mut own = host.interfaces.values().flat_map(|it| &it.addresses);
            own.any(|it| it.addr() == address)
        };
        let mut strangers = cluster.map_or_else(Vec::new, |it| pods::strangers(config, it, &own));
        for stranger in &mut strangers {
            let link = machine.way(stranger.address).and_then(|way| way.link);
            let link = link.and_then(|link| kernel.0.get(&link));
            stranger.interface = link.map(|link| link.name.clone());
        }
        Self {
            strangers,
            config,
            host,
            links: kernel.0,
            neighbours: kernel.1,
            outside: OUTSIDE.map(|address| machine.way(address)),
            cluster,
            vips,
            unowned,
            has_daemon: running.is_some(),
            sysctl,
        }
    }

    fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.host.interfaces.values().filter(|it| !it.loopback)
    }

    fn excluded(&self, name: &str) -> bool {
        let mut patterns = self.config.announce.exclude_interfaces.iter();
        patterns.any(|pattern| pattern.matches(name))
    }

    /// The interfaces whose subnet holds an address.
    fn holding(&self, address: IpAddr) -> impl Iterator<Item = &Interface> {
        self.interfaces()
            .filter(move |it| it.addresses.iter().any(|subnet| subnet.contains(&address)))
    }
}

/// The findings of this section.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(lost_routes(facts));
    findings.extend(pools::own_addresses(facts));
    findings.extend(
        facts
            .config
            .pools
            .iter()
            .flat_map(|pool| pools::subnets(facts, pool)),
    );
    findings.extend(pools::overlaps(facts));
    findings.extend(pods::unknown(facts));
    findings.extend(pods::interfaces(facts));
    findings.extend(no_ipv6(facts));
    findings.extend(closed_node_ports(facts));
    findings.extend(pools::foreign_hosts(facts));
    findings.extend(return_path(facts));
    findings.extend(no_way_out(facts));
    findings.extend(small_links(facts));
    findings.extend(ageing(facts.config));
    if findings.iter().all(|it| it.level <= Level::Info) {
        let message = "the interfaces and routes of this node can carry its pools";
        findings.push(finding(Level::Fine, message));
    }
    findings
}

fn finding(level: Level, message: impl Into<String>) -> Finding {
    Finding::new(Section::Network, level, message)
}

/// Hosts on the LAN that are taken for this one: by its address, or by the hardware address of its interface.
pub(super) fn twins(asked: &[Twin], host: &Host, neighbours: &[Neighbour]) -> Vec<Finding> {
    let by_address = asked.iter().map(|(name, address, mac)| {
        let message = format!(
            "another host on the LAN has {address}, this node's own address on {name}: what is sent to this \
             node gets now here, now there"
        );
        finding(Level::Problem, message)
            .seen(format!("its Ethernet address is {mac}"))
            .mend(format!(
                "find that host by its Ethernet address (bridge fdb, the switch, DHCP leases) and give it, or \
                 {name} here, another address"
            ))
            .at(Depth::Ground)
    });
    let by_hardware = neighbours.iter().filter_map(|neighbour| {
        let interface = host.interfaces.get(&neighbour.link)?;
        let same = interface.mac.map(MacAddress) == Some(neighbour.mac);
        same.then(|| {
            let (address, name, mac) = (neighbour.address, &interface.name, neighbour.mac);
            let message = format!(
                "{address} has the same Ethernet address as {name} of this node ({mac}): the switch sends \
                 frames now to the one, now to the other"
            );
            finding(Level::Problem, message)
                .seen("machines that were cloned have the same ones")
                .mend(format!(
                    "give the interface of one of them another one in its hypervisor, or ip link set dev \
                     {name} address 02:XX:XX:XX:XX:XX there"
                ))
                .at(Depth::Ground)
        })
    });
    by_address.chain(by_hardware).take(MOST_NAMED).collect()
}

/// Families of pools in which this node knows no way to other networks.
fn no_way_out(facts: &Facts) -> Vec<Finding> {
    let families = Family::BOTH.into_iter().zip(&facts.outside);
    let lacking = families.filter(|(family, way)| {
        let mut ranges = facts.config.pools.iter().flat_map(|pool| &pool.ranges);
        // A range of a family that this node has no subnet of is told by itself.
        let here = ranges.any(|range| {
            range.family() == *family && facts.holding(range.first()).next().is_some()
        });
        way.is_none() && here
    });
    let told = lacking.map(|(family, _)| {
        let option = match family {
            Family::V4 => "",
            Family::V6 => "-6 ",
        };
        let message = format!(
            "this node has no default route for {family}: clients in networks that it has no route to get no \
             answer from VIPs"
        );
        let told = finding(Level::Warning, message).at(Depth::Symptom);
        told.mend(format!(
            "ip {option}route add default via GATEWAY, and the same in the network's configuration; nothing, \
             where all clients are in networks that ip {option}route shows"
        ))
    });
    told.collect()
}

/// VIPs that this node says it takes packets for, and whose route is gone.
fn lost_routes(facts: &Facts) -> Option<Finding> {
    let lost: Vec<String> = (facts.vips.iter())
        .filter(|(_, _, way)| !way.as_ref().is_some_and(|way| way.local))
        .map(|(address, ..)| address.to_string())
        .collect();
    let first = lost.first()?;
    let message = format!(
        "the local route of {} VIPs is gone: this node does not take their packets",
        lost.len()
    );
    Some(
        finding(Level::Problem, message)
            .seen(format!("`ip route get {first}` is not local; it should be of protocol 225, and `ip rule` should ask the table \
                 local first"))
            .mend(
                "look at ip rule and ip route show table local; keep others from flushing routes (ManageForeignRoutes=no in /etc/systemd/networkd.conf), \
                 then systemctl restart edgelb",
            ),
    )
}

/// Ranges for node ports that no address of this node is in.
fn closed_node_ports(facts: &Facts) -> Option<Finding> {
    let ranges = &facts.config.proxy.node_port_addresses;
    let open = |address: &IpNet| ranges.iter().any(|range| range.contains(&address.addr()));
    let own: Vec<&IpNet> = facts.interfaces().flat_map(|it| &it.addresses).collect();
    if ranges.is_empty() || own.iter().any(|it| open(it)) {
        return None;
    }
    let own: Vec<String> = own.iter().map(|it| it.addr().to_string()).collect();
    let message =
        "node ports are open nowhere: no address of this node is in proxy.node_port_addresses";
    let remedy = "widen proxy.node_port_addresses, or leave it empty for every address; systemctl reload \
                  edgelb";
    Some(
        finding(Level::Warning, message)
            .seen(format!("it has {}", own.join(", ")))
            .mend(remedy),
    )
}

fn ipv6_is_off(facts: &Facts) -> bool {
    let off = |name: &str| {
        let path = format!("net/ipv6/conf/{name}/disable_ipv6");
        (facts.sysctl)(&path).is_none_or(|it| it.trim() == "1")
    };
    if off("all") {
        return true;
    }
    let mut candidates = facts
        .interfaces()
        .filter(|it| !facts.excluded(&it.name))
        .peekable();
    candidates.peek().is_some() && candidates.all(|it| off(&it.name))
}

fn no_ipv6(facts: &Facts) -> Option<Finding> {
    let pools = facts.config.pools.iter();
    let has = |pool: &&Pool| pool.ranges.iter().any(|it| it.family() == Family::V6);
    let pool = pools.into_iter().find(has).filter(|_| ipv6_is_off(facts))?;
    let value = (facts.sysctl)("net/ipv6/conf/all/disable_ipv6");
    let (seen, remedy) = match value.as_deref().map(str::trim) {
        None => (
            "there is no /proc/sys/net/ipv6".to_owned(),
            "boot without ipv6.disable=1, or take the IPv6 addresses out of the pool".to_owned(),
        ),
        Some(value) => (
            format!("net.ipv6.conf.all.disable_ipv6 = {value}, wanted 0"),
            "sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0, or take \
             the IPv6 addresses out of the pool"
                .to_owned(),
        ),
    };
    let message = format!(
        "IPv6 is switched off on this node, and pool {} holds IPv6 addresses",
        pool.name
    );
    Some(finding(Level::Problem, message).seen(seen).mend(remedy))
}

/// Strict reverse path filtering drops what comes in where the answer would not go out.
fn return_path(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let [out, _] = &facts.outside;
    let Some(out) = out.as_ref().and_then(|way| way.link) else {
        return findings;
    };
    let leaves = facts.links.get(&out).map_or("?", |link| link.name.as_str());
    for pool in facts.config.pools.iter().flat_map(|pool| &pool.ranges) {
        let first = pool.first();
        if !first.is_ipv4() {
            continue;
        }
        let holding: Vec<&Interface> = facts
            .holding(first)
            .filter(|it| !facts.excluded(&it.name))
            .collect();
        if holding.iter().any(|it| it.index == out) {
            continue;
        }
        for interface in holding {
            let name = &interface.name;
            let value = |name: &str| {
                let path = format!("net/ipv4/conf/{name}/rp_filter");
                (facts.sysctl)(&path)
                    .and_then(|it| it.trim().parse::<u8>().ok())
                    .unwrap_or(0)
            };
            let told_already = findings
                .iter()
                .any(|it| it.message.contains(&format!(" {name} ")));
            // The kernel takes the greater one; 1 is strict, 2 is loose.
            if value("all").max(value(name)) != 1 || told_already {
                continue;
            }
            findings.push(
                finding(
                    Level::Problem,
                    format!(
                        "clients of other networks are dropped: their packets to VIPs come in on {name} and \
                         the answers leave by {leaves}, which strict reverse path filtering refuses"
                    ),
                )
                .seen(format!(
                    "rp_filter is {} (all) and {} ({name}), wanted 2 or 0",
                    value("all"),
                    value(name)
                ))
                .mend(format!(
                    "sysctl -w net.ipv4.conf.{name}.rp_filter=2, and the same in /etc/sysctl.d"
                )),
            );
        }
    }
    findings
}

/// A link below the least that IPv6 allows (RFC 8200, section 5).
fn small_links(facts: &Facts) -> Vec<Finding> {
    let small = facts
        .interfaces()
        .filter(|it| it.running && !it.addresses.is_empty());
    let small = small
        .filter_map(|it| facts.links.get(&it.index))
        .filter(|link| link.mtu < 1280);
    let told = small.map(|link| {
        let name = &link.name;
        finding(
            Level::Warning,
            format!("interface {name} has an MTU below 1280: IPv6 does not go through it, and long packets are cut"),
        )
        .seen(format!("mtu {}", link.mtu))
        .mend(format!("ip link set {name} mtu 1500"))
    });
    told.take(MOST_NAMED).collect()
}

/// What a VIP that says nothing is forgotten by.
fn ageing(config: &Config) -> Option<Finding> {
    let (seen, seconds) = match config.announce.refresh {
        None => ("announce.refresh is \"0s\"".to_owned(), u64::MAX),
        Some(refresh) => (
            format!("announce.refresh is {} s", refresh.as_secs()),
            refresh.as_secs(),
        ),
    };
    (seconds >= COMMON_AGEING_SECONDS).then(|| {
        finding(
            Level::Warning,
            "VIPs are announced more rarely than switches forget them (300 s as a rule): packets to a \
             silent VIP are then flooded to every port, and clients' neighbour entries go stale",
        )
        .seen(seen)
        .mend("announce.refresh = \"60s\", then systemctl reload edgelb")
        .at(Depth::Symptom)
    })
}
