//! Seals and opens datagrams: XChaCha20-Poly1305 with random nonces, so that no counter has to survive
//! a restart. What does not name one of our keys costs a comparison and nothing more.
//!
//! On the wire: magic (2 octets), version (1), key id (4), nonce (24), the sealed datagram, tag (16).
//! The first seven octets are authenticated with the rest.

use chacha20poly1305::Tag;
use chacha20poly1305::XNonce;
use chacha20poly1305::aead::AeadInOut;
use rand::Rng;
use rand::rngs::StdRng;
use thiserror::Error;

use super::datagram::{Datagram, LONGEST, MalformedReason};
use super::keys::SharedKey;

const MAGIC: [u8; 2] = *b"eL";
const VERSION: u8 = 1;
const CLEAR: usize = 7;
const NONCE: usize = 24;
const TAG: usize = 16;
/// Octets that the seal adds.
pub const OVERHEAD: usize = CLEAR + NONCE + TAG;
/// Octets of the longest sealed datagram.
pub const LONGEST_SEALED: usize = LONGEST + OVERHEAD;

/// A datagram was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenError {
    /// It is none of edgelb's, or of another version.
    #[error("it is not sealed as edgelb does, or by another version")]
    Foreign,
    /// It names a key that this node has not.
    #[error("it is sealed with another key")]
    UnknownKey,
    /// It names a key of ours and was not made with it.
    #[error("it is forged or damaged")]
    Forged,
    /// It was made with our key and makes no sense.
    #[error("{0}")]
    Malformed(MalformedReason),
}

/// The keys of this node.
#[derive(Debug)]
pub struct Sealer {
    /// The first one seals, all of them open.
    keys: Vec<SharedKey>,
    random: StdRng,
    opened: Vec<u8>,
}

impl Sealer {
    /// Of these keys; the random numbers become nonces and must not be predictable or ever repeat.
    pub fn new(keys: Vec<SharedKey>, random: StdRng) -> Self {
        Self {
            keys,
            random,
            opened: Vec::with_capacity(LONGEST),
        }
    }

    /// Writes the sealed datagram in the place of what is in `buffer`. `false`: there is no key, or it
    /// is too long.
    pub fn seal(&mut self, datagram: &Datagram, buffer: &mut Vec<u8>) -> bool {
        buffer.clear();
        let Some(key) = self.keys.first() else {
            return false;
        };
        buffer.extend_from_slice(&MAGIC);
        buffer.push(VERSION);
        buffer.extend_from_slice(&key.id);
        let mut nonce = [0; NONCE];
        self.random.fill_bytes(&mut nonce);
        buffer.extend_from_slice(&nonce);
        if !datagram.encode(buffer) {
            return false;
        }
        let (header, body) = buffer.split_at_mut(CLEAR + NONCE);
        let Some(authenticated) = header.get(..CLEAR) else {
            return false;
        };
        let sealed =
            key.cipher
                .encrypt_inout_detached(&XNonce::from(nonce), authenticated, body.into());
        match sealed {
            Ok(tag) => {
                buffer.extend_from_slice(&tag);
                true
            }
            Err(_) => false,
        }
    }

    /// Opens what came.
    pub fn open(&mut self, sealed: &[u8]) -> Result<Datagram, OpenError> {
        let (clear, rest) = sealed
            .split_first_chunk::<CLEAR>()
            .ok_or(OpenError::Foreign)?;
        let [magic_0, magic_1, version, id @ ..] = clear;
        if [*magic_0, *magic_1] != MAGIC || *version != VERSION {
            return Err(OpenError::Foreign);
        }
        let (nonce, rest) = rest
            .split_first_chunk::<NONCE>()
            .ok_or(OpenError::Foreign)?;
        let (body, tag) = rest.split_last_chunk::<TAG>().ok_or(OpenError::Foreign)?;
        if body.len() > LONGEST {
            return Err(OpenError::Malformed(MalformedReason::TooLong));
        }
        let key = self
            .keys
            .iter()
            .find(|key| key.id == *id)
            .ok_or(OpenError::UnknownKey)?;
        self.opened.clear();
        self.opened.extend_from_slice(body);
        key.cipher
            .decrypt_inout_detached(
                &XNonce::from(*nonce),
                clear,
                self.opened.as_mut_slice().into(),
                &Tag::from(*tag),
            )
            .map_err(|_| OpenError::Forged)?;
        Datagram::decode(&self.opened).map_err(OpenError::Malformed)
    }
}
