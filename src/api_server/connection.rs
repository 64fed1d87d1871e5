//! One request to the API server and what answers it: a whole page, or lines for as long as they
//! come. Bounded in size and in silence; knows nothing of what the lines mean.

use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use tokio::time::timeout;

use super::failure::{Failure, causes};

/// The largest object that etcd takes is 1.5 MiB, and its JSON is not many times that.
const LONGEST_LINE: usize = 16 << 20;
/// A page of a list, and no list is larger than what a cluster can hold.
const LARGEST_PAGE: usize = 512 << 20;
/// Enough of a refusal to tell people.
const LARGEST_REFUSAL: usize = 64 << 10;

/// An answer that is being read.
pub(crate) struct Answer {
    body: Body,
    /// What came and has not been taken.
    buffer: Vec<u8>,
    /// Where the next line begins in it.
    start: usize,
    /// Up to where there is no end of line.
    searched: usize,
}

impl Answer {
    /// Asks for a path with its query. The status says success, or this fails.
    pub(crate) async fn get(client: &Client, path: &str, wait: Duration) -> Result<Self, Failure> {
        let request = Request::get(path)
            .header(http::header::ACCEPT, "application/json")
            .body(Body::empty())
            .map_err(|error| Failure::Malformed(error.to_string()))?;
        Self::send(client, request, wait).await
    }

    /// Sends a request. The status says success, or this fails.
    pub(crate) async fn send(
        client: &Client,
        request: Request<Body>,
        wait: Duration,
    ) -> Result<Self, Failure> {
        let response = timeout(wait, client.send(request))
            .await
            .map_err(|_| Failure::Silent(wait))?
            .map_err(|error| Failure::Connection(causes(&error)))?;
        let (parts, body) = response.into_parts();
        let mut answer = Self {
            body,
            buffer: Vec::new(),
            start: 0,
            searched: 0,
        };
        if parts.status.is_success() {
            return Ok(answer);
        }
        // What can be read of the reason is enough.
        while answer.buffer.len() < LARGEST_REFUSAL && matches!(answer.more(wait).await, Ok(true)) {
        }
        Err(Failure::refused(
            parts.status,
            &parts.headers,
            &answer.buffer,
        ))
    }

    /// Reads on; `false` at the end.
    async fn more(&mut self, silence: Duration) -> Result<bool, Failure> {
        match timeout(silence, self.body.frame()).await {
            Err(_) => Err(Failure::Silent(silence)),
            Ok(None) => Ok(false),
            Ok(Some(Err(error))) => Err(Failure::Connection(causes(&error))),
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.buffer.extend_from_slice(data);
                }
                Ok(true)
            }
        }
    }

    /// The next whole line; `None` where the server ended the answer. Half a line at the end is not
    /// a line.
    pub(crate) async fn line(&mut self, silence: Duration) -> Result<Option<&str>, Failure> {
        let length = loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
                break self.searched + at - self.start;
            }
            self.searched = self.buffer.len();
            if self.start > 0 {
                self.buffer.drain(..self.start);
                self.searched -= self.start;
                self.start = 0;
            }
            if self.buffer.len() > LONGEST_LINE {
                return Err(Failure::Malformed(format!(
                    "a line is longer than {LONGEST_LINE} bytes"
                )));
            }
            if !self.more(silence).await? {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(Failure::Connection("it broke off within a line".to_owned()))
                };
            }
        };
        let start = self.start;
        self.start += length + 1;
        self.searched = self.start;
        let line = self.buffer.get(start..start + length).unwrap_or_default();
        std::str::from_utf8(line)
            .map(Some)
            .map_err(|error| Failure::Malformed(error.to_string()))
    }

    /// Whether the next line is here already.
    pub(crate) fn has_line(&self) -> bool {
        let rest = self.buffer.get(self.searched..).unwrap_or_default();
        rest.contains(&b'\n')
    }

    /// All of it.
    pub(crate) async fn whole(mut self, silence: Duration) -> Result<Vec<u8>, Failure> {
        while self.more(silence).await? {
            if self.buffer.len() > LARGEST_PAGE {
                return Err(Failure::Malformed(format!(
                    "a page is larger than {LARGEST_PAGE} bytes"
                )));
            }
        }
        Ok(self.buffer)
    }
}
