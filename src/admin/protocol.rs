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

/// What can be asked. All of these only read.
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
    #[error("unknown command {0:?}; known are status, services, vips, pools and peers")]
    UnknownCommand(String),
    /// More than [`LARGEST_REQUEST`] bytes.
    #[error("the request is longer than {LARGEST_REQUEST} bytes")]
    TooLarge,
    /// The whole line did not arrive in time.
    #[error("the request did not arrive in time")]
    TimedOut,
}

/// Reads one request, without or with its newline.
pub fn parse_request(line: &[u8]) -> Result<Command, RequestError> {
    let request: Request = serde_json::from_slice(line).map_err(RequestError::Malformed)?;
    Command::ALL
        .into_iter()
        .find(|command| command.as_str() == request.command)
        .ok_or_else(|| {
            RequestError::UnknownCommand(request.command.chars().take(LONGEST_REPEATED).collect())
        })
}

/// The line that asks for this.
pub fn request_line(command: Command) -> Result<Vec<u8>, serde_json::Error> {
    let command = command.as_str().to_owned();
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
}

/// The line that answers with data.
pub fn data_line(data: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    line(&Answer {
        ok: true,
        data: Some(data),
        error: None,
    })
}

/// The line that answers with an error.
pub fn error_line(error: &impl ToString) -> Result<Vec<u8>, serde_json::Error> {
    line(&Answer::<()> {
        ok: false,
        data: None,
        error: Some(error.to_string()),
    })
}

fn line(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
