//! `MetalLB`: pools from `IPAddressPool`s (or the old `AddressPool`s and `ConfigMap`), where they are
//! announced from `L2Advertisement`s. Whatever is about BGP has no equivalent.
//!
//! Semantics: <https://metallb.io/apis/>, <https://metallb.io/configuration/_advanced_ipaddresspool_configuration/>.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::draft::{Draft, interfaces, range, selector, selectors};
use super::objects::{Object, at, texts};
use super::{Input, Weight, note, objects};
use crate::model::pool::{DEFAULT_PRIORITY, Pool};
use crate::model::selector::any_matches;

/// Kinds that say something about BGP alone.
const BGP: [&str; 4] = ["BGPPeer", "BGPAdvertisement", "BFDProfile", "Community"];

/// The object that a pool is of.
struct Found<'o> {
    object: &'o Object,
    labels: BTreeMap<String, String>,
    /// It says itself how it is announced, by its `protocol`: no advertisement is about it.
    says_itself: bool,
}

/// Which pools an advertisement is for.
struct Advertisement<'o> {
    object: &'o Object,
    pools: BTreeSet<String>,
}

/// Takes over what the objects say.
pub(super) fn read(objects: &[Object], draft: &mut Draft) {
    let mut found: BTreeMap<String, Found<'_>> = BTreeMap::new();
    for object in objects {
        let names = match object.kind.as_str() {
            "IPAddressPool" => {
                pool(object, draft);
                vec![object.name.clone()]
            }
            "AddressPool" => {
                let spec = at(&object.value, "spec");
                old_pool(object, spec, object.name.clone(), draft);
                vec![object.name.clone()]
            }
            "ConfigMap" => config_map(object, draft),
            kind if BGP.contains(&kind) => {
                let text = "BGP is not spoken: edgelb announces by ARP and NDP on the LAN alone";
                draft.notes.insert(note(object, Weight::Lost, text));
                continue;
            }
            _ => continue,
        };
        let labels = at(&object.value, "metadata/labels");
        for name in names {
            let of = Found {
                object,
                labels: serde_json::from_value(labels.clone()).unwrap_or_default(),
                says_itself: object.kind != "IPAddressPool",
            };
            found.insert(name, of);
        }
    }
    priorities(draft);
    let advertisements = |kind: &str| -> Vec<Advertisement<'_>> {
        let those = objects.iter().filter(|object| object.kind == kind);
        let of = |object| Advertisement {
            object,
            pools: chosen(object, &found),
        };
        those.map(of).collect()
    };
    let (lan, bgp) = (
        advertisements("L2Advertisement"),
        advertisements("BGPAdvertisement"),
    );
    announce(&lan, &bgp, &found, draft);
}

/// The pools that an advertisement names: by name, by label, or all.
fn chosen(object: &Object, found: &BTreeMap<String, Found<'_>>) -> BTreeSet<String> {
    let names = texts(object.at("spec/ipAddressPools"));
    let labels = object.at("spec/ipAddressPoolSelectors");
    let any = labels
        .as_array()
        .is_some_and(|selectors| !selectors.is_empty());
    let advertised = found.iter().filter(|(_, pool)| !pool.says_itself);
    if names.is_empty() && !any {
        return advertised.map(|(name, _)| name.clone()).collect();
    }
    let matching = selectors(labels).unwrap_or_default();
    let by_label = advertised
        .filter(|(_, pool)| any && (matching.is_empty() || any_matches(&matching, &pool.labels)));
    let by_label: BTreeSet<String> = by_label.map(|(name, _)| name.clone()).collect();
    names.into_iter().chain(by_label).collect()
}

fn pool(object: &Object, draft: &mut Draft) {
    let spec = object.at("spec");
    let mut pool = Pool::new(object.name.clone(), Vec::new());
    ranges(object, &texts(at(spec, "addresses")), &mut pool, draft);
    pool.auto_assign = at(spec, "autoAssign").as_bool().unwrap_or(true);
    pool.avoid_buggy_ips = at(spec, "avoidBuggyIPs").as_bool().unwrap_or(false);
    let allocation = at(spec, "serviceAllocation");
    // 0 is "last of all" there; sorted out once all priorities are known.
    let priority = at(allocation, "priority").as_u64().unwrap_or(0);
    pool.priority = u32::try_from(priority).unwrap_or(u32::MAX);
    pool.namespaces = texts(at(allocation, "namespaces"));
    for (key, into) in [
        ("namespaceSelectors", &mut pool.namespace_selector),
        ("serviceSelectors", &mut pool.service_selector),
    ] {
        match selectors(at(allocation, key)) {
            Ok(selectors) => *into = selectors,
            Err(error) => {
                pool.auto_assign = false;
                let text = format!(
                    "serviceAllocation.{key} cannot be written: {error}; the pool is given to nobody by itself until that is decided"
                );
                draft.notes.insert(note(object, Weight::Lost, text));
            }
        }
    }
    push(object, pool, draft);
}

/// A pool of v1beta1 (`addresses`, `autoAssign`) or of the `ConfigMap` (`auto-assign`).
fn old_pool(object: &Object, spec: &Value, name: String, draft: &mut Draft) {
    if at(spec, "protocol").as_str() == Some("bgp") {
        let text = format!(
            "the pool {name:?} is for BGP, which is not spoken; it is announced on the LAN instead, if an interface there has its subnet"
        );
        draft.notes.insert(note(object, Weight::Lost, text));
    }
    let flag = |keys: [&str; 2]| keys.iter().find_map(|key| at(spec, key).as_bool());
    let mut pool = Pool::new(name, Vec::new());
    ranges(object, &texts(at(spec, "addresses")), &mut pool, draft);
    pool.auto_assign = flag(["autoAssign", "auto-assign"]).unwrap_or(true);
    pool.avoid_buggy_ips = flag(["avoidBuggyIPs", "avoid-buggy-ips"]).unwrap_or(false);
    push(object, pool, draft);
}

/// The configuration of versions before 0.13; the names of its pools.
fn config_map(object: &Object, draft: &mut Draft) -> Vec<String> {
    // An export holds others' too.
    let text = object.text("data/config");
    let Some(text) = text.filter(|text| text.contains("address-pools")) else {
        return Vec::new();
    };
    // Wrapped in an object, so that it is read as the files are.
    let wrapped = Input {
        name: format!("{object}: data.config"),
        bytes: format!("kind: Config\n{text}").into_bytes(),
    };
    let parts = match objects::read(&wrapped) {
        Ok(parts) => parts,
        Err(error) => {
            draft
                .notes
                .insert(note(object, Weight::Lost, error.to_string()));
            return Vec::new();
        }
    };
    let mut names = Vec::new();
    for part in parts {
        let pools = part.at("address-pools").as_array().map(Vec::as_slice);
        for pool in pools.unwrap_or_default() {
            let name = at(pool, "name").as_str().unwrap_or_default();
            old_pool(object, pool, name.to_owned(), draft);
            names.push(name.to_owned());
        }
        if part.at("peers").is_array() {
            let text = "peers: BGP is not spoken: edgelb announces by ARP and NDP on the LAN alone";
            draft.notes.insert(note(object, Weight::Lost, text));
        }
    }
    names
}

fn ranges(object: &Object, addresses: &[String], pool: &mut Pool, draft: &mut Draft) {
    for text in addresses {
        match range(text) {
            Ok(range) => pool.ranges.push(range),
            Err(error) => {
                draft.notes.insert(note(object, Weight::Lost, error));
            }
        }
    }
}

fn push(object: &Object, pool: Pool, draft: &mut Draft) {
    if pool.ranges.is_empty() {
        let text = "it has no usable address and is left out";
        draft.notes.insert(note(object, Weight::Lost, text));
    } else {
        draft.pools.push(pool);
    }
}

/// A pool without a priority is tried last there, and among others of 100 here.
fn priorities(draft: &mut Draft) {
    let last = draft.pools.iter().map(|pool| pool.priority).max();
    let last = last.unwrap_or(0);
    let unset = if last < DEFAULT_PRIORITY {
        DEFAULT_PRIORITY
    } else {
        last.saturating_add(1)
    };
    for pool in &mut draft.pools {
        if pool.priority == 0 {
            pool.priority = unset;
        }
    }
}

/// Where each pool is announced.
fn announce(
    lan: &[Advertisement<'_>],
    bgp: &[Advertisement<'_>],
    found: &BTreeMap<String, Found<'_>>,
    draft: &mut Draft,
) {
    let told = !lan.is_empty() || !bgp.is_empty();
    let mut silent = Vec::new();
    for pool in &mut draft.pools {
        let of = |advertisements: &[Advertisement<'_>]| {
            advertisements
                .iter()
                .any(|one| one.pools.contains(&pool.name))
        };
        let (on_lan, by_bgp) = (of(lan), of(bgp));
        let says_itself = found.get(&pool.name).is_some_and(|found| found.says_itself);
        if told && !on_lan && !says_itself {
            if let Some(found) = found.get(&pool.name) {
                let how = if by_bgp { "by BGP alone" } else { "by nobody" };
                let text = format!(
                    "it is announced {how}, and edgelb would announce it on the LAN: it is written with auto_assign = false, so that nothing gets an address of it unasked"
                );
                draft.notes.insert(note(found.object, Weight::Lost, text));
            }
            silent.push(pool.name.clone());
            pool.auto_assign = false;
        }
        let those: Vec<&Advertisement<'_>> = lan
            .iter()
            .filter(|one| one.pools.contains(&pool.name))
            .collect();
        // One that names no interface means all of them.
        let names: Vec<Vec<String>> = those
            .iter()
            .map(|one| texts(one.object.at("spec/interfaces")))
            .collect();
        if names.iter().all(|names| !names.is_empty()) {
            let mut all: Vec<String> = names.into_iter().flatten().collect();
            all.sort();
            all.dedup();
            match interfaces(&all) {
                Ok(patterns) => pool.interfaces = patterns,
                Err(error) => {
                    if let Some(found) = found.get(&pool.name) {
                        draft.notes.insert(note(found.object, Weight::Lost, error));
                    }
                }
            }
        }
    }
    nodes(lan, draft);
    for one in lan {
        for name in one.pools.iter().filter(|name| !found.contains_key(*name)) {
            let text = format!("it names the pool {name:?}, which is not in these files");
            draft.notes.insert(note(one.object, Weight::Lost, text));
        }
        if one.object.at("spec/serviceSelectors").is_array() {
            let text = "spec.serviceSelectors has no equivalent: all Services of a pool are announced; give the others a pool of their own";
            draft.notes.insert(note(one.object, Weight::Lost, text));
        }
    }
}

/// Which nodes may announce: one rule for all pools here.
fn nodes(lan: &[Advertisement<'_>], draft: &mut Draft) {
    let of = |one: &Advertisement<'_>| -> Result<Vec<_>, String> {
        let items = one.object.at("spec/nodeSelectors").as_array();
        let items = items.map(Vec::as_slice).unwrap_or_default();
        items
            .iter()
            .filter_map(|item| selector(item).transpose())
            .collect()
    };
    let each: Vec<_> = lan.iter().map(of).collect();
    let same = each.windows(2).all(|two| two.first() == two.last());
    match each.first() {
        Some(Ok(first)) if same => draft.node_selector.clone_from(first),
        _ => {
            for (one, selectors) in lan.iter().zip(each) {
                let text = match selectors {
                    Err(error) => format!("spec.nodeSelectors cannot be written: {error}"),
                    Ok(selectors) if selectors.is_empty() => continue,
                    Ok(selectors) => {
                        for pool in &mut draft.pools {
                            if one.pools.contains(&pool.name) {
                                pool.prefer.extend(selectors.clone());
                            }
                        }
                        "spec.nodeSelectors differ between advertisements: these nodes are preferred for the pool's VIPs, and others follow when none of them is there".to_owned()
                    }
                };
                draft.notes.insert(note(one.object, Weight::Lost, text));
            }
        }
    }
}
