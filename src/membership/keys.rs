//! Reads the shared keys from their files and derives what a datagram names its key by. Decides nothing
//! about who may speak: whoever holds a key may.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use thiserror::Error;
use tracing::warn;

/// Octets of a key.
pub const KEY_OCTETS: usize = 32;

/// A key file may have that many octets: base64 of a key, and white space.
const LONGEST_FILE: u64 = 4096;

const REMEDY: &str = "write one with: head -c 32 /dev/urandom | base64";

/// A key cannot be used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error(
        "cannot read the key file {}: {source}; membership.key_files must name readable files, {REMEDY}",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The file is far too long.
    #[error("the key file {} has {octets} octets: it is no key, {REMEDY}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        octets: u64,
    },
    /// The file is not base64.
    #[error("the key file {} is not base64: {source}; {REMEDY}", path.display())]
    NotBase64 {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        source: base64::DecodeError,
    },
    /// The key has another length.
    #[error(
        "the key in {} has {octets} octets where {KEY_OCTETS} are needed; {REMEDY}",
        path.display()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Octets found.
        octets: usize,
    },
    /// Two files hold the same key: a change of keys would be undone by it.
    #[error("the key files {} and {} hold the same key; remove one of them", first.display(), second.display())]
    Same {
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// More files than a change of keys needs.
    #[error("{count} key files are named; membership.key_files takes one or two")]
    Many {
        /// Files named.
        count: usize,
    },
}

/// One key and the four octets by which datagrams name it.
#[derive(Clone)]
pub struct SharedKey {
    /// The same on all nodes, told in the clear; says nothing of the key.
    pub id: [u8; 4],
    pub(super) cipher: XChaCha20Poly1305,
    octets: [u8; KEY_OCTETS],
}

impl std::fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl SharedKey {
    /// The key of these octets.
    pub fn new(octets: [u8; KEY_OCTETS]) -> Self {
        let cipher = XChaCha20Poly1305::new(&Key::from(octets));
        // The tag of nothing under a nonce that is never sent: it tells keys apart and reveals none.
        let tag = cipher.encrypt(
            &XNonce::from([0xff; 24]),
            Payload {
                msg: b"",
                aad: b"edgelb membership key",
            },
        );
        let mut id = [0; 4];
        for (octet, from) in id.iter_mut().zip(tag.unwrap_or_default()) {
            *octet = from;
        }
        Self { id, cipher, octets }
    }
}

/// Reads the key files in their order. Logs a warning for one that others than its owner may read.
pub fn read(paths: &[PathBuf]) -> Result<Vec<SharedKey>, KeyError> {
    if paths.len() > 2 {
        return Err(KeyError::Many { count: paths.len() });
    }
    let mut keys: Vec<SharedKey> = Vec::new();
    for path in paths {
        let key = read_one(path)?;
        if let Some(same) = keys.iter().position(|other| other.octets == key.octets) {
            return Err(KeyError::Same {
                first: paths.get(same).cloned().unwrap_or_default(),
                second: path.clone(),
            });
        }
        keys.push(key);
    }
    Ok(keys)
}

fn read_one(path: &Path) -> Result<SharedKey, KeyError> {
    let failed = |source| KeyError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.len() > LONGEST_FILE {
        return Err(KeyError::TooLong {
            path: path.to_owned(),
            octets: metadata.len(),
        });
    }
    let text = fs::read(path).map_err(failed)?;
    let mode = metadata.permissions().mode();
    if mode & 0o077 != 0 {
        warn!(
            file = %path.display(),
            mode = format!("{:o}", mode & 0o777),
            "the key file can be read by others than its owner; chmod 600 it"
        );
    }
    let text: Vec<u8> = text
        .into_iter()
        .filter(|octet| !octet.is_ascii_whitespace())
        .collect();
    let octets = STANDARD
        .decode(&text)
        .map_err(|source| KeyError::NotBase64 {
            path: path.to_owned(),
            source,
        })?;
    let octets: [u8; KEY_OCTETS] =
        octets
            .try_into()
            .map_err(|octets: Vec<u8>| KeyError::Length {
                path: path.to_owned(),
                octets: octets.len(),
            })?;
    Ok(SharedKey::new(octets))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn file(directory: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn keys_are_read_and_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let one = file(&directory, "one", &STANDARD.encode([1; 32]));
        let two = file(
            &directory,
            "two",
            &format!("  {}\n", STANDARD.encode([2; 32])),
        );
        let keys = read(&[one.clone(), two.clone()]).unwrap();
        assert_eq!(keys.len(), 2);
        assert_ne!(keys[0].id, keys[1].id);
        assert_eq!(keys[0].id, SharedKey::new([1; 32]).id);
        assert!(!format!("{keys:?}").contains("octets"));
        assert!(matches!(
            read(&[one.clone(), one.clone()]),
            Err(KeyError::Same { .. })
        ));
        assert!(matches!(
            read(&[one.clone(), two, one]),
            Err(KeyError::Many { count: 3 })
        ));
    }

    #[test]
    fn a_bad_file_is_named_with_its_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let cases = [
            (missing, "cannot read the key file"),
            (file(&directory, "text", "no base64!"), "is not base64"),
            (
                file(&directory, "short", &STANDARD.encode([1; 16])),
                "has 16 octets where 32",
            ),
            (file(&directory, "empty", ""), "has 0 octets where 32"),
            (
                file(&directory, "long", &"A".repeat(5000)),
                "has 5000 octets: it is no key",
            ),
        ];
        for (path, what) in cases {
            let error = read(std::slice::from_ref(&path)).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert!(
                error.contains("head -c 32 /dev/urandom | base64"),
                "{error}"
            );
        }
    }
}
