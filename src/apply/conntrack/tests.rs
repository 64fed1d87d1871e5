//! Tables of cases: which entry is stale after which change; and messages byte by byte.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::message::{self, Flow};
use super::stale::{Concern, Settled};
use crate::apply::forwarder::Forwarder;
use crate::model::family::{Family, Protocol};
use crate::model::frontend::{
    ForwardingMethod, Frontend, FrontendAddress, FrontendPort, RealServer, Treatment, Verdict,
};
use crate::model::node_state::NodeState;
use crate::model::scheduler::Scheduler;
use crate::model::service::ServiceKey;

const VIP: &str = "192.0.2.200";
const NODE: &str = "192.0.2.11";
const STRANGER: &str = "192.0.2.99";

fn real_servers(list: &[&str]) -> Arc<[RealServer]> {
    let real_server = |text: &&str| {
        let at: SocketAddr = text.parse().unwrap();
        RealServer {
            address: at.ip(),
            port: at.port(),
        }
    };
    list.iter().map(real_server).collect()
}

fn port(address: &str, protocol: Protocol, port: u16) -> FrontendPort {
    let address = match address {
        "node" => FrontendAddress::NodePort(Family::V4),
        "node6" => FrontendAddress::NodePort(Family::V6),
        address => FrontendAddress::Address(address.parse().unwrap()),
    };
    FrontendPort {
        address,
        protocol,
        port,
    }
}

/// A state of this node with frontends: where, and what serves there.
fn state(frontends: &[(FrontendPort, &[&str])]) -> NodeState {
    let mut state = NodeState::default();
    state.node_addresses.insert(NODE.parse().unwrap());
    for (port, list) in frontends {
        let verdict = if list.is_empty() {
            Verdict::Refuse
        } else {
            Verdict::Forward(real_servers(list))
        };
        let treatment = Treatment {
            verdict,
            masquerade: true,
        };
        let udp = port.protocol == Protocol::Udp;
        let frontend = Frontend {
            service: ServiceKey {
                namespace: "default".into(),
                name: "dns".into(),
            },
            treatments: std::array::from_fn(|_| treatment.clone()),
            session_affinity: None,
            scheduler: Scheduler::Rr,
            allowed_sources: None,
            keeps: if udp {
                real_servers(list)
            } else {
                Arc::default()
            },
            forwarding_method: ForwardingMethod::Masquerade,
        };
        state.frontends.insert(*port, Arc::new(frontend));
    }
    state
}

fn flow(protocol: u8, to: &str, from: &str) -> Flow {
    let [to, from]: [SocketAddr; 2] = [to, from].map(|text| text.parse().unwrap());
    let mut flow = message::flow(&captured()).unwrap();
    flow.protocol = protocol;
    flow.original_destination = (to.ip(), to.port());
    flow.reply_source = (from.ip(), from.port());
    flow
}

fn udp(to: &str, from: &str) -> Flow {
    flow(17, to, from)
}

/// Which of these flows go on the way from one state to the other.
fn stale(old: &NodeState, new: &NodeState, flows: &[Flow]) -> Vec<bool> {
    let settled = Settled::default().after(old);
    let concern = Concern::between(&settled, new);
    flows
        .iter()
        .map(|flow| concern.is_stale(flow, new, Forwarder::Nftables))
        .collect()
}

#[test]
fn only_flows_to_what_changed_and_is_not_kept_go() {
    let dns = port(VIP, Protocol::Udp, 53);
    let other = port(VIP, Protocol::Udp, 54);
    let node_port = port("node", Protocol::Udp, 30_053);
    let tcp = port(VIP, Protocol::Tcp, 53);
    let with = |list: &[&str]| {
        let same: &[&str] = &["10.0.0.9:54"];
        state(&[(dns, list), (node_port, list), (tcp, list), (other, same)])
    };
    let flows = [
        udp("192.0.2.200:53", "10.0.0.1:5353"),
        udp("192.0.2.200:53", "10.0.0.2:5353"),
        // Never translated.
        udp("192.0.2.200:53", "192.0.2.200:53"),
        udp("192.0.2.11:30053", "10.0.0.1:5353"),
        udp("192.0.2.11:30053", "192.0.2.11:30053"),
        // Another machine's port, an undeclared port, an unchanged Service.
        udp("192.0.2.99:30053", "192.0.2.99:30053"),
        udp("192.0.2.200:30053", "192.0.2.200:30053"),
        udp("192.0.2.200:54", "10.0.0.77:54"),
        // CT-7
        flow(6, "192.0.2.200:53", "10.0.0.1:5353"),
        flow(132, "192.0.2.200:53", "10.0.0.1:5353"),
    ];
    let check = |old: &NodeState, new: &NodeState, expected: &str| {
        let stale: String = stale(old, new, &flows)
            .into_iter()
            .map(|stale| if stale { 'x' } else { '.' })
            .collect();
        assert_eq!(stale, expected);
    };
    let (none, one) = (with(&[]), with(&["10.0.0.1:5353"]));
    let two = with(&["10.0.0.1:5353", "10.0.0.2:5353"]);
    let without = state(&[(other, &["10.0.0.9:54"])]);
    check(&one, &one, "..........");
    // Replaced, added, port changed.
    check(&one, &with(&["10.0.0.2:5353"]), "x.xxx.....");
    check(&one, &two, "..x.x.....");
    check(&one, &with(&["10.0.0.1:5300"]), "xxxxx.....");
    // To zero and back; untranslated ones are those that began meanwhile.
    check(&one, &none, "xxxxx.....");
    check(&none, &one, ".xx.x.....");
    // Made and deleted: what was never translated is somebody else's then.
    check(&without, &one, ".xx.x.....");
    check(&one, &without, "xx.x......");
}

#[test]
fn node_addresses_that_come_and_go_take_their_flows_along() {
    let node_port = port("node", Protocol::Udp, 30_053);
    let old = state(&[(node_port, &["10.0.0.1:53"])]);
    let mut new = old.clone();
    new.node_addresses.clear();
    new.node_addresses.insert("192.0.2.12".parse().unwrap());
    let flows = [
        udp("192.0.2.11:30053", "10.0.0.1:53"),
        udp("192.0.2.11:30053", "192.0.2.11:30053"),
        udp("192.0.2.12:30053", "10.0.0.1:53"),
        udp("192.0.2.12:30053", "192.0.2.12:30053"),
        udp("192.0.2.12:30054", "192.0.2.12:30054"),
        udp(&format!("{STRANGER}:30053"), "192.0.2.99:30053"),
    ];
    assert_eq!(
        stale(&old, &new, &flows),
        [true, false, false, true, false, false]
    );
}

#[test]
fn an_address_of_its_own_comes_before_a_node_port() {
    let exact = port(NODE, Protocol::Udp, 30_053);
    let node_port = port("node", Protocol::Udp, 30_053);
    let old = state(&[(node_port, &["10.0.0.1:53"])]);
    let new = state(&[(node_port, &["10.0.0.1:53"]), (exact, &["10.0.0.2:53"])]);
    let flows = [
        udp("192.0.2.11:30053", "10.0.0.1:53"),
        udp("192.0.2.11:30053", "10.0.0.2:53"),
    ];
    assert_eq!(stale(&old, &new, &flows), [true, false]);
    assert_eq!(stale(&new, &old, &flows), [false, true]);
}

#[test]
fn packets_that_are_not_rewritten_tell_nothing() {
    let dns = port(VIP, Protocol::Udp, 53);
    let old = state(&[(dns, &["10.0.0.1:53"])]);
    let mut new = state(&[(dns, &["10.0.0.2:53"])]);
    let mut frontend = Frontend::clone(&new.frontends[&dns]);
    frontend.forwarding_method = ForwardingMethod::DirectRouting;
    new.frontends.insert(dns, Arc::new(frontend));
    let flows = [
        udp("192.0.2.200:53", "192.0.2.200:53"),
        // From before, when they were.
        udp("192.0.2.200:53", "10.0.0.1:53"),
    ];
    assert_eq!(stale(&old, &new, &flows), [false, true]);
}

#[test]
fn what_ipvs_translated_is_stale_where_nothing_does_so_any_more() {
    let dns = port(VIP, Protocol::Udp, 53);
    let now = state(&[(dns, &["10.0.0.1:53"])]);
    let by_netfilter = udp("192.0.2.200:53", "10.0.0.1:53");
    let by_ipvs = Flow {
        destination_nat: false,
        ..by_netfilter.clone()
    };
    let elsewhere = Flow {
        destination_nat: false,
        ..udp("192.0.2.99:53", "10.0.0.1:53")
    };
    let concern = Concern::everything(&Settled::default(), &now);
    let stale = |datapath| {
        [&by_netfilter, &by_ipvs, &elsewhere].map(|flow| concern.is_stale(flow, &now, datapath))
    };
    assert_eq!(stale(Forwarder::Nftables), [false, true, false]);
    assert_eq!(stale(Forwarder::Ipvs), [false, false, false]);
}

#[test]
fn nothing_is_looked_at_without_a_reason() {
    let dns = port(VIP, Protocol::Udp, 53);
    let tcp = port(VIP, Protocol::Tcp, 53);
    let old = state(&[(dns, &["10.0.0.1:53"]), (tcp, &["10.0.0.1:53"])]);
    let new = state(&[(dns, &["10.0.0.1:53"]), (tcp, &["10.0.0.2:53"])]);
    let settled = Settled::default().after(&old);
    assert!(Concern::between(&settled, &new).is_empty());
    // What TCP keeps is no matter of the table (CT-7).
    let mut keeping = old.clone();
    let mut frontend = Frontend::clone(&old.frontends[&tcp]);
    frontend.keeps = real_servers(&["10.0.0.2:53"]);
    keeping.frontends.insert(tcp, Arc::new(frontend));
    assert!(Concern::between(&settled, &keeping).is_empty());
    let entry = flow(6, "192.0.2.200:53", "10.0.0.1:53");
    assert!(!Concern::everything(&settled, &keeping).is_stale(
        &entry,
        &keeping,
        Forwarder::Nftables
    ));
    assert!(
        Concern::everything(&settled, &state(&[]))
            .families()
            .eq([(Family::V4, true)])
    );
    assert!(!Concern::everything(&settled, &new).is_empty());
    assert!(Concern::everything(&Settled::default(), &state(&[(tcp, &[])])).is_empty());
    let six = state(&[(port("node6", Protocol::Udp, 30_053), &[])]);
    let concern = Concern::between(&Settled::default(), &six);
    assert!(concern.families().eq([(Family::V6, true)]));
}

#[test]
fn the_dead_are_buried_once_when_nobody_lists_them() {
    let web = port(VIP, Protocol::Tcp, 80);
    let both = state(&[(web, &["10.0.0.1:80", "10.0.0.2:80"])]);
    let dead: IpAddr = "10.0.0.2".parse().unwrap();
    let flows = [
        flow(6, "192.0.2.200:80", "10.0.0.2:80"),
        flow(17, "192.0.2.200:53", "10.0.0.2:53"),
        flow(6, "192.0.2.200:80", "10.0.0.1:80"),
        // To the pod itself: no Service's.
        flow(6, "10.0.0.2:80", "10.0.0.2:80"),
    ];
    let mut silent = both.clone();
    silent.dead.insert(dead);
    let settled = Settled::default().after(&both);
    assert!(Concern::between(&settled, &silent).is_empty());
    let settled = settled.after(&silent);
    // It leaves the list.
    let mut gone = state(&[(web, &["10.0.0.1:80"])]);
    gone.dead.insert(dead);
    let concern = Concern::between(&settled, &gone);
    assert!(concern.families().eq([(Family::V4, false)]));
    let stale: Vec<bool> = flows
        .iter()
        .map(|flow| concern.is_stale(flow, &gone, Forwarder::Nftables))
        .collect();
    assert_eq!(stale, [true, true, false, false]);
    // Not again, unless it was listed in between.
    let settled = settled.after(&gone);
    let same = gone.clone();
    assert!(Concern::between(&settled, &same).is_empty());
    let settled = settled.after(&silent);
    assert!(!Concern::between(&settled, &gone).is_empty());
}

/// Also after many steps: each is counted from the one before it.
#[test]
fn the_dead_are_buried_when_the_last_list_lets_them_go() {
    let [one, two] = [80, 81].map(|number| port(VIP, Protocol::Tcp, number));
    let all: &[&str] = &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.2:90"];
    let with = |lists: &[(FrontendPort, &[&str])], dead: &[&str]| {
        let mut state = state(lists);
        state.dead = dead.iter().map(|dead| dead.parse().unwrap()).collect();
        state
    };
    let mut settled = Settled::default();
    let mut buries = |state: NodeState| {
        let concern = Concern::between(&settled, &state);
        settled = settled.after(&state);
        !concern.is_empty()
    };
    let (dead, other): (&[&str], &[&str]) = (&["10.0.0.2"], &["10.0.0.2", "10.0.0.1"]);
    assert!(!buries(with(&[(one, all), (two, all)], &[])));
    assert!(!buries(with(&[(one, all), (two, all)], dead)));
    assert!(!buries(with(&[(one, &all[..2]), (two, all)], dead)));
    assert!(!buries(with(&[(one, &all[..1]), (two, all)], dead)));
    assert!(!buries(with(&[(one, &all[..1]), (two, all)], other)));
    assert!(buries(with(&[(one, &all[..1])], other)));
    assert!(!buries(with(&[(one, all)], other)));
    assert!(!buries(with(&[(one, all), (two, all)], other)));
    assert!(!buries(with(&[(two, all)], other)));
    assert!(buries(with(&[], other)));
    assert!(!buries(with(&[], dead)));
    // Whoever lived in between is buried anew.
    assert!(!buries(with(&[], &[])));
    assert!(buries(with(&[], dead)));
}

/// An entry as a dump has it, without its `nlmsghdr`: UDP 192.0.2.50:41000 to
/// 192.0.2.200:80, translated to 10.244.1.2:8080.
fn captured() -> Vec<u8> {
    let tuple = |kind: u8, addresses: [[u8; 4]; 2], ports: [u16; 2]| {
        let [source, destination] = addresses;
        let [[s0, s1], [d0, d1]] = ports.map(u16::to_be_bytes);
        let mut bytes = vec![52, 0, kind, 0x80, 20, 0, 1, 0x80, 8, 0, 1, 0];
        bytes.extend(source);
        bytes.extend([8, 0, 2, 0]);
        bytes.extend(destination);
        bytes.extend([28, 0, 2, 0x80, 5, 0, 1, 0, 17, 0, 0, 0]);
        bytes.extend([6, 0, 2, 0, s0, s1, 0, 0, 6, 0, 3, 0, d0, d1, 0, 0]);
        bytes
    };
    let mut bytes = vec![2, 0, 0, 0];
    bytes.extend(tuple(1, [[192, 0, 2, 50], [192, 0, 2, 200]], [41_000, 80]));
    bytes.extend(tuple(2, [[10, 244, 1, 2], [10, 244, 1, 1]], [8080, 41_000]));
    bytes.extend([8, 0, 3, 0, 0, 0, 1, 0xb8]);
    bytes.extend([8, 0, 12, 0, 0xde, 0xad, 0xbe, 0xef]);
    bytes
}

#[test]
fn an_entry_is_read_and_deleted_exactly() {
    let bytes = captured();
    let flow = message::flow(&bytes).unwrap();
    assert_eq!(flow.protocol, 17);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(flow.original_destination, (address(VIP), 80));
    assert_eq!(flow.reply_source, (address("10.244.1.2"), 8080));
    assert!(flow.destination_nat);
    // IPS_DST_NAT is the bit 5 of a number that is big-endian.
    let mut untouched = bytes.clone();
    let status = untouched.len() - 9;
    assert_eq!(untouched[status], 0xb8);
    untouched[status] &= !0x20;
    assert!(!message::flow(&untouched).unwrap().destination_nat);
    let request = message::delete(&flow.identity);
    // IPCTNL_MSG_CT_DELETE of the subsystem 1
    assert_eq!(request[4..6], 0x0102u16.to_ne_bytes());
    assert_eq!(request[16..20], [2, 0, 0, 0]);
    // The same tuple, the same number, nothing else.
    assert_eq!(request[20..72], bytes[4..56]);
    assert_eq!(request[72..], [8, 0, 12, 0, 0xde, 0xad, 0xbe, 0xef]);
}

#[test]
fn entries_of_a_zone_and_broken_ones_are_not_read() {
    let mut zoned = captured();
    zoned.extend([6, 0, 18, 0, 0, 7, 0, 0]);
    assert_eq!(message::flow(&zoned), None);
    let mut unzoned = captured();
    unzoned.extend([6, 0, 18, 0, 0, 0, 0, 0]);
    assert!(message::flow(&unzoned).is_some());
    let whole = captured();
    for length in 0..whole.len() {
        // Whatever is cut off, nothing panics and nothing is mistaken for an entry.
        assert_eq!(message::flow(&whole[..length]), None, "{length} bytes");
    }
}

#[test]
fn a_dump_asks_the_kernel_to_leave_other_protocols_out() {
    let all = message::dump(Family::V6, None);
    assert_eq!(all[4..6], 0x0101u16.to_ne_bytes());
    assert_eq!(all[16..], [10, 0, 0, 0]);
    let udp = message::dump(Family::V4, Some(17));
    assert_eq!(udp[16..20], [2, 0, 0, 0]);
    let tuple = [16, 0, 1, 0x80, 12, 0, 2, 0x80, 5, 0, 1, 0, 17, 0, 0, 0];
    assert_eq!(udp[20..36], tuple);
    let [f0, f1, f2, f3] = 8u32.to_ne_bytes();
    assert_eq!(udp[36..], [12, 0, 25, 0x80, 8, 0, 1, 0, f0, f1, f2, f3]);
}
