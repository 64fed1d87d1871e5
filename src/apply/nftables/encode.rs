//! Bytes of `nf_tables` requests: messages, attributes, nesting. Knows no table of ours.
//!
//! Numbers in attributes are big-endian, as `linux/netfilter/nf_tables.h` says; what rules compare
//! in registers is in network or host order as the loading expression says.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

/// `NFNL_SUBSYS_NFTABLES << 8`
pub(in crate::apply) const SUBSYSTEM: u16 = 10 << 8;
/// `NFNL_SUBSYS_NFTABLES` for the batch markers.
const BATCH_RESOURCE: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// `NFPROTO_INET`
pub(in crate::apply) const INET: u8 = 1;

/// `enum nf_tables_msg_types`
pub(in crate::apply) mod message {
    pub(in crate::apply) const NEW_TABLE: u16 = 0;
    pub(in crate::apply) const GET_TABLE: u16 = 1;
    pub(in crate::apply) const DELETE_TABLE: u16 = 2;
    pub(in crate::apply) const NEW_CHAIN: u16 = 3;
    pub(in crate::apply) const GET_CHAIN: u16 = 4;
    pub(in crate::apply) const DELETE_CHAIN: u16 = 5;
    pub(in crate::apply) const NEW_RULE: u16 = 6;
    pub(in crate::apply) const GET_RULE: u16 = 7;
    pub(in crate::apply) const DELETE_RULE: u16 = 8;
    pub(in crate::apply) const NEW_SET: u16 = 9;
    pub(in crate::apply) const GET_SET: u16 = 10;
    pub(in crate::apply) const NEW_ELEMENT: u16 = 12;
    pub(in crate::apply) const GET_ELEMENT: u16 = 13;
    pub(in crate::apply) const DELETE_ELEMENT: u16 = 14;
}

/// Bytes of `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS: usize = 20;
const NESTED: u16 = 0x8000;
/// The longest attribute that its 16-bit length can tell, less some room for its siblings.
pub(in crate::apply) const LONGEST_NEST: usize = 60_000;

/// Creates, and does not mind that it exists.
pub(in crate::apply) const CREATE: u16 = NLM_F_CREATE;
/// Creates, and fails where it exists.
pub(in crate::apply) const CREATE_NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// One request under construction: `nlmsghdr`, `nfgenmsg`, attributes.
#[derive(Debug, Clone)]
pub(in crate::apply) struct Request {
    bytes: Vec<u8>,
}

/// An open nested attribute.
#[must_use]
#[derive(Clone, Copy)]
pub(in crate::apply) struct Nest(usize);

impl Request {
    /// A request of one of [`message`]'s types for the inet family.
    pub(in crate::apply) fn new(message_type: u16, flags: u16) -> Self {
        Self::raw(SUBSYSTEM | message_type, flags, INET, 0)
    }

    /// The same for another family (`NFPROTO_…`).
    pub(in crate::apply) fn of_family(message_type: u16, flags: u16, family: u8) -> Self {
        Self::raw(SUBSYSTEM | message_type, flags, family, 0)
    }

    /// `NFNL_MSG_BATCH_BEGIN`
    pub(in crate::apply) fn begin() -> Self {
        Self::raw(BATCH_BEGIN, 0, 0, BATCH_RESOURCE)
    }

    /// `NFNL_MSG_BATCH_END`
    pub(in crate::apply) fn end() -> Self {
        Self::raw(BATCH_END, 0, 0, BATCH_RESOURCE)
    }

    fn raw(message_type: u16, flags: u16, family: u8, resource: u16) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&message_type.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.push(family);
        bytes.push(0);
        bytes.extend_from_slice(&resource.to_be_bytes());
        Self { bytes }
    }

    /// An attribute with these bytes.
    pub(in crate::apply) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A name, with its terminating zero.
    pub(in crate::apply) fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// Attributes that another request has.
    pub(in crate::apply) fn append(&mut self, attributes: &[u8]) {
        self.bytes.extend_from_slice(attributes);
    }

    /// Everything behind the two headers.
    pub(in crate::apply) fn attributes(&self) -> &[u8] {
        self.bytes.get(HEADERS..).unwrap_or_default()
    }

    /// A number.
    pub(in crate::apply) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Opens a nested attribute.
    pub(in crate::apply) fn open(&mut self, kind: u16) -> Nest {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&0u16.to_ne_bytes());
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        Nest(at)
    }

    /// Closes it. The caller keeps nests below [`LONGEST_NEST`].
    pub(in crate::apply) fn close(&mut self, nest: Nest) {
        let length = u16::try_from(self.bytes.len() - nest.0).unwrap_or(u16::MAX);
        if let Some(slot) = self.bytes.get_mut(nest.0..nest.0 + 2) {
            slot.copy_from_slice(&length.to_ne_bytes());
        }
    }
}

impl AsRef<[u8]> for Request {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
