//! What the lab's daemons need to talk with one another: a shared key and each other's addresses.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use toml::{Table, Value};

use super::address_plan::management_address;
use super::{Lab, LabError};

/// The UDP port of membership, on every node.
pub const MEMBERSHIP_PORT: u16 = 9751;
/// Octets of a key.
const KEY_LENGTH: usize = 32;

/// By which network the nodes talk with one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipNetwork {
    /// The LAN of the clients.
    Lan,
    /// The nodes' second network, which the lab must have.
    Management,
}

/// Membership among a lab's nodes, as the configuration of each of them says it.
#[derive(Debug, Clone)]
pub struct Membership {
    key_files: Vec<PathBuf>,
    /// Name and `HOST:PORT` of every node that takes part.
    nodes: Vec<(String, String)>,
}

impl Membership {
    /// Among the first `nodes` nodes of the lab, with a new key in the lab's directory.
    pub fn among(lab: &Lab, nodes: usize, network: MembershipNetwork) -> Result<Self, LabError> {
        let nodes = lab
            .nodes()
            .iter()
            .take(nodes)
            .enumerate()
            .map(|(index, node)| {
                let address = match network {
                    MembershipNetwork::Lan => node.address,
                    MembershipNetwork::Management => management_address(index),
                };
                (
                    node.name.clone(),
                    format!("{}:{MEMBERSHIP_PORT}", address.ipv4),
                )
            })
            .collect();
        Ok(Self {
            key_files: vec![write_key(lab, "membership.key")?],
            nodes,
        })
    }

    /// The files of the keys; the first one sends.
    pub fn key_files(&self) -> &[PathBuf] {
        &self.key_files
    }

    /// The same nodes with these keys instead, at most two.
    #[must_use]
    pub fn with_keys(mut self, key_files: Vec<PathBuf>) -> Self {
        self.key_files = key_files;
        self
    }

    /// The section `[membership]` of one node. A node that does not take part names nobody.
    pub(super) fn section(&self, node: &str) -> Table {
        let peers: Vec<Value> = self
            .nodes
            .iter()
            .filter(|(name, _)| name != node)
            .map(|(_, address)| Value::from(address.as_str()))
            .collect();
        let key_files: Vec<Value> = self
            .key_files
            .iter()
            .map(|path| Value::from(path.to_string_lossy().into_owned()))
            .collect();
        Table::from_iter([
            ("peers".to_owned(), Value::Array(peers)),
            ("key_files".to_owned(), Value::Array(key_files)),
        ])
    }
}

/// Writes a new key of random octets into a file of the lab's directory that only this user reads.
pub fn write_key(lab: &Lab, name: &str) -> Result<PathBuf, LabError> {
    let path = lab.directory().join(name);
    let mut key = [0; KEY_LENGTH];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut key))
        .map_err(|source| LabError::File {
            what: "read",
            path: PathBuf::from("/dev/urandom"),
            source,
        })?;
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(format!("{}\n", base64(&key)).as_bytes()));
    match written {
        Ok(()) => Ok(path),
        Err(source) => Err(LabError::File {
            what: "write",
            path,
            source,
        }),
    }
}

/// RFC 4648, section 4.
fn base64(octets: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in octets.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, index| {
            bits << 8 | u32::from(group.get(index).copied().unwrap_or(0))
        });
        for index in 0..4 {
            if index > group.len() {
                text.push('=');
                continue;
            }
            let six = usize::try_from(bits >> (18 - 6 * index) & 0x3f).unwrap_or(0);
            let letter = ALPHABET.get(six).copied().unwrap_or(b'=');
            // Writing to a String cannot fail.
            let _ = text.write_char(char::from(letter));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_key_is_base64() {
        for (octets, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foobar", "Zm9vYmFy"),
            (&[0xff, 0xfe, 0xfd], "//79"),
        ] {
            assert_eq!(base64(octets), text);
        }
        assert_eq!(base64(&[0; KEY_LENGTH]).len(), 44);
    }

    #[test]
    fn a_node_names_all_others() {
        let membership = Membership {
            key_files: vec![PathBuf::from("/lab/membership.key")],
            nodes: ["a", "b", "c"]
                .map(|name| (name.to_owned(), format!("{name}:9751")))
                .to_vec(),
        };
        let section = membership.section("b");
        assert_eq!(
            section.to_string(),
            "key_files = [\"/lab/membership.key\"]\npeers = [\"a:9751\", \"c:9751\"]\n"
        );
    }
}
