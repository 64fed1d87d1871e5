//! What the fixtures of a real server cannot show: bad values, and the rules for leaving them out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use serde_json::{Value, json};

use super::address::{parse_address, parse_range, parse_usable_address};
use super::convert::{Converted, Ignored, Note};
use super::decode::{Kind, Object, decode};
use crate::model::family::Protocol;
use crate::model::service::{FamilyPolicy, Service, ServiceType};

fn service(spec: &Value) -> Converted<Service> {
    service_with(
        &json!({"name": "web", "namespace": "shop"}),
        spec,
        &Value::Null,
    )
}

pub(super) fn service_with(metadata: &Value, spec: &Value, status: &Value) -> Converted<Service> {
    let document = json!({"metadata": metadata, "spec": spec, "status": status});
    match decode(Kind::Service, &document).expect("is a Service") {
        (Object::Service(converted), _) => *converted,
        _ => panic!("is a Service"),
    }
}

pub(super) fn fields(notes: &[Note]) -> Vec<&str> {
    notes.iter().map(|note| note.field.as_str()).collect()
}

pub(super) fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

#[test]
fn addresses_are_read_leniently_and_canonically() {
    for (text, expected) in [
        ("172.30.0.041", "172.30.0.41"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.010", "192.0.2.10"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("000192.0.2.1", "192.0.2.1"),
    ] {
        let address = parse_address(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(address.to_string(), expected, "{text}");
    }
    for text in [
        "",
        " ",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.256",
        "1.2.3.-4",
        "0x1.2.3.4",
        "fe80::1%eth0",
        "1.2.3.4/32",
        "::g",
        "example.com",
        "１.2.3.4",
        "1.2.3.+4",
        ":::1.2.3.4",
        "99999999999999999999.1.1.1",
    ] {
        assert!(parse_address(text).is_err(), "{text:?} is no address");
    }
}

#[test]
fn addresses_that_no_packet_may_be_sent_to_are_refused() {
    for text in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "169.254.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
        "::ffff:127.0.0.1",
    ] {
        assert!(parse_address(text).is_ok(), "{text} is an address");
        assert!(parse_usable_address(text).is_err(), "{text} is of no use");
    }
    assert!(parse_usable_address("2001:db8::1").is_ok());
}

#[test]
fn ranges_are_masked() {
    for (text, expected) in [
        ("10.1.2.3/8", "10.0.0.0/8"),
        (" 10.0.0.128/025 ", "10.0.0.128/25"),
        ("10.0.0.0/00", "0.0.0.0/0"),
        ("2001:db8::1/64", "2001:db8::/64"),
        ("::ffff:10.0.0.1/104", "10.0.0.0/8"),
    ] {
        let range = parse_range(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(range.to_string(), expected, "{text}");
    }
    for text in [
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0.0/",
        "/8",
        "10.0.0.0/8/8",
        "10.0.0.0 /8",
        "2001:db8::/129",
        "::ffff:10.0.0.1/8",
        "10.0.0.0/99999999999999999999",
    ] {
        assert!(parse_range(text).is_err(), "{text:?} is no range");
    }
}

#[test]
fn an_empty_service_is_kept_without_frontends() {
    let converted = service(&json!({}));
    assert_eq!(converted.notes, []);
    let service = converted.object.expect("is kept");
    assert_eq!(service.kind, ServiceType::ClusterIP);
    assert!(service.cluster_ips.is_empty() && service.ports.is_empty());
}

#[test]
fn bad_ports_are_left_out_one_by_one() {
    let converted = service(&json!({"ports": [
        {"name": "zero", "port": 0},
        {"name": "negative", "port": -1},
        {"name": "large", "port": 65536},
        {"name": "largest", "port": 65535},
        {"name": "quic", "port": 443, "protocol": "QUIC"},
        {"name": "node", "port": 81, "nodePort": 70000},
        {"name": "largest", "port": 82},
        {"name": "again", "port": 65535},
        {"name": "udp", "port": 65535, "protocol": "UDP", "nodePort": 30000},
        {"name": "first", "port": 83, "nodePort": 30000},
        {"name": "second", "port": 84, "nodePort": 30000},
        {"name": "nothing"},
    ]}));
    assert_eq!(
        fields(&converted.notes),
        [
            "spec.ports[0].port",
            "spec.ports[1].port",
            "spec.ports[2].port",
            "spec.ports[4].protocol",
            "spec.ports[5].nodePort",
            "spec.ports[6].name",
            "spec.ports[7].port",
            "spec.ports[10].nodePort",
            "spec.ports[11].port",
        ]
    );
    let service = converted.object.expect("the rest is kept");
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|port| (port.name.as_str(), port.protocol, port.port, port.node_port))
        .collect();
    assert_eq!(
        ports,
        [
            ("largest", Protocol::Tcp, 65535, None),
            ("node", Protocol::Tcp, 81, None),
            ("udp", Protocol::Udp, 65535, Some(30000)),
            ("first", Protocol::Tcp, 83, Some(30000)),
            ("second", Protocol::Tcp, 84, None),
        ]
    );
}

#[test]
fn one_cluster_ip_of_each_named_family_counts() {
    let both = service(&json!({
        "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
    }));
    assert_eq!(both.notes, []);
    assert_eq!(
        texts(&both.object.unwrap().cluster_ips),
        ["10.96.0.1", "fd00::1"]
    );

    let unnamed = service(&json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4"]}));
    assert_eq!(fields(&unnamed.notes), ["spec.clusterIPs[1]"]);
    assert_eq!(texts(&unnamed.object.unwrap().cluster_ips), ["10.96.0.1"]);

    let twice = service(&json!({"clusterIPs": ["10.96.0.1", "10.96.0.2"]}));
    assert_eq!(fields(&twice.notes), ["spec.clusterIPs[1]"]);

    let single = service(&json!({"clusterIP": "10.96.000.001"}));
    assert_eq!(texts(&single.object.unwrap().cluster_ips), ["10.96.0.1"]);

    let bad = service(&json!({"clusterIP": "nonsense"}));
    assert_eq!(fields(&bad.notes), ["spec.clusterIP"]);
}

#[test]
fn unknown_words_are_told_and_stop_nothing() {
    let converted = service(&json!({
        "type": "Carrier", "externalTrafficPolicy": "local", "internalTrafficPolicy": "Nearby",
        "sessionAffinity": "Cookie", "ipFamilies": ["IPv5"], "ipFamilyPolicy": "Triple", "ports": [{"port": 80}],
    }));
    assert_eq!(
        fields(&converted.notes),
        [
            "spec.type",
            "spec.ipFamilies[0]",
            "spec.ipFamilyPolicy",
            "spec.externalTrafficPolicy",
            "spec.internalTrafficPolicy",
            "spec.sessionAffinity",
        ]
    );
    assert_eq!(converted.object.unwrap().ports.len(), 1);
}

#[test]
fn affinity_has_the_servers_default_and_bounds() {
    let seconds = |spec: &Value| {
        let converted = service(spec);
        let affinity = converted.object.unwrap().session_affinity;
        (affinity.unwrap().as_secs(), converted.notes.len())
    };
    let with = |timeout: i64| json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": timeout}}});
    assert_eq!(
        seconds(&json!({"sessionAffinity": "ClientIP"})),
        (10_800, 0)
    );
    assert_eq!(seconds(&with(1)), (1, 0));
    assert_eq!(seconds(&with(86_400)), (86_400, 0));
    for bad in [0, -5, 86_401, i64::from(i32::MIN)] {
        assert_eq!(seconds(&with(bad)), (10_800, 1), "{bad}");
    }
}

#[test]
fn a_typing_error_in_source_ranges_opens_nothing() {
    let ranges = |list: &Value| {
        let converted = service(&json!({"loadBalancerSourceRanges": list}));
        (
            texts(&converted.object.unwrap().source_ranges),
            converted.notes.len(),
        )
    };
    assert_eq!(ranges(&json!([])), (vec![], 0), "everybody");
    assert_eq!(ranges(&json!([" "])), (vec![], 0), "blanks are nothing");
    assert_eq!(
        ranges(&json!(["10.0.0.0/8", " 10.1.1.1/8"])),
        (vec!["10.0.0.0/8".to_owned()], 0)
    );
    assert_eq!(
        ranges(&json!(["10.0.0.0"])),
        (vec!["0.0.0.0/32".to_owned()], 2)
    );
    assert_eq!(
        ranges(&json!(["10.0.0.0/8", "2001:db8::/129"])),
        (vec!["10.0.0.0/8".to_owned(), "::/128".to_owned()], 2)
    );
}

#[test]
fn the_source_range_annotation_counts_where_the_field_is_empty() {
    let name = super::convert::SOURCE_RANGES_ANNOTATION;
    let metadata = json!({"name": "web", "namespace": "shop", "annotations": {
        name: "10.0.0.0/8, 172.16.0.0/12", "edgelb.io/pool": "blue", "prometheus.io/scrape": "true",
    }});
    let from_annotation = service_with(&metadata, &json!({}), &Value::Null)
        .object
        .unwrap();
    assert_eq!(
        texts(&from_annotation.source_ranges),
        ["10.0.0.0/8", "172.16.0.0/12"]
    );
    assert_eq!(
        from_annotation.annotations.keys().collect::<Vec<_>>(),
        ["edgelb.io/pool"],
        "only those that something reads are kept"
    );
    let spec = json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]});
    let from_field = service_with(&metadata, &spec, &Value::Null).object.unwrap();
    assert_eq!(texts(&from_field.source_ranges), ["192.0.2.0/24"]);
}

#[test]
fn what_is_not_forwarded_has_a_reason() {
    let labels = json!({"name": "a", "labels": {"service.kubernetes.io/service-proxy-name": ""}});
    let foreign = service_with(&labels, &json!({}), &Value::Null);
    assert_eq!(
        foreign.object,
        Err(Ignored::ForeignProxy),
        "SEL-1: the key counts, not the value"
    );
    let external = service(&json!({"type": "ExternalName", "clusterIP": "10.96.0.1"}));
    assert_eq!(external.object, Err(Ignored::ExternalName), "SEL-4");
    assert_eq!(
        service(&json!({"clusterIP": "None"})).object,
        Err(Ignored::Headless),
        "SEL-3"
    );
    assert_eq!(
        service(&json!({"clusterIPs": ["None"]})).object,
        Err(Ignored::Headless),
        "SEL-3"
    );
}

#[test]
fn a_wrong_type_names_its_field_and_unknown_fields_are_told() {
    let error = decode(Kind::Service, &json!({"spec": {"ports": [{"port": "80"}]}})).unwrap_err();
    assert_eq!(error.field, "spec.ports[0].port");
    let error = decode(
        Kind::Service,
        &json!({"spec": {"ports": [{"port": 5_000_000_000_u64}]}}),
    );
    assert_eq!(error.unwrap_err().field, "spec.ports[0].port");
    let document = json!({"metadata": {"name": "a"}, "spec": {"port": 80, "ports": [{"port": 80, "nodeport": 1}]}});
    let (_, unknown) = decode(Kind::Service, &document).unwrap();
    assert_eq!(fields(&unknown), ["spec.port", "spec.ports[0].nodeport"]);
}

#[test]
fn what_sharing_families_and_age_need_is_read() {
    let metadata =
        json!({"name": "web", "namespace": "shop", "creationTimestamp": "2026-01-02T03:04:05Z"});
    let spec = json!({
        "clusterIP": "10.96.0.1", "ipFamilyPolicy": "RequireDualStack",
        "selector": {"tier": "front", "app": "web"},
    });
    let read = service_with(&metadata, &spec, &Value::Null).object.unwrap();
    assert_eq!(read.created, Some(1_767_323_045));
    assert_eq!(read.selector, "app=web,tier=front");
    assert_eq!(read.family_policy, Some(FamilyPolicy::RequireDualStack));
}

#[test]
fn of_a_namespace_the_name_and_the_labels_count() {
    let namespace = |metadata: &Value| {
        let document = json!({
            "metadata": metadata, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        });
        match decode(Kind::Namespace, &document).expect("is a Namespace") {
            (Object::Namespace(converted), unknown) => {
                assert_eq!((unknown, &converted.notes), (vec![], &vec![]));
                converted.object.unwrap()
            }
            _ => panic!("is a Namespace"),
        }
    };
    let web = namespace(
        &json!({"name": "web", "labels": {"team": "front", "kubernetes.io/metadata.name": "web"}}),
    );
    let labels: Vec<(&str, &str)> = (web.labels.iter())
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(web.name, "web");
    assert_eq!(
        labels,
        [("kubernetes.io/metadata.name", "web"), ("team", "front")]
    );
    // As the API server does, whatever stands there.
    for labels in [
        Value::Null,
        json!({}),
        json!({"kubernetes.io/metadata.name": "other"}),
    ] {
        let bare = namespace(&json!({"name": "web", "labels": labels}));
        assert_eq!(bare.labels["kubernetes.io/metadata.name"], "web");
        assert_eq!(bare.labels.len(), 1);
    }
}
