//! The daemon's tasks: each has a name, none ends unnoticed.

use std::future::Future;

use tokio::sync::watch;
use tokio::task::JoinSet;

/// Runs a future on a thread of its own, with a runtime of its own: whatever else this process does,
/// it goes on. The future that is given back ends with it; the thread ends only when its future does.
pub fn on_thread<F>(
    name: &'static str,
    make: impl FnOnce() -> F + Send + 'static,
) -> std::io::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let result = match runtime {
                Ok(runtime) => runtime.block_on(async move { make().await }),
                Err(error) => Err(anyhow::Error::from(error).context("cannot start a runtime")),
            };
            // Whoever waits may be gone; then the whole process ends.
            let _ = ended.send(result);
        })?;
    Ok(async move {
        end.await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the thread {name} panicked")))
    })
}

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
