//! The cases 1 to 30 of the announcing specification, section 1 (address management), and where each is
//! tested; here are those that no table has. Names without a place are of this folder; `k:` is
//! `tests/kubernetes`, `lab:` is `tests/lab`, `metrics:` is `tests/admin/metrics.rs`.
//!
//! | case | tests |
//! | --- | --- |
//! | 1 | here `a_range_and_the_same_as_a_network_give_the_same`; `pools_by_priority_then_name_addresses_from_the_lowest`; reached from outside: lab:cluster `an_address_is_given_announced_and_served_and_the_next_leader_goes_on`, lab:traffic `every_frontend_reaches_every_endpoint` |
//! | 2, 3 | `a_freed_address_goes_to_the_waiting_service_in_the_same_pass`; k:allocation `a_free_address_goes_to_the_oldest_that_waits` |
//! | 4 | `what_a_service_holds_it_keeps`; k:allocation `a_new_leader_keeps_what_was_given`, `a_leader_may_die_at_any_step` |
//! | 5 | `after_an_edit_the_earlier_record_keeps_the_address`; its Event: k:cases `who_may_share_no_more_is_told_and_gets_another_or_waits`; counted: metrics: `services_without_an_address_are_counted_by_reason` |
//! | 6 | `after_an_edit_the_earlier_record_keeps_the_address`, `the_rules_of_sharing` |
//! | 7 | here `one_port_number_of_two_protocols_is_served_for_both`; `services_of_one_key_get_one_address_and_each_its_ports`, `the_rules_of_sharing` |
//! | 8 | `the_one_that_may_not_share_gets_another_address_and_is_told_why` |
//! | 10, 11 | `a_pool_that_goes_takes_nothing_away`; its Event, and moved on request: k:allocation `a_pool_that_goes_takes_no_address_away`; k:allocation_trouble `a_recreated_service_starts_anew` |
//! | 12 | here `a_pool_for_some_comes_before_one_for_all`; `namespaces_and_labels_say_for_whom_a_pool_is` |
//! | 13 | here `priorities_decide_and_none_is_100`; `pools_by_priority_then_name_addresses_from_the_lowest` |
//! | 14 | `the_name_or_the_labels_of_a_namespace_let_it_in`, `a_label_that_comes_gives_and_one_that_goes_takes_nothing_away`; k:namespaces, all of it |
//! | 15 | `namespaces_and_labels_say_for_whom_a_pool_is`, `the_name_or_the_labels_of_a_namespace_let_it_in` |
//! | 17 | here `a_pool_that_is_named_gives_whatever_its_family_and_auto_assign`; `every_way_of_asking_is_understood` |
//! | 18 | `a_request_that_cannot_be_met_gets_nothing_and_is_told_why`, `every_way_of_asking_is_understood`; its Event: k:allocation_trouble `a_refusal_is_told_once` |
//! | 19 | `where_two_ways_disagree_the_first_counts`; its Event: k:cases `of_two_requests_the_annotation_counts_and_an_event_says_so` |
//! | 20, 21 | `both_families_come_from_one_pool`, `how_many_families_a_service_gets` |
//! | 22 | `the_missing_family_is_added_from_the_same_pool_and_nothing_else_moves`, `the_second_family_comes_when_the_pool_grows_and_the_first_stays` |
//! | 25 | `the_numbers_of_a_pool_are_what_can_be_given_out`; metrics: `the_numbers_of_a_pool_follow_what_comes_and_goes`; k:allocation_trouble `a_manual_edit_is_reverted`; `a_status_says_what_is_held_and_why` |
//! | 26 | here `the_ends_of_a_small_network_are_given_only_to_those_who_ask`; `buggy_addresses_are_skipped_where_they_shall_be` |
//! | 27 | `the_class_says_whose_a_service_is`; k:allocation_trouble `what_is_not_ours_is_left_and_what_was_is_cleared` |
//! | 28 | `the_oldest_waiting_service_gets_what_comes_free`; with Event and within a second: k:allocation `a_free_address_goes_to_the_oldest_that_waits`; counted: metrics: `services_without_an_address_are_counted_by_reason` |
//! | 29 | `a_request_that_cannot_be_met_gets_nothing_and_is_told_why`; its Event: k:cases `a_closed_pool_that_is_asked_for_is_refused_with_a_reason`; counted: metrics: `services_without_an_address_are_counted_by_reason`, `what_the_allocator_wrote_is_the_reason`, here `causes_are_counted_by_the_label_of_the_reason` |
//! | 30 | here `a_service_of_two_pools_is_announced_in_both_subnets`; `an_owner_that_has_no_interface_for_a_vip_says_so` |

use std::collections::BTreeSet;
use std::path::Path;

use super::{
    annotated, config, held, inputs, interface, ip, key, labels, load_balancer, node, pool,
};
use crate::config::Config;
use crate::model::family::{Family, Protocol};
use crate::model::pool::Pool;
use crate::model::service::Service;
use crate::plan::Plan;
use crate::plan::addresses::AddressPlan;
use crate::plan::pending::pending;
use crate::plan::reason::{Infrastructure, Reason};
use crate::plan::sharing::SharingRule;

fn planned(config: &Config, services: Vec<Service>) -> Plan {
    let mut inputs = inputs();
    for service in services {
        inputs.put(service);
    }
    inputs.planned(config)
}

#[test]
fn a_range_and_the_same_as_a_network_give_the_same() {
    // Case 1
    let services = || ["a", "b", "c", "d", "e"].map(load_balancer).to_vec();
    let both = ["192.0.2.200-192.0.2.203", "192.0.2.200/30"].map(|ranges| {
        let plan = planned(&config(vec![pool("lan", ranges)]), services());
        let given = ["a", "b", "c", "d", "e"].map(|name| held(&plan, name));
        assert_eq!(
            given,
            [
                "192.0.2.200",
                "192.0.2.201",
                "192.0.2.202",
                "192.0.2.203",
                ""
            ],
            "{ranges}"
        );
        assert_eq!(plan.state.announced[&2].addresses.len(), 4, "{ranges}");
        plan
    });
    assert_eq!(both[0], both[1]);
}

#[test]
fn a_pool_for_some_comes_before_one_for_all() {
    // Case 12; a priority that somebody sets counts more.
    let open = || pool("a-open", "192.0.2.10-192.0.2.19");
    let for_namespace = || Pool {
        namespaces: vec!["shop".to_owned()],
        ..pool("z-pinned", "192.0.2.200-192.0.2.200")
    };
    let for_labels = || Pool {
        service_selector: vec!["!other".parse().unwrap()],
        ..pool("z-labels", "192.0.2.200-192.0.2.200")
    };
    for pinned in [for_namespace(), for_labels()] {
        let name = pinned.name.clone();
        let plan = planned(
            &config(vec![open(), pinned.clone()]),
            vec![load_balancer("a"), load_balancer("b")],
        );
        assert_eq!(held(&plan, "a"), "192.0.2.200", "{name}");
        assert_eq!(
            held(&plan, "b"),
            "192.0.2.10",
            "{name}: what is full is passed over"
        );
        let first = Pool {
            priority: 1,
            ..open()
        };
        let plan = planned(&config(vec![first, pinned]), vec![load_balancer("a")]);
        assert_eq!(held(&plan, "a"), "192.0.2.10", "{name}");
    }
    let plan = planned(
        &config(vec![open(), for_namespace()]),
        vec![load_balancer("other/a")],
    );
    assert_eq!(held(&plan, "other/a"), "192.0.2.10");
}

#[test]
fn priorities_decide_and_none_is_100() {
    // Case 13
    let one = |name: &str, address: &str, priority: Option<u32>| {
        let mut pool = pool(name, &format!("{address}-{address}"));
        if let Some(priority) = priority {
            pool.priority = priority;
        }
        pool
    };
    let pools = vec![
        one("a-unset", "192.0.2.201", None),
        one("b-twenty", "192.0.2.202", Some(20)),
        one("c-one", "192.0.2.203", Some(1)),
    ];
    let plan = planned(
        &config(pools),
        ["a", "b", "c", "d"].map(load_balancer).to_vec(),
    );
    let given = ["a", "b", "c", "d"].map(|name| held(&plan, name));
    assert_eq!(given, ["192.0.2.203", "192.0.2.202", "192.0.2.201", ""]);
}

#[test]
fn a_pool_that_is_named_gives_whatever_its_family_and_auto_assign() {
    // Case 17
    for auto_assign in [true, false] {
        for (family, given) in [(Family::V4, "198.51.100.0"), (Family::V6, "2001:db8:1::")] {
            let other = pool("a-other", "192.0.2.200/30 2001:db8::200/126");
            let named = Pool {
                auto_assign,
                ..pool("named", "198.51.100.0/30 2001:db8:1::/126")
            };
            let mut service = annotated(load_balancer("web"), &[("edgelb.io/pool", "named")]);
            service.families = vec![family];
            let plan = planned(&config(vec![other, named]), vec![service]);
            assert_eq!(held(&plan, "web"), given, "{auto_assign} {family}");
            assert_eq!(labels(&plan, "web"), "");
        }
    }
}

#[test]
fn the_ends_of_a_small_network_are_given_only_to_those_who_ask() {
    // Case 26
    for (range, given, never) in [
        (
            "198.51.100.0/30",
            ["198.51.100.1", "198.51.100.2", "198.51.100.3"],
            "198.51.100.0",
        ),
        (
            "198.51.100.252/30",
            ["198.51.100.252", "198.51.100.253", "198.51.100.254"],
            "198.51.100.255",
        ),
    ] {
        let mut lan = pool("lan", range);
        lan.avoid_buggy_ips = true;
        let config = config(vec![lan]);
        let names = ["a", "b", "c", "d"];
        let plan = planned(&config, names.map(load_balancer).to_vec());
        let found = names.map(|name| held(&plan, name));
        assert_eq!(found, [given[0], given[1], given[2], ""], "{range}");
        let asking = annotated(load_balancer("d"), &[("edgelb.io/ips", never)]);
        assert_eq!(held(&planned(&config, vec![asking]), "d"), never);
    }
}

/// A Service that asks for an address of each of two pools gets both. Each is announced where its
/// subnet is, and the one whose subnet is nowhere is announced nowhere, which is reported.
#[test]
fn a_service_of_two_pools_is_announced_in_both_subnets() {
    // Case 30
    let config = config(vec![
        pool("front", "192.0.2.200/29"),
        pool("back", "198.51.100.200/29"),
        pool("nowhere", "203.0.113.200/29"),
    ]);
    let mut inputs = inputs();
    let back = interface(3, "eth1", "198.51.100.11/24");
    inputs.host.interfaces.insert(3, back);
    let asking = |addresses: &str| annotated(load_balancer("web"), &[("edgelb.io/ips", addresses)]);
    inputs.put(asking("192.0.2.203,198.51.100.204"));
    let announced = |plan: &Plan| -> Vec<(u32, Vec<String>)> {
        let interfaces = plan.state.announced.iter();
        interfaces
            .map(|(index, interface)| {
                let addresses = interface.addresses.iter().map(ToString::to_string);
                (*index, addresses.collect())
            })
            .collect()
    };
    let everywhere = vec![
        (2, vec!["192.0.2.203".to_owned()]),
        (3, vec!["198.51.100.204".to_owned()]),
    ];
    let plan = inputs.planned(&config);
    assert_eq!(held(&plan, "web"), "192.0.2.203 198.51.100.204");
    assert_eq!(labels(&plan, "web"), "");
    assert_eq!(announced(&plan), everywhere);
    // The same where several nodes are: what goes together has one owner, whoever it is.
    let mut nodes = inputs.clone();
    nodes
        .put(node("edge-a", "192.0.2.11"))
        .put(node("edge-b", "192.0.2.12"));
    let plan = nodes.planned(&config);
    let owners: BTreeSet<_> = plan.ownership.values().map(|it| it.owner.clone()).collect();
    assert_eq!((plan.ownership.len(), owners.len()), (2, 1));

    inputs.put(asking("192.0.2.203,198.51.100.204,203.0.113.205"));
    let plan = inputs.planned(&config);
    assert_eq!(
        held(&plan, "web"),
        "192.0.2.203 198.51.100.204 203.0.113.205"
    );
    assert_eq!(announced(&plan), everywhere, "and the third nowhere");
    for (vip, excluded) in [
        ("192.0.2.203", vec![]),
        ("198.51.100.204", vec![]),
        (
            "203.0.113.205",
            vec![("edge-a".to_owned(), Reason::NoInterface)],
        ),
    ] {
        assert_eq!(plan.ownership[&ip(vip)].excluded, excluded, "{vip}");
    }
}

/// Every reason for which address management gives nothing.
fn refusals() -> Vec<Reason> {
    let (pool, address) = ("lan".to_owned(), ip("192.0.2.200"));
    vec![
        Reason::NoPool,
        Reason::UnknownPool { pool: pool.clone() },
        Reason::PoolNotAllowed { pool: pool.clone() },
        Reason::PoolExhausted { pools: vec![pool] },
        Reason::RequestMalformed {
            text: String::new(),
        },
        Reason::RequestOutsidePools { address },
        Reason::RequestTaken {
            address,
            holder: key("a"),
        },
        Reason::SharingRefused {
            address,
            holder: key("a"),
            rule: SharingRule::Key,
        },
        Reason::FamilyMissing { family: Family::V6 },
        Reason::DualStackUnmet { family: Family::V6 },
        Reason::AwaitingAllocation,
        Reason::AddressOfInfrastructure {
            address,
            what: Infrastructure::Special,
        },
        Reason::ClaimUnreadable { address },
    ]
}

#[test]
fn causes_are_counted_by_the_label_of_the_reason() {
    // Case 29: the same word where it was decided and where it was read from a status.
    for decided in refusals() {
        let read = Reason::NotAllocated {
            cause: decided.condition_reason().to_owned(),
            message: decided.to_string(),
        };
        for reason in [decided.clone(), read] {
            let mut plan = AddressPlan::default();
            plan.pending.insert(key("web"), vec![reason]);
            let counted: Vec<_> = pending(&plan).into_iter().collect();
            assert_eq!(counted, [(decided.label(), 1)]);
        }
    }
    // Who holds an address waits for none, and neither does what another implementation serves.
    let mut plan = AddressPlan::default();
    let missing = Reason::FamilyMissing { family: Family::V6 };
    plan.pending.insert(key("half"), vec![missing]);
    plan.allocations
        .set(&key("half"), vec![ip("192.0.2.200")], "edge-a");
    let class = "example.com/other".to_owned();
    plan.pending
        .insert(key("theirs"), vec![Reason::OtherClass { class }]);
    assert!(pending(&plan).is_empty());
}

#[test]
fn one_port_number_of_two_protocols_is_served_for_both() {
    // Case 7, as the frontends that this node has.
    let with = |name: &str, protocol| {
        let mut service = annotated(load_balancer(name), &[("edgelb.io/sharing-key", "k")]);
        service.ports = vec![super::port("", protocol, 53)];
        service
    };
    let plan = planned(
        &config(vec![pool("lan", "192.0.2.200/30")]),
        vec![with("tcp", Protocol::Tcp), with("udp", Protocol::Udp)],
    );
    let served: Vec<String> = plan
        .state
        .frontends
        .keys()
        .map(ToString::to_string)
        .collect();
    assert_eq!(served, ["tcp 192.0.2.200:53", "udp 192.0.2.200:53"]);
}

/// The functions of all Rust files of a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1);
            found.extend(names.filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())));
        }
    }
}

#[test]
fn the_table_of_cases_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = BTreeSet::new();
    functions(&root.join("src/plan/tests"), &mut known);
    functions(&root.join("tests"), &mut known);
    let table = include_str!("cases.rs").lines();
    let rows: Vec<&str> = table.filter(|line| line.starts_with("//! | ")).collect();
    let named = rows
        .iter()
        .flat_map(|row| row.split('`').skip(1).step_by(2));
    let missing: Vec<&str> = named.filter(|name| !known.contains(*name)).collect();
    assert_eq!(missing, Vec::<&str>::new());
    let cases = rows.iter().skip(2).filter_map(|row| row.split('|').nth(1));
    let cases: BTreeSet<u8> = (cases.flat_map(|cases| cases.split(',')))
        .map(|case| case.trim().parse().unwrap())
        .collect();
    // The specification has no case of these numbers.
    let wanted = (1..=30).filter(|case| ![9, 16, 23, 24].contains(case));
    assert_eq!(cases, wanted.collect());
}
