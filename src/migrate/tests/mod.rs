//! Objects as kubectl writes them, and the files that they become.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod coexistence;

use super::*;
use crate::model::pool::Pool;
use crate::model::selector::LabelSelector;

fn of(origin: Origin, text: &str) -> Migration {
    let inputs = [Input {
        name: "export.yaml".to_owned(),
        bytes: text.as_bytes().to_vec(),
    }];
    migrate(origin, &inputs).unwrap()
}

/// The pools of the file, read as the daemon would; it must be valid.
fn pools(migration: &Migration) -> Vec<Pool> {
    let environment = Environment {
        host_name: "node-1".to_owned(),
        interfaces: None,
    };
    match config::parse(&migration.toml, &environment) {
        Ok(loaded) => loaded.config.pools,
        Err(problems) => panic!("{problems:#?}\n{}", migration.toml),
    }
}

fn lost(migration: &Migration) -> Vec<String> {
    let those = migration
        .notes
        .iter()
        .filter(|note| note.weight == Weight::Lost);
    those
        .map(|note| format!("{}: {}", note.object, note.text))
        .collect()
}

fn selector(text: &str) -> LabelSelector {
    text.parse().unwrap()
}

const METALLB: &str = r#"
apiVersion: v1
kind: List
items:
- apiVersion: metallb.io/v1beta1
  kind: IPAddressPool
  metadata: {name: main, namespace: metallb-system, labels: {zone: a}}
  spec:
    addresses: ["192.0.2.0/25", "192.0.2.200 - 192.0.2.220", "2001:db8:0:1::/112"]
    avoidBuggyIPs: true
- apiVersion: metallb.io/v1beta1
  kind: IPAddressPool
  metadata: {name: shop, namespace: metallb-system}
  spec:
    addresses: [198.51.100.9/28]
    autoAssign: false
    serviceAllocation:
      priority: 20
      namespaces: [shop]
      namespaceSelectors:
      - matchLabels: {team: shop}
      serviceSelectors:
      - matchExpressions:
        - {key: app, operator: In, values: [web, api]}
      - matchExpressions:
        - {key: public, operator: Exists}
        - {key: test, operator: DoesNotExist}
- apiVersion: metallb.io/v1beta1
  kind: L2Advertisement
  metadata: {name: main, namespace: metallb-system}
  spec:
    ipAddressPoolSelectors:
    - matchLabels: {zone: a}
    interfaces: [eth1, bond0.10]
    nodeSelectors:
    - matchLabels: {edge: "true"}
- apiVersion: metallb.io/v1beta1
  kind: L2Advertisement
  metadata: {name: shop, namespace: metallb-system}
  spec:
    ipAddressPools: [shop]
    nodeSelectors:
    - matchLabels: {edge: "true"}
"#;

#[test]
fn metallb_pools_and_advertisements() {
    let migration = of(Origin::MetalLb, METALLB);
    assert_eq!(migration.notes, []);
    let pools = pools(&migration);
    let [main, shop] = &pools[..] else {
        panic!("{pools:#?}")
    };
    assert_eq!(main.name, "main");
    let ranges: Vec<String> = main.ranges.iter().map(ToString::to_string).collect();
    assert_eq!(
        ranges,
        [
            "192.0.2.0/25",
            "192.0.2.200-192.0.2.220",
            "2001:db8:0:1::/112"
        ]
    );
    assert!(main.avoid_buggy_ips && main.auto_assign);
    // Without a priority it is tried after all that have one.
    assert!(main.priority > shop.priority);
    let interfaces: Vec<String> = main.interfaces.iter().map(ToString::to_string).collect();
    assert_eq!(interfaces, ["bond0.10", "eth1"]);
    assert_eq!(shop.ranges[0].to_string(), "198.51.100.0/28");
    assert!(!shop.auto_assign);
    assert_eq!(shop.namespaces, ["shop"]);
    assert_eq!(shop.namespace_selector, [selector("team=shop")]);
    let selectors = [selector("app in (api,web)"), selector("public,!test")];
    assert_eq!(shop.service_selector, selectors);
    assert!(shop.interfaces.is_empty());
    assert!(
        migration.toml.contains("node_selector = [\"edge=true\"]"),
        "{}",
        migration.toml
    );
}

#[test]
fn what_metallb_has_and_edgelb_has_not_is_named() {
    let cases: [(&str, &str); 8] = [
        (
            "kind: BGPPeer\nmetadata: {name: router}",
            "BGP is not spoken",
        ),
        (
            "kind: IPAddressPool\nmetadata: {name: a}\nspec: {addresses: [192.0.2.0/30, nonsense]}",
            "\"nonsense\" is left out",
        ),
        (
            "kind: L2Advertisement\nmetadata: {name: a}\nspec: {ipAddressPools: [gone]}",
            "it names the pool \"gone\"",
        ),
        (
            "kind: Service\nmetadata: {name: web, annotations: {metallb.io/address-pool: gone}}\nspec: {type: LoadBalancer}",
            "it asks for the pool \"gone\"",
        ),
        (
            "kind: Service\nmetadata: {name: web}\nspec: {type: LoadBalancer}\nstatus: {loadBalancer: {ingress: [{ip: 203.0.113.7}]}}",
            "203.0.113.7, which is in no pool",
        ),
        (
            "kind: Service\nmetadata: {name: a}\nspec: {type: LoadBalancer, loadBalancerClass: x.io/a}\n---\nkind: Service\nmetadata: {name: b}\nspec: {type: LoadBalancer, loadBalancerClass: x.io/b}",
            "its loadBalancerClass is x.io/b",
        ),
        (
            "kind: IPAddressPool\nmetadata: {name: a}\nspec: {addresses: [192.0.2.0/30], serviceAllocation: {serviceSelectors: [{matchExpressions: [{key: a, operator: Near}]}]}}",
            "there is no operator \"Near\"",
        ),
        (
            "kind: IPAddressPool\nmetadata: {name: a}\nspec: {addresses: [192.0.2.0/30]}\n---\nkind: BGPAdvertisement\nmetadata: {name: a}",
            "announced by BGP alone",
        ),
    ];
    for (text, expected) in cases {
        let migration = of(Origin::MetalLb, text);
        let lost = lost(&migration);
        assert!(
            lost.iter().any(|line| line.contains(expected)),
            "{expected}: {lost:#?}"
        );
        assert!(
            migration.toml.contains(expected),
            "a comment says so: {}",
            migration.toml
        );
    }
}

#[test]
fn a_pool_that_nobody_announced_is_given_to_nobody() {
    let text = "kind: IPAddressPool\nmetadata: {name: a}\nspec: {addresses: [192.0.2.0/30]}\n---\nkind: BGPAdvertisement\nmetadata: {name: a}";
    assert!(!pools(&of(Origin::MetalLb, text))[0].auto_assign);
    let alone = "kind: IPAddressPool\nmetadata: {name: a}\nspec: {addresses: [192.0.2.0/30]}";
    let migration = of(Origin::MetalLb, alone);
    assert!(
        pools(&migration)[0].auto_assign,
        "advertisements may be in another file"
    );
}

#[test]
fn the_class_of_the_services_is_answered_to() {
    let text = "kind: Service\nmetadata: {name: a}\nspec: {type: LoadBalancer, loadBalancerClass: metallb.io/x}";
    let migration = of(Origin::MetalLb, text);
    assert!(
        migration.toml.contains("class = \"metallb.io/x\""),
        "{}",
        migration.toml
    );
    assert_eq!(lost(&migration), [""; 0]);
}

#[test]
fn the_config_map_of_old_metallb() {
    let text = r"
kind: ConfigMap
metadata: {name: config, namespace: metallb-system}
data:
  config: |
    address-pools:
    - name: default
      protocol: layer2
      addresses: [192.0.2.10-192.0.2.20]
      auto-assign: false
    - name: far
      protocol: bgp
      addresses: [198.51.100.0/29]
    peers:
    - peer-address: 10.0.0.1
";
    let migration = of(Origin::MetalLb, text);
    let pools = pools(&migration);
    assert_eq!(pools.len(), 2);
    assert!(!pools[0].auto_assign);
    let lost = lost(&migration);
    assert!(
        lost.iter().any(|line| line.contains("\"far\" is for BGP")),
        "{lost:#?}"
    );
    assert!(
        lost.iter().any(|line| line.contains("peers: BGP")),
        "{lost:#?}"
    );
}

#[test]
fn overlapping_ranges_are_told_as_check_tells_them() {
    let text = "kind: IPAddressPool\nmetadata: {name: a}\nspec: {addresses: [192.0.2.0/30]}\n---\nkind: IPAddressPool\nmetadata: {name: b}\nspec: {addresses: [192.0.2.0/29]}";
    let migration = of(Origin::MetalLb, text);
    assert!(
        lost(&migration)
            .iter()
            .any(|line| line.contains("pool \"a\"")),
        "{:#?}",
        migration.notes
    );
}

const KUBE_VIP: &str = r#"
kind: ConfigMap
metadata: {name: coredns, namespace: kube-system}
data: {Corefile: "."}
---
kind: ConfigMap
metadata: {name: kubevip, namespace: kube-system}
data:
  cidr-global: 192.0.2.220/29,2001:db8::/120
  range-shop: 198.51.100.10-198.51.100.20
  range-office: "0.0.0.0/32"
  allow-share-shop: "true"
  interface-shop: eth2
  search-order: desc
---
kind: DaemonSet
metadata: {name: kube-vip-ds, namespace: kube-system}
spec:
  template:
    spec:
      containers:
      - name: kube-vip
        env:
        - {name: vip_arp, value: "true"}
        - {name: vip_interface, value: eth0}
        - {name: vip_servicesinterface, value: eth1}
        - {name: svc_enable, value: "true"}
        - {name: cp_enable, value: "true"}
        - {name: bgp_enable, value: "false"}
        - {name: lb_class_only, value: "true"}
---
kind: Service
metadata:
  name: web
  namespace: shop
  annotations: {kube-vip.io/loadbalancerIPs: 198.51.100.10, kube-vip.io/egress: "true", kube-vip.io/vipHost: n1}
spec: {type: LoadBalancer, loadBalancerClass: kube-vip.io/kube-vip-class}
status: {loadBalancer: {ingress: [{ip: 198.51.100.10}]}}
"#;

#[test]
fn kube_vip_pools_interface_and_class() {
    let migration = of(Origin::KubeVip, KUBE_VIP);
    let pools = pools(&migration);
    let [global, shop] = &pools[..] else {
        panic!("{pools:#?}")
    };
    let ranges: Vec<String> = global.ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["192.0.2.216/29", "2001:db8::/120"]);
    assert_eq!(global.interfaces[0].to_string(), "eth1");
    assert_eq!(
        (&shop.namespaces[..], shop.interfaces[0].to_string()),
        (&["shop".to_owned()][..], "eth2".to_owned())
    );
    for line in ["class = \"kube-vip.io/kube-vip-class\"", "default = false"] {
        assert!(migration.toml.contains(line), "{}", migration.toml);
    }
    let lost = lost(&migration);
    for expected in [
        "0.0.0.0/32: addresses come from pools, not from DHCP",
        "\"office\" has no usable address",
        "allow-share-shop",
        "search-order",
        "cp_enable: the address of the API server",
        "kube-vip.io/egress has no equivalent",
    ] {
        assert!(
            lost.iter().any(|line| line.contains(expected)),
            "{expected}: {lost:#?}"
        );
    }
    assert_eq!(lost.len(), 6, "{lost:#?}");
}

#[test]
fn what_is_no_export_is_refused_with_its_line() {
    for (text, line) in [
        ("kind: A\n---\nb: [", 3),
        ("kind: A\n---\nname: x", 3),
        ("\u{0}", 1),
        ("just text", 1),
    ] {
        let inputs = [Input {
            name: "export.yaml".to_owned(),
            bytes: text.as_bytes().to_vec(),
        }];
        let error = migrate(Origin::MetalLb, &inputs).unwrap_err();
        assert_eq!(
            (error.file.as_str(), error.line),
            ("export.yaml", line),
            "{text:?}: {error}"
        );
    }
}

#[test]
fn nothing_of_an_object_reaches_a_terminal_or_ends_a_comment() {
    let text = "kind: BGPPeer\nmetadata: {name: \"a\\e[31m\\nclass = 1\"}";
    let migration = of(Origin::MetalLb, text);
    assert!(!migration.toml.contains(['\u{1b}']));
    assert!(
        migration
            .toml
            .lines()
            .all(|line| line.starts_with('#') || line.is_empty()),
        "{}",
        migration.toml
    );
}

proptest::proptest! {
    /// Whatever the fields hold, there is a file, or an error; and the file is TOML.
    #[test]
    fn any_field_values(address in ".{0,20}", name in ".{0,12}", value in "[a-z0-9=,()! ]{0,12}") {
        let object = serde_json::json!({
            "kind": "IPAddressPool",
            "metadata": {"name": name},
            "spec": {"addresses": [address, "192.0.2.0/30"],
                "serviceAllocation": {"serviceSelectors": [{"matchLabels": {value.clone(): value}}]}},
        });
        let inputs = [Input { name: "a.json".to_owned(), bytes: serde_json::to_vec(&object).unwrap() }];
        let migration = migrate(Origin::MetalLb, &inputs).unwrap();
        migration.toml.parse::<toml::Table>().unwrap();
    }
}
