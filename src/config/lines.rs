//! Byte offsets of a text as lines and columns.

use super::problem::Location;

/// From byte offsets to lines and columns.
pub struct Lines<'t> {
    pub text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub fn new(text: &'t str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self {
            text,
            starts: std::iter::once(0)
                .chain(ends.map(|(offset, _)| offset + 1))
                .collect(),
        }
    }

    /// The place of a key or value that begins at a byte offset.
    pub fn locate(&self, key: String, offset: usize) -> Location {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = line
            .checked_sub(1)
            .and_then(|index| self.starts.get(index))
            .copied()
            .unwrap_or_default();
        let before = self.text.get(start..offset).unwrap_or_default();
        Location {
            key,
            line: Some(line),
            column: Some(before.chars().count() + 1),
        }
    }
}
