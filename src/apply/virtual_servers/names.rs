//! Names of virtual servers and changes: the journal's, and ipvsadm's for messages.

use crate::apply::ipvs::types::{Change, Protocol as IpvsProtocol, VirtualServerKey};
use crate::apply::state_directory::VirtualServerName;
use crate::model::family::Protocol;

/// In the words of ipvsadm.
pub(super) fn describe(change: &Change) -> String {
    match change {
        Change::NewVirtualServer(key, server) => format!("-A {key} -s {}", server.scheduler),
        Change::SetVirtualServer(key, server) => format!("-E {key} -s {}", server.scheduler),
        Change::DeleteVirtualServer(key) => format!("-D {key}"),
        Change::NewRealServer(key, real_server, _) => format!("-a {key} -r {real_server}"),
        Change::SetRealServer(key, real_server, attributes) => {
            format!("-e {key} -r {real_server} -w {}", attributes.weight)
        }
        Change::DeleteRealServer(key, real_server) => format!("-d {key} -r {real_server}"),
        Change::ZeroStatistics(_) => "-Z".to_owned(),
    }
}

/// The journal's name of a virtual server; none for marks, which we do not use.
pub(super) fn name(key: &VirtualServerKey) -> Option<VirtualServerName> {
    match key {
        VirtualServerKey::Address {
            protocol,
            address,
            port,
        } => Some(VirtualServerName {
            protocol: match protocol {
                IpvsProtocol::Tcp => Protocol::Tcp,
                IpvsProtocol::Udp => Protocol::Udp,
                IpvsProtocol::Sctp => Protocol::Sctp,
            },
            address: *address,
            port: *port,
        }),
        VirtualServerKey::FirewallMark { .. } => None,
    }
}

/// The scheduler that a change asks IPVS for.
pub(super) fn scheduler_of(change: &Change) -> Option<&str> {
    match change {
        Change::NewVirtualServer(_, server) | Change::SetVirtualServer(_, server) => {
            Some(&server.scheduler)
        }
        _ => None,
    }
}

/// The virtual server that a change is about.
pub(super) fn name_of(change: &Change) -> Option<VirtualServerName> {
    match change {
        Change::NewVirtualServer(key, _)
        | Change::SetVirtualServer(key, _)
        | Change::DeleteVirtualServer(key) => name(key),
        _ => name(&real_server_of(change)?),
    }
}

/// The virtual server that a change needs to be there.
pub(super) fn real_server_of(change: &Change) -> Option<VirtualServerKey> {
    match change {
        Change::NewRealServer(key, ..)
        | Change::SetRealServer(key, ..)
        | Change::DeleteRealServer(key, _) => Some(*key),
        _ => None,
    }
}

/// What IPVS means by `ENOENT` to a virtual server: it has looked for the scheduler's module.
pub(super) fn missing_scheduler(scheduler: &str) -> String {
    format!(
        "this kernel has no IPVS scheduler {scheduler}: {}; or set another proxy.scheduler or \
         edgelb.io/scheduler",
        crate::apply::module::remedy(&format!("ip_vs_{scheduler}"))
    )
}
