//! The language of the admin socket: one request on one line, one answer on one line, both JSON.
//!
//! `{"command":"status"}` is answered by `{"ok":true,"data":{…}}` or `{"ok":false,"error":"…"}`.
//! Arguments are further fields of the request, each a string. One that the command does not know is
//! refused by its name: a question that is answered without it would be another question.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The name of the socket in `node.runtime_dir`.
pub const SOCKET_NAME: &str = "admin.sock";

/// A longer request is refused.
pub const LARGEST_REQUEST: usize = 64 * 1024;

/// The longest part of a request that an error repeats.
const LONGEST_REPEATED: usize = 64;

/// What can be asked to see. All of these only read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Status,
    Services,
    Vips,
    Pools,
    Peers,
}

impl Command {
    /// Every command.
    pub const ALL: [Self; 5] = [
        Self::Status,
        Self::Services,
        Self::Vips,
        Self::Pools,
        Self::Peers,
    ];

    /// Its name, on the wire and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Services => "services",
            Self::Vips => "vips",
            Self::Pools => "pools",
            Self::Peers => "peers",
        }
    }

    /// The names of the arguments that it takes.
    pub const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Status | Self::Services | Self::Vips | Self::Pools | Self::Peers => &[],
        }
    }
}

/// What only root and the group may ask for: what changes something, and what tells everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Gives this node's VIPs up.
    Drain,
    /// Takes VIPs again.
    Undrain,
    /// Tells everything that the daemon plans from.
    Record,
}

impl Order {
    /// Every order.
    pub const ALL: [Self; 3] = [Self::Drain, Self::Undrain, Self::Record];

    /// Its name, on the wire and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::Record => "record",
        }
    }
}

/// The name of the request that keeps its connection: see [`Asked::Watch`].
const WATCH: &str = "watch";

/// The argument of [`Asked::Watch`] that names a command: its answer is sent whenever it is another one.
pub const VIEW: &str = "view";

/// The arguments of `explain`: what is asked about, and who sends.
pub const EXPLAIN_ARGUMENTS: [&str; 2] = ["target", "from"];

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To see something.
    See(Command),
    /// To do something.
    Do(Order),
    /// To be told what happens, a line an event, as long as the connection stands. The first line is
    /// `{"ok":true}`, or the refusal.
    Watch,
    /// To have one thing explained, which reads the kernel.
    Explain,
}

impl Asked {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::See(command) => command.as_str(),
            Self::Do(order) => order.as_str(),
            Self::Watch => WATCH,
            Self::Explain => "explain",
        }
    }

    /// The names of the arguments that it takes.
    pub const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::See(command) => command.arguments(),
            Self::Do(_) => &[],
            Self::Watch => &[VIEW],
            Self::Explain => &EXPLAIN_ARGUMENTS,
        }
    }
}

/// The arguments of a request, by name.
pub type Arguments = BTreeMap<String, String>;

/// One request that the daemon understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it is for.
    pub asked: Asked,
    /// Only those that [`Asked::arguments`] names.
    pub arguments: Arguments,
}

/// A request on the wire.
#[derive(Serialize, Deserialize)]
struct Line {
    command: String,
    #[serde(flatten)]
    arguments: BTreeMap<String, serde_json::Value>,
}

/// Why a request cannot be answered; its text goes back to whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No JSON, or JSON without a command.
    #[error("malformed request: {0}; send one line such as {{\"command\":\"status\"}}")]
    Malformed(#[source] serde_json::Error),
    /// A command of another version, or of nobody.
    #[error(
        "unknown command {0:?}; known are status, services, vips, pools, peers, explain, drain, undrain, record and watch"
    )]
    UnknownCommand(String),
    /// An argument of another version, or of another command.
    #[error("{command} does not know the argument {argument:?}{known}")]
    UnknownArgument {
        command: &'static str,
        argument: String,
        /// What it does know, as the end of the sentence.
        known: String,
    },
    /// All arguments are strings.
    #[error("the argument {argument:?} of {command} is no string")]
    NoString {
        command: &'static str,
        argument: &'static str,
    },
    /// An order of somebody who may only look.
    #[error("{0} is for root and the group edgelb alone")]
    NotAllowed(&'static str),
    /// More than [`LARGEST_REQUEST`] bytes.
    #[error("the request is longer than {LARGEST_REQUEST} bytes")]
    TooLarge,
    /// The whole line did not arrive in time.
    #[error("the request did not arrive in time")]
    TimedOut,
}

/// Reads one request, without or with its newline.
pub fn parse_request(line: &[u8]) -> Result<Request, RequestError> {
    let line: Line = serde_json::from_slice(line).map_err(RequestError::Malformed)?;
    let commands = Command::ALL.into_iter().map(Asked::See);
    let orders = Order::ALL.into_iter().map(Asked::Do);
    let asked = commands
        .chain(orders)
        .chain([Asked::Explain, Asked::Watch])
        .find(|asked| asked.as_str() == line.command)
        .ok_or_else(|| RequestError::UnknownCommand(shortened(&line.command)))?;
    let arguments = line.arguments.into_iter();
    let arguments = arguments.map(|(name, value)| argument(asked, &name, value));
    Ok(Request {
        asked,
        arguments: arguments.collect::<Result<_, _>>()?,
    })
}

fn argument(
    asked: Asked,
    name: &str,
    value: serde_json::Value,
) -> Result<(String, String), RequestError> {
    let command = asked.as_str();
    let known = asked.arguments();
    let Some(argument) = known.iter().find(|known| **known == name) else {
        return Err(RequestError::UnknownArgument {
            command,
            argument: shortened(name),
            known: if known.is_empty() {
                "; it takes none".to_owned()
            } else {
                format!("; it takes {}", known.join(", "))
            },
        });
    };
    match value {
        serde_json::Value::String(value) => Ok(((*argument).to_owned(), value)),
        _ => Err(RequestError::NoString { command, argument }),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_REPEATED).collect()
}

/// The line that asks for this.
pub fn request_line(asked: Asked, arguments: &Arguments) -> Result<Vec<u8>, serde_json::Error> {
    let named = |(name, value): (&String, &String)| (name.clone(), value.clone().into());
    line(&Line {
        command: asked.as_str().to_owned(),
        arguments: arguments.iter().map(named).collect(),
    })
}

/// An answer: data where `ok`, else an error.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer<T> {
    /// Whether the request was answered.
    pub ok: bool,
    /// What was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<T>,
    /// Why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether that is because of who asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
}

/// The line that answers with data.
pub fn data_line(data: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    line(&Answer {
        ok: true,
        data: Some(data),
        error: None,
        denied: false,
    })
}

/// The line that answers with an error.
pub fn error_line(error: &impl ToString) -> Result<Vec<u8>, serde_json::Error> {
    refusal_line(error, false)
}

/// The line that begins a stream.
pub fn begin_line() -> Result<Vec<u8>, serde_json::Error> {
    line(&Answer::<()> {
        ok: true,
        data: None,
        error: None,
        denied: false,
    })
}

/// A line of a stream.
pub fn stream_line(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    line(value)
}

/// The line that refuses an order because of who gave it.
pub fn denied_line(order: Order) -> Result<Vec<u8>, serde_json::Error> {
    refusal_line(&RequestError::NotAllowed(order.as_str()), true)
}

fn refusal_line(error: &impl ToString, denied: bool) -> Result<Vec<u8>, serde_json::Error> {
    line(&Answer::<()> {
        ok: false,
        data: None,
        error: Some(error.to_string()),
        denied,
    })
}

fn line(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
