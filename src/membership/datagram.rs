//! What nodes say to one another, and its wire format inside of the seal. Decides nothing; every octet
//! may come from a mistaken program, so that each refusal has a reason and sizes are bounded.
//!
//! All kinds are postcard (1.0) of the types here. Kinds are only ever added at the end: an older
//! program refuses a kind that it does not know and goes on with the others.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::allocation::Allocation;
use crate::model::text::Text;

/// The octets that a datagram may have before it is sealed: with seal and headers it fits into one
/// Ethernet frame, so that it is never sent in fragments.
pub const LONGEST: usize = 1440;

/// Octets of the lists and pieces in one datagram. Leaves room for two names of full length.
pub const BODY_BUDGET: usize = 880;

/// The octets of the longest node name (RFC 1123 subdomain).
pub const LONGEST_NAME: usize = 253;

/// The parts that one table may have: some 3.6 MB.
pub const MOST_PARTS: u16 = 4096;

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagram {
    /// The name of the node that sends it.
    pub sender: Text,
    /// The sender's run: a random number.
    pub session: u64,
    /// The receiver's run, as far as the sender knows; 0: unknown.
    pub receiver_session: u64,
    /// Counts the sender's datagrams to this receiver from 1; 0 to an unknown receiver.
    pub sequence: u64,
    /// What it says.
    pub body: Body,
}

/// What a datagram says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Asks to be answered, or answers. Proves that the sender is there now.
    Hello {
        /// A random number to be given back; 0: nothing is asked.
        challenge: u64,
        /// The number that was asked for; 0: nothing was.
        answer: u64,
    },
    /// I am here, and I have this.
    Heartbeat(Heartbeat),
    /// Of the SWIM machine.
    Swim(Arc<[u8]>),
    /// A piece of a table.
    Part(Part),
    /// What changed in a node's claims.
    Delta(Delta),
    /// Asks for (the rest of) a table.
    Fetch(Fetch),
    /// Records of allocations.
    Records(Vec<Allocation>),
    /// The digests of all records, by bucket.
    Buckets(Vec<u64>),
    /// Where others have been heard.
    Roster(Vec<(Text, Vec<SocketAddr>)>),
}

/// The versions of what a node tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Versions {
    /// The node's run.
    pub epoch: u64,
    /// Counts its states from 1.
    pub state: u64,
    /// Counts its changes of claims from 1.
    pub claims: u64,
}

/// The regular sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Of the sender.
    pub versions: Versions,
    /// How often the SWIM machine renewed its identity in this run.
    pub renewed: u16,
    /// The digest of all records of allocations.
    pub records: u64,
    /// Whom the sender hears, and what it has of them.
    pub known: Arc<[Known]>,
}

/// What a node has of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Of whom.
    pub name: Text,
    /// Milliseconds since it was heard directly; absent: not lately.
    pub age: Option<u16>,
    /// What of it is held.
    pub versions: Versions,
}

/// A table of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Table {
    /// What it says of itself: JSON of `core::tables::Told`.
    State,
    /// What it owns: postcard of pairs.
    Claims,
}

/// A piece of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Whose table.
    pub of: Text,
    /// Which.
    pub table: Table,
    /// Of which run of that node.
    pub epoch: u64,
    /// Its version.
    pub version: u64,
    /// Which piece, from 0.
    pub index: u16,
    /// Of how many.
    pub total: u16,
    /// The piece.
    pub octets: Arc<[u8]>,
}

/// The changes that make a node's claims of this version from those of the version before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The sender's run.
    pub epoch: u64,
    /// The version afterwards.
    pub version: u64,
    /// VIPs and their claims; absent: given up.
    pub changes: Arc<[(IpAddr, Option<u64>)]>,
}

/// Asks for a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Whose.
    pub of: Text,
    /// Which.
    pub table: Table,
    /// The run of which the asker has something.
    pub epoch: u64,
    /// The version that the asker has, or of which it has pieces.
    pub version: u64,
    /// The pieces of that version that it lacks; empty: it asks for whatever is newer.
    pub parts: Vec<u16>,
}

/// A datagram makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MalformedReason {
    /// More octets than any node sends.
    #[error("it is too long")]
    TooLong,
    /// Its octets are no datagram, or one of a kind that is not known here.
    #[error("it cannot be decoded")]
    Undecodable,
    /// Something follows its end.
    #[error("octets follow its end")]
    Trailing,
    /// A node name is empty, too long, or has characters that no name has.
    #[error("it has a bad node name")]
    BadName,
    /// Numbers in it contradict one another.
    #[error("its numbers contradict one another")]
    BadNumbers,
}

/// A node name that may appear in logs and keys.
pub fn is_node_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && name.bytes().all(|octet| octet.is_ascii_graphic())
}

impl Datagram {
    /// The octets to seal, behind what is in `buffer`. `false`: they would be too many, which is a
    /// mistake of the sender; the buffer is as it was then.
    pub fn encode(&self, buffer: &mut Vec<u8>) -> bool {
        let start = buffer.len();
        match postcard::to_extend(self, std::mem::take(buffer)) {
            Ok(encoded) => *buffer = encoded,
            Err(_) => return false,
        }
        if buffer.len() - start > LONGEST {
            buffer.truncate(start);
            return false;
        }
        true
    }

    /// Reads what was sealed.
    pub fn decode(octets: &[u8]) -> Result<Self, MalformedReason> {
        if octets.len() > LONGEST {
            return Err(MalformedReason::TooLong);
        }
        let (datagram, rest) =
            postcard::take_from_bytes::<Self>(octets).map_err(|_| MalformedReason::Undecodable)?;
        if !rest.is_empty() {
            return Err(MalformedReason::Trailing);
        }
        datagram.check()?;
        Ok(datagram)
    }

    fn check(&self) -> Result<(), MalformedReason> {
        let names_are_good = is_node_name(&self.sender)
            && match &self.body {
                Body::Heartbeat(heartbeat) => heartbeat
                    .known
                    .iter()
                    .all(|known| is_node_name(&known.name)),
                Body::Part(part) => is_node_name(&part.of),
                Body::Fetch(fetch) => is_node_name(&fetch.of),
                Body::Roster(roster) => roster.iter().all(|(name, _)| is_node_name(name)),
                Body::Records(records) => records
                    .iter()
                    .all(|record| record.node.len() <= LONGEST_NAME),
                Body::Hello { .. } | Body::Swim(_) | Body::Delta(_) | Body::Buckets(_) => true,
            };
        if !names_are_good {
            return Err(MalformedReason::BadName);
        }
        let numbers_are_good = self.session != 0
            && match &self.body {
                Body::Part(part) => {
                    part.index < part.total && part.total <= MOST_PARTS && part.version != 0
                }
                Body::Delta(delta) => delta.version != 0,
                _ => true,
            };
        if numbers_are_good {
            Ok(())
        } else {
            Err(MalformedReason::BadNumbers)
        }
    }
}
