//! What the fence would change, noted instead of made. Who owns what is settled by nodes while they run:
//! the sets of owned VIPs, and the lease, are left out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::shape::{Contents, NETDEV, Tables};
use super::{FenceError, FenceSupport, Fenced, observe, rules};
use crate::apply::netlink::NetlinkSocket;
use crate::apply::nftables::{self, TABLE};
use crate::apply::reach::{Operation, Reach, Step};

/// Notes what is different in the tables of the fence, where this kernel can hold as much; the lease
/// lasts so long.
pub fn rehearse(
    fenced: &Fenced,
    (support, lease): (FenceSupport, Duration),
    reach: &Reach,
) -> Result<(), FenceError> {
    let mut socket =
        NetlinkSocket::open_for(NETLINK_NETFILTER, reach.access()).map_err(FenceError::Open)?;
    let tables = match support {
        FenceSupport::Active => Tables {
            egress: true,
            arp: true,
            lease,
        },
        FenceSupport::NoEgressHook => Tables {
            egress: false,
            arp: true,
            lease,
        },
        FenceSupport::NoTables => Tables::NONE,
    };
    let wanted = if reach.looks() {
        fenced.present()
    } else {
        fenced.clone()
    };
    for table in tables.of(&wanted) {
        let (family, name) = if table.family == NETDEV {
            (table.family, "netdev")
        } else {
            (table.family, "arp")
        };
        let observed = match observe::contents(&mut socket, family) {
            Err(FenceError::Read(nftables::Error::Malformed(_))) => None,
            other => other?,
        };
        if observed.is_none() {
            note(
                reach,
                Operation::Add,
                "table",
                &format!("add table {name} {TABLE}"),
            );
        }
        let observed = observed.unwrap_or_default();
        differences(name, &observed, &table.into_contents(), reach);
    }
    Ok(())
}

fn note(reach: &Reach, operation: Operation, object: &str, words: &str) {
    reach.note_step(|| Step {
        operation,
        object: object.to_owned(),
        command: format!("nft {words}"),
    });
}

fn differences(family: &str, there: &Contents, wanted: &Contents, reach: &Reach) {
    let place = |name: &str| format!("{family} {TABLE} {name}");
    for (name, (kind, elements)) in &wanted.sets {
        let found = there.sets.get(name);
        let operation = match found {
            None => Some(Operation::Add),
            Some((found, _)) if found != kind => Some(Operation::Change),
            Some(_) => None,
        };
        if let Some(operation) = operation {
            note(reach, operation, "set", &format!("add set {}", place(name)));
        }
        if [rules::OWNED4, rules::OWNED6].contains(&name.as_str()) {
            continue;
        }
        let nothing = super::shape::Elements::new();
        let found = found.map_or(&nothing, |(_, elements)| elements);
        for gone in found.difference(elements) {
            let words = format!(
                "delete element {} '{{ {} }}'",
                place(name),
                key(gone.key.as_slice())
            );
            note(reach, Operation::Remove, "element", &words);
        }
        for come in elements.difference(found) {
            let words = format!(
                "add element {} '{{ {} }}'",
                place(name),
                key(come.key.as_slice())
            );
            note(reach, Operation::Add, "element", &words);
        }
    }
    for name in there.sets.keys() {
        if !wanted.sets.contains_key(name) {
            note(
                reach,
                Operation::Remove,
                "set",
                &format!("delete set {}", place(name)),
            );
        }
    }
    for (name, chain) in &wanted.chains {
        let operation = match there.chains.get(name) {
            Some(found) if found == chain => continue,
            Some(_) => Operation::Change,
            None => Operation::Add,
        };
        let words = format!("add chain {} # {} rules", place(name), chain.rules.len());
        note(reach, operation, "chain", &words);
    }
    for name in there.chains.keys() {
        if !wanted.chains.contains_key(name) {
            note(
                reach,
                Operation::Remove,
                "chain",
                &format!("delete chain {}", place(name)),
            );
        }
    }
}

/// An address, a name, or a number.
fn key(bytes: &[u8]) -> String {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return IpAddr::from(Ipv4Addr::from(octets)).to_string();
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(octets)
            if octets.last() == Some(&0) && octets.first().is_some_and(u8::is_ascii_graphic) =>
        {
            let name = octets.split(|byte| *byte == 0).next().unwrap_or_default();
            format!("\"{}\"", String::from_utf8_lossy(name))
        }
        Ok(octets) => Ipv6Addr::from(octets).to_string(),
        Err(_) => bytes
            .iter()
            .fold(String::from("0x"), |text, byte| format!("{text}{byte:02x}")),
    }
}
