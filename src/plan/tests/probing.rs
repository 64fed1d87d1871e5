//! Which addresses the LAN is asked for.

use std::collections::BTreeMap;

use super::foreign::hosts;
use super::{annotated, config, inputs, interface, load_balancer, node, pool};
use crate::config::Config;
use crate::plan::{Inputs, probing};

/// What is asked for on each interface after a full plan, addresses shortened to their last number
/// where they are in 192.0.2.0/24.
fn wanted(config: &Config, inputs: &mut Inputs, foreign: &str) -> BTreeMap<u32, String> {
    let plan = inputs.planned(config);
    let wanted = probing::wanted(config, inputs, &plan, &hosts(foreign));
    let interfaces = wanted.interfaces.iter();
    interfaces
        .map(|(index, interface)| {
            let addresses: Vec<String> = interface
                .addresses
                .iter()
                .map(|address| address.to_string().replace("192.0.2.", "."))
                .collect();
            (*index, addresses.join(" "))
        })
        .collect()
}

fn on_eth0(addresses: &str) -> BTreeMap<u32, String> {
    BTreeMap::from([(2, addresses.to_owned())])
}

#[test]
fn the_next_free_ones_of_each_pool() {
    let asks = |address: &str| annotated(load_balancer("web"), &[("edgelb.io/ips", address)]);
    for (case, ranges, service, foreign, expected) in [
        (
            "a small pool, whole",
            "192.0.2.200/30",
            None,
            "",
            ".200 .201 .202 .203",
        ),
        (
            "sixteen of a large one",
            "192.0.2.128/25",
            None,
            "",
            ".128 .129 .130 .131 .132 .133 .134 .135 .136 .137 .138 .139 .140 .141 .142 .143",
        ),
        (
            "in the order of giving",
            "192.0.2.240/32 192.0.2.230/32",
            None,
            "",
            ".230 .240",
        ),
        (
            "without what a Service holds",
            "192.0.2.200/30",
            Some(load_balancer("web")),
            "",
            ".201 .202 .203",
        ),
        (
            "without what is a node's, a router's or nobody's",
            "192.0.2.0/32 192.0.2.1/32 192.0.2.11-192.0.2.13",
            None,
            "",
            ".13",
        ),
        (
            "another host's as well, to see it go, and one more for it",
            "192.0.2.200-192.0.2.219",
            None,
            "192.0.2.201 192.0.2.240",
            ".200 .201 .202 .203 .204 .205 .206 .207 .208 .209 .210 .211 .212 .213 .214 .215 .216",
        ),
        (
            "what is held and announced here, while it is another host's",
            "192.0.2.200/31",
            Some(load_balancer("web")),
            "192.0.2.200",
            ".200 .201",
        ),
        (
            "what is asked for and not given",
            "192.0.2.200-192.0.2.239",
            Some(annotated(
                asks("192.0.2.238"),
                &[("edgelb.io/pool", "nowhere")],
            )),
            "",
            ".200 .201 .202 .203 .204 .205 .206 .207 .208 .209 .210 .211 .212 .213 .214 .215 .238",
        ),
    ] {
        let config = config(vec![pool("lan", ranges)]);
        let mut inputs = inputs();
        inputs.put(node("edge-b", "192.0.2.12"));
        inputs.put(node("edge-a", "192.0.2.11"));
        if let Some(service) = service {
            inputs.put(service);
        }
        assert_eq!(
            wanted(&config, &mut inputs, foreign),
            on_eth0(expected),
            "{case}"
        );
    }
}

#[test]
fn only_on_interfaces_that_would_announce_them() {
    let mut inputs = inputs();
    let mut down = interface(3, "eth1", "192.0.2.21/24");
    down.running = false;
    let host = &mut inputs.host.interfaces;
    host.insert(3, down);
    host.insert(4, interface(4, "eth2", "198.51.100.4/24"));
    host.insert(5, interface(5, "eth3", "192.0.2.23/24"));
    let mut far = pool("far", "203.0.113.0/24");
    far.priority = 1;
    let config = config(vec![
        far,
        pool("lan", "192.0.2.200/32 2001:db8::200/127"),
        pool("other", "198.51.100.200/32"),
    ]);
    let both = BTreeMap::from([
        (2, ".200 2001:db8::200 2001:db8::201".to_owned()),
        (4, "198.51.100.200".to_owned()),
        (5, ".200".to_owned()),
    ]);
    assert_eq!(wanted(&config, &mut inputs, ""), both);
    let plan = inputs.planned(&config);
    let asked = probing::wanted(&config, &inputs, &plan, &hosts(""));
    let own: Vec<String> = asked.own.iter().map(ToString::to_string).collect();
    assert_eq!(own.len(), inputs.host.interfaces.len(), "{own:?}");
    assert_eq!(asked.interfaces[&5].name, "eth3");
    assert!(asked.own.contains(&asked.interfaces[&5].mac));
}

#[test]
fn who_claims_everything_makes_no_more_than_the_most_be_asked_for() {
    let config = config(vec![pool("lan", "198.18.0.0/15")]);
    let mut inputs = inputs();
    inputs
        .host
        .interfaces
        .insert(4, interface(4, "eth2", "198.18.0.1/15"));
    let plan = inputs.planned(&config);
    let range = config.pools[0].ranges[0];
    let all = range
        .addresses()
        .map(|address| (address, crate::model::foreign::MacAddress([2; 6])));
    let asked = probing::wanted(&config, &inputs, &plan, &all.collect());
    assert_eq!(asked.interfaces[&4].addresses.len(), probing::MOST);
}
