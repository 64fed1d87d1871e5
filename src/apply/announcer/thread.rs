//! Runs the announcer on a thread of its own, which no other work of this process can delay.

use std::io;
use std::thread::{Builder, JoinHandle};

use rustix::process::setpriority_process;
use thiserror::Error;
use tokio::sync::oneshot;
use tracing::debug;

use super::{Announcer, AnnouncerError};

/// The thread's nice value: a request is answered before planning goes on, on a busy machine as well.
const NICE: i32 = -10;

/// Why the announcer's thread ended although there is still something to announce.
#[derive(Debug, Error)]
pub enum ThreadError {
    /// The announcer gave up.
    #[error(transparent)]
    Announcer(#[from] AnnouncerError),
    /// Its runtime could not be made.
    #[error("cannot start the announcer's runtime")]
    Runtime(#[source] io::Error),
    /// It panicked: a defect of this program.
    #[error("the announcer's thread panicked")]
    Panicked,
}

/// The running thread. Dropping it leaves the thread running; it ends when the publisher of the
/// announced set is dropped.
#[derive(Debug)]
pub struct AnnouncerThread {
    ended: oneshot::Receiver<Result<(), ThreadError>>,
    thread: JoinHandle<()>,
}

impl AnnouncerThread {
    /// Starts the announcer in the network namespace of the calling thread.
    pub fn start(announcer: Announcer) -> io::Result<Self> {
        let (end, ended) = oneshot::channel();
        let thread = Builder::new().name("announcer".to_owned()).spawn(move || {
            // Nobody listens any more when the daemon has given up waiting.
            let _ = end.send(run(announcer));
        })?;
        Ok(Self { ended, thread })
    }

    /// Waits until the thread has ended, without blocking the calling one: well when the publisher of
    /// the set is gone. Whoever hears anything else should end the daemon.
    pub async fn ended(self) -> Result<(), ThreadError> {
        // A thread that panics drops its end of the channel.
        let result = self.ended.await.unwrap_or(Err(ThreadError::Panicked));
        // It has nothing left to do but to end.
        let _ = self.thread.join();
        result
    }
}

fn run(announcer: Announcer) -> Result<(), ThreadError> {
    if let Err(error) = setpriority_process(None, NICE) {
        debug!(%error, "the announcer's thread has no higher priority than others");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("announcer work")
        .build()
        .map_err(ThreadError::Runtime)?;
    Ok(runtime.block_on(announcer.run())?)
}
