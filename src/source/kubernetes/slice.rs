//! `EndpointSlice` and `Endpoints` into the model's slices. Pure. Endpoints that are there twice are
//! left to the planner (EP-13); what cannot be used becomes a note.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use super::address::{parse_port, parse_usable_address, shorten};
use super::convert::{Converted, Ignored, Notes, key, protocol};
use crate::model::endpoint::{Conditions, Endpoint, EndpointSlice, Hints, SliceKey, SlicePort};
use crate::model::family::Family;
use crate::model::service::ServiceKey;
use crate::model::text::Text;

/// The label that names a slice's Service (EP-1).
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The label whose presence says that a slice is a headless Service's (SEL-5).
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Converts an `EndpointSlice` (EP-1 to EP-8).
pub fn endpoint_slice(object: &discovery::EndpointSlice) -> Converted<EndpointSlice> {
    let mut notes = Notes::default();
    let object = convert_slice(object, &mut notes);
    Converted {
        object,
        notes: notes.0,
    }
}

fn convert_slice(
    object: &discovery::EndpointSlice,
    notes: &mut Notes,
) -> Result<EndpointSlice, Ignored> {
    let labels = object.metadata.labels.as_ref();
    let label = |name: &str| labels.and_then(|labels| labels.get(name));
    if label(HEADLESS_LABEL).is_some() {
        return Err(Ignored::HeadlessSlice);
    }
    let service = label(SERVICE_NAME_LABEL)
        .filter(|name| !name.is_empty())
        .ok_or(Ignored::NoService)?;
    let family = match object.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        other => return Err(Ignored::AddressType(shorten(other))),
    };
    let ServiceKey { namespace, name } = key(&object.metadata);
    Ok(EndpointSlice {
        service: ServiceKey::new(&namespace, service),
        key: SliceKey { namespace, name },
        family,
        ports: slice_ports(object.ports.as_deref().unwrap_or_default(), notes),
        endpoints: object
            .endpoints
            .iter()
            .flatten()
            .enumerate()
            .filter_map(|(index, entry)| endpoint(index, entry, family, notes))
            .collect(),
    })
}

/// EP-4. A port without a name has the empty one, which is what the API server fills in; a port
/// without a number would mean "all ports", which nothing can forward to.
fn slice_ports(listed: &[discovery::EndpointPort], notes: &mut Notes) -> Vec<SlicePort> {
    let mut ports = Vec::new();
    for (index, entry) in listed.iter().enumerate() {
        let field = |name: &str| format!("ports[{index}].{name}");
        let Some(number) = entry.port else {
            notes.add(
                field("port"),
                "a port without a number cannot be forwarded to; it is left out",
            );
            continue;
        };
        let name = entry.name.clone().unwrap_or_default();
        let protocol = entry.protocol.as_deref();
        ports.extend(slice_port(&field, name, number, protocol, notes));
    }
    ports
}

fn slice_port(
    field: &dyn Fn(&str) -> String,
    name: String,
    number: i32,
    protocol_name: Option<&str>,
    notes: &mut Notes,
) -> Option<SlicePort> {
    let protocol = protocol(field("protocol"), protocol_name, notes)?;
    let Some(port) = parse_port(number) else {
        notes.add(
            field("port"),
            format!("{number} is not a port from 1 to 65535; this port is left out"),
        );
        return None;
    };
    Some(SlicePort {
        name,
        protocol,
        port,
    })
}

/// An empty name is none.
fn node(name: Option<&str>) -> Option<Text> {
    name.filter(|name| !name.is_empty()).map(Text::from)
}

/// EP-7: the first address counts, of the slice's own family.
fn endpoint(
    index: usize,
    entry: &discovery::Endpoint,
    family: Family,
    notes: &mut Notes,
) -> Option<Endpoint> {
    let field = format!("endpoints[{index}].addresses");
    let Some(text) = entry.addresses.first() else {
        notes.add(field, "an endpoint without an address is left out");
        return None;
    };
    let address = match parse_usable_address(text) {
        Ok(address) => address,
        Err(error) => {
            notes.add(format!("{field}[0]"), error);
            return None;
        }
    };
    if Family::of(address) != family {
        notes.add(
            format!("{field}[0]"),
            format!("{address} is left out: the slice's addressType is {family}"),
        );
        return None;
    }
    let conditions = entry.conditions.as_ref();
    let hints = entry.hints.as_ref();
    Some(Endpoint {
        address,
        // EP-8: serving does not copy ready.
        conditions: Conditions {
            ready: conditions.and_then(|known| known.ready).unwrap_or(true),
            serving: conditions.and_then(|known| known.serving).unwrap_or(true),
            terminating: conditions
                .and_then(|known| known.terminating)
                .unwrap_or(false),
        },
        node: node(entry.node_name.as_deref()),
        zone_hints: hints
            .and_then(|hints| hints.for_zones.as_ref())
            .into_iter()
            .flatten()
            .map(|zone| zone.name.clone())
            .collect(),
        node_hints: hints
            .and_then(|hints| hints.for_nodes.as_ref())
            .into_iter()
            .flatten()
            .map(|node| node.name.clone())
            .collect(),
    })
}

/// Mirrors `Endpoints` into slices: one for each subset and family, named after the object, the
/// subset and the family. Family names have capitals, so no slice of the cluster can have that name.
pub fn endpoints(object: &core::Endpoints) -> Converted<Vec<EndpointSlice>> {
    let mut notes = Notes::default();
    if let Some(labels) = &object.metadata.labels
        && labels.contains_key(HEADLESS_LABEL)
    {
        return Converted {
            object: Err(Ignored::HeadlessSlice),
            notes: Vec::new(),
        };
    }
    let service = key(&object.metadata);
    let mut slices = Vec::new();
    for (index, subset) in object.subsets.iter().flatten().enumerate() {
        slices.extend(mirror(&service, index, subset, &mut notes));
    }
    Converted {
        object: Ok(slices),
        notes: notes.0,
    }
}

fn mirror(
    service: &ServiceKey,
    subset_index: usize,
    subset: &core::EndpointSubset,
    notes: &mut Notes,
) -> Vec<EndpointSlice> {
    let mut ports = Vec::new();
    for (index, entry) in subset.ports.iter().flatten().enumerate() {
        let field = |name: &str| format!("subsets[{subset_index}].ports[{index}].{name}");
        let name = entry.name.clone().unwrap_or_default();
        let protocol = entry.protocol.as_deref();
        ports.extend(slice_port(&field, name, entry.port, protocol, notes));
    }
    let lists = [
        ("addresses", &subset.addresses, true),
        ("notReadyAddresses", &subset.not_ready_addresses, false),
    ];
    let mut found = Vec::new();
    for (list, entries, ready) in lists {
        for (index, entry) in entries.iter().flatten().enumerate() {
            let address = match parse_usable_address(&entry.ip) {
                Ok(address) => address,
                Err(error) => {
                    notes.add(format!("subsets[{subset_index}].{list}[{index}].ip"), error);
                    continue;
                }
            };
            found.push(Endpoint {
                address,
                conditions: Conditions {
                    ready,
                    serving: ready,
                    terminating: false,
                },
                node: node(entry.node_name.as_deref()),
                zone_hints: Hints::default(),
                node_hints: Hints::default(),
            });
        }
    }
    Family::BOTH
        .into_iter()
        .filter_map(|family| {
            let endpoints: Vec<Endpoint> = found
                .iter()
                .filter(|endpoint| Family::of(endpoint.address) == family)
                .cloned()
                .collect();
            (!endpoints.is_empty()).then(|| EndpointSlice {
                key: SliceKey::new(
                    &service.namespace,
                    format!("{}-endpoints-{subset_index}-{family}", service.name),
                ),
                service: service.clone(),
                family,
                ports: ports.clone(),
                endpoints,
            })
        })
        .collect()
}
