//! `edgelb run`: the node daemon in the foreground.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use super::exit::Exit;
use crate::apply::fence::Fence;
use crate::apply::kernel::{Kernel, OpenError};
use crate::apply::state_directory::StateDirectory;
use crate::config::{self, Config, Environment, LogFormat, LogLevel};
use crate::daemon;

/// Runs until it is told to stop.
pub fn run(file: &Path) -> anyhow::Result<Exit> {
    let loaded = match config::load(file, &Environment::detect()) {
        Ok(loaded) => loaded,
        Err(invalid) => {
            super::tell(&invalid.to_string());
            return Ok(Exit::Usage);
        }
    };
    let config = loaded.config;
    start_log(&config);
    for warning in &loaded.warnings {
        tracing::warn!(problem = warning.describe(file), "configuration");
    }
    let (state, warnings) = StateDirectory::open(&config.node.state_dir).with_context(|| {
        format!(
            "cannot use the state directory {}",
            config.node.state_dir.display()
        )
    })?;
    for warning in warnings {
        tracing::warn!(error = %warning, "state directory");
    }
    let state = Arc::new(state);
    let mut kernel = match Kernel::open(config.proxy.datapath, Arc::clone(&state)) {
        Ok(kernel) => kernel,
        Err(error @ OpenError::State(_)) => return Err(error.into()),
        Err(error) => {
            super::tell(&format!("{:#}", anyhow::Error::from(error)));
            return Ok(Exit::Privilege);
        }
    };
    kernel
        .set_timeouts(&config)
        .context("cannot set the timeouts of IPVS")?;
    let fence = match Fence::open() {
        Ok(fence) => fence.with_lease(config.membership.lease()),
        Err(error) => {
            super::tell(&format!("{:#}", anyhow::Error::from(error)));
            return Ok(Exit::Privilege);
        }
    };
    tracing::info!(datapath = kernel.datapath(), "kernel opened");
    // Two workers: one makes passes, the other goes on answering ARP meanwhile.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let file = file.to_owned();
    let ended = runtime.block_on(async move {
        tokio::spawn(async move { daemon::run(&file, config, (kernel, fence), state).await }).await
    });
    runtime.shutdown_background();
    ended.context("the daemon panicked")??;
    Ok(Exit::Fine)
}

/// Logs go to stderr; `RUST_LOG` wins over the configuration.
fn start_log(config: &Config) {
    let level = match config.observability.log_level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    // The client logs each failed connection as an error; the source tells of it, once.
    let default = || EnvFilter::new(format!("{level},kube_client=off"));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| default());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // A second subscriber in one process cannot be; the first one goes on.
    let _ = match config.observability.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
