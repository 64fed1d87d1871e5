//! The places of a document's fields: the same tree as the document, with lines in place of values.

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A document with the line of each key and item, in its own lines from 1; values are forgotten.
#[derive(Debug)]
pub(super) enum Located {
    Scalar,
    Map(Vec<(String, u64, Located)>),
    List(Vec<(u64, Located)>),
}

impl Located {
    /// Goes one key or index along the path: what is there, its line, the rest of the path.
    pub(super) fn step<'a, 'p>(&'a self, path: &'p str) -> Option<(&'a Self, u64, &'p str)> {
        let path = path.strip_prefix('.').unwrap_or(path);
        match self {
            Self::Scalar => None,
            Self::Map(entries) => entries
                .iter()
                .filter_map(|(key, line, value)| {
                    let after = match path.strip_prefix('[') {
                        Some(bracketed) => {
                            bracketed.strip_prefix(key.as_str())?.strip_prefix(']')?
                        }
                        None => path.strip_prefix(key.as_str())?,
                    };
                    let ends = after.is_empty() || after.starts_with(['.', '[']);
                    ends.then_some((value, *line, after))
                })
                // A key may itself have dots: the longest one that fits is meant.
                .min_by_key(|(_, _, after)| after.len()),
            Self::List(items) => {
                let (index, after) = path.strip_prefix('[')?.split_once(']')?;
                let (line, item) = items.get(index.parse::<usize>().ok()?)?;
                Some((item, *line, after))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Located {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LocatedVisitor)
    }
}

struct LocatedVisitor;

impl<'de> Visitor<'de> for LocatedVisitor {
    type Value = Located;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("anything")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Located, E> {
        Ok(Located::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Located, E> {
        Ok(Located::Scalar)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Located, E> {
        Ok(Located::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Located, E> {
        Ok(Located::Scalar)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Located, E> {
        Ok(Located::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Located, E> {
        Ok(Located::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Located, E> {
        Ok(Located::Scalar)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Located, E> {
        Ok(Located::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Located, E> {
        Ok(Located::Scalar)
    }

    fn visit_none<E>(self) -> Result<Located, E> {
        Ok(Located::Scalar)
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Located, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: de::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Located, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Located, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element::<Spanned<Located>>()? {
            items.push((item.referenced.line(), item.value));
        }
        Ok(Located::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Located, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            let value: Located = map.next_value()?;
            entries.push((key.value, key.referenced.line(), value));
        }
        Ok(Located::Map(entries))
    }
}

/// Reads a key with its place.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Spanned<String>;

    fn deserialize<D: de::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        Spanned::<String>::deserialize(deserializer)
    }
}
