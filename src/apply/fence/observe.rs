//! Reads the tables of the fence back from the kernel.

use std::collections::BTreeMap;

use super::FenceError;
use super::shape::{ChainContents, Contents, EVAL, Element, Elements, Hook, Key, SetKind};
use crate::apply::netlink::{NetlinkSocket, Reply};
use crate::apply::nftables::encode::{Request, message};
use crate::apply::nftables::observe::{Attributes, comment, table};
use crate::apply::nftables::{self, TABLE};

/// Everything in our table of this family, or `None` where it does not exist.
pub(super) fn contents(
    socket: &mut NetlinkSocket,
    family: u8,
) -> Result<Option<Contents>, FenceError> {
    let Some(flags) = table(socket, family)? else {
        return Ok(None);
    };
    let mut contents = Contents {
        flags,
        chains: chains(socket, family)?,
        sets: BTreeMap::new(),
    };
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
    for reply in dump(socket, message::GET_SET, family, None)? {
        let set = Attributes::of(&reply.payload)?;
        if set.string(1)? == Some(TABLE) {
            let name = set.string(2)?.unwrap_or_default().to_owned();
            let timeout = set.get(11).and_then(|bytes| bytes.try_into().ok());
            let kind = SetKind {
                flags: set.number(3).unwrap_or_default(),
                key_type: set.number(4).unwrap_or_default(),
                host_order: set.get(13).is_some(),
                key_length: set.number(5).unwrap_or_default(),
                size: (set.nested(9))
                    .and_then(|description| description.number(1))
                    .unwrap_or_default(),
                timeout: timeout.map_or(0, u64::from_be_bytes),
            };
            // What the kernel's own rules put there comes and goes.
            let elements = if kind.flags & EVAL == 0 {
                elements(socket, family, &name)?
            } else {
                Elements::new()
            };
            contents.sets.insert(name, (kind, elements));
        }
    }
    Ok(Some(contents))
}

/// The chains of our table of this family, without their rules.
pub(super) fn chains(
    socket: &mut NetlinkSocket,
    family: u8,
) -> Result<BTreeMap<String, ChainContents>, FenceError> {
    let mut chains = BTreeMap::new();
    for reply in dump(socket, message::GET_CHAIN, family, None)? {
        let chain = Attributes::of(&reply.payload)?;
        if chain.string(1)? == Some(TABLE) {
            let name = chain.string(3)?.unwrap_or_default().to_owned();
            let contents = ChainContents {
                hook: chain.nested(4).and_then(|it| hook(&it)),
                policy: chain.number(5),
                rules: Vec::new(),
            };
            chains.insert(name, contents);
        }
    }
    Ok(chains)
}

/// `NFTA_CHAIN_HOOK`; none where it does not say on which hook.
fn hook(attributes: &Attributes<'_>) -> Option<Hook> {
    let (number, priority) = (attributes.number(1)?, attributes.number(2)?);
    // NFTA_HOOK_DEVS has all of them, since Linux 5.5.
    let listed = attributes.nested(4);
    let names = listed.iter().flat_map(Attributes::iter);
    let name = |bytes: &[u8]| {
        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    };
    Some(Hook {
        number,
        priority: priority.cast_signed(),
        devices: names.map(|(_, bytes)| name(bytes)).collect(),
    })
}

fn elements(socket: &mut NetlinkSocket, family: u8, set: &str) -> Result<Elements, FenceError> {
    let mut elements = Vec::new();
    for reply in dump(socket, message::GET_ELEMENT, family, Some(set))? {
        let attributes = Attributes::of(&reply.payload)?;
        for (_, element) in attributes.nested(3).iter().flat_map(Attributes::iter) {
            let element = Attributes::nest(element);
            let key = element.nested(1).and_then(|key| key.get(1));
            let verdict = element.nested(2).and_then(|data| data.nested(2));
            let chain = verdict.map(|it| it.string(2)).transpose()?.flatten();
            let key = key
                .and_then(Key::from_slice)
                .ok_or(nftables::Error::Malformed(
                    "an element without a key of ours",
                ))?;
            let chain = chain.unwrap_or_default().to_owned();
            elements.push(Element { key, chain });
        }
    }
    Ok(elements.into_iter().collect())
}

fn dump(
    socket: &mut NetlinkSocket,
    kind: u16,
    family: u8,
    set: Option<&str>,
) -> Result<Vec<Reply>, FenceError> {
    let mut request = Request::of_family(kind, 0, family);
    request.string(1, TABLE);
    if let Some(set) = set {
        request.string(2, set);
    }
    socket.dump(request.as_ref()).map_err(FenceError::Observe)
}
