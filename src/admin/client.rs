//! Asks the running daemon through its admin socket, for the commands that show its view. Blocking:
//! a command line waits for nothing else.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
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

/// Asks to be told what happens, or how a view changes; gives a line after the other, as they come,
/// until the daemon ends. None is waited for but the first.
pub fn watch<T: DeserializeOwned>(
    path: &Path,
    arguments: &Arguments,
) -> Result<impl Iterator<Item = Result<T, AskError>> + use<T>, AskError> {
    let silent = |cause| AskError::Silent {
        path: path.to_owned(),
        cause,
    };
    let not_understood = |cause| AskError::Answer {
        path: path.to_owned(),
        cause,
    };
    let mut stream = connect(path)?;
    write_request(&mut stream, Asked::Watch, arguments).map_err(silent)?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    let read = reader.read_until(b'\n', &mut line).map_err(silent)?;
    if read == 0 {
        return Err(silent(ErrorKind::UnexpectedEof.into()));
    }
    let begun: Answer<()> = serde_json::from_slice(&line).map_err(not_understood)?;
    if !begun.ok {
        return Err(refused(path, begun));
    }
    // From here on silence says that nothing happens.
    reader.get_ref().set_read_timeout(None).map_err(silent)?;
    let path = path.to_owned();
    Ok(std::iter::from_fn(move || {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            // The end may come in the middle of a line.
            Ok(_) if !line.ends_with(b"\n") => None,
            Ok(_) => Some(
                serde_json::from_slice(&line).map_err(|cause| AskError::Answer {
                    path: path.clone(),
                    cause,
                }),
            ),
            Err(_) => None,
        }
    }))
}

fn send<T: DeserializeOwned>(
    path: &Path,
    asked: Asked,
    arguments: &Arguments,
) -> Result<T, AskError> {
    let stream = connect(path)?;
    let bytes = exchange(stream, asked, arguments).map_err(|cause| AskError::Silent {
        path: path.to_owned(),
        cause,
    })?;
    let mut answer: Answer<T> =
        serde_json::from_slice(&bytes).map_err(|cause| AskError::Answer {
            path: path.to_owned(),
            cause,
        })?;
    match answer.data.take() {
        Some(data) if answer.ok => Ok(data),
        _ => Err(refused(path, answer)),
    }
}

fn connect(path: &Path) -> Result<UnixStream, AskError> {
    UnixStream::connect(path).map_err(|cause| {
        let path = path.to_owned();
        match cause.kind() {
            ErrorKind::PermissionDenied => AskError::Permission { path, cause },
            _ => AskError::NoDaemon { path, cause },
        }
    })
}

fn refused<T>(path: &Path, answer: Answer<T>) -> AskError {
    let path = path.to_owned();
    let message = answer
        .error
        .unwrap_or_else(|| "it did not say why".to_owned());
    if answer.denied {
        AskError::Denied { path, message }
    } else {
        AskError::Refused { path, message }
    }
}

fn exchange(mut stream: UnixStream, asked: Asked, arguments: &Arguments) -> io::Result<Vec<u8>> {
    write_request(&mut stream, asked, arguments)?;
    let mut bytes = Vec::new();
    stream.take(LARGEST_ANSWER).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

fn write_request(stream: &mut UnixStream, asked: Asked, arguments: &Arguments) -> io::Result<()> {
    stream.set_read_timeout(Some(LONGEST_SILENCE))?;
    stream.set_write_timeout(Some(LONGEST_SILENCE))?;
    stream.write_all(&request_line(asked, arguments).map_err(io::Error::other)?)
}
