//! What this kernel can hold back, and what that means for the sysctls that are the second line.

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::shape::NETDEV;
use super::{Fence, FenceError};
use crate::apply::netlink::NetlinkSocket;
use crate::apply::nftables::observe::table;
use crate::config::Config;

/// What this kernel can hold back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceSupport {
    /// Everything.
    Active,
    /// No netdev egress hook (before Linux 5.16, or built without it): the kernel's own ARP alone.
    NoEgressHook,
    /// No tables at all: the strictARP sysctls alone remain.
    NoTables,
}

/// What this kernel can hold back, tried in transactions that leave nothing.
pub fn support() -> Result<FenceSupport, FenceError> {
    Fence::open().map(|fence| fence.support())
}

/// Whether the fence stands in this network namespace now, whoever put it there.
pub fn stands() -> Result<bool, FenceError> {
    let mut socket = NetlinkSocket::open(NETLINK_NETFILTER).map_err(FenceError::Open)?;
    Ok(table(&mut socket, NETDEV)?.is_some())
}

/// `proxy.strict_arp = false` counts only where the fence can stand for it: everywhere else the
/// sysctls stay. Returns whether the configuration was overruled.
pub fn hold_strict_arp(config: &mut Config, support: FenceSupport) -> bool {
    let overruled = !config.proxy.strict_arp && support != FenceSupport::Active;
    config.proxy.strict_arp |= overruled;
    overruled
}

#[cfg(test)]
mod tests {
    use super::{FenceSupport, hold_strict_arp};
    use crate::config::Config;

    #[test]
    fn strict_arp_is_let_go_only_where_the_fence_holds() {
        for (asked, support, kept) in [
            (false, FenceSupport::Active, false),
            (false, FenceSupport::NoEgressHook, true),
            (false, FenceSupport::NoTables, true),
            (true, FenceSupport::Active, true),
            (true, FenceSupport::NoTables, true),
        ] {
            let mut config = Config::defaults("edge-a");
            config.proxy.strict_arp = asked;
            assert_eq!(hold_strict_arp(&mut config, support), asked != kept);
            assert_eq!(config.proxy.strict_arp, kept, "{support:?}");
        }
    }
}
