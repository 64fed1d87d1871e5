//! Sets of ranges on the real kernel: every change from one set of ranges to another is taken, and
//! what somebody else adds beside ours goes.

use std::collections::BTreeSet;

use edgelb::apply::forwarder::Forwarder;
use edgelb::apply::nftables::{Layout, Nftables};
use edgelb::lab::{Namespace, tool};
use edgelb::model::family::Protocol;
use edgelb::model::frontend::{
    ForwardingMethod, Frontend, FrontendAddress, FrontendPort, RealServer, Treatment, Verdict,
};
use edgelb::model::node_state::NodeState;
use edgelb::model::scheduler::Scheduler;
use edgelb::model::service::ServiceKey;
use ipnet::IpNet;

const RANGES: [&str; 8] = [
    "10.244.0.0/24",
    "10.244.1.0/24",
    "10.244.2.0/24",
    "10.244.0.0/16",
    "10.245.0.0/16",
    "0.0.0.0/0",
    "255.255.255.0/24",
    "fd00:244::/64",
];

fn state(mask: usize) -> NodeState {
    let chosen = RANGES
        .iter()
        .enumerate()
        .filter(|(index, _)| mask & (1 << index) != 0);
    NodeState {
        pod_ranges: chosen
            .map(|(_, range)| range.parse::<IpNet>().unwrap())
            .collect(),
        ..NodeState::default()
    }
}

#[test]
fn ranges_change_into_any_others() {
    let namespace = Namespace::create("node").unwrap();
    let node = namespace.clone();
    namespace
        .run(move || {
            let mut nftables = Nftables::open(Layout::new(Forwarder::Nftables)).unwrap();
            let mut current = state(0);
            nftables.repair(&current).unwrap();
            let mut number: usize = 1;
            let mut seen = BTreeSet::new();
            for _ in 0..200 {
                // A walk through all kinds of steps, the same in every run.
                number = (number * 1_103_515_245 + 12_345) % (1 << 31);
                let next = state((number >> 8) % (1 << RANGES.len()));
                nftables.apply(&current, &next).unwrap();
                let found = nftables.repair(&next).unwrap();
                assert!(
                    found.added == 0 && found.removed == 0 && !found.rebuilt,
                    "{:?} to {:?}: {found:?}",
                    current.pod_ranges,
                    next.pod_ranges
                );
                seen.insert(next.pod_ranges.iter().copied().collect::<Vec<_>>());
                current = next;
            }
            assert!(seen.len() > 100);

            // A foreign range beside ours, one that begins where ours ends.
            let next = state(0b1000);
            nftables.apply(&current, &next).unwrap();
            let foreign = [
                "add",
                "element",
                "inet",
                "edgelb",
                "pod_ranges4",
                "{ 10.245.0.0/24 }",
            ];
            tool(&node, "nft", &foreign).unwrap();
            nftables.repair(&next).unwrap();
            let listed = tool(
                &node,
                "nft",
                &["list", "set", "inet", "edgelb", "pod_ranges4"],
            )
            .unwrap();
            assert!(listed.contains("elements = { 10.244.0.0/16 }"), "{listed}");
        })
        .unwrap();
}

/// A chain that somebody changed under its name, a table put to sleep, a set of another type.
#[test]
fn damaged_chains_and_tables_are_made_anew() {
    let namespace = Namespace::create("node").unwrap();
    let node = namespace.clone();
    namespace
        .run(move || {
            let mut nftables = Nftables::open(Layout::new(Forwarder::Nftables)).unwrap();
            let wanted = state(1);
            nftables.repair(&wanted).unwrap();
            for edit in [
                "add chain inet edgelb input { policy drop; }",
                "add table inet edgelb { flags dormant; }",
                "flush table inet edgelb",
                "add set inet edgelb surprise { type ipv4_addr; }",
            ] {
                tool(&node, "nft", &[edit]).unwrap();
                assert!(nftables.repair(&wanted).unwrap().rebuilt, "{edit}");
                let again = nftables.repair(&wanted).unwrap();
                assert!(!again.rebuilt && again.added == 0, "{edit}: {again:?}");
            }
        })
        .unwrap();
}

/// Chains that choose among so many endpoints come filled once, and go when no frontend has so many.
#[test]
fn chains_of_choices_come_and_go() {
    let state = |count: u8| {
        let list = (1..=count).map(|last| RealServer {
            address: [10, 244, 0, last].into(),
            port: 8080,
        });
        let treatment = Treatment {
            verdict: Verdict::Forward(list.collect()),
            masquerade: false,
        };
        let frontend = Frontend {
            service: ServiceKey::new("default", "web"),
            treatments: std::array::from_fn(|_| treatment.clone()),
            session_affinity: None,
            allowed_sources: None,
            keeps: [].into(),
            forwarding_method: ForwardingMethod::Masquerade,
            scheduler: Scheduler::Rr,
        };
        let port = FrontendPort {
            address: FrontendAddress::Address([192, 0, 2, 1].into()),
            protocol: Protocol::Tcp,
            port: 80,
        };
        let mut state = NodeState::default();
        state.frontends.insert(port, frontend.into());
        state
    };
    let namespace = Namespace::create("node").unwrap();
    let node = namespace.clone();
    let chains = || -> Vec<String> {
        let listed = tool(&node, "nft", &["list", "chains", "inet"]).unwrap();
        let names = listed.split_whitespace();
        names
            .filter(|word| word.starts_with("pick"))
            .map(str::to_owned)
            .collect()
    };
    namespace
        .run(|| {
            let mut nftables = Nftables::open(Layout::new(Forwarder::Nftables)).unwrap();
            nftables.repair(&state(1)).unwrap();
            // As if it were left by a transaction of which nothing is known.
            tool(&node, "nft", &["add chain inet edgelb pick4_2"]).unwrap();
            tool(&node, "nft", &["add rule inet edgelb pick4_2 accept"]).unwrap();
            for count in 1..5 {
                nftables.apply(&state(count), &state(count + 1)).unwrap();
            }
            assert_eq!(chains().len(), 5);
            // Where elements are right already, and where they are not.
            for (next, only) in [(5, "pick4_5"), (3, "pick4_3"), (5, "pick4_5")] {
                let found = nftables.repair(&state(next)).unwrap();
                assert!(!found.rebuilt, "{found:?}");
                assert_eq!(chains(), [only]);
            }
            // One that went comes again.
            nftables.apply(&state(5), &state(3)).unwrap();
            let found = nftables.repair(&state(3)).unwrap();
            assert!(!found.rebuilt && found.added == 0, "{found:?}");
        })
        .unwrap();
}
