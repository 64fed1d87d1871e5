//! A short text that many objects have in common: names of namespaces, Services and nodes. A copy
//! costs nothing, and [`Texts`] makes equal ones the same.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An immutable text whose copies share it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Text(Arc<str>);

impl Text {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Default for Text {
    fn default() -> Self {
        Self(Arc::from(""))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Self {
        Self(text.as_str().into())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&Text> for Text {
    fn from(text: &Text) -> Self {
        text.clone()
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.as_str().to_owned()
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == **other
    }
}

impl PartialEq<String> for Text {
    fn eq(&self, other: &String) -> bool {
        *self.0 == **other
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The texts that are known. What nobody else has any more is forgotten now and then.
#[derive(Debug, Default)]
pub struct Texts {
    known: HashSet<Text>,
    /// Forgets when there are so many.
    full: usize,
}

impl Texts {
    /// There is nothing to forget among fewer.
    const FEW: usize = 1024;

    /// Makes a text the same as an equal one that is known already.
    pub fn share(&mut self, text: &mut Text) {
        if let Some(known) = self.known.get(text) {
            text.clone_from(known);
            return;
        }
        if self.known.len() >= self.full {
            self.known.retain(|known| Arc::strong_count(&known.0) > 1);
            self.full = (self.known.len() * 2).max(Self::FEW);
        }
        self.known.insert(text.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_become_the_same() {
        let mut texts = Texts::default();
        let (mut one, mut other) = (Text::from("edge-a"), Text::from("edge-a"));
        assert!(!Arc::ptr_eq(&one.0, &other.0));
        texts.share(&mut one);
        texts.share(&mut other);
        assert!(Arc::ptr_eq(&one.0, &other.0));
        assert_eq!(one, "edge-a");
    }

    #[test]
    fn what_nobody_has_is_forgotten() {
        let mut texts = Texts::default();
        let mut kept = Text::from("kept");
        texts.share(&mut kept);
        for number in 0..10 * Texts::FEW {
            texts.share(&mut Text::from(number.to_string()));
        }
        assert!(texts.known.len() <= Texts::FEW);
        let mut again = Text::from("kept");
        texts.share(&mut again);
        assert!(Arc::ptr_eq(&kept.0, &again.0));
    }
}
