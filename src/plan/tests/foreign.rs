//! Other hosts on the LAN that use addresses of a pool (cases 20 of the wishes and 64): an allocator
//! gives none of them out, nobody loses one that it holds, and everybody is told. The full plan is the
//! oracle.

use std::net::IpAddr;

use proptest::prelude::*;

use super::generate::{ADDRESSES, SERVICES, any_passes, small};
use super::incremental::assert_shared_rightly;
use super::{
    HERE, annotated, config, held, inputs, ip, ips, key, load_balancer, pending, pool, with_status,
};
use crate::config::Config;
use crate::model::cluster::ClusterState;
use crate::model::foreign::{ForeignHosts, MacAddress};
use crate::model::service::{Service, ServiceType};
use crate::model::standing::Standing;
use crate::plan::addresses::{AddressInputs, AddressPlan, AddressSource, Managed, manage};
use crate::plan::ipam::usage;
use crate::plan::reason::{Infrastructure, Reason};
use crate::plan::{Inputs, Plan, Scope, plan, replan};

fn mac(last: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 9, last])
}

/// Hosts that use these addresses, all of one Ethernet address.
pub(super) fn hosts(addresses: &str) -> ForeignHosts {
    ips(addresses)
        .into_iter()
        .map(|address| (address, mac(1)))
        .collect()
}

fn conflict(address: &str) -> Reason {
    Reason::AddressOfInfrastructure {
        address: ip(address),
        what: Infrastructure::ForeignHost { mac: mac(1) },
    }
}

fn managed(config: &Config, inputs: &Inputs, previous: &AddressPlan, scope: &Scope) -> Managed {
    let past = AddressInputs {
        node: HERE,
        cluster: &inputs.cluster,
        host: &inputs.host,
        foreign: &inputs.foreign,
        reserved: &std::collections::BTreeSet::new(),
        standing: &Standing::of(&inputs.cluster.services),
        unconfirmed: &std::collections::BTreeSet::new(),
        deferred: &std::collections::BTreeSet::new(),
        allocations: &inputs.allocations,
    };
    manage(config, &past, previous, scope)
}

#[test]
fn it_is_told_with_the_hosts_ethernet_address() {
    assert_eq!(
        conflict("192.0.2.7").to_string(),
        "192.0.2.7 belongs to a host on the LAN (02:00:00:00:09:01): a Service must not take it"
    );
}

#[test]
fn an_allocator_gives_none_of_them_out_and_takes_none_away() {
    let asks = |service: Service, address: &str| annotated(service, &[("edgelb.io/ips", address)]);
    let shares = |service: Service| annotated(service, &[("edgelb.io/sharing-key", "k")]);
    let web = || load_balancer("web");
    let full = Reason::PoolExhausted {
        pools: vec!["lan".to_owned()],
    };
    for (case, foreign, service, record, held, reasons) in [
        ("nobody is heard", "", web(), "", "192.0.2.200", vec![]),
        (
            "the next one",
            "192.0.2.200",
            web(),
            "",
            "192.0.2.201",
            vec![],
        ),
        ("all", "192.0.2.200 192.0.2.201", web(), "", "", vec![full]),
        (
            "one that nobody wants",
            "192.0.2.201",
            web(),
            "",
            "192.0.2.200",
            vec![],
        ),
        (
            "what is held stays, and is told of",
            "192.0.2.201",
            web(),
            "192.0.2.201",
            "192.0.2.201",
            vec![conflict("192.0.2.201")],
        ),
        (
            "one that is asked for",
            "192.0.2.201",
            asks(web(), "192.0.2.201"),
            "",
            "",
            vec![conflict("192.0.2.201")],
        ),
        (
            "one that is asked for and held",
            "192.0.2.201",
            asks(web(), "192.0.2.201"),
            "192.0.2.201",
            "192.0.2.201",
            vec![conflict("192.0.2.201")],
        ),
        (
            "one that its status names was held before",
            "192.0.2.201",
            with_status(web(), "192.0.2.201"),
            "",
            "192.0.2.201",
            vec![conflict("192.0.2.201")],
        ),
        (
            "one that is moved away from",
            "192.0.2.201",
            asks(web(), "192.0.2.200"),
            "192.0.2.201",
            "192.0.2.200",
            vec![],
        ),
    ] {
        let config = config(vec![pool("lan", "192.0.2.200/31")]);
        let mut inputs = inputs();
        inputs.put(service);
        inputs.foreign = hosts(foreign);
        if !record.is_empty() {
            inputs.allocations.set(&key("web"), ips(record), HERE);
        }
        let plan = managed(
            &config,
            &inputs,
            &AddressPlan::default(),
            &Scope::Everything,
        )
        .plan;
        assert_eq!(plan.allocations.addresses(&key("web")), ips(held), "{case}");
        let told = plan.pending.get(&key("web")).cloned().unwrap_or_default();
        assert_eq!(told, reasons, "{case}");
    }

    // Nobody joins one whose holder is in conflict.
    let config = config(vec![pool("lan", "192.0.2.200/31")]);
    let mut inputs = inputs();
    let mut dns = shares(load_balancer("dns"));
    dns.ports[0].port = 53;
    inputs.put(shares(web())).put(dns);
    inputs
        .allocations
        .set(&key("web"), ips("192.0.2.200"), HERE);
    inputs.foreign = hosts("192.0.2.200");
    let plan = managed(
        &config,
        &inputs,
        &AddressPlan::default(),
        &Scope::Everything,
    )
    .plan;
    assert_eq!(plan.allocations.addresses(&key("dns")), ips("192.0.2.201"));
    assert_eq!(plan.allocations.addresses(&key("web")), ips("192.0.2.200"));
}

#[test]
fn what_comes_free_is_given_to_who_waits_for_it() {
    let config = config(vec![pool("lan", "192.0.2.200/31")]);
    let mut inputs = inputs();
    inputs.put(load_balancer("any"));
    inputs.put(load_balancer("beside"));
    inputs.put(annotated(
        load_balancer("asks"),
        &[("edgelb.io/ips", "192.0.2.201")],
    ));
    inputs.foreign = hosts("192.0.2.201 192.0.2.240");
    let mut plan = AddressPlan::default();
    let pass = |inputs: &mut Inputs, plan: &mut AddressPlan, scope: &Scope| {
        *plan = managed(&config, inputs, plan, scope).plan;
        inputs.allocations = plan.allocations.clone();
        let addresses = |name: &str| plan.allocations.addresses(&key(name)).to_vec();
        (addresses("any"), addresses("beside"), addresses("asks"))
    };
    let first = (ips("192.0.2.200"), vec![], vec![]);
    assert_eq!(pass(&mut inputs, &mut plan, &Scope::Everything), first);
    // One that is nobody's business concerns nobody.
    assert!(
        plan.concerned(&hosts("192.0.2.201")).contains(&key("asks")),
        "something came free"
    );
    assert_eq!(
        plan.concerned(&hosts("192.0.2.201 192.0.2.240 192.0.2.241"))
            .len(),
        0
    );
    inputs.foreign = hosts("192.0.2.240");
    let mut freed = pass(&mut inputs, &mut plan, &Scope::nothing());
    freed.1.append(&mut freed.2);
    assert_eq!(freed.0, ips("192.0.2.200"));
    assert_eq!(freed.1, ips("192.0.2.201"), "one of the two that wait");
}

#[test]
fn a_node_that_decides_for_itself_only_tells() {
    let config = config(vec![pool("lan", "192.0.2.200/31")]);
    for (foreign, reasons) in [
        ("192.0.2.200", vec![conflict("192.0.2.200")]),
        ("192.0.2.201", vec![]),
    ] {
        let mut inputs = inputs();
        inputs.foreign = hosts(foreign);
        inputs.put(load_balancer("web"));
        let plan = inputs.planned(&config);
        assert_eq!(held(&plan, "web"), "192.0.2.200");
        assert_eq!(pending(&plan, "web"), reasons);
        let after = replan(
            &config,
            &Inputs {
                foreign: hosts(""),
                ..inputs.clone()
            },
            &plan,
            &Scope::nothing(),
        );
        assert_eq!(pending(&after, "web"), [], "the host went");
        assert!(
            plan.state.announced[&2]
                .addresses
                .contains(&ip("192.0.2.200")),
            "it is announced"
        );
    }
}

#[test]
fn a_node_that_reads_statuses_only_tells() {
    let config = config(vec![pool("lan", "192.0.2.200/31")]);
    let mut inputs = inputs();
    inputs.address_source = AddressSource::Status;
    inputs.foreign = hosts("192.0.2.200 192.0.2.201");
    inputs.put(with_status(load_balancer("web"), "192.0.2.200"));
    let mut brought = super::service("external", ServiceType::ClusterIP);
    brought.external_ips = ips("192.0.2.201");
    inputs.put(brought);
    let before = plan(&config, &inputs);
    assert_eq!(held(&before, "web"), "192.0.2.200");
    assert_eq!(super::reasons(&before, "web")[0], conflict("192.0.2.200"));
    assert!(
        before.state.held.contains_key(&ip("192.0.2.201")),
        "who brings it answers for it"
    );
    // Nothing of the Service is edited, and yet it is told.
    inputs.foreign = hosts("192.0.2.201");
    let after = replan(&config, &inputs, &before, &Scope::nothing());
    assert_eq!(pending(&after, "web"), []);
    inputs.foreign = hosts("192.0.2.200");
    let again = replan(&config, &inputs, &after, &Scope::nothing());
    assert_eq!(pending(&again, "web"), [conflict("192.0.2.200")]);
}

#[test]
fn what_they_use_is_not_free_where_it_is_not_given_out() {
    let config = config(vec![pool("lan", "192.0.2.200-192.0.2.203")]);
    let mut inputs = inputs();
    inputs.put(with_status(load_balancer("web"), "192.0.2.200"));
    inputs.foreign = hosts("192.0.2.200 192.0.2.201 192.0.2.240");
    for (source, free) in [(AddressSource::Here, 3), (AddressSource::Status, 2)] {
        inputs.address_source = source;
        let plan = plan(&config, &inputs);
        let usage = usage(&config, &inputs.address_book(), &plan.addresses.allocations);
        assert_eq!((usage[0].allocated, usage[0].free), (1, free), "{source:?}");
    }
}

/// Which hosts are heard in each pass.
fn any_hosts() -> impl Strategy<Value = ForeignHosts> {
    let host = (prop::sample::select(ADDRESSES.to_vec()), 1_u8..3);
    prop::collection::vec(host, 0..4).prop_map(|hosts| {
        let hosts = hosts.into_iter();
        hosts
            .map(|(address, last)| (ip(address), mac(last)))
            .collect()
    })
}

/// Passes, each with the hosts that are heard in it.
fn any_heard()
-> impl Strategy<Value = Vec<(Vec<crate::model::cluster::ClusterChange>, ForeignHosts)>> {
    any_passes().prop_flat_map(|passes| {
        let count = passes.len();
        (Just(passes), prop::collection::vec(any_hosts(), count))
            .prop_map(|(passes, heard)| passes.into_iter().zip(heard).collect())
    })
}

/// Applies one pass's edits; nothing of it for every other Service, so that scopes are often empty.
fn edit(cluster: &mut ClusterState, changes: Vec<crate::model::cluster::ClusterChange>) -> Scope {
    let mut scope = Scope::nothing();
    for change in changes {
        for dirty in cluster.apply(change) {
            scope.add(dirty);
        }
    }
    scope
}

fn told(plan: &Plan) -> Vec<(IpAddr, Option<Reason>)> {
    let services = SERVICES.map(key);
    let reasons = services.iter().flat_map(|service| {
        let addresses = plan.addresses.allocations.addresses(service).iter();
        let pending = plan.addresses.pending.get(service);
        addresses.map(move |address| {
            let about = |reason: &&Reason| {
                matches!(reason, Reason::AddressOfInfrastructure { address: other, what: Infrastructure::ForeignHost { .. } } if other == address)
            };
            (*address, pending.and_then(|reasons| reasons.iter().find(about).cloned()))
        })
    });
    reasons.collect()
}

proptest! {
    #[test]
    fn an_allocator_hears_of_hosts_as_if_it_had_always_known(passes in any_heard()) {
        let config = small();
        let mut inputs = inputs();
        let mut previous = AddressPlan::default();
        for (number, (changes, heard)) in passes.into_iter().enumerate() {
            // Some passes are about hosts alone.
            let scope = if number % 3 == 2 { Scope::nothing() } else { edit(&mut inputs.cluster, changes) };
            inputs.foreign = heard;
            let before = inputs.allocations.clone();
            let concerned = previous.concerned(&inputs.foreign);
            let next = managed(&config, &inputs, &previous, &scope);
            let full = managed(&config, &inputs, &AddressPlan::default(), &Scope::Everything).plan;
            prop_assert_eq!(&next.plan, &full, "from the same records");
            if scope.is_empty() && concerned.is_empty() {
                prop_assert_eq!(&next.plan.allocations, &previous.allocations);
                prop_assert_eq!(&next.plan.pending, &previous.pending, "who is not concerned sees nothing");
            }
            assert_shared_rightly(&config, &inputs.cluster, &full.allocations)?;
            for (address, service) in full.allocations.holders() {
                let named = inputs.cluster.services.get(service)
                    .is_some_and(|service| service.ingress.iter().any(|ingress| ingress.address == address));
                prop_assert!(
                    inputs.foreign.get(address).is_none() || named || before.addresses(service).contains(&address),
                    "{} was given to {} although another host uses it", address, service
                );
            }
            inputs.allocations = full.allocations;
            let again = managed(&config, &inputs, &AddressPlan::default(), &Scope::Everything).plan;
            prop_assert_eq!(&next.plan, &again, "from its own records: there is nothing left to do");
            previous = next.plan;
        }
    }

    #[test]
    fn a_node_hears_of_hosts_as_if_it_had_always_known(passes in any_heard(), reads in any::<bool>()) {
        let config = small();
        let mut inputs = inputs();
        inputs.address_source = if reads { AddressSource::Status } else { AddressSource::Here };
        let mut previous = plan(&config, &inputs);
        for (number, (changes, heard)) in passes.into_iter().enumerate() {
            let scope = if number % 3 == 2 { Scope::nothing() } else { edit(&mut inputs.cluster, changes) };
            inputs.foreign = heard;
            let next = replan(&config, &inputs, &previous, &scope);
            let full = plan(&config, &inputs);
            prop_assert_eq!(&next, &full);
            for (address, reason) in told(&next) {
                prop_assert_eq!(reason.is_some(), inputs.foreign.get(address).is_some(), "{}", address);
            }
            let deaf = plan(&config, &Inputs { foreign: ForeignHosts::default(), ..inputs.clone() });
            prop_assert_eq!(&next.addresses.allocations, &deaf.addresses.allocations, "it decides nothing");
            prop_assert_eq!(&next.state, &deaf.state);
            inputs.allocations = next.addresses.allocations.clone();
            previous = next;
        }
    }
}
