//! The fields of a Service, one function for each. Pure; what cannot be used becomes a note.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::address::{parse_port, parse_range, parse_usable_address, shorten};
use super::convert::{Notes, SOURCE_RANGES_ANNOTATION, protocol};
use crate::model::family::{Family, host_prefix};
use crate::model::service::{
    ADDRESS_CONDITION, AddressCondition, FamilyPolicy, IngressAddress, IpMode, ObjectIdentity,
    ServicePort, TrafficPolicy,
};

/// The timeout of `sessionAffinity: ClientIP` that the API server fills in (SP-12).
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;
/// The longest timeout that the API allows (SP-12).
const LONGEST_AFFINITY_SECONDS: i32 = 86_400;

/// A field that is set to something.
pub(super) fn present(text: Option<&str>) -> Option<String> {
    text.map(str::trim)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

/// SEL-3: `None` in either field. An empty one is no `clusterIP` frontend, nothing more: that is how
/// a manifest says it.
pub(super) fn is_headless(spec: &core::ServiceSpec) -> bool {
    let first = spec
        .cluster_ips
        .as_ref()
        .and_then(|addresses| addresses.first());
    spec.cluster_ip.as_deref() == Some("None") || first.map(String::as_str) == Some("None")
}

pub(super) fn families(spec: &core::ServiceSpec, notes: &mut Notes) -> Vec<Family> {
    let mut families = Vec::new();
    for (index, text) in spec.ip_families.iter().flatten().enumerate() {
        let family = match text.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            other => {
                notes.add(
                    format!("spec.ipFamilies[{index}]"),
                    format!("unknown family {:?}: write IPv4 or IPv6", shorten(other)),
                );
                continue;
            }
        };
        if !families.contains(&family) {
            families.push(family);
        }
    }
    families
}

pub(super) fn family_policy(spec: &core::ServiceSpec, notes: &mut Notes) -> Option<FamilyPolicy> {
    match spec.ip_family_policy.as_deref()? {
        "SingleStack" => Some(FamilyPolicy::SingleStack),
        "PreferDualStack" => Some(FamilyPolicy::PreferDualStack),
        "RequireDualStack" => Some(FamilyPolicy::RequireDualStack),
        "" => None,
        other => {
            notes.add(
                "spec.ipFamilyPolicy",
                format!(
                    "unknown policy {:?} is left out: write SingleStack, PreferDualStack or RequireDualStack",
                    shorten(other)
                ),
            );
            None
        }
    }
}

/// The selector as one text, so that two of them can be compared: sorted `key=value` pairs.
pub(super) fn selector(spec: &core::ServiceSpec) -> String {
    let pairs: Vec<String> = spec
        .selector
        .iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// SP-4: one `clusterIP` for each family; those of a family that `ipFamilies` does not name are not
/// this Service's.
pub(super) fn cluster_ips(
    spec: &core::ServiceSpec,
    families: &[Family],
    notes: &mut Notes,
) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let single: Vec<String> = spec.cluster_ip.iter().cloned().collect();
    let (field, texts) = if listed.is_empty() {
        ("spec.clusterIP", single.as_slice())
    } else {
        ("spec.clusterIPs", listed)
    };
    let mut chosen: Vec<IpAddr> = Vec::new();
    for (index, address) in notes.addresses(field, texts) {
        let family = Family::of(address);
        let problem = if !families.is_empty() && !families.contains(&family) {
            format!("{address} is left out: spec.ipFamilies does not name {family}")
        } else if chosen.iter().any(|known| Family::of(*known) == family) {
            format!("{address} is left out: a Service has one {family} ClusterIP")
        } else {
            chosen.push(address);
            continue;
        };
        notes.add(format!("{field}[{index}]"), problem);
    }
    // The single field has no index in its path.
    for note in &mut notes.0 {
        if note.field == "spec.clusterIP[0]" {
            "spec.clusterIP".clone_into(&mut note.field);
        }
    }
    chosen
}

/// SP-1: a port is known by name and protocol; its number and protocol are the frontend.
pub(super) fn ports(listed: &[core::ServicePort], notes: &mut Notes) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let mut node_ports = BTreeSet::new();
    for (index, entry) in listed.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        let Some(protocol) = protocol(field("protocol"), entry.protocol.as_deref(), notes) else {
            continue;
        };
        let Some(port) = parse_port(entry.port) else {
            notes.add(
                field("port"),
                format!(
                    "{} is not a port from 1 to 65535; this port is left out",
                    entry.port
                ),
            );
            continue;
        };
        let name = entry.name.clone().unwrap_or_default();
        if names.contains(&(protocol, name.clone())) {
            notes.add(
                field("name"),
                format!(
                    "another {protocol} port is named {:?} too; this one is left out: give each port its own name",
                    shorten(&name)
                ),
            );
            continue;
        }
        if !numbers.insert((protocol, port)) {
            notes.add(
                field("port"),
                format!("{port}/{protocol} is there twice; this one is left out"),
            );
            continue;
        }
        let mut node_port = node_port(&field("nodePort"), entry.node_port, notes);
        if let Some(number) = node_port
            && !node_ports.insert((protocol, number))
        {
            notes.add(
                field("nodePort"),
                format!("{number}/{protocol} is there twice; this one is left out"),
            );
            node_port = None;
        }
        names.insert((protocol, name.clone()));
        ports.push(ServicePort {
            name,
            protocol,
            port,
            node_port,
        });
    }
    ports
}

/// NP-13: 0 means that there is none.
pub(super) fn node_port(field: &str, number: Option<i32>, notes: &mut Notes) -> Option<u16> {
    let number = number.filter(|number| *number != 0)?;
    let port = parse_port(number);
    if port.is_none() {
        notes.add(
            field,
            format!("{number} is not a port from 1 to 65535; it is left out"),
        );
    }
    port
}

pub(super) fn policy(field: &str, text: Option<&str>, notes: &mut Notes) -> TrafficPolicy {
    match text {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            notes.add(
                field,
                format!(
                    "unknown policy {:?} is read as Cluster: write Cluster or Local",
                    shorten(other)
                ),
            );
            TrafficPolicy::Cluster
        }
    }
}

/// SP-12.
pub(super) fn session_affinity(spec: &core::ServiceSpec, notes: &mut Notes) -> Option<Duration> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            notes.add(
                "spec.sessionAffinity",
                format!(
                    "unknown affinity {:?} is read as None: write None or ClientIP",
                    shorten(other)
                ),
            );
            return None;
        }
    }
    let seconds = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client| client.timeout_seconds)
        .unwrap_or(DEFAULT_AFFINITY_SECONDS);
    let seconds = if (1..=LONGEST_AFFINITY_SECONDS).contains(&seconds) {
        seconds
    } else {
        notes.add(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!(
                "{seconds} is not between 1 and {LONGEST_AFFINITY_SECONDS}; {DEFAULT_AFFINITY_SECONDS} is used"
            ),
        );
        DEFAULT_AFFINITY_SECONDS
    };
    Some(Duration::from_secs(u64::from(seconds.unsigned_abs())))
}

/// SEL-11 and SR-2. An empty list means that everybody may connect; so where the ranges of
/// a family cannot be read, one is returned that holds nobody: a typing error must not open a VIP.
pub(super) fn source_ranges(
    spec: &core::ServiceSpec,
    annotations: &BTreeMap<String, String>,
    notes: &mut Notes,
) -> Vec<IpNet> {
    let listed = spec
        .load_balancer_source_ranges
        .as_deref()
        .unwrap_or_default();
    let from_annotation: Vec<String>;
    let annotation_field = format!("metadata.annotations[{SOURCE_RANGES_ANNOTATION}]");
    let (field, texts): (&str, &[String]) = if listed.is_empty() {
        from_annotation = annotations
            .get(SOURCE_RANGES_ANNOTATION)
            .map(|text| text.split(',').map(str::to_owned).collect())
            .unwrap_or_default();
        (&annotation_field, &from_annotation)
    } else {
        ("spec.loadBalancerSourceRanges", listed)
    };
    let mut ranges = ranges_of(field, texts, notes);
    for family in Family::BOTH {
        let unreadable = |text: &String| {
            !text.trim().is_empty()
                && text.contains(':') == (family == Family::V6)
                && parse_range(text).is_err()
        };
        let left = ranges
            .iter()
            .any(|range| Family::of(range.addr()) == family);
        if !left && texts.iter().any(unreadable) {
            notes.add(
                field,
                format!("no {family} range is left, so nobody is let in over {family}"),
            );
            ranges.push(host_prefix(family.unspecified()));
        }
    }
    ranges
}

/// Ranges, without those that are there twice.
pub(super) fn ranges_of(field: &str, texts: &[String], notes: &mut Notes) -> Vec<IpNet> {
    let mut ranges = Vec::new();
    let mut known = BTreeSet::new();
    for (index, text) in texts.iter().enumerate() {
        if text.trim().is_empty() {
            continue;
        }
        match parse_range(text) {
            Ok(range) if known.insert(range) => ranges.push(range),
            Ok(_) => {}
            Err(error) => notes.add(format!("{field}[{index}]"), error),
        }
    }
    ranges
}

/// SP-11: entries with a host name alone are ignored.
pub(super) fn ingress(
    status: Option<&core::ServiceStatus>,
    notes: &mut Notes,
) -> Vec<IngressAddress> {
    let entries = ingress_entries(status);
    let mut addresses: Vec<IngressAddress> = Vec::new();
    let mut known = BTreeSet::new();
    for (index, entry) in entries.iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{index}]");
        let Some(text) = present(entry.ip.as_deref()) else {
            continue;
        };
        let mode = match entry.ip_mode.as_deref() {
            None | Some("" | "VIP") => IpMode::Vip,
            Some("Proxy") => IpMode::Proxy,
            Some(other) => {
                notes.add(
                    format!("{field}.ipMode"),
                    format!(
                        "unknown mode {:?}: write VIP or Proxy; the address is left out",
                        shorten(other)
                    ),
                );
                continue;
            }
        };
        match parse_usable_address(&text) {
            Ok(address) if known.insert(address) => {
                addresses.push(IngressAddress { address, mode });
            }
            Ok(_) => {}
            Err(error) => notes.add(format!("{field}.ip"), error),
        }
    }
    addresses
}

fn ingress_entries(status: Option<&core::ServiceStatus>) -> &[core::LoadBalancerIngress] {
    status
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|balancer| balancer.ingress.as_deref())
        .unwrap_or_default()
}

/// Whether there are entries that [`ingress`] leaves out.
pub(super) fn other_ingress(status: Option<&core::ServiceStatus>) -> bool {
    let carried = |entry: &core::LoadBalancerIngress| {
        let address = present(entry.ip.as_deref());
        let known_mode = matches!(entry.ip_mode.as_deref(), None | Some("" | "VIP" | "Proxy"));
        known_mode && address.is_some_and(|text| parse_usable_address(&text).is_ok())
    };
    !ingress_entries(status).iter().all(carried)
}

/// Uid and resource version, which come and go together.
pub(super) fn identity(metadata: &ObjectMeta) -> Option<ObjectIdentity> {
    Some(ObjectIdentity {
        uid: present(metadata.uid.as_deref())?,
        version: present(metadata.resource_version.as_deref())?,
    })
}

/// Our own condition, if it stands there.
pub(super) fn condition(status: Option<&core::ServiceStatus>) -> Option<AddressCondition> {
    let mut conditions = status?.conditions.iter().flatten();
    let ours = conditions.find(|condition| condition.type_ == ADDRESS_CONDITION)?;
    Some(AddressCondition {
        allocated: ours.status == "True",
        reason: ours.reason.clone(),
        message: ours.message.clone(),
    })
}
