//! Who may open connections to a VIP: SR-1 to SR-4, SR-8.

use super::forwarding::{CLUSTER_IP, everywhere_as, lan, planned};
use super::{node_port, reasons, tcp};
use crate::model::family::Family;
use crate::model::frontend::FrontendPort;
use crate::model::service::ServiceType;
use crate::plan::Plan;
use crate::plan::reason::Reason;

/// What may open connections to a frontend; empty: any source.
fn allowed(plan: &Plan, port: &FrontendPort) -> String {
    let frontend = &plan.state.frontends[port];
    let ranges = frontend
        .allowed_sources
        .iter()
        .flat_map(|ranges| ranges.iter());
    let ranges: Vec<String> = ranges.map(ToString::to_string).collect();
    ranges.join(" ")
}

/// SR-1, SR-2, SR-4, SR-8, NP-10: (ranges, what the VIP allows, what is told).
#[test]
fn source_ranges_hold_on_vips_alone() {
    for (ranges, expected, told) in [
        ("198.51.100.0/24", "198.51.100.0/24", false),
        ("198.51.100.7/24 198.51.100.0/25", "198.51.100.0/24", false),
        (
            "198.51.100.0/25 198.51.100.128/25",
            "198.51.100.0/24",
            false,
        ),
        // This node's own address is in it: so is the VIP, which a process here may bind.
        ("192.0.2.8/29", "192.0.2.8/29 192.0.2.200/32", false),
        ("0.0.0.0/0 198.51.100.0/24", "", false),
        ("0.0.0.0/1 128.0.0.0/1", "0.0.0.0/0", false),
        ("2001:db8:1::/64", "", true),
        ("", "", false),
    ] {
        let mut service = everywhere_as(ServiceType::LoadBalancer);
        let parsed = ranges
            .split_whitespace()
            .map(|range| range.parse().unwrap());
        service.source_ranges = parsed.collect();
        let plan = planned(&lan(), service, "10.244.1.2");
        assert_eq!(
            allowed(&plan, &tcp("192.0.2.200", 80)),
            expected,
            "{ranges}"
        );
        for port in [
            tcp(CLUSTER_IP, 80),
            tcp("203.0.113.5", 80),
            node_port(Family::V4, 30080),
        ] {
            assert_eq!(allowed(&plan, &port), "", "{ranges}: {port}");
        }
        let open = [Reason::SourceRangesOpen { family: Family::V4 }];
        assert_eq!(reasons(&plan, "web"), if told { &open[..] } else { &[] });
    }
}
