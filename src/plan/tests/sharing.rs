//! One address for several Services: the seven rules, who keeps an address that may not be shared any
//! more, and one owner for all that go together (cases 5 to 8, 36 and 59 of the announcing
//! specification).

use super::{
    annotated, config, held, inputs, ip, key, labels, load_balancer, node, pending, pool, port,
    reasons, service, slice,
};
use crate::config::Config;
use crate::model::allocation::Allocations;
use crate::model::cluster::ClusterChange;
use crate::model::family::{Family, Protocol};
use crate::model::service::{Service, ServiceType, TrafficPolicy};
use crate::plan::reason::Reason;
use crate::plan::sharing::{SharingRule, refusal};
use crate::plan::{Inputs, Plan, Scope, replan};

fn lan() -> Config {
    config(vec![pool("lan", "192.0.2.200/30 2001:db8::200/126")])
}

/// A Service with the sharing key `k` and the TCP port.
fn sharing(name: &str, number: u16) -> Service {
    let mut service = annotated(load_balancer(name), &[("edgelb.io/sharing-key", "k")]);
    service.ports = vec![port("", Protocol::Tcp, number)];
    service
}

fn local(mut service: Service, selector: &str) -> Service {
    service.external_traffic_policy = TrafficPolicy::Local;
    service.selector = selector.to_owned();
    service
}

fn planned(config: &Config, services: Vec<Service>) -> (Inputs, Plan) {
    let mut inputs = inputs();
    let mut plan = Plan::default();
    for service in services {
        inputs.put(service);
        plan = inputs.planned(config);
    }
    (inputs, plan)
}

fn refused(address: &str, holder: &str, rule: SharingRule) -> Reason {
    Reason::SharingRefused {
        address: ip(address),
        holder: key(holder),
        rule,
    }
}

#[test]
fn the_rules_of_sharing() {
    let with_key = |name: &str, annotation: &str, value: &str| {
        let mut service = annotated(load_balancer(name), &[(annotation, value)]);
        service.ports = vec![port("", Protocol::Tcp, 443)];
        service
    };
    let udp = || {
        let mut service = sharing("b", 80);
        service.ports = vec![port("", Protocol::Udp, 80), port("more", Protocol::Tcp, 81)];
        service
    };
    let many = || {
        let mut service = sharing("b", 443);
        service.ports.push(port("more", Protocol::Tcp, 80));
        service
    };
    let second = || {
        let mut service = sharing("other/b", 443);
        service.external_traffic_policy = TrafficPolicy::Cluster;
        service
    };
    let a = || sharing("a", 80);
    let a_local = || local(a(), "app=web");
    let b_local = |selector: &str| local(sharing("b", 443), selector);
    let mut open = lan();
    open.pools[0].share_across_namespaces = true;
    for (case, config, one, other, expected) in vec![
        ("two Cluster Services", lan(), a(), sharing("b", 443), None),
        (
            "rule 1: no key",
            lan(),
            a(),
            load_balancer("b"),
            Some(SharingRule::Key),
        ),
        (
            "rule 1: neither has a key",
            lan(),
            load_balancer("a"),
            with_key("b", "edgelb.io/sharing-key", " "),
            Some(SharingRule::Key),
        ),
        (
            "rule 1: another key",
            lan(),
            a(),
            with_key("b", "edgelb.io/sharing-key", "K"),
            Some(SharingRule::Key),
        ),
        (
            "a synonym",
            lan(),
            a(),
            with_key("b", "metallb.io/allow-shared-ip", "k"),
            None,
        ),
        (
            "the old synonym",
            lan(),
            a(),
            with_key("b", "metallb.universe.tf/allow-shared-ip", " k "),
            None,
        ),
        (
            "another implementation's",
            lan(),
            a(),
            with_key("b", "lbipam.cilium.io/sharing-key", "k"),
            None,
        ),
        (
            "our annotation counts first",
            lan(),
            a(),
            annotated(
                with_key("b", "metallb.io/allow-shared-ip", "k"),
                &[("edgelb.io/sharing-key", "mine")],
            ),
            Some(SharingRule::Key),
        ),
        ("7, AN-11: TCP and UDP on one port", lan(), a(), udp(), None),
        (
            "8, rule 2: one port of several",
            lan(),
            a(),
            many(),
            Some(SharingRule::Ports),
        ),
        (
            "rule 3: Local with Cluster",
            lan(),
            a_local(),
            sharing("b", 443),
            Some(SharingRule::Policy),
        ),
        (
            "6, rule 3: one selector",
            lan(),
            a_local(),
            b_local("app=web"),
            None,
        ),
        (
            "6, rule 3: two selectors",
            lan(),
            a_local(),
            b_local("app=db"),
            Some(SharingRule::Policy),
        ),
        (
            "rule 4: closed pool",
            lan(),
            a(),
            second(),
            Some(SharingRule::Namespace),
        ),
        ("rule 4: open pool", open, a(), second(), None),
        ("4: no pool any more", config(vec![]), a(), second(), None),
        (
            "a Service of another type",
            lan(),
            a(),
            Service {
                kind: ServiceType::ClusterIP,
                ..sharing("b", 443)
            },
            Some(SharingRule::Key),
        ),
    ] {
        let address = ip("192.0.2.200");
        assert_eq!(refusal(&config, address, &one, &other), expected, "{case}");
        assert_eq!(
            refusal(&config, address, &other, &one),
            expected,
            "{case}, reversed"
        );
    }
}

#[test]
fn services_of_one_key_get_one_address_and_each_its_ports() {
    // Case 7 and rule 7: also where a lower address is free, and without a request.
    let mut dns = sharing("dns", 80);
    dns.ports = vec![port("", Protocol::Udp, 80)];
    let (mut inputs, _) = planned(&lan(), vec![load_balancer("x"), sharing("web", 80)]);
    inputs.cluster.apply(ClusterChange::ServiceGone(key("x")));
    inputs.put(dns).put(slice("web", "web-1", "10.244.0.1"));
    let plan = inputs.planned(&lan());
    assert_eq!(held(&plan, "web"), "192.0.2.201");
    assert_eq!(held(&plan, "dns"), "192.0.2.201");
    assert_eq!(labels(&plan, "dns"), "");
    let vip = ip("192.0.2.201");
    assert_eq!(inputs.allocations.holders_of(vip), [key("web"), key("dns")]);
    let served: Vec<_> = plan
        .state
        .frontends
        .iter()
        .map(|(port, frontend)| (port.to_string(), frontend.service.name.clone()))
        .collect();
    assert_eq!(served.len(), 2, "{served:?}");
    // One of them goes: the other keeps the address.
    inputs.cluster.apply(ClusterChange::ServiceGone(key("web")));
    let plan = inputs.planned(&lan());
    assert_eq!(
        (held(&plan, "dns").as_str(), plan.state.held.len()),
        ("192.0.2.201", 1)
    );
}

#[test]
fn the_one_that_may_not_share_gets_another_address_and_is_told_why() {
    // Case 8
    let (_, plan) = planned(&lan(), vec![sharing("a", 80), sharing("b", 80)]);
    assert_eq!(
        (held(&plan, "a"), held(&plan, "b")),
        ("192.0.2.200".into(), "192.0.2.201".into())
    );
    assert_eq!(labels(&plan, "a"), "");
    let why = refused("192.0.2.200", "a", SharingRule::Ports);
    assert_eq!(pending(&plan, "b"), std::slice::from_ref(&why));
    assert_eq!(
        why.to_string(),
        "it may not share 192.0.2.200 with shop/a: no two of their ports may have the same protocol and number"
    );
    // Where it asked for that address and no other, it gets none.
    let asks = annotated(sharing("b", 80), &[("edgelb.io/ips", "192.0.2.200")]);
    let (mut inputs, plan) = planned(&lan(), vec![sharing("a", 80), asks]);
    assert_eq!(
        (held(&plan, "b").as_str(), reasons(&plan, "b")),
        ("", vec![why])
    );
    inputs.put(sharing("a", 81));
    let plan = inputs.planned(&lan());
    assert_eq!(
        (held(&plan, "b").as_str(), labels(&plan, "b").as_str()),
        ("192.0.2.200", "")
    );
}

#[test]
fn after_an_edit_the_earlier_record_keeps_the_address() {
    // Cases 5 and 6. Each time the plan at the price of the change says the same.
    let a = || sharing("a", 80);
    let b = || sharing("b", 443);
    let both_local = || vec![local(a(), "app=web"), local(b(), "app=web")];
    let unkeyed = |service: Service| annotated(service, &[("edgelb.io/sharing-key", "")]);
    let why = |rule| vec![refused("192.0.2.200", "a", rule)];
    for (case, before, edit, given, pending) in [
        (
            "5: the later one",
            vec![a(), b()],
            local(b(), "app=db"),
            "192.0.2.201",
            why(SharingRule::Policy),
        ),
        (
            "5: the earlier one",
            vec![a(), b()],
            local(a(), "app=web"),
            "192.0.2.201",
            why(SharingRule::Policy),
        ),
        (
            "6: another selector",
            both_local(),
            local(b(), "app=db"),
            "192.0.2.201",
            why(SharingRule::Policy),
        ),
        (
            "6: the same selector",
            both_local(),
            local(b(), "app=web"),
            "192.0.2.200",
            vec![],
        ),
        (
            "a port of the other",
            vec![a(), b()],
            sharing("a", 443),
            "192.0.2.201",
            why(SharingRule::Ports),
        ),
        (
            "the later one's key",
            vec![a(), b()],
            unkeyed(b()),
            "192.0.2.201",
            vec![],
        ),
        (
            "rule 5: a single holder may do what it likes",
            vec![b()],
            unkeyed(local(b(), "app=web")),
            "192.0.2.200",
            vec![],
        ),
    ] {
        let (mut inputs, plan) = planned(&lan(), before);
        assert_eq!(held(&plan, "b"), "192.0.2.200", "{case}: before");
        let mut scope = Scope::nothing();
        scope.add(crate::model::cluster::Dirty::Service(edit.key.clone()));
        inputs.put(edit);
        let change = replan(&lan(), &inputs, &plan, &scope);
        let full = inputs.planned(&lan());
        assert_eq!(change, full, "{case}");
        assert_eq!(held(&full, "b"), given, "{case}");
        assert_eq!(super::pending(&full, "b"), pending, "{case}");
        if inputs.cluster.services.contains_key(&key("a")) {
            assert_eq!(held(&full, "a"), "192.0.2.200", "{case}");
            assert_eq!(labels(&full, "a"), "", "{case}");
        }
    }
}

#[test]
fn after_a_merge_the_earlier_record_keeps_the_address() {
    // Two nodes gave one address away while they could not hear each other.
    let (mut here, _) = planned(&lan(), vec![load_balancer("x"), load_balancer("b")]);
    let (there, _) = planned(&lan(), vec![load_balancer("z"), load_balancer("a")]);
    let both: Allocations = {
        let mut merged = here.allocations.clone();
        merged.merge(there.allocations.records().cloned());
        merged
    };
    for name in ["z", "a"] {
        here.put(load_balancer(name));
    }
    here.allocations = both;
    assert_eq!(
        here.allocations.holders_of(ip("192.0.2.200")),
        [key("x"), key("z")]
    );
    let plan = here.planned(&lan());
    let given = ["x", "z", "a", "b"].map(|name| held(&plan, name));
    assert_eq!(
        given,
        ["192.0.2.200", "192.0.2.203", "192.0.2.201", "192.0.2.202"]
    );
    assert_eq!(here.planned(&lan()), plan, "and so it stays");
}

#[test]
fn a_full_pool_still_has_room_for_those_who_share() {
    let one = config(vec![pool("one", "192.0.2.200-192.0.2.200")]);
    let (_, plan) = planned(
        &one,
        vec![sharing("a", 80), load_balancer("b"), sharing("c", 81)],
    );
    let given = ["a", "b", "c"].map(|name| held(&plan, name));
    assert_eq!(given, ["192.0.2.200", "", "192.0.2.200"]);
    let (_, plan) = planned(&one, vec![sharing("a", 80), sharing("b", 80)]);
    assert_eq!(labels(&plan, "b"), "pool_exhausted sharing_refused");
}

#[test]
fn what_goes_together_has_one_owner() {
    // Cases 36 and 59: through a shared address, and through both addresses of one Service.
    let dual = |mut service: Service| {
        service.families = Family::BOTH.to_vec();
        service
    };
    let mut six = sharing("six", 82);
    six.families = vec![Family::V6];
    let mut inputs = inputs();
    for (name, address) in [
        ("edge-a", "192.0.2.11"),
        ("edge-b", "192.0.2.12"),
        ("edge-c", "192.0.2.13"),
    ] {
        inputs.put(node(name, address));
    }
    inputs
        .put(dual(sharing("a", 80)))
        .put(sharing("b", 81))
        .put(six);
    for number in 0..2 {
        inputs.put(dual(load_balancer(&format!("pair{number}"))));
    }
    let plan = inputs.planned(&lan());
    assert_eq!(held(&plan, "six"), "2001:db8::200");
    let owner = |vip: &str| plan.ownership[&ip(vip)].owner.clone();
    for (v4, v6) in [
        ("192.0.2.200", "2001:db8::200"),
        ("192.0.2.201", "2001:db8::201"),
        ("192.0.2.202", "2001:db8::202"),
    ] {
        assert!(owner(v4).is_some());
        assert_eq!(owner(v4), owner(v6), "{v4}");
    }
    // The lowest VIP of those that go together says who it is: it owns it when it is alone, too.
    let mut alone = inputs.clone();
    for name in ["b", "six"] {
        alone.cluster.apply(ClusterChange::ServiceGone(key(name)));
    }
    assert_eq!(
        alone.planned(&lan()).ownership[&ip("192.0.2.200")].owner,
        owner("192.0.2.200")
    );
}

#[test]
fn with_local_policies_the_owner_serves_every_service_of_the_address() {
    let mut inputs = inputs();
    for (name, address) in [
        ("edge-a", "192.0.2.11"),
        ("edge-b", "192.0.2.12"),
        ("edge-c", "192.0.2.13"),
    ] {
        inputs.put(node(name, address));
    }
    inputs
        .put(local(sharing("a", 80), "app=web"))
        .put(local(sharing("b", 443), "app=web"))
        .put(slice("a", "a-1", "10.244.0.1@edge-a 10.244.0.2@edge-b"))
        .put(slice("b", "b-1", "10.244.0.2@edge-b 10.244.0.3@edge-c"));
    let plan = inputs.planned(&lan());
    let ownership = &plan.ownership[&ip("192.0.2.200")];
    assert_eq!(ownership.owner.as_deref(), Some("edge-b"));
    let without = |name: &str| (name.to_owned(), Reason::NoLocalEndpoint);
    assert_eq!(ownership.excluded, [without("edge-a"), without("edge-c")]);
    inputs.put(service("b", ServiceType::ClusterIP));
    let plan = inputs.planned(&lan());
    assert!(
        plan.ownership[&ip("192.0.2.200")]
            .excluded
            .iter()
            .all(|(node, _)| node == "edge-c")
    );
}
