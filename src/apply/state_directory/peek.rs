//! What a state directory says about the kernel, read beside the daemon that has it locked. Changes
//! nothing; what cannot be read counts as not there.

use std::collections::BTreeSet;
use std::path::Path;

use super::journal::{self, VirtualServerName};
use super::{BOOT, CLUSTER, KERNEL_BOOT_ID, SYSCTLS, SysctlRecords, Versioned};
use crate::model::cluster::ClusterState;

/// The records of sysctls of this boot, by path below `/proc/sys`.
pub fn sysctls(state_dir: &Path) -> SysctlRecords {
    let text = of_this_boot(state_dir)
        .then(|| std::fs::read_to_string(state_dir.join(SYSCTLS)).ok())
        .flatten();
    text.and_then(|text| serde_json::from_str::<Versioned<SysctlRecords>>(&text).ok())
        .map(|versioned| versioned.content)
        .unwrap_or_default()
}

/// The cluster as the daemon recorded it last: at most some seconds old while it runs.
pub fn cluster(state_dir: &Path) -> Option<ClusterState> {
    let text = std::fs::read(state_dir.join(CLUSTER)).ok()?;
    let versioned: Versioned<ClusterState> = serde_json::from_slice(&text).ok()?;
    Some(versioned.content)
}

/// The virtual servers that are ours in this boot.
pub fn virtual_servers(state_dir: &Path) -> BTreeSet<VirtualServerName> {
    let content = of_this_boot(state_dir)
        .then(|| std::fs::read(state_dir.join(journal::FILE)).ok())
        .flatten();
    journal::entries(&content.unwrap_or_default())
}

/// Whether the records about the kernel are of this boot.
pub(super) fn of_this_boot(state_dir: &Path) -> bool {
    let boot = |path: &Path| std::fs::read_to_string(path).ok();
    let recorded = boot(&state_dir.join(BOOT));
    recorded.is_some_and(|recorded| {
        boot(Path::new(KERNEL_BOOT_ID)).is_some_and(|now| now.trim() == recorded.trim())
    })
}
