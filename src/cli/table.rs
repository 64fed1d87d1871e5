//! Tables for people: aligned by hand, no colour, no line without content.

/// A head line and rows of the same number of cells, two spaces between columns.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this head.
    pub fn new<const N: usize>(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.map(str::to_owned).to_vec()],
        }
    }

    /// Adds a row; an empty cell is shown as a dash, so that columns stay countable.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        let shown = |cell: String| {
            if cell.is_empty() {
                "-".to_owned()
            } else {
                printable(&cell)
            }
        };
        self.rows.push(cells.map(shown).to_vec());
    }

    /// The lines, each ended by a newline.
    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> = (row.iter().zip(&widths))
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// A table, and below it a line for each name that something is to be said about.
pub fn with_notes(table: &Table, notes: &[(String, String)]) -> String {
    let mut text = table.text();
    if !notes.is_empty() {
        text.push('\n');
    }
    for (name, note) in notes {
        text.push_str(&printable(&format!("{name}: {note}")));
        text.push('\n');
    }
    text
}

/// Text from outside without control characters, which a terminal would obey.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let escape = character.is_control();
            let plain = (!escape).then_some(character);
            let escaped = escape.then(|| character.escape_default());
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let mut table = Table::new(["NAME", "OWNER"]);
        table.row(["default/web".to_owned(), "edge-a".to_owned()]);
        table.row(["a".to_owned(), String::new()]);
        assert_eq!(
            table.text(),
            "NAME         OWNER\ndefault/web  edge-a\na            -\n"
        );
    }

    #[test]
    fn a_terminal_is_never_told_what_to_do() {
        assert_eq!(printable("a\u{1b}[2J\nü"), "a\\u{1b}[2J\\nü");
    }
}
