//! Address management: order of pools and addresses, stickiness, release, waiting, families
//! (cases 1 to 4, 10 to 15, 20 to 22, 26, 28, 59 of the announcing specification).

use super::{
    config, held, inputs, ip, key, labels, load_balancer, pool, reasons, service, with_status,
};
use crate::config::Config;
use crate::model::cluster::ClusterChange;
use crate::model::family::Family;
use crate::model::pool::Pool;
use crate::model::service::{Service, ServiceType};
use crate::plan::Inputs;
use crate::plan::reason::Reason;

fn dual(name: &str) -> Service {
    Service {
        families: Family::BOTH.to_vec(),
        ..load_balancer(name)
    }
}

fn with_priority(pool: Pool, priority: u32) -> Pool {
    Pool { priority, ..pool }
}

fn with_labels(mut service: Service, label: &str) -> Service {
    let (name, value) = label.split_once('=').unwrap();
    service.labels.insert(name.to_owned(), value.to_owned());
    service
}

fn planned(config: &Config, services: Vec<Service>) -> (Inputs, crate::plan::Plan) {
    let mut inputs = inputs();
    for service in services {
        inputs.put(service);
    }
    let plan = inputs.planned(config);
    (inputs, plan)
}

#[test]
fn pools_by_priority_then_name_addresses_from_the_lowest() {
    // Cases 1 and 13.
    let pools = vec![
        pool("zebra", "198.51.100.0/31"),
        pool("ape", "203.0.113.8/31"),
        with_priority(pool("last", "192.0.2.64/31"), 200),
        with_priority(
            pool("first", "192.0.2.99-192.0.2.99 192.0.2.96-192.0.2.96"),
            1,
        ),
    ];
    let names: Vec<String> = (0..9).map(|number| format!("s{number}")).collect();
    let (_, plan) = planned(
        &config(pools),
        names.iter().map(|name| load_balancer(name)).collect(),
    );
    let given: Vec<String> = names.iter().map(|name| held(&plan, name)).collect();
    assert_eq!(
        given,
        [
            "192.0.2.96",
            "192.0.2.99",
            "203.0.113.8",
            "203.0.113.9",
            "198.51.100.0",
            "198.51.100.1",
            "192.0.2.64",
            "192.0.2.65",
            ""
        ]
    );
    let all = ["first", "ape", "zebra", "last"]
        .map(ToOwned::to_owned)
        .to_vec();
    assert_eq!(
        reasons(&plan, "s8"),
        [Reason::PoolExhausted { pools: all }],
        "case 28"
    );
}

#[test]
fn what_a_service_holds_it_keeps() {
    // Case 4: five starts, with Services that come and go in the down time.
    let config = config(vec![pool("lan", "192.0.2.200-192.0.2.203")]);
    let (mut inputs, _) = planned(&config, vec![load_balancer("b"), load_balancer("c")]);
    for round in 0..5 {
        inputs.put(load_balancer(&format!("a{round}")));
        if round > 0 {
            inputs
                .cluster
                .apply(ClusterChange::ServiceGone(key(&format!("a{}", round - 1))));
        }
        let plan = inputs.planned(&config);
        assert_eq!(
            (held(&plan, "b"), held(&plan, "c")),
            ("192.0.2.200".into(), "192.0.2.201".into())
        );
        assert_eq!(plan.addresses.allocations.held(), 3, "round {round}");
    }
}

#[test]
fn a_freed_address_goes_to_the_waiting_service_in_the_same_pass() {
    // Cases 2, 3 and 28.
    let config = config(vec![pool("one", "192.0.2.200-192.0.2.200")]);
    let mut other_class = load_balancer("a");
    other_class.load_balancer_class = Some("example.com/other".to_owned());
    for (how, change) in [
        (
            "type",
            ClusterChange::Service(service("a", ServiceType::ClusterIP).into()),
        ),
        ("class", ClusterChange::Service(other_class.into())),
        ("gone", ClusterChange::ServiceGone(key("a"))),
    ] {
        let (mut inputs, plan) = planned(&config, vec![load_balancer("a"), load_balancer("b")]);
        assert_eq!(
            (held(&plan, "a").as_str(), held(&plan, "b").as_str()),
            ("192.0.2.200", "")
        );
        assert_eq!(labels(&plan, "b"), "pool_exhausted");
        inputs.cluster.apply(change);
        let plan = inputs.planned(&config);
        assert_eq!(
            (held(&plan, "a").as_str(), held(&plan, "b").as_str()),
            ("", "192.0.2.200"),
            "{how}"
        );
        assert_eq!(labels(&plan, "b"), "", "{how}");
        assert_eq!(plan.ownership.len(), 1, "{how}");
    }
}

#[test]
fn namespaces_and_labels_say_for_whom_a_pool_is() {
    // Cases 12 and 15.
    let mut pinned = pool("pinned", "192.0.2.10-192.0.2.19");
    pinned.namespaces = vec!["prod".to_owned()];
    let mut labelled = pool("labelled", "192.0.2.20-192.0.2.29");
    labelled.service_selector = vec![
        "tier=gold".parse().unwrap(),
        "tier in (silver)".parse().unwrap(),
    ];
    let mut both = pool("both", "192.0.2.30-192.0.2.39");
    both.namespaces = vec!["prod".to_owned(), "stage".to_owned()];
    both.service_selector = vec!["tier=gold".parse().unwrap()];
    for (pool, service, given) in [
        (&pinned, load_balancer("prod/web"), "192.0.2.10"),
        (&pinned, load_balancer("stage/web"), ""),
        (
            &labelled,
            with_labels(load_balancer("prod/web"), "tier=silver"),
            "192.0.2.20",
        ),
        (&labelled, load_balancer("prod/web"), ""),
        (
            &both,
            with_labels(load_balancer("stage/web"), "tier=gold"),
            "192.0.2.30",
        ),
        (
            &both,
            with_labels(load_balancer("dev/web"), "tier=gold"),
            "",
        ),
        (&both, load_balancer("prod/web"), ""),
    ] {
        let name = service.key.to_string();
        let (_, plan) = planned(&config(vec![pool.clone()]), vec![service]);
        assert_eq!(held(&plan, &name), given, "{} for {name}", pool.name);
        let expected = if given.is_empty() { "no_pool" } else { "" };
        assert_eq!(labels(&plan, &name), expected, "{} for {name}", pool.name);
    }
}

#[test]
fn buggy_addresses_are_skipped_where_they_shall_be() {
    // Case 26: .0 and .255 are given only where somebody asks.
    let mut buggy = pool("lan", "198.51.100.254-198.51.101.1");
    buggy.avoid_buggy_ips = true;
    let services = ["a", "b", "c"].map(load_balancer).to_vec();
    let (_, plan) = planned(&config(vec![buggy.clone()]), services.clone());
    assert_eq!(
        ["a", "b", "c"].map(|name| held(&plan, name)),
        ["198.51.100.254", "198.51.101.1", ""]
    );
    let asked = super::annotated(load_balancer("a"), &[("edgelb.io/ips", "198.51.101.0")]);
    let (_, plan) = planned(&config(vec![buggy.clone()]), vec![asked]);
    assert_eq!(held(&plan, "a"), "198.51.101.0");
    buggy.avoid_buggy_ips = false;
    let (_, plan) = planned(&config(vec![buggy]), services);
    assert_eq!(
        ["a", "b", "c"].map(|name| held(&plan, name)),
        ["198.51.100.254", "198.51.100.255", "198.51.101.0"]
    );
}

#[test]
fn both_families_come_from_one_pool() {
    let v4 = || pool("four", "192.0.2.200/30");
    let v6 = || pool("a-six", "2001:db8::200/126");
    let both = || pool("z-both", "198.51.100.8/30 2001:db8:1::/126");
    for (case, pools, families, given, missing) in [
        (
            "20: the dual pool",
            vec![v4(), both()],
            vec![Family::V4, Family::V6],
            "198.51.100.8 2001:db8:1::",
            "",
        ),
        (
            "21: v4 first",
            vec![v4(), v6()],
            vec![Family::V4, Family::V6],
            "192.0.2.200",
            "family_missing",
        ),
        (
            "21: v6 first",
            vec![v4(), v6()],
            vec![Family::V6, Family::V4],
            "2001:db8::200",
            "family_missing",
        ),
        (
            "one family",
            vec![v6(), v4()],
            vec![Family::V4],
            "192.0.2.200",
            "",
        ),
        (
            "the only family there is",
            vec![v6()],
            vec![],
            "2001:db8::200",
            "",
        ),
        (
            "no family named",
            vec![v6(), v4()],
            vec![],
            "192.0.2.200",
            "",
        ),
        (
            "the wrong family",
            vec![v6()],
            vec![Family::V4],
            "",
            "pool_exhausted",
        ),
    ] {
        let service = Service {
            families,
            ..load_balancer("web")
        };
        let (_, plan) = planned(&config(pools), vec![service]);
        assert_eq!(held(&plan, "web"), given, "case {case}");
        assert_eq!(labels(&plan, "web"), missing, "case {case}");
    }
}

#[test]
fn the_missing_family_is_added_from_the_same_pool_and_nothing_else_moves() {
    // Case 22.
    let mut config = config(vec![
        pool("a", "192.0.2.200/30"),
        pool("b", "198.51.100.8/30 2001:db8:1::/126"),
    ]);
    config.pools[0].priority = 1;
    config.pools[1].auto_assign = false;
    let (mut inputs, plan) = planned(&config, vec![dual("web")]);
    assert_eq!(held(&plan, "web"), "192.0.2.200");
    assert_eq!(
        reasons(&plan, "web")[0],
        Reason::FamilyMissing { family: Family::V6 }
    );
    config.pools[1].auto_assign = true;
    assert_eq!(
        held(&inputs.planned(&config), "web"),
        "192.0.2.200",
        "it never jumps"
    );
    config.pools[0]
        .ranges
        .push("2001:db8::200/126".parse().unwrap());
    assert_eq!(
        held(&inputs.planned(&config), "web"),
        "192.0.2.200 2001:db8::200"
    );
}

#[test]
fn a_family_that_is_wanted_no_more_goes_back() {
    // Case 59.
    let config = config(vec![pool("lan", "192.0.2.200/30 2001:db8::200/126")]);
    let (mut inputs, plan) = planned(&config, vec![dual("web")]);
    assert_eq!(held(&plan, "web"), "192.0.2.200 2001:db8::200");
    let single = |families| Service {
        families,
        ..load_balancer("web")
    };
    inputs.put(single(vec![Family::V4]));
    let plan = inputs.planned(&config);
    assert_eq!(held(&plan, "web"), "192.0.2.200");
    assert!(!plan.ownership.contains_key(&ip("2001:db8::200")));
    inputs.put(single(vec![Family::V6]));
    assert_eq!(held(&inputs.planned(&config), "web"), "2001:db8::200");
}

#[test]
fn a_status_is_history() {
    let lan = || {
        vec![
            pool("lan", "192.0.2.200-192.0.2.209"),
            pool("other", "198.51.100.0/30"),
        ]
    };
    for (statement, services, given) in [
        (
            "taken over",
            vec![with_status(load_balancer("web"), "192.0.2.205")],
            "192.0.2.205",
        ),
        (
            "before anybody who comes first by name",
            vec![
                load_balancer("a"),
                load_balancer("b"),
                with_status(load_balancer("web"), "192.0.2.200"),
            ],
            "192.0.2.200",
        ),
        (
            "the first of two with the same",
            vec![
                with_status(load_balancer("a"), "192.0.2.205"),
                with_status(load_balancer("web"), "192.0.2.205"),
            ],
            "192.0.2.200",
        ),
        (
            "a request counts more",
            vec![super::annotated(
                with_status(load_balancer("web"), "192.0.2.205"),
                &[("edgelb.io/ips", "192.0.2.207")],
            )],
            "192.0.2.207",
        ),
        (
            "as far as it is what the Service asks for",
            vec![super::annotated(
                with_status(load_balancer("web"), "198.51.100.1 192.0.2.205"),
                &[("edgelb.io/pool", "lan")],
            )],
            "192.0.2.205",
        ),
        (
            "not of another type",
            vec![with_status(
                service("web", ServiceType::ClusterIP),
                "192.0.2.205",
            )],
            "",
        ),
    ] {
        let (_, plan) = planned(&config(lan()), services);
        assert_eq!(held(&plan, "web"), given, "{statement}");
    }
    // What it holds counts more than what its status says.
    let config = config(lan());
    let (mut inputs, _) = planned(&config, vec![load_balancer("web")]);
    inputs.put(with_status(load_balancer("web"), "192.0.2.205"));
    assert_eq!(held(&inputs.planned(&config), "web"), "192.0.2.200");
}

#[test]
fn an_address_whose_holder_leaves_is_history_for_the_next_one() {
    let config = config(vec![pool("lan", "192.0.2.200-192.0.2.201")]);
    let (mut inputs, _) = planned(&config, vec![load_balancer("x"), load_balancer("y")]);
    inputs.put(with_status(load_balancer("a"), "192.0.2.201"));
    assert_eq!(labels(&inputs.planned(&config), "a"), "pool_exhausted");
    inputs
        .put(service("x", ServiceType::ClusterIP))
        .put(service("y", ServiceType::ClusterIP));
    assert_eq!(
        held(&inputs.planned(&config), "a"),
        "192.0.2.201",
        "given back first, then taken over"
    );
}

#[test]
fn a_pool_that_goes_takes_nothing_away() {
    // Cases 10 and 11, with the status that this program writes and without.
    for status in ["", "192.0.2.200"] {
        let web = || with_status(load_balancer("web"), status);
        let mut config = config(vec![
            pool("lan", "192.0.2.200/30"),
            pool("other", "198.51.100.8/30"),
        ]);
        config.pools[0].priority = 1;
        let (mut inputs, _) = planned(&config, vec![load_balancer("web")]);
        inputs.put(web());
        let gone = Reason::PoolGone {
            address: ip("192.0.2.200"),
        };
        let all = std::mem::take(&mut config.pools);
        let plan = inputs.planned(&config);
        assert_eq!(
            (
                held(&plan, "web").as_str(),
                reasons(&plan, "web")[0].clone()
            ),
            ("192.0.2.200", gone.clone())
        );
        config.pools = vec![all[1].clone()];
        let plan = inputs.planned(&config);
        assert_eq!(
            (
                held(&plan, "web").as_str(),
                reasons(&plan, "web")[0].clone()
            ),
            ("192.0.2.200", gone)
        );
        assert_eq!(plan.ownership.len(), 1, "it is still served");
        config.pools = all;
        let plan = inputs.planned(&config);
        assert_eq!(
            (held(&plan, "web").as_str(), labels(&plan, "web").as_str()),
            ("192.0.2.200", "")
        );
    }
}
