//! Pools for Namespaces by their labels (case 14 of the announcing specification).

use super::{annotated, config, held, inputs, labels, load_balancer, namespace, pool, reasons};
use crate::config::Config;
use crate::model::cluster::ClusterChange;
use crate::model::service::Service;
use crate::plan::reason::Reason;
use crate::plan::{Inputs, Scope, plan, replan};

/// One pool: for the namespace `prod` by its name, and for those of the team `web`.
fn selecting() -> Config {
    let mut lan = pool("lan", "192.0.2.200/29");
    lan.namespaces = vec!["prod".to_owned()];
    lan.namespace_selector = vec![
        "team=web".parse().unwrap(),
        "team in (front)".parse().unwrap(),
    ];
    config(vec![lan])
}

fn gold(mut service: Service) -> Service {
    service.labels.insert("tier".to_owned(), "gold".to_owned());
    service
}

#[test]
fn the_name_or_the_labels_of_a_namespace_let_it_in() {
    let by_labels_alone = || {
        let mut config = selecting();
        config.pools[0].namespaces.clear();
        config
    };
    let golden = || {
        let mut config = selecting();
        config.pools[0].service_selector = vec!["tier=gold".parse().unwrap()];
        config
    };
    let unlike = || {
        let mut config = by_labels_alone();
        config.pools[0].namespace_selector = vec!["team!=data".parse().unwrap()];
        config
    };
    for (case, config, known, service, given) in vec![
        (
            "listed",
            selecting(),
            Some(None),
            load_balancer("prod/a"),
            true,
        ),
        (
            "listed, and nothing else is known",
            selecting(),
            None,
            load_balancer("prod/a"),
            true,
        ),
        (
            "selected",
            selecting(),
            Some(Some("web")),
            load_balancer("a"),
            true,
        ),
        (
            "selected by the second",
            selecting(),
            Some(Some("front")),
            load_balancer("a"),
            true,
        ),
        (
            "both",
            selecting(),
            Some(Some("web")),
            load_balancer("prod/a"),
            true,
        ),
        (
            "neither",
            selecting(),
            Some(Some("data")),
            load_balancer("a"),
            false,
        ),
        (
            "no labels",
            selecting(),
            Some(None),
            load_balancer("a"),
            false,
        ),
        ("not known", selecting(), None, load_balancer("a"), false),
        (
            "without a list: selected",
            by_labels_alone(),
            Some(Some("web")),
            load_balancer("a"),
            true,
        ),
        (
            "without a list: neither",
            by_labels_alone(),
            Some(None),
            load_balancer("a"),
            false,
        ),
        (
            "not that team",
            unlike(),
            Some(None),
            load_balancer("a"),
            true,
        ),
        (
            "not that team, but nothing is known",
            unlike(),
            None,
            load_balancer("a"),
            false,
        ),
        (
            "selected, and the labels of the Service",
            golden(),
            Some(Some("web")),
            gold(load_balancer("a")),
            true,
        ),
        (
            "listed, and the labels of the Service",
            golden(),
            None,
            gold(load_balancer("prod/a")),
            true,
        ),
        (
            "selected, but not its labels",
            golden(),
            Some(Some("web")),
            load_balancer("a"),
            false,
        ),
        (
            "its labels, but neither",
            golden(),
            Some(Some("data")),
            gold(load_balancer("a")),
            false,
        ),
    ] {
        let name = service.key.to_string();
        let mut inputs = inputs();
        if let Some(team) = known {
            inputs.put(namespace(&service.key.namespace, team));
        }
        // Whatever the labels of another one are.
        inputs.put(namespace("elsewhere", Some("web")));
        let plan = inputs.put(service).planned(&config);
        let wanted = if given {
            ("192.0.2.200", "")
        } else {
            ("", "no_pool")
        };
        let found = (held(&plan, &name), labels(&plan, &name));
        assert_eq!((found.0.as_str(), found.1.as_str()), wanted, "{case}");
    }
}

#[test]
fn a_pool_or_an_address_that_is_asked_for_is_refused_to_other_namespaces() {
    for (asked, refused) in [
        (
            ("edgelb.io/pool", "lan"),
            Reason::PoolNotAllowed {
                pool: "lan".to_owned(),
            },
        ),
        (
            ("edgelb.io/ips", "192.0.2.203"),
            Reason::RequestOutsidePools {
                address: super::ip("192.0.2.203"),
            },
        ),
    ] {
        let mut inputs = inputs();
        inputs.put(namespace("shop", Some("data")));
        inputs.put(annotated(load_balancer("a"), &[asked]));
        let plan = inputs.planned(&selecting());
        assert_eq!(
            (held(&plan, "a"), reasons(&plan, "a")),
            (String::new(), vec![refused])
        );
        let plan = inputs
            .put(namespace("shop", Some("web")))
            .planned(&selecting());
        assert_eq!(labels(&plan, "a"), "");
        assert!(!held(&plan, "a").is_empty());
    }
}

/// Takes a change in as the daemon does, and plans what it touches.
fn after(inputs: &mut Inputs, config: &Config, change: ClusterChange) -> crate::plan::Plan {
    let previous = plan(config, inputs);
    let mut scope = Scope::nothing();
    for dirty in inputs.cluster.apply(change) {
        scope.add(dirty);
    }
    let next = replan(config, inputs, &previous, &scope);
    inputs.allocations = next.addresses.allocations.clone();
    next
}

#[test]
fn a_label_that_comes_gives_and_one_that_goes_takes_nothing_away() {
    // As when a pool is closed to somebody by the configuration: what is held is kept.
    let config = selecting();
    let mut inputs = inputs();
    inputs.put(load_balancer("a"));
    inputs.planned(&config);
    let labelled = |team| ClusterChange::Namespace(namespace("shop", team).into());
    let plan = after(&mut inputs, &config, labelled(Some("web")));
    assert_eq!(
        (held(&plan, "a").as_str(), labels(&plan, "a").as_str()),
        ("192.0.2.200", "")
    );
    for change in [
        labelled(None),
        ClusterChange::NamespaceGone("shop".to_owned()),
    ] {
        let plan = after(&mut inputs, &config, change);
        assert_eq!(held(&plan, "a"), "192.0.2.200", "it keeps it");
        assert_eq!(plan.ownership.len(), 1, "and is served");
    }
    inputs.put(load_balancer("b"));
    let plan = inputs.planned(&config);
    assert_eq!(labels(&plan, "b"), "no_pool", "nobody new gets one");
}
