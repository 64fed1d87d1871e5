//! Names of virtual servers and changes: the journal's, and ipvsadm's for messages.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::apply::ipvs::types::{
    Change, ForwardingMethod, Protocol as IpvsProtocol, RealServer, SCHEDULER_FLAG_FALLBACK,
    SCHEDULER_FLAG_PORT, VirtualServer, VirtualServerKey,
};
use crate::apply::reach::Operation;
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

/// What a change does to which kind of object.
pub(super) fn kind(change: &Change) -> (Operation, &'static str) {
    match change {
        Change::NewVirtualServer(..) => (Operation::Add, "virtual_server"),
        Change::SetVirtualServer(..) | Change::ZeroStatistics(_) => {
            (Operation::Change, "virtual_server")
        }
        Change::DeleteVirtualServer(_) => (Operation::Remove, "virtual_server"),
        Change::NewRealServer(..) => (Operation::Add, "real_server"),
        Change::SetRealServer(..) => (Operation::Change, "real_server"),
        Change::DeleteRealServer(..) => (Operation::Remove, "real_server"),
    }
}

/// A change as a command of ipvsadm, which does the same.
pub(super) fn words(change: &Change) -> String {
    match change {
        Change::NewVirtualServer(key, server) => {
            format!("ipvsadm -A {}{}", place(key), attributes(server))
        }
        Change::SetVirtualServer(key, server) => {
            format!("ipvsadm -E {}{}", place(key), attributes(server))
        }
        Change::DeleteVirtualServer(key) => format!("ipvsadm -D {}", place(key)),
        Change::NewRealServer(key, real_server, how) => {
            format!("ipvsadm -a {} -r {real_server} {}", place(key), sent(how))
        }
        Change::SetRealServer(key, real_server, how) => {
            format!("ipvsadm -e {} -r {real_server} {}", place(key), sent(how))
        }
        Change::DeleteRealServer(key, real_server) => {
            format!("ipvsadm -d {} -r {real_server}", place(key))
        }
        Change::ZeroStatistics(None) => "ipvsadm -Z".to_owned(),
        Change::ZeroStatistics(Some(key)) => format!("ipvsadm -Z {}", place(key)),
    }
}

/// A virtual server as ipvsadm names it.
pub(super) fn place(key: &VirtualServerKey) -> String {
    match key {
        VirtualServerKey::Address {
            protocol,
            address,
            port,
        } => {
            let flag = match protocol {
                IpvsProtocol::Tcp => "-t",
                IpvsProtocol::Udp => "-u",
                IpvsProtocol::Sctp => "--sctp-service",
            };
            format!("{flag} {}", SocketAddr::new(*address, *port))
        }
        VirtualServerKey::FirewallMark { mark, .. } => format!("-f {mark}"),
    }
}

/// The options of a virtual server.
pub(super) fn attributes(server: &VirtualServer) -> String {
    let mut text = format!(" -s {}", server.scheduler);
    if let Some(persistence) = &server.persistence {
        // Writing to a String cannot fail.
        let _ = write!(text, " -p {}", persistence.timeout);
    }
    let flags: Vec<&str> = [
        (SCHEDULER_FLAG_FALLBACK, "fallback"),
        (SCHEDULER_FLAG_PORT, "port"),
    ]
    .into_iter()
    .filter(|(flag, _)| server.scheduler_flags & flag != 0)
    .map(|(_, name)| name)
    .collect();
    for (index, flag) in flags.iter().enumerate() {
        let _ = write!(
            text,
            "{}{}-{flag}",
            if index == 0 { " -b " } else { "," },
            server.scheduler
        );
    }
    text
}

/// The options of a real server.
fn sent(how: &RealServer) -> String {
    format!("{} -w {}", method(how.forwarding_method), how.weight)
}

/// A forwarding method as ipvsadm names it.
pub(super) fn method(method: ForwardingMethod) -> &'static str {
    match method {
        ForwardingMethod::DirectRouting => "-g",
        ForwardingMethod::Tunnel(_) => "-i",
        ForwardingMethod::Masquerade | ForwardingMethod::Local | ForwardingMethod::Bypass => "-m",
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
