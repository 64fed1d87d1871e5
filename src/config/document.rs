//! A TOML document as tables that are asked for typed values, each with its place.
//!
//! A value of the wrong type becomes a problem and the walk goes on; keys that nobody asked for are
//! unknown. Knows no key of its own.

use std::cell::RefCell;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::findings::Findings;
use super::lines::Lines;
use super::problem::{Located, Location, Problem, Refusal, quoted};

/// The value of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<T> {
    /// The file does not name the key.
    Absent,
    /// It does, but with a value of the wrong type, which is already a problem.
    Broken,
    Given(Located<T>),
}

/// A list whose items are text.
pub type TextList = Entry<Vec<Located<String>>>;

/// A parsed document.
pub struct Document<'t> {
    table: Spanned<DeTable<'t>>,
    lines: Lines<'t>,
}

impl<'t> Document<'t> {
    /// Every syntax error, at most one a line: what follows on a broken line is a consequence.
    pub fn parse(text: &'t str) -> Result<Self, Vec<Problem>> {
        let lines = Lines::new(text);
        if let Some(offset) = text.find('\0') {
            let refusal = Refusal::new("the file holds a NUL byte: it is not text");
            return Err(vec![Problem::error(
                &lines.locate(String::new(), offset),
                &refusal,
            )]);
        }
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self { table, lines });
        }
        let mut problems: Vec<Problem> = Vec::new();
        for error in errors {
            let offset = error.span().map(|span| span.start);
            let at = offset
                .map(|offset| lines.locate(String::new(), offset))
                .unwrap_or_default();
            if problems.last().is_none_or(|last| last.line != at.line) {
                let rest = offset
                    .and_then(|offset| text.get(offset..))
                    .unwrap_or_default();
                problems.push(Problem::error(&at, &syntax_refusal(error.message(), rest)));
            }
        }
        Err(problems)
    }

    pub fn root<'d>(&'d self, findings: &'d RefCell<Findings>) -> Section<'d> {
        Section {
            table: Some(self.table.get_ref()),
            at: Location::default(),
            schema: String::new(),
            asked: Vec::new(),
            lines: &self.lines,
            findings,
        }
    }
}

/// One table of the file, or its absence, which has every key absent.
#[must_use]
pub struct Section<'d> {
    table: Option<&'d DeTable<'d>>,
    pub at: Location,
    schema: String,
    asked: Vec<&'static str>,
    lines: &'d Lines<'d>,
    findings: &'d RefCell<Findings>,
}

impl<'d> Section<'d> {
    pub fn text(&mut self, name: &'static str) -> Entry<String> {
        self.scalar(name, "a string", as_text, |value, _| {
            match &value.as_array()?[..] {
                [only] => only.get_ref().as_str().map(quoted),
                _ => None,
            }
        })
    }

    /// Text as well; a bare number is most often one of seconds.
    pub fn duration(&mut self, name: &'static str) -> Entry<String> {
        self.scalar(name, "a duration in quotes", as_text, suggest_duration)
    }

    pub fn flag(&mut self, name: &'static str) -> Entry<bool> {
        self.scalar(
            name,
            "true or false",
            DeValue::as_bool,
            |_, source| match source.trim_matches(['"', '\'']).to_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Some("true".to_owned()),
                "false" | "no" | "off" | "0" => Some("false".to_owned()),
                _ => None,
            },
        )
    }

    /// A number beyond 128 bits becomes the nearest that fits; ranges are checked later.
    pub fn integer(&mut self, name: &'static str) -> Entry<i128> {
        let number = |value: &DeValue<'_>| {
            let integer = value.as_integer()?;
            let limit = if integer.as_str().starts_with('-') {
                i128::MIN
            } else {
                i128::MAX
            };
            Some(i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(limit))
        };
        self.scalar(name, "a whole number", number, |_, source| {
            let bare = source.trim_matches(['"', '\'']);
            let digits = bare.strip_prefix("0x").unwrap_or(bare);
            let radix = if digits.len() < bare.len() { 16 } else { 10 };
            i128::from_str_radix(digits, radix)
                .is_ok()
                .then(|| bare.to_owned())
        })
    }

    pub fn texts(&mut self, name: &'static str) -> TextList {
        self.list(name, "a list of strings", "a string", |_, _| None)
    }

    pub fn durations(&mut self, name: &'static str) -> TextList {
        self.list(
            name,
            "a list of durations",
            "a duration in quotes",
            suggest_duration,
        )
    }

    /// A sub-table; one that is not a table is a problem and reads as absent.
    pub fn section(&mut self, name: &'static str) -> Section<'d> {
        let schema = self.ask(name);
        let Some((at, value)) = self.find(name) else {
            let at = Location::of_key(&schema);
            return self.child(None, at, schema);
        };
        match value.get_ref() {
            DeValue::Table(table) => self.child(Some(table), at, schema),
            other => {
                let refusal = Refusal::new(format!(
                    "wrong type: a table is wanted, this is {}",
                    kind(other)
                ));
                self.report(&at, &refusal.write(format!("[{}]", at.key)));
                self.child(None, at, schema)
            }
        }
    }

    /// The tables of `[[name]]`, in file order; `None` where there is something else in their place.
    pub fn sections(&mut self, name: &'static str) -> Option<Vec<Section<'d>>> {
        let schema = self.ask(name);
        let Some((at, value)) = self.find(name) else {
            return Some(Vec::new());
        };
        let header = format!("[[{}]]", at.key);
        let items = match value.get_ref() {
            DeValue::Array(items) => items,
            DeValue::Table(table) => {
                self.report(
                    &at,
                    &Refusal::new("wrong type: there may be several, in double brackets")
                        .write(header),
                );
                let at = at.with_key(format!("{}[0]", at.key));
                return Some(vec![self.child(Some(table), at, schema)]);
            }
            other => {
                let message = format!(
                    "wrong type: a list of tables is wanted, this is {}",
                    kind(other)
                );
                self.report(&at, &Refusal::new(message).write(header));
                return None;
            }
        };
        let mut sections = Vec::new();
        let mut broken = false;
        for (index, item) in items.iter().enumerate() {
            let at = self
                .lines
                .locate(format!("{}[{index}]", at.key), item.span().start);
            if let DeValue::Table(table) = item.get_ref() {
                sections.push(self.child(Some(table), at, schema.clone()));
            } else {
                broken = true;
                let message = format!(
                    "wrong type: a table is wanted, this is {}",
                    kind(item.get_ref())
                );
                self.report(&at, &Refusal::new(message).write(&header));
            }
        }
        if broken && sections.is_empty() {
            None
        } else {
            Some(sections)
        }
    }

    /// Ends the walk of this table: keys that were not asked for are unknown.
    pub fn finish(self) {
        let Some(table) = self.table else {
            return;
        };
        for key in table.keys() {
            if !self
                .asked
                .iter()
                .any(|asked| *asked == key.get_ref().as_ref())
            {
                let at = self
                    .lines
                    .locate(self.path(key.get_ref()), key.span().start);
                self.findings.borrow_mut().add_unknown(at, &self.asked);
            }
        }
    }

    fn child(&self, table: Option<&'d DeTable<'d>>, at: Location, schema: String) -> Self {
        Section {
            table,
            at,
            schema,
            asked: Vec::new(),
            lines: self.lines,
            findings: self.findings,
        }
    }

    fn path(&self, name: &str) -> String {
        let bare = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let name = if bare { name.to_owned() } else { quoted(name) };
        if self.at.key.is_empty() {
            name
        } else {
            format!("{}.{name}", self.at.key)
        }
    }

    /// Notes that a key is known, and gives its path without indices.
    fn ask(&mut self, name: &'static str) -> String {
        self.asked.push(name);
        if self.schema.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.schema)
        }
    }

    fn ask_value(&mut self, name: &'static str) {
        let schema = self.ask(name);
        self.findings.borrow_mut().known.insert(schema);
    }

    fn find(&self, name: &str) -> Option<(Location, &'d Spanned<DeValue<'d>>)> {
        let value = self.table?.get(name)?;
        Some((
            self.lines.locate(self.path(name), value.span().start),
            value,
        ))
    }

    fn report(&self, at: &Location, refusal: &Refusal) {
        self.findings
            .borrow_mut()
            .problems
            .push(Problem::error(at, refusal));
    }

    fn wrong_type(
        &self,
        at: &Location,
        wanted: &str,
        value: &Spanned<DeValue<'d>>,
        suggest: impl Fn(&DeValue<'d>, &str) -> Option<String>,
    ) {
        let source = self.lines.text.get(value.span()).unwrap_or_default();
        let refusal = Refusal::new(format!(
            "wrong type: {wanted} is wanted, this is {}",
            kind(value.get_ref())
        ));
        self.report(at, &refusal.write_maybe(suggest(value.get_ref(), source)));
    }

    fn scalar<T>(
        &mut self,
        name: &'static str,
        wanted: &str,
        read: impl Fn(&DeValue<'d>) -> Option<T>,
        suggest: impl Fn(&DeValue<'d>, &str) -> Option<String>,
    ) -> Entry<T> {
        self.ask_value(name);
        let Some((at, value)) = self.find(name) else {
            return Entry::Absent;
        };
        if let Some(value) = read(value.get_ref()) {
            return Entry::Given(Located { value, at });
        }
        self.wrong_type(&at, wanted, value, suggest);
        Entry::Broken
    }

    fn list(
        &mut self,
        name: &'static str,
        wanted: &str,
        wanted_item: &str,
        suggest: impl Fn(&DeValue<'d>, &str) -> Option<String>,
    ) -> TextList {
        self.ask_value(name);
        let Some((at, value)) = self.find(name) else {
            return Entry::Absent;
        };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(&at, wanted, value, |value, source| {
                let item = if value.is_str() {
                    Some(source.to_owned())
                } else {
                    suggest(value, source)
                };
                item.map(|item| format!("[{item}]"))
            });
            return Entry::Broken;
        };
        let mut texts = Vec::new();
        let mut broken = false;
        for (index, item) in items.iter().enumerate() {
            let at = self
                .lines
                .locate(format!("{}[{index}]", at.key), item.span().start);
            if let Some(text) = item.get_ref().as_str() {
                texts.push(Located {
                    value: text.to_owned(),
                    at,
                });
            } else {
                broken = true;
                self.wrong_type(&at, wanted_item, item, &suggest);
            }
        }
        // A list that is only partly readable still has its readable items checked.
        if broken && texts.is_empty() {
            Entry::Broken
        } else {
            Entry::Given(Located { value: texts, at })
        }
    }
}

/// What the parser says, made plainer where a value is missing or lacks its quotes.
fn syntax_refusal(message: &str, rest: &str) -> Refusal {
    let word = rest
        .split(['\n', '#', ',', ']', '}'])
        .next()
        .unwrap_or_default()
        .trim();
    match (message.starts_with("string values must be quoted"), word) {
        (true, "") => Refusal::new("a value is missing"),
        (true, word) => Refusal::new("text needs quotes").write(quoted(word)),
        (false, _) => Refusal::new(message.trim().replace('\n', ", ")),
    }
}

fn as_text(value: &DeValue<'_>) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn suggest_duration(value: &DeValue<'_>, source: &str) -> Option<String> {
    let number = value.is_integer() || value.is_float();
    let text = format!("{}s", source.replace('_', ""));
    (number && super::duration::parse(&text).is_ok()).then(|| quoted(&text))
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
