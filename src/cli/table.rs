//! Tables for people: aligned by hand, as wide as the terminal, no colour, no line without content.

use std::collections::BTreeMap;

/// What a terminal has at the least.
const NARROWEST: usize = 80;

/// No column is shortened below this.
const SHORTEST: usize = 8;

/// Between two columns.
const GAP: usize = 2;

/// Columns of addresses, which are never shortened: half an address is none.
const WHOLE: [&str; 5] = ["VIP", "CLUSTER-IP", "ADDRESSES", "ADDRESS", "ENDPOINT"];

/// Columns that are shortened when all others are as short as may be: by these people go on.
const LAST: [&str; 2] = ["SERVICE", "NODE"];

/// So many that something is to be said about are named one by one.
const NAMED: usize = 3;

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

    /// The lines, each ended by a newline, as wide as whoever reads them can take.
    pub fn text(&self) -> String {
        self.fitted(width())
    }

    fn fitted(&self, width: usize) -> String {
        let mut text = String::new();
        let widths = self.widths(width);
        for row in &self.rows {
            let cells: Vec<String> = (row.iter().zip(&widths))
                .map(|(cell, width)| format!("{:<width$}", shortened(cell, *width)))
                .collect();
            text.push_str(cells.join(&" ".repeat(GAP)).trim_end());
            text.push('\n');
        }
        text
    }

    /// How wide each column is: the widest are shortened first, and only as far as is needed; names last.
    fn widths(&self, width: usize) -> Vec<usize> {
        let head = self.rows.first().map(Vec::as_slice).unwrap_or_default();
        let mut widths: Vec<usize> = (0..head.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let gaps = GAP * head.len().saturating_sub(1);
        let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(width);
        while excess > 0 {
            let shortest = |name: &str| name.chars().count().max(SHORTEST);
            let mut cut = |last: bool| {
                let widest = (widths.iter_mut().zip(head))
                    .filter(|(_, name)| {
                        !WHOLE.contains(&name.as_str()) && LAST.contains(&name.as_str()) == last
                    })
                    .filter(|(width, name)| **width > shortest(name))
                    .max_by_key(|(width, _)| **width);
                widest.map(|(widest, _)| *widest -= 1).is_some()
            };
            if !cut(false) && !cut(true) {
                break;
            }
            excess -= 1;
        }
        widths
    }
}

/// The columns that there are: the terminal's, or what `COLUMNS` says. Whatever else reads, a pipe or a
/// file, gets everything.
fn width() -> usize {
    let said = std::env::var("COLUMNS").ok();
    let said = said.and_then(|text| text.parse::<usize>().ok());
    let terminal = || {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
        Some(usize::from(size.ws_col))
    };
    said.or_else(terminal).unwrap_or(usize::MAX).max(NARROWEST)
}

/// The text, or what fits of it and an ellipsis.
fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let start = text.chars().take(width.saturating_sub(1));
    start.chain(['…']).collect()
}

/// A table, and below it a line for each name that something is to be said about, or one line for many
/// of which the same is to be said.
pub fn with_notes(table: &Table, notes: &[(String, String)]) -> String {
    let mut text = table.text();
    if !notes.is_empty() {
        text.push('\n');
    }
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, note) in notes {
        names.entry(note).or_default().push(name);
    }
    for (name, note) in notes {
        let same = names.get(note.as_str()).map(Vec::as_slice);
        let line = match same.unwrap_or_default() {
            [first, .., _] if first != name && same.is_some_and(|it| it.len() > NAMED) => continue,
            all if all.len() > NAMED => {
                let first: Vec<&str> = all.iter().take(NAMED).copied().collect();
                let more = all.len() - NAMED;
                format!("{} and {more} more: {note}", first.join(", "))
            }
            _ => format!("{name}: {note}"),
        };
        text.push_str(&printable(&line));
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
    #![allow(clippy::indexing_slicing)]

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
    fn a_table_fits_and_addresses_stay_whole() {
        let mut table = Table::new(["SERVICE", "VIP", "PORTS", "ENDPOINTS"]);
        let vip = "2001:db8:1111:2222:3333:4444:5555:6666";
        table.row([
            "a-namespace-with-a-long-name/a-service-with-a-long-name".to_owned(),
            vip.to_owned(),
            "80:30080/TCP,443:30443/TCP".to_owned(),
            "4".to_owned(),
        ]);
        let text = table.fitted(80);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(text.contains(vip), "{text}");
        assert!(text.contains('…') && text.contains("a-names"), "{text}");
        // Where there is room nothing is cut, and where there is none addresses are not either.
        assert!(!table.fitted(200).contains('…'));
        assert!(table.fitted(20).contains(vip));
    }

    #[test]
    fn names_are_shortened_last() {
        let mut table = Table::new(["SERVICE", "TYPE", "VIP", "OWNER", "PORTS"]);
        table.row([
            "default/web-local".to_owned(),
            "LoadBalancer".to_owned(),
            "192.0.2.200,2001:db8:1::200".to_owned(),
            "edge-b".to_owned(),
            "80:30080/TCP,443:30443/TCP".to_owned(),
        ]);
        let text = table.fitted(80);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("default/web-local  "), "{text}");
        assert_eq!(lines[1].chars().count(), 80, "{text}");
    }

    #[test]
    fn what_is_said_of_many_is_said_once() {
        let table = Table::new(["VIP"]);
        let note = |name: &str, note: &str| (name.to_owned(), note.to_owned());
        let mut notes = vec![note("a", "full"), note("b", "late"), note("c", "full")];
        assert_eq!(
            with_notes(&table, &notes),
            "VIP\n\na: full\nb: late\nc: full\n"
        );
        notes.extend([note("d", "full"), note("e", "full"), note("f", "full")]);
        assert_eq!(
            with_notes(&table, &notes),
            "VIP\n\na, c, d and 2 more: full\nb: late\n"
        );
    }

    #[test]
    fn a_terminal_is_never_told_what_to_do() {
        assert_eq!(printable("a\u{1b}[2J\nü"), "a\\u{1b}[2J\\nü");
    }
}
