//! Whether SIGTERM means that this machine goes down: then nobody should wait for this node to come back.
//! A stop of the service alone is a restart, for which the others wait. Decides nothing about VIPs.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// There where systemd is the service manager (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";
/// What systemd says of itself from the moment that a power-off, halt or reboot was asked for
/// (`systemctl(1)`, `is-system-running`).
const STOPPING: &str = "stopping";
/// How long it may take to say so.
const PATIENCE: Duration = Duration::from_millis(200);
/// A file of this name in `node.runtime_dir` says the same where there is another service manager.
const HINT: &str = "leaving";

/// Whether this node goes for good, as far as anybody says so within 200 ms.
pub async fn is_leave(runtime_directory: &Path) -> bool {
    runtime_directory.join(HINT).exists() || system_stops(Path::new(SYSTEMD), "systemctl").await
}

/// Forgets what was said of an earlier run.
pub fn forget(runtime_directory: &Path) {
    // Mostly it is not there; where it cannot be removed, it goes on counting.
    let _ = std::fs::remove_file(runtime_directory.join(HINT));
}

async fn system_stops(systemd: &Path, systemctl: &str) -> bool {
    if !systemd.is_dir() {
        return false;
    }
    let asked = Command::new(systemctl)
        .arg("is-system-running")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(output)) => output.stdout.trim_ascii() == STOPPING.as_bytes(),
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot ask systemd whether the machine goes down");
            false
        }
        Err(_) => {
            tracing::warn!("systemd is slow to say whether the machine goes down");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn only_a_system_that_stops_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("systemctl");
        for (script, expected) in [
            ("echo stopping; exit 1", true),
            ("test \"$1\" = is-system-running && echo stopping", true),
            ("echo running", false),
            ("echo degraded; exit 1", false),
            ("echo stopping-not", false),
            ("exit 1", false),
            ("sleep 60; echo stopping", false),
        ] {
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            let start = Instant::now();
            let stops = system_stops(directory.path(), program.to_str().unwrap()).await;
            // A busy machine may be too late to hear it, never the other way round.
            assert!(stops == expected || start.elapsed() >= PATIENCE, "{script}");
            assert!(!stops || expected, "{script}");
            assert!(start.elapsed() < Duration::from_secs(10), "{script}");
        }
        let nowhere = directory.path().join("nowhere");
        assert!(!system_stops(&nowhere, program.to_str().unwrap()).await);
        assert!(!system_stops(directory.path(), nowhere.to_str().unwrap()).await);
    }

    #[tokio::test]
    async fn a_hint_counts_for_one_run() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(HINT), "").unwrap();
        assert!(is_leave(directory.path()).await);
        forget(directory.path());
        assert!(!directory.path().join(HINT).exists());
    }
}
