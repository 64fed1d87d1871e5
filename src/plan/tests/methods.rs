//! Forwarding methods: who may ask for one, and where it counts (contract: service annotations).

use super::forwarding::{CLUSTER_IP, everywhere_as, lan};
use super::{annotated, inputs, ip, labels_of, node_port, slice, tcp};
use crate::model::family::Family;
use crate::model::frontend::{ForwardingMethod, SourceClass};
use crate::model::service::ServiceType;

#[test]
fn a_method_counts_where_the_pool_allows_it_and_no_port_changes() {
    use ForwardingMethod::{DirectRouting, Masquerade, Tunnel};
    for (asked, allowed, port, masquerades_only, expected, told) in [
        (
            "direct-routing",
            vec![DirectRouting],
            8080,
            false,
            DirectRouting,
            "",
        ),
        (
            " tunnel ",
            vec![DirectRouting, Tunnel],
            8080,
            false,
            Tunnel,
            "",
        ),
        ("masquerade", vec![], 8080, true, Masquerade, ""),
        (
            "tunnel",
            vec![DirectRouting],
            8080,
            false,
            Masquerade,
            "forwarding_method_not_allowed",
        ),
        (
            "tunnel",
            vec![Tunnel],
            80,
            false,
            Masquerade,
            "forwarding_method_port",
        ),
        (
            "tunnel",
            vec![Tunnel],
            8080,
            true,
            Masquerade,
            "forwarding_method_missing",
        ),
        (
            "pigeon",
            vec![Tunnel],
            8080,
            false,
            Masquerade,
            "forwarding_method_unknown",
        ),
    ] {
        let mut config = lan();
        config.pools[0].forwarding_methods = allowed;
        let mut inputs = inputs();
        inputs.masquerades_only = masquerades_only;
        let mut service = everywhere_as(ServiceType::LoadBalancer);
        service.ports[0].port = port;
        inputs.put(annotated(
            service,
            &[("edgelb.io/forwarding-method", asked)],
        ));
        inputs.put(slice("web", "web-1", "10.244.1.2@edge-a 10.244.2.2@edge-b"));
        let plan = inputs.planned(&config);
        let at = |port| &plan.state.frontends[&port];
        let vip = at(tcp("192.0.2.200", port));
        assert_eq!(vip.forwarding_method, expected, "{asked}");
        let group = &plan.groups[&ip("192.0.2.200")];
        let directly = group.answered_directly.contains(&ip("192.0.2.200"));
        assert_eq!(directly, expected != Masquerade, "{asked}");
        // The endpoint answers the client itself: it must see its address.
        let masquerade = vip.treatment(SourceClass::Outside).masquerade;
        assert_eq!(masquerade, expected == Masquerade, "{asked}");
        for others in [
            tcp(CLUSTER_IP, port),
            tcp("203.0.113.5", port),
            node_port(Family::V4, 30080),
        ] {
            assert_eq!(
                at(others).forwarding_method,
                Masquerade,
                "{asked}: {others}"
            );
        }
        assert_eq!(labels_of(&plan, "web"), told, "{asked}");
    }
}
