//! A host that sends the same frames over and over, whatever they say.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{LINK, is_passing, packet_socket};
use crate::lab::client::client_error;
use crate::lab::{Host, LabError};

/// A running flood; dropping it ends it.
#[derive(Debug)]
pub struct Flood {
    ended: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Flood {
    /// Sends all frames, rests for `pause`, and begins anew.
    pub fn start(host: &Host, frames: Vec<Vec<u8>>, pause: Duration) -> Result<Self, LabError> {
        let (ended, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (end, count) = (Arc::clone(&ended), Arc::clone(&sent));
        let thread = host
            .namespace
            .spawn_thread(move || {
                let (socket, _) = packet_socket(LINK, 0)?;
                while !end.load(Ordering::Relaxed) {
                    for frame in &frames {
                        match socket.send(frame) {
                            Ok(_) => count.fetch_add(1, Ordering::Relaxed),
                            Err(error) if is_passing(&error) => 0,
                            Err(error) => return Err(error),
                        };
                    }
                    thread::sleep(pause);
                }
                Ok(())
            })
            .map_err(|source| client_error(&host.namespace, source))?;
        Ok(Self {
            ended,
            sent,
            thread: Some(thread),
        })
    }

    /// Frames that have gone out.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && let Err(error) = thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the flood panicked")))
        {
            tracing::warn!(%error, "a flood of frames failed");
        }
    }
}
