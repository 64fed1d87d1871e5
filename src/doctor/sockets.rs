//! The sockets of this network namespace that wait for packets, and whose they are. Reads `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::family::Protocol;

/// The tables, and the state of a socket in them that waits for anybody.
const TABLES: [(&str, Protocol, &str); 4] = [
    ("tcp", Protocol::Tcp, "0A"),
    ("tcp6", Protocol::Tcp, "0A"),
    ("udp", Protocol::Udp, "07"),
    ("udp6", Protocol::Udp, "07"),
];

/// A socket that waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Waiting {
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) address: IpAddr,
    /// Name and number, where that can be seen.
    pub(super) process: Option<(String, u32)>,
}

/// All of them, sorted; a table that the kernel lacks has none.
pub(super) fn waiting() -> io::Result<Vec<Waiting>> {
    let mut found: Vec<(Waiting, u64)> = Vec::new();
    for (table, protocol, state) in TABLES {
        match fs::read_to_string(format!("/proc/self/net/{table}")) {
            Ok(text) => found.extend(parse(&text, protocol, state)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if !found.is_empty() {
        let owners = owners();
        for (socket, inode) in &mut found {
            socket.process = owners.get(inode).cloned();
        }
    }
    let mut sockets: Vec<Waiting> = found.into_iter().map(|(socket, _)| socket).collect();
    sockets.sort();
    sockets.dedup();
    Ok(sockets)
}

/// The addresses of this node's interfaces at which others reach it; none where they cannot be read.
pub(super) fn own_addresses() -> Vec<IpAddr> {
    let found = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let found = found.filter_map(|interface| {
        let address = interface.address?;
        let v4 = (address.as_sockaddr_in()).map(|it| IpAddr::V4(it.ip()));
        v4.or_else(|| Some(IpAddr::V6(address.as_sockaddr_in6()?.ip())))
    });
    let local = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    };
    found.filter(|address| !local(address)).collect()
}

/// The sockets of a table in this state, each with its inode.
fn parse(text: &str, protocol: Protocol, state: &str) -> Vec<(Waiting, u64)> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let (address, port) = fields.nth(1)?.split_once(':')?;
        if fields.nth(1)? != state {
            return None;
        }
        let socket = Waiting {
            protocol,
            port: u16::from_str_radix(port, 16).ok()?,
            address: parse_address(address)?,
            process: None,
        };
        Some((socket, fields.nth(5)?.parse().ok()?))
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// Words in the order of this machine, as `%08X` of each.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = text.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// The process that has a socket, by inode. Only root sees those of others.
fn owners() -> BTreeMap<u64, (String, u32)> {
    let mut owners = BTreeMap::new();
    for (process, name) in processes() {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else {
                continue;
            };
            let inode = target.to_str().and_then(|target| {
                let number = target.strip_prefix("socket:[")?.strip_suffix(']')?;
                number.parse().ok()
            });
            if let Some(inode) = inode {
                owners.insert(inode, (name.clone(), process));
            }
        }
    }
    owners
}

/// Number and name of every process that can be seen.
pub(super) fn processes() -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let process = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some((number, name.trim_end().to_owned()))
    };
    entries.flatten().filter_map(process).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn tables_are_read() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0B0200C0:7594 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n\
             1: 0100007F:0016 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n\
             2: B80D0120000000000000000011000000:7594 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0\n\
             3: nonsense\n";
        let found: Vec<(String, u16, u64)> = parse(text, Protocol::Tcp, "0A")
            .into_iter()
            .map(|(socket, inode)| (socket.address.to_string(), socket.port, inode))
            .collect();
        assert_eq!(
            found,
            [
                ("192.0.2.11".to_owned(), 30_100, 4711),
                ("2001:db8::11".to_owned(), 30_100, 4713)
            ]
        );
    }
}
