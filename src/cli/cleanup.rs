//! `edgelb cleanup`: removes everything that edgelb ever put into this kernel, and nothing else.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use super::exit::Exit;
use super::output::{self, Format};
use crate::apply::kernel::{Kernel, OpenError};
use crate::apply::state_directory::StateDirectory;
use crate::config::{self, Datapath, Environment};

/// Cleans up after a daemon that no longer runs.
pub fn run(file: &Path, format: Format) -> anyhow::Result<Exit> {
    let config = match config::load(file, &Environment::detect()) {
        Ok(loaded) => loaded.config,
        Err(invalid) => {
            super::tell(&invalid.to_string());
            return Ok(Exit::Usage);
        }
    };
    let (state, warnings) = StateDirectory::open(&config.node.state_dir).with_context(|| {
        format!(
            "cannot use the state directory {}: stop the daemon first",
            config.node.state_dir.display()
        )
    })?;
    for warning in warnings {
        super::tell(&warning.to_string());
    }
    // IPVS wherever there is one: an earlier run may have used it.
    let mut kernel = match Kernel::open(Datapath::Auto, Arc::new(state)) {
        Ok(kernel) => kernel,
        Err(error @ OpenError::State(_)) => return Err(error.into()),
        Err(error) => {
            super::tell(&format!("{:#}", anyhow::Error::from(error)));
            return Ok(Exit::Privilege);
        }
    };
    let report = kernel.remove_all();
    match format {
        Format::Json => output::write_json(&serde_json::json!({
            "removed": report
                .changes
                .iter()
                .map(|((object, operation), number)| {
                    serde_json::json!({"object": object, "operation": operation, "number": number})
                })
                .collect::<Vec<_>>(),
            "failures": report.failures,
        })),
        Format::Table => {
            // Writing to a String cannot fail.
            let mut text = String::new();
            for ((object, operation), number) in &report.changes {
                let _ = writeln!(text, "{operation} {object} {number}");
            }
            for failure in &report.failures {
                let _ = writeln!(text, "left: {}: {}", failure.object, failure.message);
            }
            if text.is_empty() {
                text.push_str("nothing of edgelb is in this kernel\n");
            }
            output::write_text(&text)
        }
    }
    .context("cannot write the result")?;
    Ok(if report.failures.is_empty() {
        Exit::Fine
    } else {
        Exit::Problem
    })
}
