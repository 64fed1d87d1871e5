//! An export that holds what others serve too, and pools of old and new kinds beside one another.

use super::*;

/// A class of a third implementation is not taken away from it; what is left is said.
#[test]
fn the_class_of_somebody_else_is_left_to_him() {
    let service = |name: &str, class: &str| {
        format!(
            "---\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: LoadBalancer, loadBalancerClass: {class}}}\n"
        )
    };
    for origin in [Origin::MetalLb, Origin::KubeVip] {
        let migration = of(origin, &service("a", "io.cilium/l2-announcer"));
        assert!(!migration.toml.contains("\nclass"), "{}", migration.toml);
        let lost = lost(&migration);
        assert!(
            lost.iter()
                .any(|line| line.contains("io.cilium/l2-announcer, which is left")),
            "{lost:#?}"
        );
    }
    // Beside one that is moved away from, that one is answered to.
    let both = service("a", "service.k8s.aws/nlb") + &service("b", "metallb.universe.tf/metallb");
    let migration = of(Origin::MetalLb, &both);
    let class = "class = \"metallb.universe.tf/metallb\"";
    assert!(migration.toml.contains(class), "{}", migration.toml);
    assert_eq!(lost(&migration).len(), 1);
    let migration = of(Origin::KubeVip, &service("a", "kube-vip.io/kube-vip-class"));
    assert!(
        migration.toml.contains("class = \"kube-vip.io/"),
        "{}",
        migration.toml
    );
    // "metallb" alone may be told from what only begins so.
    let migration = of(Origin::MetalLb, &service("a", "metallbish.example/x"));
    assert!(!migration.toml.contains("\nclass"), "{}", migration.toml);
}

/// A pool of the old kinds says by its protocol how it is announced, whatever advertisements there are
/// for others; and no advertisement for all pools is about it.
#[test]
fn a_pool_of_the_old_kinds_announces_itself_beside_advertisements() {
    let text = r"
kind: ConfigMap
metadata: {name: config, namespace: metallb-system}
data:
  config: |
    address-pools:
    - name: old
      protocol: layer2
      addresses: [192.0.2.10-192.0.2.20]
    - name: far
      protocol: bgp
      addresses: [198.51.100.0/29]
---
kind: AddressPool
metadata: {name: older}
spec: {protocol: layer2, addresses: [192.0.2.32/29]}
---
kind: IPAddressPool
metadata: {name: new}
spec: {addresses: [192.0.2.64/28]}
---
kind: IPAddressPool
metadata: {name: silent, labels: {zone: b}}
spec: {addresses: [192.0.2.80/28]}
---
kind: L2Advertisement
metadata: {name: all}
spec: {ipAddressPools: [new], interfaces: [eth1]}
";
    let migration = of(Origin::MetalLb, text);
    let pools = pools(&migration);
    let pool = |name: &str| pools.iter().find(|pool| pool.name == name).unwrap();
    assert!(pool("old").auto_assign && pool("older").auto_assign && pool("new").auto_assign);
    assert!(!pool("silent").auto_assign);
    assert_eq!(pool("new").interfaces.len(), 1);
    let lost = lost(&migration);
    assert_eq!(lost.len(), 2, "{lost:#?}");
    assert!(
        lost.iter().any(|line| line.contains("\"far\" is for BGP")),
        "{lost:#?}"
    );
    assert!(
        lost.iter()
            .any(|line| line.contains("IPAddressPool silent") && line.contains("by nobody")),
        "{lost:#?}"
    );

    let all = text.replace("ipAddressPools: [new], ", "");
    let pools = self::pools(&of(Origin::MetalLb, &all));
    let interfaces = |name: &str| {
        let pool = pools.iter().find(|pool| pool.name == name).unwrap();
        pool.interfaces.len()
    };
    assert_eq!(
        ["old", "older", "new", "silent"].map(interfaces),
        [0, 0, 1, 1]
    );
}
