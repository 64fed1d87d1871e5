//! What this kernel can pass on, tried in transactions that leave nothing.

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::edits::{of_table, whole};
use super::table::Table;
use super::{HandedOver, HandoverError};
use crate::apply::netlink::{NetlinkSocket, TransactionError};
use crate::apply::nftables::encode::{Request, message};
use crate::model::family::Family;

/// The name under which a table is tried; it never stays.
const TRIAL: &str = "edgelb_trial";

/// For which families packets can be passed on: it takes the modules `nft_dup_ipv4` and `nft_dup_ipv6`,
/// and `nft_limit`, which kernels with those have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HandoverSupport {
    pub v4: bool,
    pub v6: bool,
}

impl HandoverSupport {
    /// Whether packets of this family can be passed on.
    pub fn has(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Those modules that the kernel lacks.
    pub fn missing_modules(self) -> Vec<&'static str> {
        let modules = [(self.v4, "nft_dup_ipv4"), (self.v6, "nft_dup_ipv6")];
        let missing = modules.into_iter().filter(|(has, _)| !has);
        missing.map(|(_, module)| module).collect()
    }
}

/// What this kernel can pass on; loads the modules that it takes, and leaves nothing else.
pub fn support() -> Result<HandoverSupport, HandoverError> {
    let mut socket = NetlinkSocket::open(NETLINK_NETFILTER).map_err(HandoverError::Open)?;
    of(&mut socket)
}

/// The same by this socket.
pub(super) fn of(socket: &mut NetlinkSocket) -> Result<HandoverSupport, HandoverError> {
    Ok(HandoverSupport {
        v4: can(socket, Family::V4)?,
        v6: can(socket, Family::V6)?,
    })
}

/// Lets the kernel make a table and take it away again, in one transaction: nobody ever sees it.
fn can(socket: &mut NetlinkSocket, family: Family) -> Result<bool, HandoverError> {
    let table = Table {
        name: TRIAL,
        ..Table::of(family, &HandedOver::default())
    };
    let mut requests = whole(&table);
    requests.push(of_table(TRIAL, family, message::DELETE_TABLE, 0));
    let (begin, end) = (Request::begin(), Request::end());
    match socket.transaction(begin.as_ref(), &requests, end.as_ref()) {
        Ok(()) => Ok(true),
        Err(TransactionError::Refused { failures, .. })
            if (failures.iter()).all(|it| it.error.errno != Errno::EPERM as i32) =>
        {
            tracing::debug!(%family, reason = ?failures.first().map(ToString::to_string),
                "kernel cannot pass packets on");
            Ok(false)
        }
        Err(error) => Err(HandoverError::Apply(error)),
    }
}
