//! Whether the kernel can hold the fence, and whether `proxy.strict_arp` may be off without it. Tries
//! it in a transaction that leaves nothing.

use std::fs;

use super::{Finding, Level, Section};
use crate::apply::fence::{self, FenceError, FenceSupport};
use crate::config::Config;

/// The findings, which stand beside those of the kernel.
pub(super) fn examine(config: &Config, running: bool) -> Vec<Finding> {
    let stands = running.then(|| fence::stands().unwrap_or_default());
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let support = fence::support();
    judge(config.proxy.strict_arp, &support, stands, release.trim())
}

/// `stands` says whether the fence is there, where a daemon should have put it.
fn judge(
    strict_arp: bool,
    support: &Result<FenceSupport, FenceError>,
    stands: Option<bool>,
    release: &str,
) -> Vec<Finding> {
    let warning = |message: String, remedy: &str| {
        Finding::new(Section::Kernel, Level::Warning, message).mend(remedy)
    };
    let kernel = "boot Linux 5.16 or later with CONFIG_NETFILTER_EGRESS, such as Debian 12's";
    let mut findings = Vec::new();
    match support {
        Ok(FenceSupport::Active) => {}
        Ok(FenceSupport::NoEgressHook) => findings.push(warning(
            format!(
                "Linux {release} has no netdev egress hook: strictARP and a table for the kernel's own \
                 ARP remain, and another program on this node can answer for VIPs of other nodes"
            ),
            kernel,
        )),
        Ok(FenceSupport::NoTables) => findings.push(warning(
            format!(
                "Linux {release} cannot hold back ARP in nf_tables: strictARP alone remains, and another \
                 program on this node can answer for VIPs of other nodes"
            ),
            kernel,
        )),
        Err(error) => findings.push(warning(
            format!("cannot tell whether the fence for ARP can stand here: {error}"),
            "run doctor as root",
        )),
    }
    if strict_arp {
        return findings;
    }
    match (support, stands) {
        (Ok(FenceSupport::Active), Some(false)) => findings.push(warning(
            "proxy.strict_arp is false, and the fence that stands for it is not in the kernel"
                .to_owned(),
            "look at the daemon's log, and set proxy.strict_arp = true until the fence is there",
        )),
        (Ok(FenceSupport::NoEgressHook | FenceSupport::NoTables), _) => findings.push(warning(
            "proxy.strict_arp is false, which counts only where the fence is: edgelb keeps strict ARP on"
                .to_owned(),
            "set proxy.strict_arp = true, or boot a kernel that can hold the fence",
        )),
        _ => {}
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_told_with_its_remedy() {
        use FenceSupport::{Active, NoEgressHook, NoTables};
        for (strict_arp, support, stands, parts) in [
            (true, Active, Some(true), &[][..]),
            (true, Active, None, &[]),
            (false, Active, Some(true), &[]),
            (false, Active, Some(false), &["is not in the kernel"]),
            (true, NoEgressHook, None, &["no netdev egress hook"]),
            (true, NoTables, None, &["strictARP alone"]),
            (
                false,
                NoTables,
                None,
                &["strictARP alone", "keeps strict ARP on"],
            ),
        ] {
            let found = judge(strict_arp, &Ok(support), stands, "5.15.0");
            assert_eq!(found.len(), parts.len(), "{found:?}");
            for (found, part) in found.iter().zip(parts) {
                assert!(found.message.contains(part), "{found:?}");
                assert_eq!(
                    (found.level, found.remedy.is_some()),
                    (Level::Warning, true)
                );
            }
        }
    }
}
