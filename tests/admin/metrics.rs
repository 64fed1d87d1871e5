//! The metrics: every name of the contract, counted once, and gone with what they are about.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use edgelb::admin::metrics::{Format, Metrics};
use edgelb::admin::snapshot::{PassSummary, Snapshot};
use edgelb::apply::announcer::counters::AnnouncerCounters;
use edgelb::apply::announcer::socket::Protocol;
use edgelb::model::cluster::ClusterChange;
use edgelb::model::family::Family;
use edgelb::model::service::{AddressCondition, Service, ServiceKey, ServiceType};
use edgelb::plan::Inputs;
use edgelb::plan::addresses::AddressSource;

use crate::openmetrics::parse;
use crate::world;

fn samples(metrics: &Metrics, snapshot: &Snapshot) -> BTreeMap<String, f64> {
    parse(&metrics.render(snapshot, Format::OpenMetrics).unwrap())
}

#[test]
fn a_scrape_holds_every_metric() {
    let announcer = AnnouncerCounters::default();
    let metrics = Metrics::new(world::NODE).with(|registry| announcer.register(registry));
    // The announcer's getters create the series that its tasks would count.
    announcer.requests(Protocol::Arp, "eth0", "answered");
    announcer.replies(Protocol::Arp, "eth0");
    announcer.gratuitous("eth0", "ipv4");
    announcer.conflicts(world::web_vip());
    let snapshot = world::snapshot();
    metrics.observe(&snapshot.pass, None, &snapshot.plan);
    metrics.health_answered("/livez", 503);
    let samples = samples(&metrics, &snapshot);
    let expected = [
        (r#"edgelb_address_conflicts_total{vip="192.0.2.200"}"#, 0.0),
        (r#"edgelb_arp_replies_total{interface="eth0"}"#, 0.0),
        (
            r#"edgelb_arp_requests_total{interface="eth0",result="answered"}"#,
            0.0,
        ),
        ("edgelb_config_valid", 0.0),
        ("edgelb_endpoints", 5.0),
        (
            r#"edgelb_gratuitous_total{family="ipv4",interface="eth0"}"#,
            0.0,
        ),
        (
            r#"edgelb_kernel_changes_total{object="element",operation="add"}"#,
            3.0,
        ),
        (
            r#"edgelb_kernel_changes_total{object="route",operation="remove"}"#,
            1.0,
        ),
        (
            r#"edgelb_health_answers_total{code="503",path="/livez"}"#,
            1.0,
        ),
        ("edgelb_pass_duration_seconds_count", 1.0),
        ("edgelb_pass_duration_seconds_sum", 0.00125),
        (r#"edgelb_pass_duration_seconds_bucket{le="0.001"}"#, 0.0),
        (r#"edgelb_pass_duration_seconds_bucket{le="0.0025"}"#, 1.0),
        (r#"edgelb_pass_failures_total{reason="route"}"#, 1.0),
        (r#"edgelb_pool_addresses{family="ipv4",pool="lan"}"#, 4.0),
        (
            r#"edgelb_pool_addresses{family="ipv6",pool="large"}"#,
            18_446_744_073_709_551_616.0,
        ),
        (
            r#"edgelb_pool_addresses_allocated{family="ipv4",pool="lan"}"#,
            2.0,
        ),
        (
            r#"edgelb_pool_addresses_allocated{family="ipv6",pool="large"}"#,
            0.0,
        ),
        ("edgelb_programming_latency_seconds_count", 1.0),
        ("edgelb_programming_latency_seconds_sum", 0.003),
        ("edgelb_ready", 0.0),
        ("edgelb_services", 5.0),
        (r#"edgelb_services_pending{reason="unknown_pool"}"#, 1.0),
        ("edgelb_source_connected", 1.0),
        (
            "edgelb_source_last_event_timestamp_seconds",
            1_800_000_001.5,
        ),
        (r#"edgelb_source_problems{effect="last_good_kept"}"#, 1.0),
        (r#"edgelb_source_problems{effect="left_out"}"#, 0.0),
        (r#"edgelb_vip_transitions_total{reason="start"}"#, 1.0),
    ];
    for (series, value) in expected {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    let build = format!(
        "edgelb_build_info{{datapath=\"nftables\",version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(samples.get(&build), Some(&1.0));
    assert_eq!(
        samples["edgelb_virtual_servers"],
        snapshot.plan.state.frontends.len() as f64
    );
    // web: ClusterIP and VIP with two ports each and a node port, two endpoints for each; far: its
    // ClusterIP, and its VIP for pods and this node.
    assert_eq!(samples["edgelb_real_servers"], 12.0);
}

#[test]
fn an_empty_daemon_has_valid_metrics() {
    let samples = samples(&Metrics::new(world::NODE), &world::empty());
    assert_eq!(samples["edgelb_config_valid"], 1.0);
    assert_eq!(samples["edgelb_services"], 0.0);
    assert!(!samples.contains_key("edgelb_source_last_event_timestamp_seconds"));
}

fn owned(metrics: &Metrics, snapshot: &Snapshot) -> Vec<(String, f64)> {
    samples(metrics, snapshot)
        .into_iter()
        .filter(|(series, _)| series.starts_with("edgelb_vip_owned"))
        .collect()
}

#[test]
fn the_series_of_a_vip_goes_with_it() {
    let metrics = Metrics::new(world::NODE);
    let series = |vip: &str, owned| (format!("edgelb_vip_owned{{vip=\"{vip}\"}}"), owned);
    assert_eq!(
        owned(&metrics, &world::snapshot()),
        [series("192.0.2.200", 1.0), series("192.0.2.201", 0.0)]
    );
    let without_web = world::with_inputs(|inputs| {
        let key = ServiceKey::new("default", "web");
        inputs.cluster.services.remove(&key);
    });
    assert_eq!(owned(&metrics, &without_web), [series("192.0.2.201", 0.0)]);
}

fn waiting(snapshot: &Snapshot) -> Vec<(String, f64)> {
    samples(&Metrics::new(world::NODE), snapshot)
        .into_iter()
        .filter(|(series, _)| series.starts_with("edgelb_services_pending"))
        .collect()
}

fn load_balancer(name: &str, annotations: &[(&str, &str)]) -> Service {
    let key = ServiceKey::new("default", name);
    let mut service = Service::new(key, ServiceType::LoadBalancer);
    service.families = vec![Family::V4];
    service.ports = vec![world::port(80, None)];
    for (name, value) in annotations {
        let annotation = ((*name).to_owned(), (*value).to_owned());
        service.annotations.extend([annotation]);
    }
    service
}

/// Cases 5, 28 and 29: who waits for an address, by what keeps it from them.
#[test]
fn services_without_an_address_are_counted_by_reason() {
    let series = |reason: &str, count| {
        let series = format!("edgelb_services_pending{{reason=\"{reason}\"}}");
        (series, count)
    };
    let key = ("edgelb.io/sharing-key", "k");
    let on_web = |ips| [("edgelb.io/ips", ips), key];
    let services = [
        // Four addresses, of which two are taken: the last two wait.
        load_balancer("a", &[key]),
        load_balancer("b", &[]),
        load_balancer("c", &[]),
        load_balancer("d", &[]),
        load_balancer("sharing", &on_web("192.0.2.202")),
        load_balancer("taken", &[("edgelb.io/ips", "192.0.2.200")]),
        load_balancer("closed", &[("edgelb.io/pool", "large")]),
        // What it asked for twice is no reason to have nothing.
        load_balancer(
            "outside",
            &[
                ("edgelb.io/ips", "203.0.113.1"),
                ("metallb.io/loadBalancerIPs", "203.0.113.2"),
            ],
        ),
    ];
    let full = world::with(|config, inputs| {
        config.pools[1].namespaces = vec!["prod".to_owned()];
        for service in services {
            inputs.cluster.apply(ClusterChange::Service(service.into()));
        }
    });
    let wanted = [
        series("pool_exhausted", 2.0),
        series("pool_not_allowed", 1.0),
        series("request_outside_pools", 1.0),
        series("request_taken", 1.0),
        series("sharing_refused", 1.0),
        series("unknown_pool", 1.0),
    ];
    assert_eq!(waiting(&full), wanted);
}

/// On a node that does not allocate, the cause is what the allocator wrote; a word that it never
/// writes is no label.
#[test]
fn what_the_allocator_wrote_is_the_reason() {
    let refused = |name: &str, cause: &str| {
        let condition = AddressCondition {
            allocated: false,
            reason: cause.to_owned(),
            message: "why".to_owned(),
        };
        Service {
            condition: Some(Box::new(condition)),
            ..load_balancer(name, &[])
        }
    };
    let snapshot = world::with(|_, inputs| {
        inputs.address_source = AddressSource::Status;
        inputs.cluster.services.clear();
        for service in [
            refused("a", "PoolExhausted"),
            refused("b", "PoolExhausted"),
            refused("c", "AddressOfInfrastructure"),
            refused("d", "x\"y"),
            refused("e", "poolexhausted2"),
            load_balancer("f", &[]),
        ] {
            inputs.cluster.apply(ClusterChange::Service(service.into()));
        }
    });
    let found: Vec<(String, f64)> = waiting(&snapshot)
        .into_iter()
        .map(|(series, count)| (series.replace("edgelb_services_pending", ""), count))
        .collect();
    let wanted = [
        (r#"{reason="address_of_infrastructure"}"#, 1.0),
        (r#"{reason="awaiting_allocation"}"#, 1.0),
        (r#"{reason="not_allocated"}"#, 2.0),
        (r#"{reason="pool_exhausted"}"#, 2.0),
    ];
    assert_eq!(
        found,
        wanted.map(|(series, count)| (series.to_owned(), count))
    );
}

/// Case 25: the numbers of a pool are what is held now.
#[test]
fn the_numbers_of_a_pool_follow_what_comes_and_goes() {
    let allocated = |snapshot: &Snapshot| {
        let samples = samples(&Metrics::new(world::NODE), snapshot);
        samples[r#"edgelb_pool_addresses_allocated{family="ipv4",pool="lan"}"#]
    };
    let put = |name: &str| {
        let name = name.to_owned();
        move |inputs: &mut Inputs| {
            let service = load_balancer(&name, &[]);
            inputs.cluster.apply(ClusterChange::Service(service.into()));
        }
    };
    assert_eq!(allocated(&world::snapshot()), 2.0);
    assert_eq!(allocated(&world::with_inputs(put("new"))), 3.0);
    let gone = |inputs: &mut Inputs| {
        let key = ServiceKey::new("default", "web");
        inputs.cluster.apply(ClusterChange::ServiceGone(key));
    };
    assert_eq!(allocated(&world::with_inputs(gone)), 1.0);
    let type_changed = |inputs: &mut Inputs| {
        let mut service = load_balancer("web", &[]);
        service.kind = ServiceType::ClusterIP;
        inputs.cluster.apply(ClusterChange::Service(service.into()));
    };
    assert_eq!(allocated(&world::with_inputs(type_changed)), 1.0);
}

/// The transitions that a pass from one world to another counts.
fn transitions(before: Option<&Snapshot>, after: &Snapshot) -> Vec<(String, f64)> {
    let metrics = Metrics::new(world::NODE);
    let pass = PassSummary {
        duration: Duration::from_millis(1),
        ..PassSummary::default()
    };
    metrics.observe(&pass, before.map(|before| &*before.plan), &after.plan);
    let start = "edgelb_vip_transitions_total{reason=\"";
    samples(&metrics, after)
        .into_iter()
        .filter_map(|(series, count)| {
            let reason = series.strip_prefix(start)?.strip_suffix("\"}")?;
            (count > 0.0).then(|| (reason.to_owned(), count))
        })
        .collect()
}

/// A second eligible node, of such a name that `vip` goes to it.
fn better_node(vip: IpAddr) -> edgelb::model::cluster::Node {
    let taken_by = |name: &str| {
        let snapshot = world::with_inputs(|inputs| {
            let node = world::node(name, "192.0.2.99");
            inputs.cluster.nodes.insert(name.to_owned(), node.into());
        });
        snapshot.plan.ownership[&vip].owner.as_deref() == Some(name)
    };
    let name = (0..100)
        .map(|number| format!("edge-x{number}"))
        .find(|name| taken_by(name))
        .unwrap();
    world::node(&name, "192.0.2.99")
}

#[test]
fn a_transition_tells_why() {
    let count = |reason: &str| vec![(reason.to_owned(), 1.0)];
    let base = world::snapshot();
    assert_eq!(transitions(None, &base), count("start"));
    assert_eq!(transitions(Some(&base), &base), []);
    assert_eq!(
        transitions(Some(&world::empty()), &base),
        count("allocated")
    );
    let released = world::with_inputs(|inputs| {
        let key = ServiceKey::new("default", "web");
        inputs.cluster.services.remove(&key);
    });
    assert_eq!(transitions(Some(&base), &released), count("released"));

    let deleting = |deleting: bool| {
        world::with_inputs(|inputs| {
            let mut node = world::node(world::NODE, "192.0.2.11");
            node.deleting = deleting;
            inputs.cluster.nodes.insert(node.name.clone(), node.into());
        })
    };
    assert_eq!(
        transitions(Some(&base), &deleting(true)),
        count("node_deleting")
    );
    assert_eq!(transitions(Some(&deleting(true)), &base), count("eligible"));

    let better = better_node(world::web_vip());
    let other = |deleting: bool| {
        world::with_inputs(|inputs| {
            let mut node = better.clone();
            node.deleting = deleting;
            inputs.cluster.nodes.insert(node.name.clone(), node.into());
        })
    };
    assert_eq!(
        transitions(Some(&base), &other(false)),
        count("better_node")
    );
    assert_eq!(transitions(Some(&other(false)), &base), count("node_gone"));
    assert_eq!(
        transitions(Some(&other(false)), &other(true)),
        count("node_deleting")
    );
}

#[test]
fn a_blind_source_says_since_when_and_what_it_works_from() {
    let metrics = Metrics::new(world::NODE);
    let mut snapshot = world::snapshot();
    let blind = "edgelb_source_blind_since_timestamp_seconds";
    let seeing = samples(&metrics, &snapshot);
    assert_eq!(seeing.get(blind), None);
    assert_eq!(seeing.get("edgelb_source_from_snapshot"), Some(&0.0));
    snapshot.source.connected = false;
    snapshot.source.blind_since = Some(world::started() + Duration::from_secs(3));
    snapshot.source.from_snapshot = true;
    let samples = samples(&metrics, &snapshot);
    assert_eq!(samples.get(blind), Some(&1_800_000_003.0));
    assert_eq!(samples.get("edgelb_source_from_snapshot"), Some(&1.0));
    assert_eq!(samples.get("edgelb_source_connected"), Some(&0.0));
}
