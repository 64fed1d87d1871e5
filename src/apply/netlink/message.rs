//! Bytes of netlink messages: headers, acknowledgements, the end of a dump.
//!
//! Pure functions; nothing here panics on what the kernel (or a test) sends. What a payload means
//! is the business of the caller.

use std::fmt;

use netlink_packet_core::{
    NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, NlasIterator,
};

/// Bytes of `struct nlmsghdr`.
pub const HEADER_LENGTH: usize = 16;

/// `NLMSGERR_ATTR_MSG`: the kernel's own words.
const EXTENDED_ACK_MESSAGE: u16 = 1;
/// `NLMSGERR_ATTR_OFFS`: where in the request the offending attribute is.
const EXTENDED_ACK_OFFSET: u16 = 2;

/// The kernel refused one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError {
    /// Positive `errno` value.
    pub errno: i32,
    /// The extended acknowledgement in the kernel's words, where it gave one.
    pub message: Option<String>,
    /// Byte offset, in the request from its `nlmsghdr` on, of the attribute at fault.
    pub offset: Option<u32>,
}

impl RequestError {
    /// A refusal with nothing but its `errno`.
    pub fn from_errno(errno: i32) -> Self {
        Self {
            errno,
            message: None,
            offset: None,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}",
            std::io::Error::from_raw_os_error(self.errno)
        )?;
        if let Some(message) = &self.message {
            write!(formatter, ": {message}")?;
        }
        if let Some(offset) = self.offset {
            write!(formatter, " (attribute at byte {offset} of the request)")?;
        }
        Ok(())
    }
}

impl std::error::Error for RequestError {}

/// A received datagram or message that does not follow the netlink format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedMessage {
    /// Fewer bytes than a header, or than the header says.
    #[error("netlink message of {claimed} bytes in {available} bytes")]
    Length { claimed: usize, available: usize },
    /// An acknowledgement without its error code or without the header of its request.
    #[error("netlink acknowledgement of {length} bytes is too short")]
    Acknowledgement { length: usize },
}

/// One message in a received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    pub message_type: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Everything after `nlmsghdr`, without padding.
    pub payload: &'a [u8],
}

/// What a received message is to the transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Data for the caller.
    Data,
    /// The answer to a request: done, or refused.
    Acknowledgement(Result<(), RequestError>),
    /// The last message of a dump: complete, or given up by the kernel.
    Done(Result<(), RequestError>),
    /// To be ignored.
    Nothing,
    /// The kernel says that it dropped messages.
    Overrun,
}

impl<'a> Message<'a> {
    /// Takes the first message off `bytes`; returns it and the bytes after its padding.
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), MalformedMessage> {
        let short = || MalformedMessage::Length {
            claimed: HEADER_LENGTH,
            available: bytes.len(),
        };
        let header = bytes.first_chunk::<HEADER_LENGTH>().ok_or_else(short)?;
        let [l0, l1, l2, l3, t0, t1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let claimed = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let payload = bytes
            .get(HEADER_LENGTH..claimed)
            .ok_or(MalformedMessage::Length {
                claimed,
                available: bytes.len(),
            })?;
        let rest = bytes.get(claimed.next_multiple_of(4)..).unwrap_or_default();
        let message = Self {
            message_type: u16::from_ne_bytes([t0, t1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload,
        };
        Ok((message, rest))
    }

    /// Tells data from the transport's own messages.
    pub fn kind(&self) -> Result<Kind, MalformedMessage> {
        match self.message_type {
            NLMSG_NOOP => Ok(Kind::Nothing),
            NLMSG_ERROR => self.acknowledgement().map(Kind::Acknowledgement),
            NLMSG_DONE => Ok(Kind::Done(self.done())),
            NLMSG_OVERRUN => Ok(Kind::Overrun),
            _ => Ok(Kind::Data),
        }
    }

    /// `struct nlmsgerr`: code, header of the request, its payload unless capped, attributes.
    fn acknowledgement(&self) -> Result<Result<(), RequestError>, MalformedMessage> {
        let short = MalformedMessage::Acknowledgement {
            length: self.payload.len(),
        };
        let (code, rest) = self.payload.split_first_chunk::<4>().ok_or(short)?;
        let (request_length, _) = rest.split_first_chunk::<4>().ok_or(short)?;
        let after_header = rest.get(HEADER_LENGTH..).ok_or(short)?;
        let code = i32::from_ne_bytes(*code);
        if code == 0 {
            return Ok(Ok(()));
        }
        let attributes = if self.flags & NLM_F_CAPPED == 0 {
            let echoed = (u32::from_ne_bytes(*request_length) as usize)
                .saturating_sub(HEADER_LENGTH)
                .next_multiple_of(4);
            after_header.get(echoed..).unwrap_or_default()
        } else {
            after_header
        };
        Ok(Err(self.refusal(code, attributes)))
    }

    /// `NLMSG_DONE` carries a code since Linux 4.x; without one the dump is complete.
    fn done(&self) -> Result<(), RequestError> {
        match self.payload.split_first_chunk::<4>() {
            Some((code, attributes)) if i32::from_ne_bytes(*code) < 0 => {
                Err(self.refusal(i32::from_ne_bytes(*code), attributes))
            }
            _ => Ok(()),
        }
    }

    fn refusal(&self, code: i32, attributes: &[u8]) -> RequestError {
        let mut refusal = RequestError::from_errno(code.saturating_abs());
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return refusal;
        }
        for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
            match attribute.kind() {
                EXTENDED_ACK_MESSAGE => {
                    let text = String::from_utf8_lossy(attribute.value());
                    refusal.message = Some(text.trim_end_matches('\0').to_owned());
                }
                EXTENDED_ACK_OFFSET => {
                    refusal.offset = attribute.value().try_into().ok().map(u32::from_ne_bytes);
                }
                _ => {}
            }
        }
        refusal
    }
}

/// Appends `request` to `buffer`, padded, with its length and sequence number set and `flags`
/// added to its own. `None` when it has no whole header or cannot be said in 32 bits.
pub fn append(buffer: &mut Vec<u8>, request: &[u8], sequence: u32, flags: u16) -> Option<()> {
    let length = u32::try_from(request.len()).ok()?;
    let (header, payload) = request.split_first_chunk::<HEADER_LENGTH>()?;
    let [_, _, _, _, t0, t1, f0, f1, _, _, _, _, p0, p1, p2, p3] = *header;
    buffer.extend_from_slice(&length.to_ne_bytes());
    buffer.extend_from_slice(&[t0, t1]);
    buffer.extend_from_slice(&(u16::from_ne_bytes([f0, f1]) | flags).to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    buffer.extend_from_slice(&[p0, p1, p2, p3]);
    buffer.extend_from_slice(payload);
    buffer.resize(buffer.len().next_multiple_of(4), 0);
    Some(())
}
