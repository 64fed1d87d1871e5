//! Writes a Service's addresses and our condition into its status, from the version that the decision
//! saw and from no other. Where somebody wrote it meanwhile, the watch delivers the Service anew and
//! the decision is made anew: it may have been about something that is different now.

mod patch;

#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::Service as ServiceObject;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

pub use self::patch::{Seen, StatusChange};
use crate::api_server::lenient;
use crate::api_server::server::{Call, CallError, Server, body, encoded};
use crate::model::service::{ADDRESS_CONDITION, ServiceKey};

const SERVICES: &str = "services";
const STATUS: &str = "services/status";
/// Somebody who writes one Service without a pause is not outrun.
const ROUNDS: usize = 4;

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusWrite {
    /// Whose status.
    pub service: ServiceKey,
    /// What the decision saw.
    pub seen: Seen,
    /// What it is to say.
    pub change: StatusChange,
}

/// It is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The Service's `metadata.resourceVersion` since.
    pub version: String,
}

/// It is not written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The Service is not there, or is another one of the same name.
    #[error("the Service is gone")]
    Gone,
    /// It is not what the decision saw: decide again when the watch has told what it is.
    #[error("the Service has changed since it was looked at")]
    Outdated,
    /// It was refused as if somebody had written it meanwhile: try again later.
    #[error("the API server refuses the write as outdated")]
    Contended,
    /// A request failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Writes a status.
pub async fn write(server: &Server, write: &StatusWrite) -> Result<Written, StatusError> {
    if let Some(written) = patch(server, &write.service, &write.change, &write.seen).await? {
        return Ok(written);
    }
    let fresh = read(server, &write.service).await?;
    let object = patch::identity(&fresh).ok_or_else(nameless)?;
    if object.uid != write.seen.object.uid {
        return Err(StatusError::Gone);
    }
    // An earlier try that was not answered, or another node that leads as well.
    if write.change.is_in(&fresh) {
        return Ok(Written {
            version: object.version,
        });
    }
    if object.version == write.seen.object.version {
        return Err(StatusError::Contended);
    }
    Err(StatusError::Outdated)
}

/// What becomes of a Service that the source does not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existence {
    /// It is a load balancer: the source will show it.
    Expected,
    /// It is not there, or is something that edgelb does not read. Its status says nothing of ours.
    Gone,
}

/// Asks the server itself whether a Service is there. Where one lives on as something that edgelb
/// does not read, this clears our condition from its status, and the addresses where that says that
/// they are ours.
pub async fn examine(server: &Server, service: &ServiceKey) -> Result<Existence, StatusError> {
    for _ in 0..ROUNDS {
        let fresh = match read(server, service).await {
            Ok(fresh) => fresh,
            Err(StatusError::Gone) => return Ok(Existence::Gone),
            Err(error) => return Err(error),
        };
        if patch::is_load_balancer(&fresh) {
            return Ok(Existence::Expected);
        }
        let Some(condition) = patch::condition(&fresh) else {
            return Ok(Existence::Gone);
        };
        let allocated = patch::is_true(condition);
        let change = if allocated {
            StatusChange::Clear
        } else {
            StatusChange::ClearCondition
        };
        // A clearing relies on nothing but the version.
        let seen = Seen {
            object: patch::identity(&fresh).ok_or_else(nameless)?,
            allocated: Some(allocated),
        };
        match patch(server, service, &change, &seen).await {
            Ok(Some(_)) | Err(StatusError::Gone) => return Ok(Existence::Gone),
            Ok(None) => {}
            Err(error) => return Err(error),
        }
    }
    Err(StatusError::Contended)
}

/// `None`: somebody else wrote it since the version that was seen.
async fn patch(
    server: &Server,
    service: &ServiceKey,
    change: &StatusChange,
    seen: &Seen,
) -> Result<Option<Written>, StatusError> {
    /// All of the answer that is needed.
    #[derive(Deserialize)]
    struct Answered {
        metadata: ObjectMeta,
    }
    let body = body(STATUS, &change.patch(seen, Timestamp::now()))?;
    let path = format!("{}/status?fieldManager=edgelb", path(service));
    let answered = server.call(&Call::merge(STATUS, path, body)).await;
    match answered {
        Ok(Answered { metadata }) => {
            let version = metadata.resource_version.ok_or_else(nameless)?;
            Ok(Some(Written { version }))
        }
        Err(CallError::Conflict { .. }) => Ok(None),
        Err(CallError::NotFound { .. }) => Err(StatusError::Gone),
        Err(error) => Err(error.into()),
    }
}

async fn read(server: &Server, service: &ServiceKey) -> Result<ServiceObject, StatusError> {
    match server.answer(&Call::get(SERVICES, path(service))).await {
        Ok(text) => {
            Ok(
                lenient::read(&text, ADDRESS_CONDITION).map_err(|error| CallError::Malformed {
                    resource: SERVICES,
                    message: error.to_string(),
                })?,
            )
        }
        Err(CallError::NotFound { .. }) => Err(StatusError::Gone),
        Err(error) => Err(error.into()),
    }
}

fn path(service: &ServiceKey) -> String {
    let (namespace, name) = (encoded(&service.namespace), encoded(&service.name));
    format!("/api/v1/namespaces/{namespace}/services/{name}")
}

fn nameless() -> CallError {
    CallError::Malformed {
        resource: SERVICES,
        message: "it has no uid or no resourceVersion".to_owned(),
    }
}
