//! The language of the admin socket: one request on one line, one answer on one line, both JSON.
//!
//! `{"command":"status"}` is answered by `{"ok":true,"data":{…}}` or `{"ok":false,"error":"…"}`.

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
}

/// What can be asked to be done. Only root and the group may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Gives this node's VIPs up.
    Drain,
    /// Takes VIPs again.
    Undrain,
}

impl Order {
    /// Every order.
    pub const ALL: [Self; 2] = [Self::Drain, Self::Undrain];

    /// Its name, on the wire and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Undrain => "undrain",
        }
    }
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To see something.
    See(Command),
    /// To do something.
    Do(Order),
}

impl Asked {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::See(command) => command.as_str(),
            Self::Do(order) => order.as_str(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Request {
    command: String,
}

/// Why a request cannot be answered; its text goes back to whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No JSON, or JSON without a command.
    #[error("malformed request: {0}; send one line such as {{\"command\":\"status\"}}")]
    Malformed(#[source] serde_json::Error),
    /// A command of another version, or of nobody.
    #[error(
        "unknown command {0:?}; known are status, services, vips, pools, peers, drain and undrain"
    )]
    UnknownCommand(String),
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
pub fn parse_request(line: &[u8]) -> Result<Asked, RequestError> {
    let request: Request = serde_json::from_slice(line).map_err(RequestError::Malformed)?;
    let commands = Command::ALL.into_iter().map(Asked::See);
    let orders = Order::ALL.into_iter().map(Asked::Do);
    commands
        .chain(orders)
        .find(|asked| asked.as_str() == request.command)
        .ok_or_else(|| {
            RequestError::UnknownCommand(request.command.chars().take(LONGEST_REPEATED).collect())
        })
}

/// The line that asks for this.
pub fn request_line(asked: Asked) -> Result<Vec<u8>, serde_json::Error> {
    let command = asked.as_str().to_owned();
    line(&Request { command })
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
