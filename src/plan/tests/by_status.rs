//! Addresses that an allocator elsewhere gives out: a Service holds what its status names, every node
//! says the same, and nothing is given out here.

use proptest::prelude::*;

use super::generate::{any_passes, condition, small};
use super::incremental::{assert_sound, reasons as all_reasons};
use super::{
    annotated, config, held, inputs, interface, ip, ips, key, load_balancer, node, pending, pool,
    reasons, service, tcp, with_status,
};
use crate::config::Config;
use crate::model::allocation::Allocations;
use crate::model::family::Protocol;
use crate::model::node_state::HeldFor;
use crate::model::service::{IpMode, Service, ServiceType};
use crate::plan::addresses::AddressSource;
use crate::plan::reason::{Infrastructure, Reason};
use crate::plan::sharing::SharingRule;
use crate::plan::{Inputs, Plan, Scope, plan, replan};

fn by_status() -> Inputs {
    Inputs {
        address_source: AddressSource::Status,
        ..inputs()
    }
}

fn lan() -> Config {
    config(vec![pool("lan", "192.0.2.200/29 2001:db8::200/126")])
}

fn planned(config: &Config, services: impl IntoIterator<Item = Service>) -> Plan {
    let mut inputs = by_status();
    for service in services {
        inputs.put(service);
    }
    plan(config, &inputs)
}

fn with_condition(mut service: Service, allocated: bool) -> Service {
    service.condition = Some(condition(allocated).into());
    service
}

fn of_class(mut service: Service, class: &str) -> Service {
    service.load_balancer_class = Some(class.to_owned());
    service
}

fn aged(mut service: Service, created: i64) -> Service {
    service.created = Some(created);
    service
}

/// With the sharing key `k` and this port.
fn sharing(mut service: Service, number: u16) -> Service {
    service = annotated(service, &[("edgelb.io/sharing-key", "k")]);
    service.ports[0].port = number;
    service
}

fn node_has(address: &str, name: &str) -> Reason {
    Reason::AddressOfInfrastructure {
        address: ip(address),
        what: Infrastructure::Node(name.to_owned()),
    }
}

fn taken(address: &str, holder: &str) -> Reason {
    Reason::RequestTaken {
        address: ip(address),
        holder: key(holder),
    }
}

#[test]
fn a_service_holds_what_its_status_names() {
    let web = |status: &str| with_status(load_balancer("web"), status);
    let proxied = || {
        let mut service = web("192.0.2.200");
        service.ingress[0].mode = IpMode::Proxy;
        service
    };
    let not_allocated = || Reason::NotAllocated {
        cause: "PoolExhausted".to_owned(),
        message: "every address of lan is taken".to_owned(),
    };
    let address = ip("198.51.100.9");
    let foreign = || Reason::ServedByAnother { address };
    let class = |class: &str| Reason::OtherClass {
        class: class.to_owned(),
    };
    for (case, service, expected, why) in [
        (
            "an address of a pool",
            web("192.0.2.201"),
            "192.0.2.201",
            vec![],
        ),
        (
            "one per family, in the order of the status",
            web("2001:db8::201 192.0.2.203"),
            "2001:db8::201 192.0.2.203",
            vec![],
        ),
        (
            "whatever it asks for by now",
            annotated(web("192.0.2.201"), &[("edgelb.io/ips", "192.0.2.202")]),
            "192.0.2.201",
            vec![],
        ),
        (
            "each once",
            web("192.0.2.201 192.0.2.201"),
            "192.0.2.201",
            vec![],
        ),
        ("none yet", web(""), "", vec![Reason::AwaitingAllocation]),
        (
            "none, and the allocator says why",
            with_condition(web(""), false),
            "",
            vec![not_allocated()],
        ),
        (
            "none, whatever the condition says",
            with_condition(web(""), true),
            "",
            vec![Reason::AwaitingAllocation],
        ),
        (
            "an address that arrives rewritten",
            proxied(),
            "",
            vec![Reason::AwaitingAllocation],
        ),
        (
            "outside every pool: another implementation's",
            web("198.51.100.9"),
            "",
            vec![foreign()],
        ),
        (
            "the same with a condition that says no",
            with_condition(web("198.51.100.9"), false),
            "",
            vec![foreign()],
        ),
        (
            "outside every pool beside our condition: its pool is gone",
            with_condition(web("198.51.100.9"), true),
            "198.51.100.9",
            vec![Reason::PoolGone { address }],
        ),
        (
            "our class and a foreign address",
            of_class(web("198.51.100.9 192.0.2.201"), "edgelb.io/edgelb"),
            "192.0.2.201",
            vec![],
        ),
        (
            "another class",
            with_condition(of_class(web("192.0.2.201"), "example.com/other"), true),
            "",
            vec![class("example.com/other")],
        ),
        (
            "another type",
            with_status(service("web", ServiceType::NodePort), "192.0.2.201"),
            "",
            vec![],
        ),
        (
            "an address of a node",
            web("192.0.2.204 192.0.2.201"),
            "192.0.2.201",
            vec![node_has("192.0.2.204", "edge-b")],
        ),
    ] {
        let mut inputs = by_status();
        // Records of the past are of no account.
        inputs
            .allocations
            .set(&key("web"), ips("192.0.2.207"), "edge-a");
        inputs.put(node("edge-b", "192.0.2.204")).put(service);
        let plan = plan(&lan(), &inputs);
        assert_eq!(held(&plan, "web"), expected, "{case}");
        assert_eq!(pending(&plan, "web"), why, "{case}");
        for address in ips(expected) {
            assert_eq!(plan.state.held.get(&address), Some(&HeldFor::Vip), "{case}");
        }
    }
    let mut classless = lan();
    classless.load_balancer.default = false;
    let plan = planned(&classless, [web("192.0.2.201")]);
    assert_eq!(pending(&plan, "web"), [class("")]);
    assert_eq!(held(&plan, "web"), "");
}

#[test]
fn an_address_of_this_node_is_held_and_not_served() {
    // As with an address that was given out here: only this node knows that it has it.
    let mut inputs = by_status();
    let second = interface(3, "eth1", "192.0.2.201/24");
    inputs.host.interfaces.insert(3, second);
    inputs.put(with_status(load_balancer("web"), "192.0.2.201"));
    let plan = plan(&lan(), &inputs);
    assert_eq!(held(&plan, "web"), "192.0.2.201");
    assert!(!plan.state.frontends.contains_key(&tcp("192.0.2.201", 80)));
    let own = Reason::AddressOfInfrastructure {
        address: ip("192.0.2.201"),
        what: Infrastructure::ThisNode,
    };
    assert_eq!(reasons(&plan, "web"), [own]);
    // One that a Node has is refused once, by what every node knows.
    inputs.put(node("edge-a", "192.0.2.201"));
    let plan = super::plan(&lan(), &inputs);
    assert_eq!(held(&plan, "web"), "");
    assert_eq!(reasons(&plan, "web"), [node_has("192.0.2.201", "edge-a")]);
}

#[test]
fn of_two_with_one_address_the_older_keeps_it() {
    let a = || with_status(load_balancer("a"), "192.0.2.200");
    let b = || with_status(load_balancer("b"), "192.0.2.200 192.0.2.201");
    let udp = |mut service: Service| {
        service.ports[0].protocol = Protocol::Udp;
        service
    };
    let refused = |holder: &str, rule| Reason::SharingRefused {
        address: ip("192.0.2.200"),
        holder: key(holder),
        rule,
    };
    for (case, one, other, holds, why) in [
        (
            "the older by its creation",
            aged(a(), 20),
            aged(b(), 10),
            ["", "192.0.2.200 192.0.2.201"],
            [vec![taken("192.0.2.200", "b")], vec![]],
        ),
        (
            "of unknown age: the lower name",
            a(),
            b(),
            ["192.0.2.200", "192.0.2.201"],
            [vec![], vec![taken("192.0.2.200", "a")]],
        ),
        (
            "whose age is known is older",
            a(),
            aged(b(), i64::MAX - 1),
            ["", "192.0.2.200 192.0.2.201"],
            [vec![taken("192.0.2.200", "b")], vec![]],
        ),
        (
            "created before 1970",
            aged(a(), 0),
            aged(b(), -1),
            ["", "192.0.2.200 192.0.2.201"],
            [vec![taken("192.0.2.200", "b")], vec![]],
        ),
        (
            "who may share it does",
            sharing(a(), 80),
            udp(sharing(b(), 80)),
            ["192.0.2.200", "192.0.2.200 192.0.2.201"],
            [vec![], vec![]],
        ),
        (
            "a rule of sharing is named",
            sharing(a(), 80),
            sharing(aged(b(), 10), 80),
            ["", "192.0.2.200 192.0.2.201"],
            [vec![refused("b", SharingRule::Ports)], vec![]],
        ),
        (
            "a condition makes nobody older",
            aged(a(), 10),
            with_condition(aged(b(), 20), true),
            ["192.0.2.200", "192.0.2.201"],
            [vec![], vec![taken("192.0.2.200", "a")]],
        ),
        (
            "another implementation's Service keeps nothing from ours",
            of_class(aged(a(), 10), "example.com/other"),
            aged(b(), 20),
            ["", "192.0.2.200 192.0.2.201"],
            [
                vec![Reason::OtherClass {
                    class: "example.com/other".to_owned(),
                }],
                vec![],
            ],
        ),
    ] {
        let plan = planned(&lan(), [one, other]);
        assert_eq!(["a", "b"].map(|name| held(&plan, name)), holds, "{case}");
        assert_eq!(["a", "b"].map(|name| pending(&plan, name)), why, "{case}");
    }
}

#[test]
fn of_three_each_may_share_with_all_that_hold_it() {
    let on = |name: &str, number, created| {
        let service = with_status(load_balancer(name), "192.0.2.200");
        aged(sharing(service, number), created)
    };
    // The second may not join the first, so that the third need not care for it.
    let services = [
        on("first", 80, -1),
        on("second", 80, 2),
        on("third", 443, 3),
    ];
    let plan = planned(&lan(), services);
    let holders = plan.addresses.allocations.holders_of(ip("192.0.2.200"));
    assert_eq!(holders, [key("first"), key("third")]);
    let told = reasons(&plan, "second");
    assert_eq!(told.len(), 1, "told once: {told:?}");
    assert_eq!(
        told[0].to_string(),
        "it may not share 192.0.2.200 with shop/first: no two of their ports may have the same protocol and number"
    );
}

#[test]
fn when_the_older_goes_the_other_holds_the_address_at_once() {
    let config = lan();
    let mut inputs = by_status();
    inputs
        .put(aged(with_status(load_balancer("old"), "192.0.2.200"), 1))
        .put(aged(with_status(load_balancer("new"), "192.0.2.200"), 2));
    let before = plan(&config, &inputs);
    assert_eq!(held(&before, "new"), "");
    let mut scope = Scope::nothing();
    let moved = aged(with_status(load_balancer("old"), "192.0.2.201"), 1);
    for dirty in inputs.cluster.apply(super::Put::change(moved)) {
        scope.add(dirty);
    }
    let after = replan(&config, &inputs, &before, &scope);
    assert_eq!(
        ["old", "new"].map(|name| held(&after, name)),
        ["192.0.2.201", "192.0.2.200"]
    );
    assert_eq!(reasons(&after, "new").len(), 1, "no endpoints, and no more");
    let frontend = &after.state.frontends[&tcp("192.0.2.200", 80)];
    assert_eq!(frontend.service, key("new"));
}

proptest! {
    #[test]
    fn what_changed_plans_as_everything_does_by_status(passes in any_passes()) {
        let config = small();
        let mut inputs = by_status();
        let mut previous = plan(&config, &inputs);
        for (number, changes) in passes.into_iter().enumerate() {
            let mut scope = Scope::nothing();
            for change in changes {
                for dirty in inputs.cluster.apply(change) {
                    scope.add(dirty);
                }
            }
            let next = replan(&config, &inputs, &previous, &scope);
            inputs.allocations = if number % 2 == 0 {
                next.addresses.allocations.clone()
            } else {
                Allocations::default()
            };
            let full = plan(&config, &inputs);
            prop_assert_eq!(all_reasons(&next), all_reasons(&full));
            prop_assert_eq!(&next, &full, "whatever the records of the past say");
            assert_sound(&config, &inputs, &next)?;
            for (address, holder) in next.addresses.allocations.holders() {
                let service = &inputs.cluster.services[holder];
                prop_assert!(service.ingress.iter().any(|ingress| ingress.address == address));
            }
            previous = next;
        }
    }
}
