//! The counters in rules: of the fence's that keep frames in, and of the handover's that pass packets on.

use super::Silent;
use super::elements::packets;
use crate::apply::netlink::NetlinkSocket;
use crate::apply::nftables::encode::{Request, message};
use crate::apply::nftables::observe::Attributes;
use crate::apply::nftables::{Error, TABLE};
use crate::model::family::Family;

/// `NFPROTO_IPV4`, `NFPROTO_NETDEV`, `NFPROTO_IPV6`
const IPV4: u8 = 2;
const NETDEV: u8 = 5;
const IPV6: u8 = 10;

/// Appends what each rule counted that has a counter.
pub(super) fn read(
    socket: &mut NetlinkSocket,
    into: &mut Vec<(Silent, String, u64)>,
) -> Result<(), Error> {
    for family in [NETDEV, IPV4, IPV6] {
        let mut request = Request::of_family(message::GET_RULE, 0, family);
        request.string(1, TABLE);
        // A table that is not there has no rules to tell.
        let replies = socket.dump(request.as_ref()).map_err(Error::Observe)?;
        for reply in replies {
            take(family, &reply.payload, into)?;
        }
    }
    Ok(())
}

fn take(table: u8, payload: &[u8], into: &mut Vec<(Silent, String, u64)>) -> Result<(), Error> {
    let rule = Attributes::of(payload)?;
    if rule.string(1)? != Some(TABLE) {
        return Ok(());
    }
    let chain = rule.string(2)?.unwrap_or_default();
    let what = match table {
        IPV4 => Silent::HandedOver(Family::V4),
        IPV6 => Silent::HandedOver(Family::V6),
        _ if chain.ends_with("arp_sender") => Silent::Fenced(Family::V4),
        _ => Silent::Fenced(Family::V6),
    };
    let list = rule.nested(4);
    let mut expressions = list.iter().flat_map(Attributes::iter);
    let counted = expressions.find_map(|(_, expression)| packets(&Attributes::nest(expression)));
    into.extend(counted.map(|packets| (what, chain.to_owned(), packets)));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;
    use crate::apply::nftables::expression::primitive::expression;

    fn rule(table: &str, chain: &str, counted: bool) -> Vec<u8> {
        let mut request = Request::new(message::NEW_RULE, 0);
        request.string(1, table);
        request.string(2, chain);
        let list = request.open(4);
        expression(&mut request, "dup", |_| {});
        if counted {
            expression(&mut request, "counter", |data| {
                data.bytes(1, &600_u64.to_be_bytes());
                data.bytes(2, &10_u64.to_be_bytes());
            });
        }
        request.close(list);
        request.as_ref()[16..].to_vec()
    }

    #[test]
    fn a_rule_tells_what_became_of_its_packets() {
        let mut found = Vec::new();
        for (table, chain) in [
            (NETDEV, "tagged_arp_sender"),
            (NETDEV, "nd_target"),
            (IPV6, "pass"),
        ] {
            take(table, &rule(TABLE, chain, true), &mut found).unwrap();
            take(table, &rule(TABLE, chain, false), &mut found).unwrap();
            take(table, &rule("other", chain, true), &mut found).unwrap();
        }
        let of = |what, chain: &str| (what, chain.to_owned(), 10);
        assert_eq!(
            found,
            [
                of(Silent::Fenced(Family::V4), "tagged_arp_sender"),
                of(Silent::Fenced(Family::V6), "nd_target"),
                of(Silent::HandedOver(Family::V6), "pass"),
            ]
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = take(NETDEV, &bytes, &mut Vec::new());
        }
    }
}
