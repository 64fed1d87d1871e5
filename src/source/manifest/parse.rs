//! A manifest file's bytes into objects of the model, problems with their lines, and what is left
//! out on purpose. Pure: the same bytes give the same answer, and no bytes make it panic.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::text::{Format, Lines, TextDocument, documents, one_line};
use crate::model::cluster::{Namespace, Node};
use crate::model::endpoint::{EndpointSlice, SliceKey};
use crate::model::service::{Service, ServiceKey};
use crate::source::kubernetes::address::shorten;
use crate::source::kubernetes::convert::{Converted, Note};
use crate::source::kubernetes::decode::{Kind, Object, Recognized, decode};

/// The namespace of an object that names none.
const DEFAULT_NAMESPACE: &str = "default";
/// Lists of lists of lists are nobody's manifest.
const DEEPEST_LIST: usize = 4;
/// The most problems, and the most ignored objects, that one file tells of.
const MOST_TOLD: usize = 100;

/// What an object is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKey {
    /// A Service.
    Service(ServiceKey),
    /// An `EndpointSlice`.
    Slice(SliceKey),
    /// `Endpoints`, by the Service's key.
    Endpoints(ServiceKey),
    /// A Node.
    Node(String),
    /// A Namespace.
    Namespace(String),
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service(key) => write!(f, "Service {key}"),
            Self::Slice(key) => write!(f, "EndpointSlice {key}"),
            Self::Endpoints(key) => write!(f, "Endpoints {key}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Namespace(name) => write!(f, "Namespace {name}"),
        }
    }
}

/// An object's part in the model.
#[derive(Debug, Clone, PartialEq)]
pub enum ManifestObject {
    /// A Service.
    Service(Arc<Service>),
    /// A slice.
    Slice(Arc<EndpointSlice>),
    /// The slices that mirror `Endpoints`.
    Endpoints(Vec<Arc<EndpointSlice>>),
    /// A Node.
    Node(Arc<Node>),
    /// A Namespace.
    Namespace(Arc<Namespace>),
    /// Nothing, on purpose: it still takes its key, so that no other file's object stands in for it.
    Ignored,
}

/// An object and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The line where it begins.
    pub line: u64,
    /// What it is.
    pub object: ManifestObject,
}

/// One thing that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, where it is known.
    pub line: Option<u64>,
    /// The path of the field, where it is known.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// The objects that can be used, by key.
    pub objects: BTreeMap<ObjectKey, Document>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What was left out on purpose, with line and reason.
    pub ignored: Vec<String>,
    /// At least one document could not be used at all: the file's last good objects must stay.
    pub broken: bool,
}

impl Parsed {
    /// Nothing is in the file, not even something wrong: it may have been emptied to be written anew.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && !self.broken && self.ignored.is_empty()
    }

    fn problem(&mut self, line: u64, field: &str, message: &str) {
        if self.problems.len() == MOST_TOLD {
            self.problems.push(Problem {
                line: None,
                field: None,
                message: format!("more than {MOST_TOLD} problems: the rest is not told"),
            });
        }
        if self.problems.len() < MOST_TOLD {
            self.problems.push(Problem {
                line: Some(line),
                field: (!field.is_empty()).then(|| shorten(field)),
                message: message.to_owned(),
            });
        }
    }

    /// A document that cannot be used.
    fn refuse(&mut self, line: u64, field: &str, message: &str) {
        self.broken = true;
        self.problem(line, field, message);
    }

    fn ignore(&mut self, line: u64, what: &str, why: &str) {
        if self.ignored.len() < MOST_TOLD {
            self.ignored.push(format!("line {line}: {what}: {why}"));
        } else if self.ignored.len() == MOST_TOLD {
            self.ignored.push("and more".to_owned());
        }
    }
}

/// Reads a file. `name` decides between YAML and JSON.
pub fn parse(name: &str, bytes: &[u8]) -> Parsed {
    // The parsers of YAML and JSON are other people's, and a bug in them must cost no more than the
    // file that has found it: what they were given is thrown away with the unwound stack.
    std::panic::catch_unwind(|| parse_documents(name, bytes)).unwrap_or_else(|_| {
        let mut parsed = Parsed::default();
        parsed.refuse(
            1,
            "",
            "the parser failed on this file: this is a bug in edgelb, please report the file",
        );
        parsed
    })
}

fn parse_documents(name: &str, bytes: &[u8]) -> Parsed {
    let is_json = name
        .rsplit_once('.')
        .is_some_and(|(_, extension)| extension.eq_ignore_ascii_case("json"));
    let format = if is_json { Format::Json } else { Format::Yaml };
    let mut parsed = Parsed::default();
    match documents(bytes, format) {
        Err(error) => parsed.refuse(error.line, "", &error.message),
        Ok(documents) => {
            for document in documents {
                read_document(&document, &mut parsed);
            }
        }
    }
    parsed
}

fn read_document(document: &TextDocument<'_>, parsed: &mut Parsed) {
    match &document.value {
        Err(error) => parsed.refuse(error.line, "", &error.message),
        Ok(Value::Null) => {}
        Ok(value) => {
            let mut reader = Reader {
                document,
                lines: None,
                parsed,
            };
            reader.read(value, "", None, 0);
        }
    }
}

/// Reads one document; finds its lines only when somebody asks.
struct Reader<'a> {
    document: &'a TextDocument<'a>,
    lines: Option<Lines>,
    parsed: &'a mut Parsed,
}

impl Reader<'_> {
    fn line(&mut self, path: &str) -> u64 {
        let document = self.document;
        self.lines.get_or_insert_with(|| document.locate()).of(path)
    }

    fn refuse(&mut self, field: &str, message: &str) {
        let line = self.line(field);
        self.parsed.refuse(line, field, message);
    }

    /// `path` is where the object stands in its document (`items[3]`), `inherited` the type that a
    /// typed list gives to items that name none.
    fn read(&mut self, value: &Value, path: &str, inherited: Option<(&str, &str)>, depth: usize) {
        let Value::Object(fields) = value else {
            let found = match value {
                Value::Array(_) => "a list",
                Value::Null => "nothing",
                _ => "a single value",
            };
            return self.refuse(
                path,
                &format!("a Kubernetes object is a mapping, but this is {found}"),
            );
        };
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let (Some(api_version), Some(kind)) = (
            text("apiVersion").or(inherited.map(|(version, _)| version)),
            text("kind").or(inherited.map(|(_, kind)| kind)),
        ) else {
            let (field, example) = if text("kind").is_none() {
                ("kind", "kind: Service")
            } else {
                ("apiVersion", "apiVersion: v1")
            };
            let found = if fields.contains_key(field) {
                format!("{field} is not a text")
            } else {
                format!("no {field}, so this is only a part of an object")
            };
            return self.refuse(
                &join(path, field),
                &format!("{found}: write for example {example}"),
            );
        };
        if let Some(items) = fields.get("items").and_then(Value::as_array)
            && let Some(item_kind) = kind.strip_suffix("List")
        {
            if depth >= DEEPEST_LIST {
                return self.refuse(path, "lists are nested too deeply");
            }
            // `List` holds objects of any kind, each with its type; a `ServiceList` gives it to all.
            let inherited = (!item_kind.is_empty()).then_some((api_version, item_kind));
            for (index, item) in items.iter().enumerate() {
                let path = join(path, &format!("items[{index}]"));
                self.read(item, &path, inherited, depth + 1);
            }
            return;
        }
        match Kind::recognize(api_version, kind) {
            Recognized::Read(kind_read) => self.read_object(kind_read, value, path),
            Recognized::WrongVersion(wanted) => self.refuse(
                &join(path, "apiVersion"),
                &format!(
                    "{kind} of {:?} is not read: write apiVersion: {wanted}",
                    shorten(api_version)
                ),
            ),
            Recognized::Other => {
                let name = fields
                    .get("metadata")
                    .and_then(|metadata| metadata.get("name"))
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                let line = self.line(path);
                self.parsed.ignore(
                    line,
                    &one_line(&format!("{} {}", shorten(kind), shorten(name))),
                    "only Service, EndpointSlice, Endpoints, Node and Namespace are read",
                );
            }
        }
    }

    fn read_object(&mut self, kind: Kind, value: &Value, path: &str) {
        let mut value = value.clone();
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        if kind.namespaced()
            && let Some(metadata) = metadata
            && matches!(metadata.get("namespace"), None | Some(Value::Null))
        {
            metadata.insert("namespace".to_owned(), DEFAULT_NAMESPACE.into());
        }
        let text = |name: &str| {
            let metadata = value.get("metadata")?;
            metadata.get(name)?.as_str().map(str::to_owned)
        };
        let (name, namespace) = (text("name").unwrap_or_default(), text("namespace"));
        let (object, unknown) = match decode(kind, &value) {
            Ok(decoded) => decoded,
            Err(error) => return self.refuse(&join(path, &error.field), &one_line(&error.message)),
        };
        if let Err(message) = check_name(&name) {
            return self.refuse(&join(path, "metadata.name"), &message);
        }
        if let Some(Err(message)) = namespace.as_deref().map(check_name) {
            return self.refuse(&join(path, "metadata.namespace"), &message);
        }
        self.notes(path, &unknown);
        let (key, object) = match object {
            Object::Service(converted) => {
                let key = ServiceKey::new(namespace.unwrap_or_default(), name);
                let object = self.take(path, *converted, |service| {
                    ManifestObject::Service(Arc::new(service))
                });
                (ObjectKey::Service(key), object)
            }
            Object::EndpointSlice(converted) => {
                let namespace = namespace.unwrap_or_default();
                let object = self.take(path, converted, |slice| {
                    ManifestObject::Slice(Arc::new(slice))
                });
                (ObjectKey::Slice(SliceKey::new(namespace, name)), object)
            }
            Object::Endpoints(converted) => {
                let key = ServiceKey::new(namespace.unwrap_or_default(), name);
                let object = self.take(path, converted, |slices| {
                    ManifestObject::Endpoints(slices.into_iter().map(Arc::new).collect())
                });
                (ObjectKey::Endpoints(key), object)
            }
            Object::Node(converted) => {
                let object =
                    self.take(path, converted, |node| ManifestObject::Node(Arc::new(node)));
                (ObjectKey::Node(name), object)
            }
            Object::Namespace(converted) => {
                let object = self.take(path, converted, |namespace| {
                    ManifestObject::Namespace(Arc::new(namespace))
                });
                (ObjectKey::Namespace(name), object)
            }
        };
        self.insert(path, key, object);
    }

    fn insert(&mut self, path: &str, key: ObjectKey, object: Result<ManifestObject, String>) {
        let line = self.line_of_object(path);
        if let Some(first) = self.parsed.objects.get(&key) {
            let message = format!(
                "{key} is in this file twice: the one on line {} counts",
                first.line
            );
            let line = self.line(path);
            self.parsed.problem(line, path, &message);
            return;
        }
        let object = object.unwrap_or_else(|why| {
            let line = self.line(path);
            self.parsed.ignore(line, &key.to_string(), &why);
            ManifestObject::Ignored
        });
        self.parsed.objects.insert(key, Document { line, object });
    }

    /// The line where an object begins; for an item of a list the document's, unless all lines have
    /// been found already: a good file is not parsed twice.
    fn line_of_object(&mut self, path: &str) -> u64 {
        match &self.lines {
            Some(lines) => lines.of(path),
            None => self.document.first_line(),
        }
    }

    fn take<T>(
        &mut self,
        path: &str,
        converted: Converted<T>,
        wrap: impl FnOnce(T) -> ManifestObject,
    ) -> Result<ManifestObject, String> {
        self.notes(path, &converted.notes);
        converted
            .object
            .map(wrap)
            .map_err(|ignored| ignored.to_string())
    }

    fn notes(&mut self, path: &str, notes: &[Note]) {
        for note in notes {
            let field = join(path, &note.field);
            let line = self.line(&field);
            self.parsed.problem(line, &field, &one_line(&note.message));
        }
    }
}

fn join(path: &str, field: &str) -> String {
    match (path.is_empty(), field.is_empty()) {
        (true, _) => field.to_owned(),
        (_, true) => path.to_owned(),
        _ => format!("{path}.{field}"),
    }
}

/// Names end up in logs, metrics, file names and kernel comments: only what Kubernetes itself allows
/// (RFC 1123 subdomain) may get there.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err(
            "no name: write name: and a name of lower-case letters, digits and -".to_owned(),
        );
    }
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if bytes.len() <= 253
        && bytes.iter().copied().all(allowed)
        && ends(bytes.first())
        && ends(bytes.last())
    {
        return Ok(());
    }
    Err(format!(
        "{:?} is no name: at most 253 lower-case letters, digits, - and ., with a letter or digit at both ends",
        shorten(name)
    ))
}
