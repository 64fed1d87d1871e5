//! The counters in the elements of `inet edgelb`: of the sets that a new connection is looked up in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;

use super::{CountedBy, Counts};
use crate::apply::netlink::{self, NetlinkSocket};
use crate::apply::nftables::encode::{Request, message};
use crate::apply::nftables::observe::Attributes;
use crate::apply::nftables::{Error, TABLE, Table};
use crate::model::family::{Family, Protocol};
use crate::model::frontend::{FrontendAddress, FrontendPort};

/// Appends what each element counted. A set that is not there yet has counted nothing.
pub(super) fn read(
    socket: &mut NetlinkSocket,
    into: &mut Vec<(FrontendPort, CountedBy, Counts)>,
) -> Result<(), Error> {
    for (set, family, node_ports) in Table::counting() {
        let mut request = Request::new(message::GET_ELEMENT, 0);
        request.string(1, TABLE);
        request.string(2, set);
        let begin = || Ok(Vec::new());
        let found = socket.dump_into(request.as_ref(), begin, |found, reply| {
            if let Ok(list) = found
                && let Err(error) = take(&reply.payload, family, node_ports, list)
            {
                *found = Err(error);
            }
        });
        match found {
            Ok(found) => into.extend(found?),
            Err(netlink::Error::Refused(refusal)) if refusal.errno == Errno::ENOENT as i32 => {}
            Err(error) => return Err(Error::Observe(error)),
        }
    }
    Ok(())
}

fn take(
    payload: &[u8],
    family: Family,
    node_ports: bool,
    into: &mut Vec<(FrontendPort, CountedBy, Counts)>,
) -> Result<(), Error> {
    let attributes = Attributes::of(payload)?;
    for (_, element) in attributes.nested(3).iter().flat_map(Attributes::iter) {
        let element = Attributes::nest(element);
        let key = element.nested(1).and_then(|key| key.get(1));
        let port = key
            .and_then(|key| frontend(key, family, node_ports))
            .ok_or(Error::Malformed("an element that is no frontend of ours"))?;
        // Somebody may have put one there that does not count.
        if let Some(connections) = element.nested(7).as_ref().and_then(packets) {
            let counts = Counts {
                connections,
                bytes: None,
            };
            into.push((port, CountedBy::Nftables, counts));
        }
    }
    Ok(())
}

/// The packets of a `counter` expression (`NFTA_EXPR_NAME`, `_DATA`); none of another one.
pub(super) fn packets(expression: &Attributes<'_>) -> Option<u64> {
    if !matches!(expression.string(1), Ok(Some("counter"))) {
        return None;
    }
    let packets = expression.nested(2)?.get(2)?;
    Some(u64::from_be_bytes(packets.try_into().ok()?))
}

/// Address, protocol and port, each in whole words; of a node port protocol and port.
fn frontend(key: &[u8], family: Family, node_port: bool) -> Option<FrontendPort> {
    let length = match family {
        _ if node_port => 0,
        Family::V4 => 4,
        Family::V6 => 16,
    };
    let (address, rest) = key.split_at_checked(length)?;
    let [protocol, _, _, _, high, low, ..] = *rest else {
        return None;
    };
    let address = if node_port {
        FrontendAddress::NodePort(family)
    } else {
        FrontendAddress::Address(match family {
            Family::V4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?)),
            Family::V6 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?)),
        })
    };
    Some(FrontendPort {
        address,
        protocol: Protocol::from_number(protocol)?,
        port: u16::from_be_bytes([high, low]),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;

    /// What Linux 6.18 sends for two elements, after `nfgenmsg`: this is built as `nft` shows it.
    fn message(counted: Option<u64>, key: &[u8]) -> Vec<u8> {
        let mut request = Request::new(message::NEW_ELEMENT, 0);
        let list = request.open(3);
        let element = request.open(1);
        let nest = request.open(1);
        request.bytes(1, key);
        request.close(nest);
        if let Some(packets) = counted {
            let expression = request.open(7);
            request.string(1, "counter");
            let data = request.open(2);
            request.bytes(1, &(packets * 60).to_be_bytes());
            request.bytes(2, &packets.to_be_bytes());
            request.close(data);
            request.close(expression);
        }
        request.close(element);
        request.close(list);
        request.as_ref()[16..].to_vec()
    }

    const KEY: [u8; 12] = [192, 0, 2, 200, 6, 0, 0, 0, 0, 80, 0, 0];

    #[test]
    fn an_element_tells_its_frontend_and_its_packets() {
        let mut found = Vec::new();
        let payload = message(Some(1 << 40), &KEY);
        take(&payload, Family::V4, false, &mut found).unwrap();
        let port = FrontendPort {
            address: FrontendAddress::Address("192.0.2.200".parse().unwrap()),
            protocol: Protocol::Tcp,
            port: 80,
        };
        let counts = Counts {
            connections: 1 << 40,
            bytes: None,
        };
        assert_eq!(found, [(port, CountedBy::Nftables, counts)]);

        let payload = message(Some(7), &[17, 0, 0, 0, 0x75, 0x30, 0, 0]);
        found.clear();
        take(&payload, Family::V6, true, &mut found).unwrap();
        assert_eq!(
            found[0].0.address,
            FrontendAddress::NodePort(Family::V6),
            "{found:?}"
        );
        assert_eq!((found[0].0.port, found[0].2.connections), (30_000, 7));
    }

    #[test]
    fn an_element_without_a_counter_is_passed_over() {
        let mut found = Vec::new();
        take(&message(None, &KEY), Family::V4, false, &mut found).unwrap();
        assert_eq!(found, []);
        let short = message(Some(1), &KEY[..7]);
        assert!(take(&short, Family::V4, false, &mut found).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = take(&bytes, Family::V6, false, &mut Vec::new());
        }
    }
}
