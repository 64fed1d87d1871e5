//! Who may order something by the admin socket: root, whoever the daemon runs as, and the members of
//! the group. To read, the mode of the socket is enough; that it was changed by hand must not be enough
//! to take a node out of service.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist};
use tokio::net::unix::UCred;
use tracing::debug;

use super::ADMIN_GROUP;

/// Whether this peer may order. Looks users up, which may wait for a directory service.
pub(super) fn may_order(peer: &UCred) -> bool {
    let (user, group) = (Uid::from_raw(peer.uid()), Gid::from_raw(peer.gid()));
    let members = || {
        Group::from_name(ADMIN_GROUP)
            .ok()
            .flatten()
            .map(|it| it.gid)
    };
    is_allowed(user, geteuid(), || {
        members().is_some_and(|admin| group == admin || groups_of(user, group).contains(&admin))
    })
}

fn is_allowed(user: Uid, daemon: Uid, is_member: impl FnOnce() -> bool) -> bool {
    user.is_root() || user == daemon || is_member()
}

/// The groups of a user beside the one that it came with.
fn groups_of(user: Uid, group: Gid) -> Vec<Gid> {
    let name = match User::from_uid(user) {
        Ok(found) => found.and_then(|user| CString::new(user.name).ok()),
        Err(error) => {
            debug!(uid = user.as_raw(), %error, "cannot look up an admin client");
            None
        }
    };
    name.and_then(|name| getgrouplist(&name, group).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_daemons_own_user_and_members_may_order() {
        let [root, daemon, other] = [0, 990, 1000].map(Uid::from_raw);
        for (user, member, allowed) in [
            (root, false, true),
            (daemon, false, true),
            (other, true, true),
            (other, false, false),
        ] {
            assert_eq!(is_allowed(user, daemon, || member), allowed, "{user}");
        }
        // Root's name is known everywhere, and its first group is its own.
        assert!(groups_of(root, Gid::from_raw(0)).contains(&Gid::from_raw(0)));
        assert_eq!(
            groups_of(Uid::from_raw(4_000_000_000), Gid::from_raw(1)),
            []
        );
    }
}
