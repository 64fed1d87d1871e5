//! Why a request to the API server, or the stream that answers it, ended. Says how long the server
//! wants to be left alone; when to try again is the follower's decision.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::client::ClientError;

/// A request or its answer failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no client to ask with.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No answer, or the answer broke off.
    #[error("the connection failed: {0}")]
    Connection(String),
    /// Nothing came for this long.
    #[error("nothing came for {0:?}")]
    Silent(Duration),
    /// The server refused, in its own words.
    #[error("the API server answered {code}: {message}")]
    Refused {
        code: u16,
        message: String,
        retry_after: Option<Duration>,
    },
    /// What came is not what was asked for.
    #[error("the answer cannot be read: {0}")]
    Malformed(String),
    /// The end of the initial events was not told: a server without streaming lists.
    #[error("the API server does not stream lists")]
    NoStreaming,
}

/// The `Status` object with which the API server refuses.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Refusal {
    code: Option<u16>,
    message: Option<String>,
    reason: Option<String>,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: Option<u64>,
}

impl Refusal {
    pub(crate) fn into_failure(self, retry_after: Option<Duration>) -> Failure {
        let asked = self.details.and_then(|details| details.retry_after_seconds);
        let message = self.message.or(self.reason).unwrap_or_default();
        Failure::Refused {
            code: self.code.unwrap_or_default(),
            message: shortened(&message),
            retry_after: retry_after.or(asked.map(Duration::from_secs)),
        }
    }
}

impl Failure {
    /// From an answer that is not 200.
    pub(crate) fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let retry_after = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        // A proxy on the way may answer with something else than a Status.
        let mut refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
        refusal.code = Some(status.as_u16());
        if refusal.message.is_none() {
            refusal.message = Some(String::from_utf8_lossy(body).trim().to_owned());
        }
        refusal.into_failure(retry_after)
    }

    /// The resource version or the continue token is too old: list again.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Refused { code: 410, .. })
    }

    /// The server has no such collection.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// The server does not know streaming lists, or does not take part in them.
    pub(crate) fn refuses_streaming(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: 400 | 422,
                ..
            } | Self::NoStreaming
        )
    }

    /// How long the server asked to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The message with its causes.
    pub(crate) fn describe(&self) -> String {
        causes(self)
    }
}

/// The text for a message: enough for a refusal that names user, verb, resource and namespace, and
/// no page of HTML that a proxy answered with.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 400;
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

/// An error with its causes, each said once: some repeat what was said above them.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}
