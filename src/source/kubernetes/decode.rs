//! From a generic document to a converted object: picks the type by `apiVersion` and `kind`, reads
//! it, and keeps the path of a field that has the wrong type. Knows nothing of files.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::address::shorten;
use super::convert::{Converted, Note, namespace, node, service};
use super::slice::{endpoint_slice, endpoints};
use crate::api_server::lenient::without_other_conditions;
use crate::model::cluster::{Namespace, Node};
use crate::model::endpoint::EndpointSlice;
use crate::model::service::{ADDRESS_CONDITION, Service};

/// The kinds that edgelb reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `v1` Service
    Service,
    /// `discovery.k8s.io/v1` `EndpointSlice`
    EndpointSlice,
    /// `v1` Endpoints
    Endpoints,
    /// `v1` Node
    Node,
    /// `v1` Namespace
    Namespace,
}

/// What `apiVersion` and `kind` say about a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recognized {
    /// A kind that edgelb reads.
    Read(Kind),
    /// A kind of Kubernetes, or of somebody else, that it does not read.
    Other,
    /// A kind that it reads in another version, which is given.
    WrongVersion(&'static str),
}

impl Kind {
    /// Looks a kind up.
    pub fn recognize(api_version: &str, kind: &str) -> Recognized {
        let (found, wanted) = match kind {
            "Service" => (Self::Service, "v1"),
            "EndpointSlice" => (Self::EndpointSlice, "discovery.k8s.io/v1"),
            "Endpoints" => (Self::Endpoints, "v1"),
            "Node" => (Self::Node, "v1"),
            "Namespace" => (Self::Namespace, "v1"),
            _ => return Recognized::Other,
        };
        // The same kind of another API group is another kind.
        let group = |version: &str| version.rsplit_once('/').map(|(group, _)| group.to_owned());
        if api_version == wanted {
            Recognized::Read(found)
        } else if group(api_version) == group(wanted) {
            Recognized::WrongVersion(wanted)
        } else {
            Recognized::Other
        }
    }

    /// Whether objects of this kind live in a namespace.
    pub fn namespaced(self) -> bool {
        !matches!(self, Self::Node | Self::Namespace)
    }
}

/// An object of one of these kinds, converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A Service.
    Service(Box<Converted<Service>>),
    /// A slice.
    EndpointSlice(Converted<EndpointSlice>),
    /// What mirrors `Endpoints`.
    Endpoints(Converted<Vec<EndpointSlice>>),
    /// A Node.
    Node(Converted<Node>),
    /// A Namespace.
    Namespace(Converted<Namespace>),
}

/// A document that is not of its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    /// The path of the field that has the wrong type; empty: the whole document.
    pub field: String,
    /// What was found and what belongs there.
    pub message: String,
}

/// Reads a document as an object of this kind. Fields that the kind does not have are ignored, as
/// the API server ignores them, and told as notes: a misspelt field must not be lost in silence.
pub fn decode(kind: Kind, document: &Value) -> Result<(Object, Vec<Note>), DecodeError> {
    let (object, unknown) = match kind {
        Kind::Service => {
            let (object, unknown) = read::<core::Service>(document).or_else(|error| {
                let rest = without_other_conditions(document, ADDRESS_CONDITION);
                rest.map_or(Err(error), |rest| read(&rest))
            })?;
            (Object::Service(Box::new(service(&object))), unknown)
        }
        Kind::EndpointSlice => {
            let (object, unknown) = read::<discovery::EndpointSlice>(document)?;
            (Object::EndpointSlice(endpoint_slice(&object)), unknown)
        }
        Kind::Endpoints => {
            let (object, unknown) = read::<core::Endpoints>(document)?;
            (Object::Endpoints(endpoints(&object)), unknown)
        }
        Kind::Node => {
            let (object, unknown) = read::<core::Node>(document)?;
            (Object::Node(node(&object)), unknown)
        }
        Kind::Namespace => {
            let (object, unknown) = read::<core::Namespace>(document)?;
            (Object::Namespace(namespace(&object)), unknown)
        }
    };
    let notes = unknown
        .into_iter()
        .map(|field| Note {
            message: format!(
                "unknown field {:?} is not read: correct its spelling or take it away",
                shorten(field.rsplit('.').next().unwrap_or_default())
            ),
            field,
        })
        .collect();
    Ok((object, notes))
}

fn read<T: DeserializeOwned>(document: &Value) -> Result<(T, Vec<String>), DecodeError> {
    /// Somebody who writes a thousand unknown fields learns of the first ones.
    const MOST_UNKNOWN: usize = 20;
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(document, &mut track);
    let result: Result<T, serde_json::Error> = serde_ignored::deserialize(tracked, |path| {
        if unknown.len() < MOST_UNKNOWN {
            unknown.push(ignored_path(&path));
        }
    });
    match result {
        Ok(object) => Ok((object, unknown)),
        Err(error) => {
            let path = track.path().to_string();
            Err(DecodeError {
                field: if path == "." { String::new() } else { path },
                message: error.to_string(),
            })
        }
    }
}

/// Writes a path as Kubernetes does: `spec.ports[0].port`.
fn ignored_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", ignored_path(parent)),
        Path::Map { parent, key } => {
            let parent = ignored_path(parent);
            let dot = if parent.is_empty() { "" } else { "." };
            format!("{parent}{dot}{key}")
        }
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => ignored_path(parent),
    }
}
