//! What a Service asks of address management, and what is refused: cases 17 to 19, 27 and 29 of the
//! announcing specification.

use super::{
    annotated, config, held, inputs, ip, key, labels, load_balancer, pool, reasons, service,
    with_status,
};
use crate::config::Config;
use crate::model::pool::Pool;
use crate::model::service::{Service, ServiceType};
use crate::plan::Plan;
use crate::plan::reason::Reason;

fn manual(name: &str, ranges: &str) -> Pool {
    Pool {
        auto_assign: false,
        ..pool(name, ranges)
    }
}

fn pools() -> Config {
    config(vec![
        pool("auto", "192.0.2.200-192.0.2.209 2001:db8::200/124"),
        manual("manual", "198.51.100.0/28 2001:db8:1::/124"),
    ])
}

fn asking(annotations: &[(&str, &str)]) -> Service {
    annotated(load_balancer("web"), annotations)
}

fn planned(config: &Config, services: Vec<Service>) -> Plan {
    let mut inputs = inputs();
    for service in services {
        inputs.put(service);
    }
    inputs.planned(config)
}

#[test]
fn every_way_of_asking_is_understood() {
    for way in [
        "edgelb.io/ips",
        "metallb.io/loadBalancerIPs",
        "metallb.universe.tf/loadBalancerIPs",
        "kube-vip.io/loadbalancerIPs",
        "lbipam.cilium.io/ips",
    ] {
        // Case 18: in a pool that gives nothing of itself.
        let plan = planned(
            &pools(),
            vec![asking(&[(way, " 198.51.100.3, 2001:db8:1::3 ")])],
        );
        assert_eq!(held(&plan, "web"), "198.51.100.3 2001:db8:1::3", "{way}");
        assert_eq!(labels(&plan, "web"), "", "{way}");
    }
    for way in [
        "edgelb.io/pool",
        "metallb.io/address-pool",
        "metallb.universe.tf/address-pool",
    ] {
        // Case 17
        let plan = planned(&pools(), vec![asking(&[(way, "manual")])]);
        assert_eq!(held(&plan, "web"), "198.51.100.0", "{way}");
        let plan = planned(&pools(), vec![asking(&[(way, "auto")])]);
        assert_eq!(held(&plan, "web"), "192.0.2.200", "{way}");
    }
    let mut service = load_balancer("web");
    service.load_balancer_ip = Some("192.0.2.205".to_owned());
    assert_eq!(
        held(&planned(&pools(), vec![service]), "web"),
        "192.0.2.205"
    );
    assert_eq!(
        held(
            &planned(&pools(), vec![asking(&[("edgelb.io/ips", " ")])]),
            "web"
        ),
        "192.0.2.200"
    );
}

#[test]
fn a_request_that_cannot_be_met_gets_nothing_and_is_told_why() {
    let permitted_elsewhere = || {
        let mut config = pools();
        config.pools[1].namespaces = vec!["prod".to_owned()];
        config
    };
    let outside = |address: &str| Reason::RequestOutsidePools {
        address: ip(address),
    };
    let malformed = |text: &str| Reason::RequestMalformed {
        text: text.to_owned(),
    };
    for (case, config, annotations, expected) in [
        (
            "18: outside",
            pools(),
            vec![("edgelb.io/ips", "203.0.113.1")],
            outside("203.0.113.1"),
        ),
        (
            "one of two outside",
            pools(),
            vec![("edgelb.io/ips", "192.0.2.201,203.0.113.1")],
            outside("203.0.113.1"),
        ),
        (
            "29: address of a closed pool",
            permitted_elsewhere(),
            vec![("edgelb.io/ips", "198.51.100.3")],
            outside("198.51.100.3"),
        ),
        (
            "another pool's address",
            pools(),
            vec![
                ("edgelb.io/ips", "192.0.2.201"),
                ("edgelb.io/pool", "manual"),
            ],
            outside("192.0.2.201"),
        ),
        (
            "malformed",
            pools(),
            vec![("edgelb.io/ips", "192.0.2.201/24")],
            malformed("192.0.2.201/24"),
        ),
        (
            "a name",
            pools(),
            vec![("edgelb.io/ips", "192.0.2.201,auto")],
            malformed("auto"),
        ),
        (
            "unknown pool",
            pools(),
            vec![("edgelb.io/pool", "nowhere")],
            Reason::UnknownPool {
                pool: "nowhere".to_owned(),
            },
        ),
        (
            "29: closed pool",
            permitted_elsewhere(),
            vec![("edgelb.io/pool", "manual")],
            Reason::PoolNotAllowed {
                pool: "manual".to_owned(),
            },
        ),
    ] {
        let plan = planned(&config, vec![asking(&annotations)]);
        assert_eq!(held(&plan, "web"), "", "case {case}");
        assert_eq!(reasons(&plan, "web"), [expected], "case {case}");
        assert!(plan.state.frontends.is_empty(), "case {case}");
    }
}

#[test]
fn an_address_of_another_service_is_taken_until_it_is_free() {
    let config = pools();
    let mut inputs = inputs();
    inputs.put(load_balancer("first"));
    inputs.planned(&config);
    inputs.put(annotated(
        load_balancer("a"),
        &[("edgelb.io/ips", "192.0.2.200")],
    ));
    let plan = inputs.planned(&config);
    let taken = Reason::RequestTaken {
        address: ip("192.0.2.200"),
        holder: key("first"),
    };
    assert_eq!(
        (held(&plan, "a").as_str(), reasons(&plan, "a")),
        ("", vec![taken])
    );
    inputs.put(annotated(
        load_balancer("first"),
        &[("edgelb.io/ips", "192.0.2.201")],
    ));
    let plan = inputs.planned(&config);
    assert_eq!(
        (held(&plan, "a").as_str(), held(&plan, "first").as_str()),
        ("192.0.2.200", "192.0.2.201")
    );
}

#[test]
fn a_request_moves_what_is_held_and_a_refused_one_takes_it_away() {
    let config = pools();
    let mut inputs = inputs();
    for (annotations, given) in [
        (vec![], "192.0.2.200"),
        (vec![("edgelb.io/ips", "192.0.2.204")], "192.0.2.204"),
        (vec![], "192.0.2.204"),
        (vec![("edgelb.io/pool", "manual")], "198.51.100.0"),
        (vec![("edgelb.io/pool", "nowhere")], "198.51.100.0"),
        (vec![("edgelb.io/ips", "no address")], "198.51.100.0"),
        (vec![("edgelb.io/ips", "203.0.113.1")], ""),
    ] {
        inputs.put(asking(&annotations));
        assert_eq!(
            held(&inputs.planned(&config), "web"),
            given,
            "{annotations:?}"
        );
    }
}

#[test]
fn where_two_ways_disagree_the_first_counts() {
    // Case 19
    let mut service = asking(&[
        ("edgelb.io/ips", "192.0.2.201"),
        ("metallb.io/loadBalancerIPs", "192.0.2.202"),
        ("kube-vip.io/loadbalancerIPs", "192.0.2.201"),
    ]);
    service.load_balancer_ip = Some("192.0.2.203".to_owned());
    let plan = planned(&pools(), vec![service]);
    assert_eq!(held(&plan, "web"), "192.0.2.201");
    let disagrees = |ignored: &str| Reason::RequestsDisagree {
        used: "edgelb.io/ips".to_owned(),
        ignored: ignored.to_owned(),
    };
    let expected = vec![
        disagrees("metallb.io/loadBalancerIPs"),
        disagrees("spec.loadBalancerIP"),
    ];
    assert_eq!(plan.addresses.pending[&key("web")], expected);
}

#[test]
fn the_class_says_whose_a_service_is() {
    // Case 27, LBC-1
    let ours = || Some("edgelb.io/edgelb".to_owned());
    let other = || Some("example.com/other".to_owned());
    for (class, default, given) in [
        (None, true, true),
        (None, false, false),
        (ours(), true, true),
        (ours(), false, true),
        (other(), true, false),
        (other(), false, false),
    ] {
        let mut config = pools();
        config.load_balancer.default = default;
        let mut service = load_balancer("web");
        service.load_balancer_class = class.clone();
        let plan = planned(&config, vec![service]);
        assert_eq!(
            !held(&plan, "web").is_empty(),
            given,
            "{class:?} with default {default}"
        );
        assert_eq!(labels(&plan, "web"), if given { "" } else { "other_class" });
    }
    let plan = planned(&pools(), vec![service("web", ServiceType::NodePort)]);
    assert_eq!(
        (held(&plan, "web").as_str(), labels(&plan, "web").as_str()),
        ("", "")
    );
}

#[test]
fn what_another_implementation_serves_is_left_to_it() {
    let foreign = || with_status(load_balancer("web"), "203.0.113.9");
    let plan = planned(&pools(), vec![foreign()]);
    let by_another = Reason::ServedByAnother {
        address: ip("203.0.113.9"),
    };
    assert_eq!(held(&plan, "web"), "");
    assert_eq!(plan.addresses.pending[&key("web")], [by_another]);
    let mut named = foreign();
    named.load_balancer_class = Some("edgelb.io/edgelb".to_owned());
    assert_eq!(
        held(&planned(&pools(), vec![named]), "web"),
        "192.0.2.200",
        "our class is ours"
    );
}
