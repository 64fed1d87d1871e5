//! Whether the kernel can pass connections on after a planned move. Tries it in a transaction that leaves
//! nothing.

use std::fs;

use super::{Finding, Level, Section};
use crate::apply::handover::{self, HandoverError, HandoverSupport};
use crate::config::Config;

/// The findings, which stand beside those of the kernel; none where this node has no others.
pub(super) fn examine(config: &Config) -> Option<Finding> {
    if config.membership.key_files.is_empty() {
        return None;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    judge(&handover::support(), release.trim())
}

fn judge(support: &Result<HandoverSupport, HandoverError>, release: &str) -> Option<Finding> {
    let (message, remedy) = match support {
        Ok(support) => {
            let missing = support.missing_modules();
            if missing.is_empty() {
                return None;
            }
            let message = format!(
                "Linux {release} cannot pass packets on: connections break when their VIP moves to \
                 another node on purpose"
            );
            let remedy = format!(
                "install the kernel package that has {} (CONFIG_NFT_DUP_IPV4, CONFIG_NFT_DUP_IPV6; they need CONFIG_NFT_LIMIT beside them)",
                missing.join(" and ")
            );
            (message, remedy)
        }
        Err(error) => (
            format!("cannot tell whether connections can be passed on: {error}"),
            "run doctor as root".to_owned(),
        ),
    };
    Some(Finding::new(Section::Kernel, Level::Warning, message).mend(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_told_with_its_remedy() {
        let support = |v4, v6| Ok(HandoverSupport { v4, v6 });
        assert_eq!(
            judge(&support(true, true), "6.1").map(|it| it.message),
            None
        );
        for (v4, v6, module) in [
            (false, true, "nft_dup_ipv4"),
            (true, false, "nft_dup_ipv6"),
            (false, false, "nft_dup_ipv4 and nft_dup_ipv6"),
        ] {
            let found = judge(&support(v4, v6), "6.1");
            let remedy = found.and_then(|found| found.remedy).unwrap_or_default();
            assert!(remedy.contains(&format!("has {module} (")), "{remedy}");
        }
    }
}
