//! A handle on the API server for requests that are answered once: keeps one client, makes a new one
//! where the credentials changed, and bounds every request in time. What to ask, and what to do about
//! a refusal, is the caller's decision.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE};
use kube::Client;
use kube::client::Body;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::client::{ClientError, Connected, Credentials, Files};
use super::connection::Answer;
use super::failure::{Failure, causes};

/// How long a request may take, its connection and the answer included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the files with the credentials are looked at, at most.
const CREDENTIALS_PERIOD: Duration = Duration::from_secs(5);

/// What an RBAC rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// GET of one object.
    Get,
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
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
        }
    }

    fn method(self) -> Method {
        match self {
            Self::Get => Method::GET,
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

    fn new(call: &Call, failure: Failure) -> Self {
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
    resource: &'static str,
    path: String,
    content_type: &'static str,
    body: Vec<u8>,
    within: Duration,
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

    fn request(&self) -> Result<http::Request<Body>, Failure> {
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

/// The client in use.
struct Current {
    client: Client,
    files: Files,
    /// When the files were looked at.
    looked: Instant,
    /// Tells clients apart.
    generation: u64,
}

/// The API server, for requests that are answered once. Shared by all that write.
pub struct Server {
    credentials: Credentials,
    period: Duration,
    current: Mutex<(Option<Current>, u64)>,
}

impl Server {
    /// With what these credentials say when they are needed.
    pub fn new(credentials: Credentials) -> Self {
        Self::with_period(credentials, CREDENTIALS_PERIOD)
    }

    /// As `new`, looking at the files with the credentials this often at most.
    pub fn with_period(credentials: Credentials, period: Duration) -> Self {
        Self {
            credentials,
            period,
            current: Mutex::new((None, 0)),
        }
    }

    /// Asks, and reads what comes back.
    pub async fn call<T: DeserializeOwned>(&self, call: &Call) -> Result<T, CallError> {
        let bytes = self.answer(call).await?;
        serde_json::from_slice(&bytes).map_err(|error| CallError::Malformed {
            resource: call.resource,
            message: error.to_string(),
        })
    }

    /// Asks, and gives what comes back.
    pub async fn answer(&self, call: &Call) -> Result<Vec<u8>, CallError> {
        let mut used = None;
        let answered = timeout(call.within, self.answer_with(call, &mut used)).await;
        let result = answered.unwrap_or(Err(Failure::Silent(call.within)));
        result.map_err(|failure| {
            // A connection to a machine that is gone says nothing for minutes: not that one again.
            if let (Failure::Silent(_), Some(generation)) = (&failure, used) {
                self.forget_soon(generation);
            }
            CallError::new(call, failure)
        })
    }

    async fn answer_with(&self, call: &Call, used: &mut Option<u64>) -> Result<Vec<u8>, Failure> {
        let mut again = true;
        loop {
            let (client, generation) = self.client().await?;
            *used = Some(generation);
            match ask(&client, call).await {
                // Refused before anything was done: a token that was replaced a moment ago.
                Err(Failure::Refused { code: 401, .. }) if again => {
                    again = false;
                    self.forget(generation).await;
                }
                result => return result,
            }
        }
    }

    async fn client(&self) -> Result<(Client, u64), ClientError> {
        let mut guard = self.current.lock().await;
        let (current, made) = &mut *guard;
        if let Some(known) = current {
            let now = Instant::now();
            let due = now.duration_since(known.looked) >= self.period;
            if !due || !known.files.have_changed() {
                if due {
                    known.looked = now;
                }
                return Ok((known.client.clone(), known.generation));
            }
            tracing::info!("credentials have changed, connecting again");
        }
        match (self.credentials.client().await, &mut *current) {
            (Ok(Connected { client, files }), _) => {
                *made = made.wrapping_add(1);
                *current = Some(Current {
                    client: client.clone(),
                    files,
                    looked: Instant::now(),
                    generation: *made,
                });
                Ok((client, *made))
            }
            // Files that are replaced one after the other fit again in a moment.
            (Err(error), Some(known)) => {
                tracing::warn!(error = causes(&error), "new credentials cannot be used yet");
                known.looked = Instant::now();
                Ok((known.client.clone(), known.generation))
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The next request has a new client, unless it has one already.
    async fn forget(&self, generation: u64) {
        let mut guard = self.current.lock().await;
        Self::drop_generation(&mut guard.0, generation);
    }

    /// As [`Server::forget`], without waiting: whoever holds the lock is making a new one.
    fn forget_soon(&self, generation: u64) {
        if let Ok(mut guard) = self.current.try_lock() {
            Self::drop_generation(&mut guard.0, generation);
        }
    }

    fn drop_generation(current: &mut Option<Current>, generation: u64) {
        if (current.as_ref()).is_some_and(|known| known.generation == generation) {
            *current = None;
        }
    }
}

async fn ask(client: &Client, call: &Call) -> Result<Vec<u8>, Failure> {
    let answer = Answer::send(client, call.request()?, call.within).await?;
    answer.whole(call.within).await
}

#[cfg(test)]
mod tests;
