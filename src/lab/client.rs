//! Requests to the lab's servers from any namespace, and what became of them.
//!
//! A request that fails is a value, not an accident: tests and the demo tell a refusal from silence.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::Serialize;
use socket2::{Domain, SockRef, Socket, Type};
use thiserror::Error;

use super::{LabError, Namespace};

/// The transport protocol of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// One connection, one line, one answer.
    Tcp,
    /// One datagram, one answer; never sent twice.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name of the server that answered.
    pub workload: String,
    /// The sender as the server saw it.
    pub seen: SocketAddr,
    /// What was sent, as it came back.
    pub text: String,
    /// From the first packet to the answer.
    pub elapsed: Duration,
}

/// Why a request got no answer.
#[derive(Debug, Error)]
pub enum RequestError {
    /// TCP reset to the first packet, or ICMP port unreachable.
    #[error("refused")]
    Refused,
    /// An established connection was reset.
    #[error("reset")]
    Reset,
    /// No answer in time.
    #[error("timed out")]
    TimedOut,
    /// No route or no such neighbor, here or further on.
    #[error("unreachable")]
    Unreachable,
    /// The connection was closed before an answer.
    #[error("closed without an answer")]
    Closed,
    /// What answered is no server of the lab.
    #[error("not an answer of a lab server: {0:?}")]
    Unintelligible(String),
    /// Anything else; also that the namespace could not be entered.
    #[error("{0}")]
    Other(io::Error),
}

impl From<io::Error> for RequestError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted => Self::Reset,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::TimedOut,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Other(error),
        }
    }
}

/// How to send a request.
#[derive(Debug, Clone)]
pub struct RequestOptions {
    /// The longest wait for each of connecting and the answer.
    pub timeout: Duration,
    /// The address to send from; unspecified: the kernel's choice.
    pub source_address: Option<IpAddr>,
    /// The port to send from; 0: the kernel's choice.
    pub source_port: u16,
    /// What to say; one line without its line feed.
    pub text: String,
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self {
            // Longer than the kernel's first retransmission (1 s, of a SYN and of a Neighbor
            // Solicitation): in a LAN that was just built a first packet may be lost.
            timeout: Duration::from_secs(3),
            source_address: None,
            source_port: 0,
            text: "hello".to_owned(),
        }
    }
}

/// Sends one request from the namespace with the default options.
pub fn request(
    from: &Namespace,
    to: SocketAddr,
    protocol: Protocol,
) -> Result<Answer, RequestError> {
    request_with(from, to, protocol, &RequestOptions::default())
}

/// Sends one request from the namespace.
pub fn request_with(
    from: &Namespace,
    to: SocketAddr,
    protocol: Protocol,
    options: &RequestOptions,
) -> Result<Answer, RequestError> {
    match protocol {
        Protocol::Tcp => {
            let start = Instant::now();
            let mut stream = open_stream_with(from, to, options)?;
            let mut answer = stream.send(&options.text)?;
            answer.elapsed = start.elapsed();
            Ok(answer)
        }
        Protocol::Udp => {
            let socket = from.try_run(|| open_datagram_socket(to, options))?;
            let start = Instant::now();
            socket.send(options.text.as_bytes())?;
            let mut buffer = [0; 2048];
            let length = socket.recv(&mut buffer)?;
            parse_answer(buffer.get(..length).unwrap_or_default(), start.elapsed())
        }
    }
}

/// A TCP connection that lines can be sent on.
#[derive(Debug)]
pub struct Stream {
    reader: BufReader<TcpStream>,
    local: SocketAddr,
}

/// Opens a connection from the namespace with the default options.
pub fn open_stream(from: &Namespace, to: SocketAddr) -> Result<Stream, RequestError> {
    open_stream_with(from, to, &RequestOptions::default())
}

/// Opens a connection from the namespace; the timeout also holds for each answer.
pub fn open_stream_with(
    from: &Namespace,
    to: SocketAddr,
    options: &RequestOptions,
) -> Result<Stream, RequestError> {
    let socket = from.try_run(|| {
        let socket = bound_socket(to, Type::STREAM, options)?;
        // std's and socket2's error for their own timeout has the kind `TimedOut`.
        socket.connect_timeout(&to.into(), options.timeout)?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket)
    })?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(options.timeout))?;
    stream.set_write_timeout(Some(options.timeout))?;
    let local = stream.local_addr()?;
    Ok(Stream {
        reader: BufReader::new(stream),
        local,
    })
}

impl Stream {
    /// Sends a line and waits for its answer.
    pub fn send(&mut self, text: &str) -> Result<Answer, RequestError> {
        let start = Instant::now();
        self.reader
            .get_mut()
            .write_all(format!("{text}\n").as_bytes())?;
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(RequestError::Closed);
        }
        parse_answer(&line, start.elapsed())
    }

    /// Ends the connection with a reset, after which nobody waits for stray packets of it.
    pub fn reset(self) -> Result<(), RequestError> {
        // A socket that lingers for no time at all is reset when it is closed (socket(7)).
        let socket = SockRef::from(self.reader.get_ref());
        Ok(socket.set_linger(Some(Duration::ZERO))?)
    }

    /// This end's address and port.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }
}

/// Reads `NAME PEER TEXT`.
pub(super) fn parse_answer(line: &[u8], elapsed: Duration) -> Result<Answer, RequestError> {
    let line = String::from_utf8_lossy(line);
    let mut words = line.trim_end_matches('\n').splitn(3, ' ');
    let parsed = || {
        Some((
            words.next()?.to_owned(),
            SocketAddr::from_str(words.next()?).ok()?,
            words.next()?.to_owned(),
        ))
    };
    let mut parsed = parsed;
    match parsed() {
        Some((workload, seen, text)) if !workload.is_empty() => Ok(Answer {
            workload,
            seen,
            text,
            elapsed,
        }),
        _ => Err(RequestError::Unintelligible(
            line.chars().take(100).collect(),
        )),
    }
}

/// The error of a client thread that could not even start.
pub(super) fn client_error(namespace: &Namespace, source: io::Error) -> LabError {
    LabError::Client {
        namespace: namespace.name().to_owned(),
        source,
    }
}

fn open_datagram_socket(to: SocketAddr, options: &RequestOptions) -> io::Result<UdpSocket> {
    let socket = bound_socket(to, Type::DGRAM, options)?;
    socket.connect(&to.into())?;
    socket.set_read_timeout(Some(options.timeout))?;
    Ok(socket.into())
}

fn bound_socket(to: SocketAddr, kind: Type, options: &RequestOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), kind, None)?;
    if options.source_port != 0 || options.source_address.is_some() {
        let any = if to.is_ipv4() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        };
        // A port that an earlier connection used may still wait for stray packets.
        socket.set_reuse_address(true)?;
        socket.bind(
            &SocketAddr::new(options.source_address.unwrap_or(any), options.source_port).into(),
        )?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_has_a_name_a_peer_and_the_text() {
        let answer = parse_answer(b"web-1 [fd00:2::50]:4711 two words\n", Duration::ZERO).unwrap();
        assert_eq!(answer.workload, "web-1");
        assert_eq!(answer.seen, "[fd00:2::50]:4711".parse().unwrap());
        assert_eq!(answer.text, "two words");
    }

    #[test]
    fn what_a_stranger_says_is_no_answer() {
        for stranger in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"",
            b"\n",
            b"web-1 nobody x\n",
            b" 1.2.3.4:5 x\n",
            &[0xff; 3000],
        ] {
            assert!(matches!(
                parse_answer(stranger, Duration::ZERO),
                Err(RequestError::Unintelligible(_))
            ));
        }
    }
}
