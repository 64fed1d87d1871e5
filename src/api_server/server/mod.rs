//! A handle on the API server for requests that are answered once: keeps one client, makes a new one
//! where the credentials changed, and bounds every request in time. What to ask, and what to do about
//! a refusal, is the caller's decision.

mod call;

use std::time::{Duration, Instant};

use kube::Client;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::timeout;

pub use self::call::{Call, CallError, REQUEST_TIMEOUT, Verb, body, encoded};
use super::client::{ClientError, Connected, Credentials, Files};
use super::connection::Answer;
use super::failure::{Failure, causes};

/// How often the files with the credentials are looked at, at most.
const CREDENTIALS_PERIOD: Duration = Duration::from_secs(5);

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
