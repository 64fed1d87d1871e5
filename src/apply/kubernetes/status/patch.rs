//! What is sent to change a Service's status, and what of a Service has to be as it was seen for that.
//! Pure. Names our own condition and the addresses, and nothing else: whatever others keep in
//! the status stays.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service as ServiceObject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::model::service::{
    ADDRESS_CONDITION, AddressCondition, IngressAddress, IpMode, ObjectIdentity, Service,
};

/// Services with this label are another proxy's (SEL-1).
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// What a decision saw of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which object, in which version: a write relies on it.
    pub object: ObjectIdentity,
    /// What `status` of our own condition said; `None`: there was none.
    pub allocated: Option<bool>,
}

impl Seen {
    /// Of a Service as the source delivered it; `None` where it is from no API server.
    pub fn of(service: &Service) -> Option<Self> {
        Some(Self {
            object: service.object.as_deref()?.clone(),
            allocated: (service.condition.as_deref()).map(|condition| condition.allocated),
        })
    }
}

/// What is to be in the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusChange {
    /// These addresses, in this order, and our condition.
    Set {
        /// One per family, the preferred one first.
        addresses: Vec<IpAddr>,
        /// Our condition beside them.
        condition: AddressCondition,
    },
    /// Our condition; the addresses stay as they are.
    Condition(AddressCondition),
    /// Neither addresses nor our condition.
    Clear,
    /// Not our condition; the addresses stay as they are.
    ClearCondition,
}

impl StatusChange {
    /// The body of the patch. It names the version that was seen: an older one is refused.
    pub(super) fn patch(&self, seen: &Seen, now: Timestamp) -> Value {
        let mut status = Map::new();
        match self {
            Self::Set { addresses, .. } => {
                let ingress: Vec<Value> = (addresses.iter())
                    .map(|address| json!({"ip": address, "ipMode": "VIP"}))
                    .collect();
                status.insert("loadBalancer".to_owned(), json!({"ingress": ingress}));
            }
            Self::Clear => {
                status.insert("loadBalancer".to_owned(), json!({"ingress": null}));
            }
            Self::Condition(_) | Self::ClearCondition => {}
        }
        let condition = match self {
            Self::Set { condition, .. } | Self::Condition(condition) => {
                Some(written_condition(condition, seen.allocated, now))
            }
            Self::Clear | Self::ClearCondition => {
                (seen.allocated).map(|_| json!({"$patch": "delete", "type": ADDRESS_CONDITION}))
            }
        };
        if let Some(condition) = condition {
            status.insert("conditions".to_owned(), json!([condition]));
        }
        json!({
            "metadata": {"uid": seen.object.uid, "resourceVersion": seen.object.version},
            "status": status,
        })
    }

    /// Whether a Service says this already.
    pub(super) fn is_in(&self, fresh: &ServiceObject) -> bool {
        let says = |wanted: &AddressCondition| {
            condition(fresh).is_some_and(|condition| {
                is_true(condition) == wanted.allocated
                    && condition.reason == wanted.reason
                    && condition.message == wanted.message
            })
        };
        match self {
            Self::Set {
                addresses,
                condition,
            } => {
                let wanted = addresses.iter().map(|address| IngressAddress {
                    address: *address,
                    mode: IpMode::Vip,
                });
                says(condition) && ingress(fresh).is_some_and(|ingress| wanted.eq(ingress))
            }
            Self::Condition(condition) => says(condition),
            Self::Clear => {
                condition(fresh).is_none() && ingress(fresh).is_some_and(|it| it.is_empty())
            }
            Self::ClearCondition => condition(fresh).is_none(),
        }
    }
}

/// The time of the transition is left out where there is none: a merge keeps it.
fn written_condition(wanted: &AddressCondition, before: Option<bool>, now: Timestamp) -> Value {
    let mut condition = json!({
        "type": ADDRESS_CONDITION,
        "status": if wanted.allocated { "True" } else { "False" },
        "reason": wanted.reason,
        "message": wanted.message,
    });
    if before != Some(wanted.allocated)
        && let Some(fields) = condition.as_object_mut()
    {
        let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
        fields.insert("lastTransitionTime".to_owned(), json!(seconds.to_string()));
    }
    condition
}

/// Whether the sources show this Service, as one that can have addresses (SEL-1, SEL-3).
pub(super) fn is_load_balancer(object: &ServiceObject) -> bool {
    let spec = object.spec.as_ref();
    let labels = object.metadata.labels.as_ref();
    spec.and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer")
        && !labels.is_some_and(|labels| labels.contains_key(OTHER_PROXY))
}

/// Which object it is.
pub(super) fn identity(object: &ServiceObject) -> Option<ObjectIdentity> {
    Some(ObjectIdentity {
        uid: object.metadata.uid.clone()?,
        version: object.metadata.resource_version.clone()?,
    })
}

/// Our own condition.
pub(super) fn condition(object: &ServiceObject) -> Option<&Condition> {
    let conditions = object.status.as_ref()?.conditions.as_ref()?;
    (conditions.iter()).find(|condition| condition.type_ == ADDRESS_CONDITION)
}

pub(super) fn is_true(condition: &Condition) -> bool {
    condition.status == "True"
}

/// The addresses; `None` where there is something else beside them, which nobody decided about.
fn ingress(object: &ServiceObject) -> Option<Vec<IngressAddress>> {
    let entries = (object.status.as_ref())
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|balancer| balancer.ingress.as_deref())
        .unwrap_or_default();
    entries.iter().map(ingress_address).collect()
}

fn ingress_address(entry: &LoadBalancerIngress) -> Option<IngressAddress> {
    let mode = match entry.ip_mode.as_deref() {
        None | Some("" | "VIP") => IpMode::Vip,
        Some("Proxy") => IpMode::Proxy,
        Some(_) => return None,
    };
    if present(entry.hostname.as_deref()).is_some() {
        return None;
    }
    let address: IpAddr = entry.ip.as_deref()?.trim().parse().ok()?;
    Some(IngressAddress {
        address: address.to_canonical(),
        mode,
    })
}

fn present(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

#[cfg(test)]
#[path = "patch_tests.rs"]
mod tests;
