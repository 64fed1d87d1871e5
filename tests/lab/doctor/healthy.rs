//! A node on which everything works: nothing to mend is told, and that soon.

use std::time::{Duration, Instant};

use edgelb::lab::client::Protocol;
use edgelb::lab::daemon::{Daemon, DaemonOptions};
use edgelb::lab::membership::{Membership, MembershipNetwork};

use super::super::rig::{PATIENCE, Rig, START, eventually, ipvs, socket, web};
use super::findings;

/// Two nodes with a common key.
pub(super) fn with_membership() -> Rig {
    let mut rig = Rig::new(2, 2);
    let membership = Membership::among(&rig.lab, 2, MembershipNetwork::Lan).unwrap();
    let options = DaemonOptions {
        membership: Some(membership),
        ..rig.options(toml::Table::new())
    };
    rig.daemons.clear();
    for node in 0..2 {
        rig.daemons
            .push(Daemon::start(&rig.lab, node, &options).unwrap());
    }
    for daemon in &mut rig.daemons {
        daemon.wait_ready(START).unwrap();
    }
    rig
}

#[test]
fn a_healthy_node_has_nothing_to_mend() {
    let rig = with_membership();
    rig.serve(&web("web", 80), &rig.workloads());
    let (vip, owner) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), Protocol::Tcp);
    for node in [owner, 1 - owner] {
        for service in [None, Some("default/web")] {
            // Peers need a moment to hear one another.
            eventually(PATIENCE, || {
                let found = findings(&rig, node, service);
                let bad = |it: &&serde_json::Value| it["level"] != "fine" && it["level"] != "info";
                let bad: Vec<_> = found.iter().filter(bad).collect();
                if !bad.is_empty() {
                    eprintln!("node {node} {service:?}: {bad:#?}");
                }
                bad.is_empty().then_some(())
            });
            // The soonest of some, on a machine that does other things as well; an emulated one is some
            // ten times slower.
            let time = |_| {
                let begun = Instant::now();
                findings(&rig, node, service);
                begun.elapsed()
            };
            let soonest = (0..5).map(time).min().unwrap();
            let most = Duration::from_secs(if ipvs() { 20 } else { 3 });
            eprintln!("node {node} {service:?}: {soonest:?}");
            assert!(soonest < most, "{soonest:?}");
        }
    }
}
