//! A manifest file's bytes into generic documents, one by one: a document that cannot be read does
//! not hide the next. Knows YAML and JSON, and nothing of Kubernetes.

use std::str::Utf8Error;

use serde_json::Value;
use serde_saphyr::Options;

use super::located::Located;

/// The deepest nesting that is read. The deepest Kubernetes object has a third of it.
const DEEPEST: usize = 64;
/// The most nodes and events of one document: some ten thousand Services in one `List`.
const MOST_NODES: usize = 2_000_000;
/// The most nodes that aliases may add: they exist for a repeated block, not for a whole cluster.
const MOST_ALIASED: usize = 100_000;
/// The most documents of one file.
const MOST_DOCUMENTS: usize = 50_000;
/// The longest message that is kept of a parser.
const LONGEST_MESSAGE: usize = 200;

/// A line of the file, from 1, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// The line in the file.
    pub line: u64,
    /// What is wrong.
    pub message: String,
}

/// How a file is written, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `*.yaml`, `*.yml`
    Yaml,
    /// `*.json`
    Json,
}

/// One document of a file.
#[derive(Debug)]
pub struct TextDocument<'a> {
    text: &'a str,
    /// How many lines of the file are before `text`.
    lines_before: u64,
    /// What it holds; `Null` where there is nothing but comments.
    pub value: Result<Value, SyntaxError>,
}

impl TextDocument<'_> {
    /// The line where its content begins.
    pub fn first_line(&self) -> u64 {
        self.lines_before
            .saturating_add(first_content_line(self.text))
    }

    /// Finds the lines of all fields. Costs a second parse, so it is only for documents with problems.
    pub fn locate(&self) -> Lines {
        Lines {
            first: self.first_line(),
            before: self.lines_before,
            // JSON is YAML too; where a parser of YAML does not agree, only the first line is known.
            root: serde_saphyr::from_str_with_options(self.text, options()).ok(),
        }
    }
}

/// The lines of a document's fields.
#[derive(Debug)]
pub struct Lines {
    first: u64,
    before: u64,
    root: Option<Located>,
}

impl Lines {
    /// The line of a field (`spec.ports[0].port`, keys with dots too), or of the nearest field around
    /// it that is there.
    pub fn of(&self, path: &str) -> u64 {
        let Some(root) = &self.root else {
            return self.first;
        };
        let mut line = self.first;
        let mut here = root;
        let mut rest = path;
        while let Some((next, next_line, after)) = here.step(rest) {
            if next_line > 0 {
                line = self.before.saturating_add(next_line);
            }
            here = next;
            rest = after;
        }
        line
    }
}

/// Splits a file into its documents.
///
/// # Errors
/// Where the bytes are not text at all, or a JSON file breaks off.
pub fn documents(bytes: &[u8], format: Format) -> Result<Vec<TextDocument<'_>>, SyntaxError> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    if let Some(offset) = bytes.iter().position(|byte| *byte == 0) {
        return Err(SyntaxError {
            line: line_at(bytes, offset),
            message: "a NUL byte: the file is half-written, or not UTF-8 text".to_owned(),
        });
    }
    let text = std::str::from_utf8(bytes).map_err(|error: Utf8Error| SyntaxError {
        line: line_at(bytes, error.valid_up_to()),
        message: "not UTF-8 text: save the file as UTF-8".to_owned(),
    })?;
    let too_many = |lines_before: u64| SyntaxError {
        line: lines_before.saturating_add(1),
        message: format!("more than {MOST_DOCUMENTS} documents: split the file"),
    };
    Ok(match format {
        Format::Yaml => split_yaml(text)
            .map_err(too_many)?
            .into_iter()
            .map(|(lines_before, text)| TextDocument {
                text,
                lines_before,
                value: read_yaml(text, lines_before),
            })
            .collect(),
        Format::Json => split_json(text).map_err(too_many)?,
    })
}

/// Cuts at the lines that begin with `---` or `...`: YAML allows these at the start of a line for
/// nothing else, not even inside of a text (YAML 1.2, 9.1.2 and rule c-forbidden). Directives and
/// comments stay with the document that they precede.
fn split_yaml(text: &str) -> Result<Vec<(u64, &str)>, u64> {
    let mut pieces = Vec::new();
    let (mut start, mut start_line) = (0, 0u64);
    let (mut offset, mut line) = (0, 0u64);
    let mut has_content = false;
    for piece in text.split_inclusive('\n') {
        let is_marker = |marker: &str| {
            piece
                .strip_prefix(marker)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        };
        let next_offset = offset + piece.len();
        if is_marker("---") {
            if has_content {
                pieces.push((start_line, text.get(start..offset).unwrap_or_default()));
                (start, start_line) = (offset, line);
            }
            has_content = true;
        } else if is_marker("...") {
            pieces.push((start_line, text.get(start..offset).unwrap_or_default()));
            (start, start_line) = (next_offset, line + 1);
            has_content = false;
        } else if !piece.trim().is_empty() && !piece.starts_with(['#', '%']) {
            has_content = true;
        }
        offset = next_offset;
        line += 1;
        if pieces.len() > MOST_DOCUMENTS {
            return Err(line);
        }
    }
    if start < text.len() {
        pieces.push((start_line, text.get(start..).unwrap_or_default()));
    }
    Ok(pieces)
}

fn read_yaml(text: &str, lines_before: u64) -> Result<Value, SyntaxError> {
    if text
        .lines()
        .all(|line| line.trim().is_empty() || line.starts_with('#'))
    {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
        let error = error.without_snippet();
        let line = error.location().map_or(0, |at| at.line()).max(1);
        SyntaxError {
            line: lines_before.saturating_add(line),
            message: one_line(&shift_lines(&error.to_string(), lines_before)),
        }
    })
}

/// The parser counts lines from the start of the document, and names them in its messages: turns
/// them into lines of the file.
fn shift_lines(message: &str, lines_before: u64) -> String {
    const WORD: &str = "line ";
    let mut pieces = message.split(WORD);
    let mut shifted = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let digits = piece.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = piece.split_at_checked(digits).unwrap_or(("", piece));
        shifted.push_str(WORD);
        match number.parse::<u64>() {
            Ok(number) => shifted.push_str(&number.saturating_add(lines_before).to_string()),
            Err(_) => shifted.push_str(number),
        }
        shifted.push_str(rest);
    }
    shifted
}

/// A JSON file may hold several objects, one after the other.
fn split_json(text: &str) -> Result<Vec<TextDocument<'_>>, u64> {
    let mut documents = Vec::new();
    let (mut lines_before, mut counted) = (0u64, 0);
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    loop {
        let start = stream.byte_offset();
        let Some(value) = stream.next() else {
            return Ok(documents);
        };
        lines_before += count_breaks(text.get(counted..start).unwrap_or_default());
        counted = start;
        if documents.len() > MOST_DOCUMENTS {
            return Err(lines_before);
        }
        let end = stream.byte_offset();
        let failed = value.is_err();
        documents.push(TextDocument {
            text: text.get(start..end).unwrap_or_default(),
            lines_before,
            // The parser counts lines from the start of the file.
            value: value.map_err(|error| SyntaxError {
                line: u64::try_from(error.line()).unwrap_or(u64::MAX).max(1),
                message: one_line(&error.to_string()),
            }),
        });
        if failed {
            return Ok(documents);
        }
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: MOST_NODES,
            max_nodes: MOST_NODES,
            max_depth: DEEPEST,
            flow_nesting_limit: DEEPEST,
            max_recorded_anchor_events: MOST_ALIASED,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MOST_ALIASED,
        },
        with_snippet: false,
    }
}

/// One line of bounded length.
pub fn one_line(message: &str) -> String {
    let mut line = String::new();
    for (index, word) in message.split_whitespace().enumerate() {
        if line.len() + word.len() > LONGEST_MESSAGE {
            line.extend(
                word.chars()
                    .take(LONGEST_MESSAGE.saturating_sub(line.len())),
            );
            line.push('…');
            break;
        }
        if index > 0 {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

fn line_at(bytes: &[u8], offset: usize) -> u64 {
    let before = bytes.get(..offset).unwrap_or(bytes);
    u64::try_from(before.split(|byte| *byte == b'\n').count()).unwrap_or(u64::MAX)
}

fn count_breaks(text: &str) -> u64 {
    u64::try_from(text.matches('\n').count()).unwrap_or(u64::MAX)
}

/// The first line, from 1, that is neither blank nor a comment nor a document marker.
fn first_content_line(text: &str) -> u64 {
    let index = text.lines().position(|line| {
        let line = line.trim();
        !(line.is_empty() || line.starts_with(['#', '%']) || line == "---")
    });
    u64::try_from(index.unwrap_or(0)).map_or(1, |index| index.saturating_add(1))
}
