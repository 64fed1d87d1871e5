//! One request to the API server, and why it was not answered with success: whether the server may
//! have done what was asked for all the same is the question that a writer has to answer. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE};
use kube::client::Body;
use serde::Serialize;

use crate::api_server::client::ClientError;
use crate::api_server::failure::{Failure, causes};

/// How long a request may take, its connection and the answer included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// What an RBAC rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// GET of one object.
    Get,
    /// GET of a collection, or of a page of it.
    List,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH.
    Patch,
}

impl Verb {
    /// As it is written in a role.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
        }
    }

    fn method(self) -> Method {
        match self {
            Self::Get | Self::List => Method::GET,
            Self::Create => Method::POST,
            Self::Update => Method::PUT,
            Self::Patch => Method::PATCH,
        }
    }
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a request was not answered with success.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no client to ask with.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// 404: there is no such object (or no such kind).
    #[error("{resource} is not there: {message}")]
    NotFound {
        resource: &'static str,
        message: String,
    },
    /// 409: the object is another one by now, or exists already.
    #[error("{resource} was written by somebody else: {message}")]
    Conflict {
        resource: &'static str,
        message: String,
    },
    /// 401, with new credentials as well.
    #[error("the API server does not accept the credentials: {message}")]
    Unauthorized { message: String },
    /// 403: the user's role lacks this verb.
    #[error("the role lacks the verb {verb} on {resource}: {message}")]
    Forbidden {
        verb: Verb,
        resource: &'static str,
        message: String,
    },
    /// 429 or a server error: later it may work.
    #[error("the API server answered {code}: {message}")]
    Busy {
        code: u16,
        message: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// Another refusal: the same request will not work.
    #[error("the API server refused {verb} on {resource} with {code}: {message}")]
    Refused {
        verb: Verb,
        resource: &'static str,
        code: u16,
        message: String,
    },
    /// There is no connection, or it broke off.
    #[error("the connection failed: {0}")]
    Connection(String),
    /// No whole answer within this time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The answer is not what was asked for.
    #[error("the answer for {resource} cannot be read: {message}")]
    Malformed {
        resource: &'static str,
        message: String,
    },
}

impl CallError {
    /// Whether the server may have done what was asked for although it did not say so. 5xx too: a
    /// server that gave up on etcd does not know either.
    pub fn leaves_outcome_unknown(&self) -> bool {
        match self {
            Self::Busy { code, .. } => *code != 429,
            Self::Connection(_) | Self::TimedOut(_) | Self::Malformed { .. } => true,
            Self::Client(_)
            | Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::Refused { .. } => false,
        }
    }

    /// Whether it is about the server or the way there, and not about what was asked for: every
    /// other request would end in the same way now.
    pub fn concerns_everything(&self) -> bool {
        match self {
            Self::Busy { code, .. } => *code == 429,
            Self::Client(_)
            | Self::Unauthorized { .. }
            | Self::Connection(_)
            | Self::TimedOut(_) => true,
            Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::Forbidden { .. }
            | Self::Refused { .. }
            | Self::Malformed { .. } => false,
        }
    }

    /// How long the server asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The message with its causes.
    pub fn describe(&self) -> String {
        causes(self)
    }

    pub(super) fn new(call: &Call, failure: Failure) -> Self {
        let (verb, resource) = (call.verb, call.resource);
        match failure {
            Failure::Client(error) => Self::Client(error),
            Failure::Connection(message) => Self::Connection(message),
            Failure::Silent(_) => Self::TimedOut(call.within),
            Failure::Malformed(message) => Self::Malformed { resource, message },
            failure @ Failure::NoStreaming => Self::Malformed {
                resource,
                message: failure.describe(),
            },
            Failure::Refused {
                code,
                message,
                retry_after,
            } => match code {
                401 => Self::Unauthorized { message },
                403 => Self::Forbidden {
                    verb,
                    resource,
                    message,
                },
                404 => Self::NotFound { resource, message },
                409 => Self::Conflict { resource, message },
                429 | 500.. => Self::Busy {
                    code,
                    message,
                    retry_after,
                },
                _ => Self::Refused {
                    verb,
                    resource,
                    code,
                    message,
                },
            },
        }
    }
}

/// A request.
#[derive(Debug, Clone)]
pub struct Call {
    verb: Verb,
    /// As it is written in a role: `services/status`.
    pub(super) resource: &'static str,
    pub(super) path: String,
    content_type: &'static str,
    body: Vec<u8>,
    pub(super) within: Duration,
}

impl Call {
    fn new(verb: Verb, resource: &'static str, path: String, body: Vec<u8>) -> Self {
        Self {
            verb,
            resource,
            path,
            content_type: "application/json",
            body,
            within: REQUEST_TIMEOUT,
        }
    }

    /// Asks for one object. `path` begins with `/`; its parts are [`encoded`].
    pub fn get(resource: &'static str, path: String) -> Self {
        Self::new(Verb::Get, resource, path, Vec::new())
    }

    /// Asks for a page of a collection.
    pub fn list(resource: &'static str, path: String) -> Self {
        Self::new(Verb::List, resource, path, Vec::new())
    }

    /// Creates an object; `path` is the collection's.
    pub fn create(resource: &'static str, path: String, body: Vec<u8>) -> Self {
        Self::new(Verb::Create, resource, path, body)
    }

    /// Replaces an object; the body has the version that it replaces.
    pub fn update(resource: &'static str, path: String, body: Vec<u8>) -> Self {
        Self::new(Verb::Update, resource, path, body)
    }

    /// Changes a part of an object by a strategic merge.
    pub fn merge(resource: &'static str, path: String, body: Vec<u8>) -> Self {
        Self {
            content_type: "application/strategic-merge-patch+json",
            ..Self::new(Verb::Patch, resource, path, body)
        }
    }

    /// Waits at most so long, instead of [`REQUEST_TIMEOUT`].
    #[must_use]
    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    /// Whether it makes a new object.
    pub fn creates(&self) -> bool {
        self.verb == Verb::Create
    }

    pub(super) fn request(&self) -> Result<http::Request<Body>, Failure> {
        http::Request::builder()
            .method(self.verb.method())
            .uri(&self.path)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, self.content_type)
            .body(Body::from(self.body.clone()))
            .map_err(|error| Failure::Malformed(error.to_string()))
    }
}

/// Writes a body.
pub fn body(resource: &'static str, object: &impl Serialize) -> Result<Vec<u8>, CallError> {
    serde_json::to_vec(object).map_err(|error| CallError::Malformed {
        resource,
        message: error.to_string(),
    })
}

/// A part of a path, percent-encoded: a name never becomes two parts.
pub fn encoded(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}
