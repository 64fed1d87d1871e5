//! Reads a table of the handover back from the kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::table::{Contents, Elements, PASSED, SetKind, number};
use super::{Arrival, HandoverError, REMEMBERED};
use crate::apply::netlink::{NetlinkSocket, Reply};
use crate::apply::nftables::encode::{Request, message};
use crate::apply::nftables::observe::{Attributes, comment, table};
use crate::apply::nftables::{self, TABLE};
use crate::model::family::Family;

/// Everything in our table of this family; `None` where it does not exist, and where somebody put there
/// what no table of ours has.
pub(super) fn readable(
    socket: &mut NetlinkSocket,
    family: Family,
) -> Result<Option<Contents>, HandoverError> {
    match contents(socket, family) {
        Err(HandoverError::Read(nftables::Error::Malformed(_))) => Ok(None),
        other => other,
    }
}

fn contents(socket: &mut NetlinkSocket, family: Family) -> Result<Option<Contents>, HandoverError> {
    let Some(flags) = table(socket, number(family))? else {
        return Ok(None);
    };
    let mut contents = Contents {
        flags,
        ..Contents::default()
    };
    for reply in dump(socket, message::GET_CHAIN, family, None)? {
        let chain = Attributes::of(&reply.payload)?;
        if chain.string(1)? == Some(TABLE) {
            let name = chain.string(3)?.unwrap_or_default();
            let known = contents.chains.entry(name.to_owned()).or_default();
            known.hook = (chain.nested(4))
                .and_then(|hook| Some((hook.number(1)?, hook.number(2)?.cast_signed())));
            known.policy = chain.number(5);
        }
    }
    for reply in dump(socket, message::GET_RULE, family, None)? {
        let rule = Attributes::of(&reply.payload)?;
        if rule.string(1)? == Some(TABLE) {
            let chain = rule.string(2)?.unwrap_or_default();
            let chain = contents.chains.entry(chain.to_owned()).or_default();
            chain
                .rules
                .push(rule.get(7).map(comment).unwrap_or_default());
        }
    }
    let mut sets = BTreeMap::new();
    for reply in dump(socket, message::GET_SET, family, None)? {
        let set = Attributes::of(&reply.payload)?;
        if set.string(1)? == Some(TABLE) {
            let name = set.string(2)?.unwrap_or_default().to_owned();
            let kind = SetKind {
                flags: set.number(3).unwrap_or_default(),
                key_type: set.number(4).unwrap_or_default(),
                key_length: set.number(5).unwrap_or_default(),
                data: set.number(6).zip(set.number(7)),
                size: set
                    .nested(9)
                    .and_then(|it| it.number(1))
                    .unwrap_or_default(),
                timeout: set.get(11).and_then(milliseconds).unwrap_or_default(),
            };
            let elements = match name.as_str() {
                PASSED => Elements::new(),
                _ => elements(socket, family, &name)?,
            };
            sets.insert(name, (kind, elements));
        }
    }
    contents.sets = sets;
    Ok(Some(contents))
}

/// The VIPs of this family for which packets were passed on lately, each with how long ago. Our table must
/// be there.
pub(super) fn passed(
    socket: &mut NetlinkSocket,
    family: Family,
) -> Result<Vec<(IpAddr, Duration)>, HandoverError> {
    let mut passed = Vec::new();
    for reply in dump(socket, message::GET_ELEMENT, family, Some(PASSED))? {
        let attributes = Attributes::of(&reply.payload)?;
        for (_, element) in attributes.nested(3).iter().flat_map(Attributes::iter) {
            let element = Attributes::nest(element);
            let key = element.nested(1).and_then(|nest| nest.get(1));
            let arrival = key.and_then(|key| Arrival::from_key(key, family));
            let rest = element.get(5).and_then(milliseconds); // NFTA_SET_ELEM_EXPIRATION
            if let (Some(arrival), Some(rest)) = (arrival, rest) {
                let ago = REMEMBERED.saturating_sub(Duration::from_millis(rest));
                passed.push((arrival.vip, ago));
            }
        }
    }
    Ok(passed)
}

fn milliseconds(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

fn elements(
    socket: &mut NetlinkSocket,
    family: Family,
    set: &str,
) -> Result<Elements, HandoverError> {
    let mut elements = Elements::new();
    for reply in dump(socket, message::GET_ELEMENT, family, Some(set))? {
        let attributes = Attributes::of(&reply.payload)?;
        for (_, element) in attributes.nested(3).iter().flat_map(Attributes::iter) {
            let element = Attributes::nest(element);
            let value = |kind| element.nested(kind).and_then(|nest| nest.get(1));
            let key = value(1).ok_or(nftables::Error::Malformed("an element without a key"))?;
            elements.insert(key.to_vec(), value(2).unwrap_or_default().to_vec());
        }
    }
    Ok(elements)
}

fn dump(
    socket: &mut NetlinkSocket,
    kind: u16,
    family: Family,
    set: Option<&str>,
) -> Result<Vec<Reply>, HandoverError> {
    let mut request = Request::of_family(kind, 0, number(family));
    request.string(1, TABLE);
    if let Some(set) = set {
        request.string(2, set);
    }
    socket
        .dump(request.as_ref())
        .map_err(HandoverError::Observe)
}
