//! Keeps on the disk what this node claims: after a restart it goes on where it was. Whoever writes, and
//! when: what is written last is what was claimed last.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::apply::state_directory::{Error, StateDirectory};
use crate::model::peer::Claims;

/// The claims and their file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClaimsRecord {
    claims: watch::Receiver<Claims>,
    state: Arc<StateDirectory>,
    /// What the file holds; locked while it is written.
    written: Arc<Mutex<Option<Claims>>>,
}

impl ClaimsRecord {
    /// Of these claims, as they were read from that directory or have become since.
    pub fn new(claims: watch::Receiver<Claims>, state: Arc<StateDirectory>) -> Self {
        Self {
            claims,
            state,
            written: Arc::default(),
        }
    }

    /// Writes what is claimed now, unless the file holds it; returns that.
    pub fn write(&self) -> Result<Claims, Error> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at behind the lock: another writer cannot overtake this one with older ones.
        let newest = self.claims.borrow().clone();
        if written.as_ref() != Some(&newest) {
            *written = None;
            self.state.write_claims(&newest)?;
            *written = Some(newest.clone());
        }
        Ok(newest)
    }

    /// Writes them whenever they change; ends only with the runtime.
    pub async fn follow(mut self) -> anyhow::Result<()> {
        while self.claims.changed().await.is_ok() {
            let record = self.clone();
            let written = tokio::task::spawn_blocking(move || record.write()).await?;
            if let Err(error) = written {
                tracing::warn!(error = %anyhow::Error::from(error), "claims could not be recorded");
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn claims(number: u64) -> Claims {
        Claims::unit("192.0.2.200".parse().unwrap(), number)
    }

    /// Many writers at once, each woken by claims that are old by the time that it writes.
    #[test]
    fn older_claims_never_overwrite_newer_ones() {
        let directory = tempfile::tempdir().unwrap();
        let (state, _) = StateDirectory::open(&directory.path().join("state")).unwrap();
        let state = Arc::new(state);
        let (sender, receiver) = watch::channel(claims(0));
        let record = ClaimsRecord::new(receiver, Arc::clone(&state));
        std::thread::scope(|scope| {
            for number in 1..=40 {
                sender.send_replace(claims(number));
                let record = record.clone();
                scope.spawn(move || record.write().unwrap());
            }
            // The last run of all: what it returns is on disk, and stays there.
            assert_eq!(record.write().unwrap(), claims(40));
            assert_eq!(state.read_claims().unwrap(), (claims(40), None));
        });
        assert_eq!(state.read_claims().unwrap(), (claims(40), None));
    }
}
