//! Address management on its own, as an allocator makes it: the full plan as the oracle, also where
//! somebody else edits the records, and what it takes from a status where there is no record.

use std::net::IpAddr;

use proptest::prelude::*;

use super::generate::{ADDRESSES, SERVICES, any_passes, condition, small};
use super::incremental::assert_shared_rightly;
use super::{
    HERE, annotated, config, inputs, ip, ips, key, load_balancer, pool, port, with_status,
};
use crate::config::Config;
use crate::model::allocation::Allocation;
use crate::model::family::{Family, Protocol};
use crate::model::standing::Standing;
use crate::plan::addresses::{AddressInputs, AddressPlan, Managed, manage};
use crate::plan::reason::Reason;
use crate::plan::sharing::SharingRule;
use crate::plan::{Inputs, Scope};

pub(super) fn managed(
    config: &Config,
    inputs: &Inputs,
    previous: &AddressPlan,
    scope: &Scope,
) -> Managed {
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

fn from_everything(config: &Config, inputs: &Inputs) -> AddressPlan {
    managed(config, inputs, &AddressPlan::default(), &Scope::Everything).plan
}

/// Records as another allocator made them: the number is added to the latest edit.
fn any_records() -> impl Strategy<Value = Vec<(&'static str, Vec<&'static str>, u64)>> {
    let record = (
        prop::sample::select(SERVICES.to_vec()),
        prop::collection::vec(prop::sample::select(ADDRESSES.to_vec()), 0..3),
        1_u64..3,
    );
    prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec(record, 1..3),
    ]
}

proptest! {
    #[test]
    fn what_changed_is_managed_as_everything_is(
        passes in any_passes().prop_flat_map(|passes| {
            let count = passes.len();
            (Just(passes), prop::collection::vec(any_records(), count))
        }),
    ) {
        let config = small();
        let mut inputs = inputs();
        let mut previous = AddressPlan::default();
        for (changes, records) in passes.0.into_iter().zip(passes.1) {
            let mut scope = Scope::nothing();
            for change in changes {
                for dirty in inputs.cluster.apply(change) {
                    scope.add(dirty);
                }
            }
            let latest = inputs.allocations.latest_edit();
            inputs.allocations.merge(records.into_iter().map(|(service, addresses, later)| {
                let mut addresses = ips(&addresses.join(" "));
                addresses.dedup();
                Allocation {
                    service: key(service),
                    addresses,
                    counter: latest + later,
                    node: "edge-b".to_owned(),
                }
            }));
            let next = managed(&config, &inputs, &previous, &scope);
            let full = from_everything(&config, &inputs);
            prop_assert_eq!(&next.plan, &full, "from the same records");
            if let Scope::Services(services) = &scope {
                prop_assert!(services.is_subset(&next.dirty));
                for service in inputs.cluster.services.keys() {
                    let same = next.plan.allocations.addresses(service) == previous.allocations.addresses(service)
                        && next.plan.pending.get(service) == previous.pending.get(service);
                    prop_assert!(same || next.dirty.contains(service), "{} is another, and dirty", service);
                }
            }
            assert_shared_rightly(&config, &inputs.cluster, &full.allocations)?;
            inputs.allocations = full.allocations;
            let again = from_everything(&config, &inputs);
            prop_assert_eq!(&next.plan, &again, "from its own records: there is nothing left to do");
            previous = next.plan;
        }
    }
}

fn given(config: &Config, inputs: &Inputs, name: &str) -> (Vec<IpAddr>, Vec<Reason>) {
    let plan = from_everything(config, inputs);
    let key = key(name);
    let held = plan.allocations.addresses(&key).to_vec();
    (held, plan.pending.get(&key).cloned().unwrap_or_default())
}

#[test]
fn a_new_allocator_takes_over_what_our_condition_says_and_a_record_counts_more() {
    let config = config(vec![pool("lan", "192.0.2.200/30")]);
    let gone = with_status(load_balancer("web"), "198.51.100.9");
    let mut ours = gone.clone();
    ours.condition = Some(condition(true).into());
    let mut refused = gone.clone();
    refused.condition = Some(condition(false).into());
    let moved = annotated(ours.clone(), &[("edgelb.io/ips", "192.0.2.202")]);
    let address = ip("198.51.100.9");
    let foreign = vec![Reason::ServedByAnother { address }];
    for (case, service, held, reasons) in [
        (
            "no condition: another implementation's",
            gone,
            "",
            foreign.clone(),
        ),
        ("the condition says no", refused, "", foreign),
        (
            "its pool is gone, and it keeps it",
            ours.clone(),
            "198.51.100.9",
            vec![Reason::PoolGone { address }],
        ),
        ("told to move, it moves", moved, "192.0.2.202", vec![]),
    ] {
        let mut inputs = inputs();
        inputs.put(service);
        assert_eq!(
            given(&config, &inputs, "web"),
            (ips(held), reasons),
            "{case}"
        );
    }
    let mut inputs = inputs();
    inputs.put(ours);
    inputs
        .allocations
        .set(&key("web"), ips("192.0.2.203"), "edge-b");
    assert_eq!(
        given(&config, &inputs, "web"),
        (ips("192.0.2.203"), vec![]),
        "a record"
    );
}

#[test]
fn who_loses_its_addresses_is_settled_with_all_of_its_sharing_key() {
    let config = config(vec![pool("lan", "192.0.2.200/29 2001:db8::200/126")]);
    let mut inputs = inputs();
    let mut put = |name: &str, numbers: &[u16], families: &[Family], addresses: &str| {
        let mut service = annotated(load_balancer(name), &[("edgelb.io/sharing-key", "k")]);
        service.ports = (numbers.iter())
            .map(|number| port(&number.to_string(), Protocol::Tcp, *number))
            .collect();
        service.families = families.to_vec();
        // Who asks for its addresses is told nothing of those that it could share.
        let asked = if name == "loses" { addresses } else { "" };
        let asked = asked.replace(' ', ",");
        inputs.put(annotated(service, &[("edgelb.io/ips", &asked)]));
        inputs.allocations.set(&key(name), ips(addresses), "edge-a");
    };
    put("first", &[80, 443], &[Family::V4], "192.0.2.203");
    put("loses", &[80], &Family::BOTH, "192.0.2.200 2001:db8::200");
    put("mate", &[443], &[Family::V6], "2001:db8::200");
    inputs.put(load_balancer("foreign"));
    inputs
        .allocations
        .set(&key("foreign"), ips("192.0.2.202"), "edge-a");
    let before = from_everything(&config, &inputs);
    assert!(
        before.pending.is_empty(),
        "the mate does share: {:?}",
        before.pending
    );
    // Another allocator gave the address to somebody else, and earlier.
    let mut records: Vec<Allocation> = before.allocations.records().cloned().collect();
    for record in &mut records {
        if record.service == key("foreign") {
            record.addresses = ips("192.0.2.200");
            record.counter = 0;
        }
    }
    inputs.allocations = records.into();
    let after = managed(&config, &inputs, &before, &Scope::nothing());
    assert_eq!(after.plan, from_everything(&config, &inputs));
    let held = |name: &str| after.plan.allocations.addresses(&key(name)).to_vec();
    assert_eq!(held("foreign"), ips("192.0.2.200"));
    assert_eq!(held("loses"), ips(""));
    let told = Reason::SharingRefused {
        address: ip("192.0.2.203"),
        holder: key("first"),
        rule: SharingRule::Ports,
    };
    assert_eq!(
        after.plan.pending[&key("mate")],
        [told],
        "it is the first of its address now"
    );
    assert!(after.dirty.contains(&key("mate")));
}
