//! Ctrl-C and its kin, as an error that ends the story at the next step.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

/// How often something that can only be polled is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Whether somebody asked the program to end.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches SIGINT, SIGTERM, SIGHUP and SIGQUIT from now on.
    pub(in crate::cli) fn watch() -> io::Result<Self> {
        let interrupt = Self(Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&interrupt.0);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let entered = runtime.enter();
        let mut ctrl_c = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut quit = signal(SignalKind::quit())?;
        drop(entered);
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = ctrl_c.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hang_up.recv() => {}
                        _ = quit.recv() => {}
                    }
                });
                flag.store(true, Ordering::Relaxed);
            })?;
        Ok(interrupt)
    }

    /// An error as soon as somebody asked the program to end.
    pub(in crate::cli) fn check(&self) -> anyhow::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Waits until `done` gives something, the time is up (an error that says `what` did not come),
    /// or somebody asks the program to end.
    pub(in crate::cli) fn wait_for<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut done: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            self.check()?;
            if let Some(value) = done()? {
                return Ok(value);
            }
            if Instant::now() >= deadline {
                bail!("{what} within {} s", timeout.as_secs());
            }
            thread::sleep(LOOK);
        }
    }

    /// Waits until somebody asks the program to end.
    pub(in crate::cli) fn wait(&self) {
        while self.check().is_ok() {
            thread::sleep(LOOK);
        }
    }
}
