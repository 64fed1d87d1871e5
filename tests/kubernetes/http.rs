//! HTTP/1.1 as far as clients of an API server use it: requests with a length, one after the other
//! on a connection; answers whole or in chunks.

use std::collections::BTreeMap;
use std::io;

use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::script::{Request, recorded};

/// Anything that a request comes on.
pub trait Stream: AsyncBufRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncBufRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The next request; `None` where the client has gone away between two.
pub async fn read(stream: &mut impl Stream) -> io::Result<Option<Request>> {
    let mut first = String::new();
    if stream.read_line(&mut first).await? == 0 {
        return Ok(None);
    }
    let mut words = first.split(' ');
    let method = words.next().expect("a method").to_owned();
    let target = words.next().expect("a target");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), decode(value)))
        .collect();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    assert!(
        !headers.contains_key("transfer-encoding"),
        "requests have a length here: {first}"
    );
    let length = headers
        .get("content-length")
        .map_or(0, |text| text.parse().expect("a length"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let token = headers
        .get("authorization")
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    Ok(Some(Request {
        method,
        path: path.to_owned(),
        query,
        token: token.to_owned(),
        content_type: headers.get("content-type").cloned().unwrap_or_default(),
        body: String::from_utf8(body).expect("requests are text"),
    }))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits: Vec<u8> = rest.by_ref().take(2).collect();
            let digits = String::from_utf8(digits).expect("digits");
            bytes.push(u8::from_str_radix(&digits, 16).expect("a hexadecimal number"));
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).expect("text")
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub code: u16,
    pub body: String,
    /// In seconds.
    pub retry_after: Option<u64>,
}

impl Answer {
    pub fn of(code: u16, body: &Value) -> Self {
        Self {
            code,
            body: body.to_string(),
            retry_after: None,
        }
    }

    /// A refusal that nothing but the script is the cause of.
    pub fn scripted(code: u16, retry_after: Option<u64>) -> Self {
        Self {
            code,
            body: status(code),
            retry_after,
        }
    }

    /// A refusal with its reason, as the real server words it.
    pub fn refusal(code: u16, message: &str, details: &Value) -> Self {
        let body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason(code, message), "details": details, "code": code,
        });
        Self::of(code, &body)
    }

    pub async fn write(&self, stream: &mut impl Stream, close: bool) -> io::Result<()> {
        let retry_after = self
            .retry_after
            .map(|seconds| format!("Retry-After: {seconds}\r\n"))
            .unwrap_or_default();
        let close = if close { "Connection: close\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {} Answered\r\n{retry_after}{close}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.code,
            self.body.len()
        );
        stream.write_all((head + &self.body).as_bytes()).await?;
        stream.flush().await
    }
}

fn reason(code: u16, message: &str) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 if message.ends_with("already exists") => "AlreadyExists",
        409 => "Conflict",
        410 => "Expired",
        413 => "RequestEntityTooLarge",
        415 => "UnsupportedMediaType",
        422 => "Invalid",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    }
}

/// The body of a refusal by script.
pub fn status(code: u16) -> String {
    if code == 403 {
        return recorded("forbidden.json");
    }
    let reason = reason(code, "");
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("scripted {reason}"), "reason": reason, "code": code,
    })
    .to_string()
}

/// A piece of an answer that goes on.
pub async fn chunk(stream: &mut impl Stream, text: &str) -> io::Result<()> {
    let framed = format!("{:x}\r\n{text}\r\n", text.len());
    stream.write_all(framed.as_bytes()).await?;
    stream.flush().await
}
