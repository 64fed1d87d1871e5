//! `EndpointSlices` as the planner needs them. `Endpoints` objects are mirrored into the same type.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::family::{Family, Protocol};
use super::service::ServiceKey;
use super::text::Text;

/// Namespace and name of an `EndpointSlice`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SliceKey {
    /// The namespace, which is also its Service's.
    pub namespace: Text,
    /// The slice's own name.
    pub name: Text,
}

impl SliceKey {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<Text>, name: impl Into<Text>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for SliceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the cluster says about an endpoint, with the defaults of EP-8 already filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// Takes new connections.
    pub ready: bool,
    /// Answers, whether or not it is terminating.
    pub serving: bool,
    /// Is going away.
    pub terminating: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            ready: true,
            serving: true,
            terminating: false,
        }
    }
}

/// The names in a hint. Most endpoints have none, so that none costs one word.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct Hints(Option<Box<[String]>>);

impl From<Vec<String>> for Hints {
    fn from(names: Vec<String>) -> Self {
        Self((!names.is_empty()).then(|| names.into()))
    }
}

impl From<Hints> for Vec<String> {
    fn from(hints: Hints) -> Self {
        hints.0.map(Vec::from).unwrap_or_default()
    }
}

impl FromIterator<String> for Hints {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Self::from(Vec::from_iter(names))
    }
}

impl Hints {
    /// The names.
    pub fn names(&self) -> &[String] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// One endpoint of a slice: the first address only (EP-7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address; its family is the slice's.
    pub address: IpAddr,
    /// Conditions.
    pub conditions: Conditions,
    /// The node that it runs on, where it is known (EP-12).
    pub node: Option<Text>,
    /// `hints.forZones`
    pub zone_hints: Hints,
    /// `hints.forNodes`
    pub node_hints: Hints,
}

/// One port of a slice: feeds the Service port with the same name and protocol (EP-5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    /// Name; may be empty.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The number on each endpoint of this slice (EP-6).
    pub port: u16,
}

/// An `EndpointSlice` of an IP family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Identity.
    pub key: SliceKey,
    /// The Service that it belongs to (EP-1).
    pub service: ServiceKey,
    /// `addressType`; FQDN slices never get here (EP-2).
    pub family: Family,
    /// Ports.
    pub ports: Vec<SlicePort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_endpoint_is_written_with_its_hints_as_lists() {
        let endpoint = Endpoint {
            address: [10, 244, 0, 2].into(),
            conditions: Conditions::default(),
            node: Some("edge-a".into()),
            zone_hints: ["zone-1".to_owned()].into_iter().collect(),
            node_hints: Hints::default(),
        };
        let text = r#"{"address":"10.244.0.2","conditions":{"ready":true,"serving":true,"terminating":false},"node":"edge-a","zone_hints":["zone-1"],"node_hints":[]}"#;
        assert_eq!(serde_json::to_string(&endpoint).unwrap(), text);
        assert_eq!(serde_json::from_str::<Endpoint>(text).unwrap(), endpoint);
    }
}
