//! Asks the running daemon through its admin socket, for the commands that show its view. Blocking:
//! a command line waits for nothing else.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use thiserror::Error;

use super::protocol::{Answer, Arguments, Asked, Command, Order, request_line};

/// A daemon answers in milliseconds; one that is silent this long hangs.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

/// No answer is larger: some 100,000 Services.
const LARGEST_ANSWER: u64 = 256 << 20;

/// Why a question has no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody listens.
    #[error(
        "no daemon answers at {}: start it with edgelb run, or name the socket of a running one with --socket PATH",
        path.display()
    )]
    NoDaemon {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// Somebody listens and says nothing.
    #[error("the daemon at {} is there but does not answer: look at its log, or restart it", path.display())]
    Silent {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// The socket's mode keeps us out.
    #[error("no permission to ask the daemon at {}: be root or in the group edgelb", path.display())]
    Permission {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// The daemon takes no orders from us.
    #[error("the daemon at {} refused: {message}", path.display())]
    Denied { path: PathBuf, message: String },
    /// The daemon said no.
    #[error("the daemon at {} refused: {message}", path.display())]
    Refused { path: PathBuf, message: String },
    /// What came back is no answer that this program knows.
    #[error(
        "the answer of the daemon at {} is not understood: it may be of another version than this program ({})",
        path.display(),
        env!("CARGO_PKG_VERSION")
    )]
    Answer {
        path: PathBuf,
        #[source]
        cause: serde_json::Error,
    },
}

/// Asks one question.
pub fn ask<T: DeserializeOwned>(path: &Path, command: Command) -> Result<T, AskError> {
    ask_about(path, command, &Arguments::new())
}

/// Asks one question that takes arguments.
pub fn ask_about<T: DeserializeOwned>(
    path: &Path,
    command: Command,
    arguments: &Arguments,
) -> Result<T, AskError> {
    send(path, Asked::See(command), arguments)
}

/// Has one thing explained.
pub fn ask_to_explain<T: DeserializeOwned>(
    path: &Path,
    arguments: &Arguments,
) -> Result<T, AskError> {
    send(path, Asked::Explain, arguments)
}

/// Gives one order.
pub fn order<T: DeserializeOwned>(path: &Path, order: Order) -> Result<T, AskError> {
    send(path, Asked::Do(order), &Arguments::new())
}

fn send<T: DeserializeOwned>(
    path: &Path,
    asked: Asked,
    arguments: &Arguments,
) -> Result<T, AskError> {
    let stream = UnixStream::connect(path).map_err(|cause| {
        let path = path.to_owned();
        match cause.kind() {
            ErrorKind::PermissionDenied => AskError::Permission { path, cause },
            _ => AskError::NoDaemon { path, cause },
        }
    })?;
    let bytes = exchange(stream, asked, arguments).map_err(|cause| AskError::Silent {
        path: path.to_owned(),
        cause,
    })?;
    let answer: Answer<T> = serde_json::from_slice(&bytes).map_err(|cause| AskError::Answer {
        path: path.to_owned(),
        cause,
    })?;
    let path = path.to_owned();
    let message = || {
        answer
            .error
            .unwrap_or_else(|| "it did not say why".to_owned())
    };
    match answer.data {
        Some(data) if answer.ok => Ok(data),
        _ if answer.denied => Err(AskError::Denied {
            path,
            message: message(),
        }),
        _ => Err(AskError::Refused {
            path,
            message: message(),
        }),
    }
}

fn exchange(mut stream: UnixStream, asked: Asked, arguments: &Arguments) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(LONGEST_SILENCE))?;
    stream.set_write_timeout(Some(LONGEST_SILENCE))?;
    stream.write_all(&request_line(asked, arguments).map_err(io::Error::other)?)?;
    let mut bytes = Vec::new();
    stream.take(LARGEST_ANSWER).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}
