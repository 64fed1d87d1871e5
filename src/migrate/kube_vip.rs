//! kube-vip: pools from the `ConfigMap` of its cloud provider, interface and class from the environment
//! of its pods.
//!
//! Keys: <https://github.com/kube-vip/kube-vip-cloud-provider>; environment: <https://kube-vip.io/docs/installation/flags/>.

use std::collections::{BTreeMap, BTreeSet};

use super::draft::{Draft, interfaces, range};
use super::objects::{Object, at};
use super::services::KUBE_VIP_CLASS;
use super::{Weight, note};
use crate::model::pool::Pool;

/// The scope that every namespace without one of its own falls back to.
const GLOBAL: &str = "global";
/// The name that its cloud provider looks for.
const CONFIG_MAP: &str = "kubevip";
/// What its cloud provider takes for "ask a DHCP server".
const DHCP: &str = "0.0.0.0";

/// What is said for a variable that is set to something else than nothing and "false".
const VARIABLES: [(&str, &str); 10] = [
    (
        "cp_enable",
        "the address of the API server is not edgelb's business: keep kube-vip for it, with svc_enable=false",
    ),
    (
        "lb_enable",
        "the address of the API server is not edgelb's business: keep kube-vip for it, with svc_enable=false",
    ),
    (
        "bgp_enable",
        "BGP is not spoken: edgelb announces by ARP and NDP on the LAN alone",
    ),
    ("vip_wireguard", "there is no WireGuard"),
    (
        "vip_routingtable",
        "VIPs are announced on the LAN, not put into routing tables for others",
    ),
    ("enable_upnp", "there is no UPnP"),
    ("egress_podcidr", "there is no egress by a VIP"),
    (
        "enable_node_labeling",
        "no node is labelled: edgelb vips says who owns what",
    ),
    ("mirror_dest_interface", "no traffic is mirrored"),
    ("vip_ddns", "names are the business of external-dns"),
];

/// Takes over what the objects say.
pub(super) fn read(objects: &[Object], draft: &mut Draft) {
    let mut names = BTreeSet::new();
    for object in objects {
        match object.kind.as_str() {
            "ConfigMap" => config_map(object, draft),
            "DaemonSet" | "Deployment" | "StatefulSet" => {
                pods(object, "spec/template/spec/containers", &mut names, draft);
            }
            "Pod" => pods(object, "spec/containers", &mut names, draft),
            _ => {}
        }
    }
    let names: Vec<String> = names.into_iter().collect();
    match interfaces(&names) {
        Ok(patterns) => {
            for pool in draft
                .pools
                .iter_mut()
                .filter(|pool| pool.interfaces.is_empty())
            {
                pool.interfaces.clone_from(&patterns);
            }
        }
        Err(error) => {
            if let Some(object) = objects.first() {
                draft.notes.insert(note(object, Weight::Lost, error));
            }
        }
    }
}

/// `cidr-SCOPE`, `range-SCOPE` and what else is said about a scope: a namespace or "global".
fn config_map(object: &Object, draft: &mut Draft) {
    let Some(data) = object.at("data").as_object() else {
        return;
    };
    // An export holds others' too.
    let has_addresses = |key: &String| key.starts_with("cidr-") || key.starts_with("range-");
    if object.name != CONFIG_MAP && !data.keys().any(has_addresses) {
        return;
    }
    let mut scopes: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for (key, value) in data {
        let value = value.as_str().unwrap_or_default().trim();
        let kinds = ["cidr", "range", "allow-share", "interface"];
        let split = kinds.iter().find_map(|kind| {
            let scope = key.strip_prefix(kind)?.strip_prefix('-')?;
            Some((*kind, scope))
        });
        match split {
            Some((kind, scope)) => {
                scopes.entry(scope).or_default().insert(kind, value);
            }
            None => setting(object, key, value, draft),
        }
    }
    for (scope, values) in &scopes {
        pool(object, scope, values, draft);
    }
    if data
        .get("skip-end-ips-in-cidr")
        .and_then(|value| value.as_str())
        == Some("true")
    {
        for pool in &mut draft.pools {
            pool.avoid_buggy_ips = true;
        }
    }
}

fn setting(object: &Object, key: &str, value: &str, draft: &mut Draft) {
    let text = match key {
        "search-order" if value != "desc" => return,
        "search-order" => "search-order: addresses are given from the lowest on".to_owned(),
        "skip-end-ips-in-cidr" if value != "true" => return,
        "skip-end-ips-in-cidr" => {
            "skip-end-ips-in-cidr: avoid_buggy_ips leaves out .0 and .255, not the ends of other networks"
                .to_owned()
        }
        _ => format!("{key}: nothing like it is there"),
    };
    draft.notes.insert(note(object, Weight::Lost, text));
}

fn pool(object: &Object, scope: &str, values: &BTreeMap<&str, &str>, draft: &mut Draft) {
    // Where both are there, the networks count.
    let Some(addresses) = values.get("cidr").or_else(|| values.get("range")) else {
        let keys: Vec<&str> = values.keys().copied().collect();
        let text = format!(
            "{} is said of {scope:?}, which has no addresses",
            keys.join(", ")
        );
        draft.notes.insert(note(object, Weight::Lost, text));
        return;
    };
    let mut pool = Pool::new(scope.to_owned(), Vec::new());
    if scope != GLOBAL {
        pool.namespaces = vec![scope.to_owned()];
        let text = format!(
            "Services of {scope:?} get addresses of its own pool first, and of {GLOBAL:?} when that is full; kube-vip leaves them without one then"
        );
        draft.notes.insert(note(object, Weight::Kept, text));
    }
    for text in addresses
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
    {
        if text.starts_with(DHCP) {
            let text = format!("{text}: addresses come from pools, not from DHCP");
            draft.notes.insert(note(object, Weight::Lost, text));
            continue;
        }
        match range(text) {
            Ok(range) => pool.ranges.push(range),
            Err(error) => {
                draft.notes.insert(note(object, Weight::Lost, error));
            }
        }
    }
    if values
        .get("allow-share")
        .is_some_and(|value| *value == "true")
    {
        let text = format!(
            "allow-share-{scope}: Services share an address only where they say so by the same edgelb.io/sharing-key"
        );
        draft.notes.insert(note(object, Weight::Lost, text));
    }
    if let Some(interface) = values.get("interface") {
        match interfaces(&[(*interface).to_owned()]) {
            Ok(patterns) => pool.interfaces = patterns,
            Err(error) => {
                draft.notes.insert(note(object, Weight::Lost, error));
            }
        }
    }
    if pool.ranges.is_empty() {
        let text = format!("{scope:?} has no usable address and is left out");
        draft.notes.insert(note(object, Weight::Lost, text));
    } else {
        draft.pools.push(pool);
    }
}

/// The environment of the containers that are kube-vip's.
fn pods(object: &Object, path: &str, names: &mut BTreeSet<String>, draft: &mut Draft) {
    let containers = object.at(path).as_array().map(Vec::as_slice);
    for container in containers.unwrap_or_default() {
        let variables = at(container, "env").as_array().map(Vec::as_slice);
        let pair = |variable| {
            let (name, value) = (at(variable, "name"), at(variable, "value"));
            Some((name.as_str()?, value.as_str().unwrap_or_default()))
        };
        let variables: BTreeMap<&str, &str> = variables
            .unwrap_or_default()
            .iter()
            .filter_map(pair)
            .collect();
        let is_set = |name: &str| {
            variables
                .get(name)
                .is_some_and(|value| !value.is_empty() && *value != "false")
        };
        for (name, text) in VARIABLES.iter().filter(|(name, _)| is_set(name)) {
            let text = format!("{name}: {text}");
            draft.notes.insert(note(object, Weight::Lost, text));
        }
        let service = ["vip_servicesinterface", "vip_interface"];
        if is_set("svc_enable") {
            let interface = service.iter().find(|name| is_set(name));
            names.extend(
                interface
                    .and_then(|name| variables.get(name))
                    .map(|name| (*name).to_owned()),
            );
        }
        if is_set("lb_class_only") {
            draft.only_class = true;
            draft.class = Some(KUBE_VIP_CLASS.to_owned());
        }
        if let Some(class) = variables
            .get("lb_class_name")
            .filter(|class| !class.is_empty())
        {
            draft.class = Some((*class).to_owned());
        }
        if is_set("svc_namespace") {
            let text = "svc_namespace: Services of all namespaces are served; namespaces of a pool says who gets its addresses";
            draft.notes.insert(note(object, Weight::Lost, text));
        }
        if let Some(address) = variables
            .get("prometheus_server")
            .filter(|address| !address.is_empty())
        {
            let text =
                format!("prometheus_server {address}: metrics are served at observability.listen");
            draft.notes.insert(note(object, Weight::Kept, text));
        }
    }
}
