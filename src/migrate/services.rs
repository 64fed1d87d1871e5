//! What the Services themselves ask for: most of it is understood as it stands.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::draft::Draft;
use super::objects::{Object, at};
use super::{Origin, Weight, note};

/// The class that edgelb answers to by default.
const OWN_CLASS: &str = "edgelb.io/edgelb";
/// The class of kube-vip where none is named.
pub(super) const KUBE_VIP_CLASS: &str = "kube-vip.io/kube-vip-class";

/// Annotations that edgelb takes for its own.
const UNDERSTOOD: [&str; 8] = [
    "metallb.io/loadBalancerIPs",
    "metallb.io/address-pool",
    "metallb.io/allow-shared-ip",
    "metallb.io/ip-allocated-from-pool",
    "metallb.universe.tf/loadBalancerIPs",
    "metallb.universe.tf/address-pool",
    "metallb.universe.tf/allow-shared-ip",
    "metallb.universe.tf/ip-allocated-from-pool",
];

/// Annotations of kube-vip: what they asked for, or nothing where they are only its notes.
const KUBE_VIP: [(&str, &str); 27] = [
    ("loadbalancerIPs", ""),
    ("hwaddr", ""),
    ("requestedIP", ""),
    ("vipHost", ""),
    ("active-endpoint", ""),
    ("active-endpoint-ipv6", ""),
    ("egress-nftables-table", ""),
    ("leaseName", ""),
    ("forcePerServiceElection", ""),
    ("allow-reconcile-without-endpoints", ""),
    (
        "ignore-service-security",
        "undeclared ports of a VIP are always refused",
    ),
    (
        "ignore",
        "give the Service a loadBalancerClass that edgelb does not answer to",
    ),
    (
        "serviceInterface",
        "give it a pool of its own whose interfaces say so",
    ),
    (
        "serviceVLAN",
        "make the VLAN interface, and a pool whose interfaces name it",
    ),
    (
        "loadbalancerHostname",
        "addresses come from pools, not from DHCP",
    ),
    ("macvlanName", "addresses come from pools, not from DHCP"),
    ("dhcp-broadcast", "addresses come from pools, not from DHCP"),
    ("ddns", "names are the business of external-dns"),
    ("forwardUPNP", "there is no UPnP"),
    ("upnp-lease-duration", "there is no UPnP"),
    (
        "rp_filter",
        "edgelb sets rp_filter itself where it must; see edgelb doctor",
    ),
    (
        "flush-conntrack",
        "stale entries are removed with their endpoints",
    ),
    ("egress", "there is no egress by a VIP"),
    ("egress-internal", "there is no egress by a VIP"),
    ("egress-ipv6", "there is no egress by a VIP"),
    ("egress-destination-ports", "there is no egress by a VIP"),
    ("egress-source-ports", "there is no egress by a VIP"),
];

/// Looks at the Services of type `LoadBalancer`.
pub(super) fn read(objects: &[Object], origin: Origin, draft: &mut Draft) {
    let balanced = |object: &&Object| {
        object.kind == "Service" && object.text("spec/type") == Some("LoadBalancer")
    };
    let services: Vec<&Object> = objects.iter().filter(balanced).collect();
    classes(&services, draft);
    for service in services {
        annotations(service, origin, draft);
        addresses(service, draft);
    }
}

/// Whether whoever is moved away from answers to this class: `MetalLB` to what its `--lb-class` says, for
/// which its documentation has names of its own, kube-vip to its own. Another one is somebody else's.
fn is_of_an_origin(class: &str) -> bool {
    class == "metallb" || class.starts_with("metallb.") || class.starts_with("kube-vip.io/")
}

/// Services that name a class must be answered to: there is room for one.
fn classes(services: &[&Object], draft: &mut Draft) {
    let mut named: BTreeMap<&str, Vec<&Object>> = BTreeMap::new();
    for service in services {
        if let Some(class) = service.text("spec/loadBalancerClass") {
            named.entry(class).or_default().push(service);
        }
    }
    let mut found: BTreeSet<&str> = named.keys().copied().collect();
    let chosen = draft.class.clone().unwrap_or_else(|| {
        let mut known = found.iter().filter(|class| is_of_an_origin(class));
        let only = known.next().filter(|_| known.next().is_none());
        only.map_or(OWN_CLASS, |class| *class).to_owned()
    });
    if chosen != OWN_CLASS {
        draft.class = Some(chosen.clone());
    }
    found.remove(chosen.as_str());
    for class in found {
        for service in named.get(class).into_iter().flatten() {
            let text = if is_of_an_origin(class) || class == OWN_CLASS {
                format!(
                    "its loadBalancerClass is {class}, and edgelb would answer to {chosen}; the field cannot be changed, so it must be made anew without it"
                )
            } else {
                format!(
                    "its loadBalancerClass is {class}, which is left to whoever answers to it; if that was the one to be replaced (--lb-class of MetalLB, lbClassName of kube-vip), set load_balancer.class = {class:?}"
                )
            };
            draft.notes.insert(note(service, Weight::Lost, text));
        }
    }
}

fn annotations(service: &Object, origin: Origin, draft: &mut Draft) {
    let annotations = service.at("metadata/annotations").as_object();
    for (name, value) in annotations.into_iter().flatten() {
        let text = if UNDERSTOOD.contains(&name.as_str()) {
            pool_exists(name, value.as_str().unwrap_or_default(), draft)
        } else if name.starts_with("metallb.") && origin == Origin::MetalLb {
            Some(format!("the annotation {name} has no equivalent"))
        } else if let Some(short) = name.strip_prefix("kube-vip.io/") {
            let known = KUBE_VIP.iter().find(|(annotation, _)| *annotation == short);
            let remedy = known.map_or("nothing like it is there", |(_, remedy)| remedy);
            (!remedy.is_empty())
                .then(|| format!("the annotation {name} has no equivalent: {remedy}"))
        } else {
            None
        };
        if let Some(text) = text {
            draft.notes.insert(note(service, Weight::Lost, text));
        }
    }
}

fn pool_exists(name: &str, value: &str, draft: &Draft) -> Option<String> {
    let missing =
        name.ends_with("/address-pool") && draft.pools.iter().all(|pool| pool.name != value);
    missing.then(|| format!("it asks for the pool {value:?}, which is not in these files"))
}

/// Addresses that it has now and would not keep.
fn addresses(service: &Object, draft: &mut Draft) {
    let ingress = service.at("status/loadBalancer/ingress").as_array();
    for entry in ingress.map(Vec::as_slice).unwrap_or_default() {
        let Some(address) = at(entry, "ip")
            .as_str()
            .and_then(|ip| ip.parse::<IpAddr>().ok())
        else {
            continue;
        };
        let text = if draft.pools.iter().any(|pool| pool.contains(address)) {
            continue;
        } else {
            format!(
                "it has the address {address}, which is in no pool: edgelb would leave it to whoever gave it"
            )
        };
        draft.notes.insert(note(service, Weight::Lost, text));
    }
}
