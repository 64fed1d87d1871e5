//! The daemon's tasks: each has a name, none ends unnoticed.

use std::future::Future;

use tokio::sync::watch;
use tokio::task::JoinSet;

/// The daemon's tasks. Dropping it ends them all.
#[derive(Default)]
pub struct Tasks {
    running: JoinSet<(&'static str, anyhow::Result<()>)>,
}

impl Tasks {
    /// Starts a task that ends when it is told to.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.running.spawn(async move { (name, task.await) });
    }

    /// The same for a task that knows nothing of stopping.
    pub fn spawn_until(
        &mut self,
        name: &'static str,
        mut stop: watch::Receiver<bool>,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.spawn(name, async move {
            tokio::select! {
                ended = task => ended,
                _ = stop.wait_for(|stop| *stop) => Ok(()),
            }
        });
    }

    /// Waits for a task that ends although nobody stopped it.
    pub async fn ended(&mut self) -> anyhow::Error {
        match self.running.join_next().await {
            Some(Ok((name, Ok(())))) => anyhow::anyhow!("the task {name} ended"),
            Some(Ok((name, Err(error)))) => error.context(format!("the task {name} failed")),
            Some(Err(error)) => anyhow::Error::from(error).context("a task panicked"),
            None => std::future::pending().await,
        }
    }

    /// Waits until all of them have ended.
    pub async fn join(&mut self) {
        while self.running.join_next().await.is_some() {}
    }
}
