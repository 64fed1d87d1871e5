//! Follows one collection of the API server for good: lists it, watches it from there, and lists it
//! again only where the server no longer knows what happened since.
//!
//! Whatever ends a connection, nothing is taken away because of it: that an object is gone says
//! a DELETED event, or its absence from the next complete list.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::{Instant, SystemTime};

use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::kind::{ObjectKey, Read, Watched};
use super::timing::Timing;
use super::wire::{self, Bookmark, Event, Page};
use crate::api_server::client::{Connected, Credentials};
use crate::api_server::connection::Answer;
use crate::api_server::failure::{Failure, Refusal};

/// Objects that travel together at most.
const BATCH: usize = 256;
/// What a follower tells.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) watched: Watched,
    pub(super) news: News,
}

#[derive(Debug)]
pub(super) enum News {
    /// Objects that are new, differ, or cannot be read.
    Objects(Vec<Item>),
    /// The list is complete, and these are all there are.
    Listed(HashSet<ObjectKey>),
    /// The watch stands.
    Alive,
    /// The server was heard: nothing has changed.
    Heard,
    /// The server is not heard any more.
    Lost { since: SystemTime, reason: String },
}

#[derive(Debug)]
pub(super) enum Item {
    Read(Read),
    Gone(ObjectKey),
    /// Not even its name can be read.
    Nameless(String),
}

/// Nobody listens any more.
struct Deaf;

/// Why a connection ended.
enum End {
    Failed(Failure),
    Deaf,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Deaf> for End {
    fn from(_: Deaf) -> Self {
        Self::Deaf
    }
}

/// Follows one collection.
pub(super) struct Follower {
    watched: Watched,
    credentials: Credentials,
    timing: Timing,
    reports: mpsc::Sender<Report>,
    /// From where to watch; absent: list first.
    resource_version: Option<String>,
    /// The server streams lists, as far as is known.
    streams: bool,
    /// The list is asked for in pages.
    pages: bool,
    /// Read and not yet told.
    batch: Vec<Item>,
    heard: SystemTime,
    blind_since: Option<SystemTime>,
}

impl Follower {
    pub(super) fn new(
        watched: Watched,
        credentials: Credentials,
        timing: Timing,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        Self {
            watched,
            credentials,
            timing,
            reports,
            resource_version: None,
            streams: true,
            pages: true,
            batch: Vec::new(),
            heard: SystemTime::now(),
            blind_since: None,
        }
    }

    /// Ends only when nobody listens any more.
    pub(super) async fn follow(mut self) {
        let mut failures = 0_u32;
        loop {
            let begun = Instant::now();
            let ended = self.connection().await;
            // What was read is good, whatever came after it.
            if self.flush().await.is_err() {
                return;
            }
            let steady = begun.elapsed() >= self.timing.steady;
            let asked = match ended {
                Ok(()) if steady => {
                    failures = 0;
                    continue;
                }
                Ok(()) => None,
                Err(End::Deaf) => return,
                Err(End::Failed(failure)) => {
                    if self.take_in(&failure).await.is_err() {
                        return;
                    }
                    failure.retry_after()
                }
            };
            failures = if steady {
                1
            } else {
                failures.saturating_add(1)
            };
            tokio::time::sleep(self.timing.pause(failures, asked)).await;
        }
    }

    /// Decides what a failure means for the next connection, and tells of it.
    async fn take_in(&mut self, failure: &Failure) -> Result<(), Deaf> {
        let kind = self.watched;
        let silent = matches!(failure, Failure::Silent(_));
        let since = if silent {
            self.heard
        } else {
            SystemTime::now()
        };
        let since = *self.blind_since.get_or_insert(since);
        if failure.is_gone() {
            // A continue token that expires while the pages are read expires the next time too.
            self.pages = self.resource_version.is_some();
            self.resource_version = None;
            tracing::info!(%kind, "resource version is too old, listing again");
            return Ok(());
        }
        if self.streams && self.resource_version.is_none() && failure.refuses_streaming() {
            self.streams = false;
            tracing::info!(%kind, "streaming lists are not served, listing in pages");
            return Ok(());
        }
        if silent && self.resource_version.is_some() {
            // A server with nothing to say would look the same: the next connection shows it.
            tracing::debug!(%kind, "watch is silent, connecting again");
            return Ok(());
        }
        if !kind.is_required() && failure.is_unknown() {
            // A server without this collection has none of its objects.
            return self.tell(News::Listed(HashSet::new())).await;
        }
        let reason = failure.describe();
        self.tell(News::Lost { since, reason }).await
    }

    /// One connection: lists where that is needed, and watches until something ends it. `Ok` where
    /// the server ended it in order.
    async fn connection(&mut self) -> Result<(), End> {
        let Connected { client, files } = self.credentials.client().await.map_err(Failure::from)?;
        if self.resource_version.is_none() && !self.streams {
            self.list(&client).await?;
        }
        let answer = Answer::get(&client, &self.watch_path(), self.timing.answer).await?;
        self.heard = SystemTime::now();
        let period = self.timing.credentials;
        let kind = self.watched;
        // Whatever this drops half-way is asked for again: nothing is told before it is whole.
        tokio::select! {
            ended = self.watch(answer) => ended,
            () = files.changed(period) => {
                tracing::info!(%kind, "credentials have changed, connecting again");
                Ok(())
            }
        }
    }

    fn watch_path(&self) -> String {
        let mut path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={}",
            self.watched.path(),
            self.timing.watch_seconds()
        );
        match &self.resource_version {
            Some(version) => push(&mut path, "resourceVersion", version),
            None => path.push_str("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"),
        }
        self.select(path)
    }

    fn select(&self, mut path: String) -> String {
        if !self.watched.selectors().is_empty() {
            path.push('&');
            path.push_str(self.watched.selectors());
        }
        path
    }

    /// All pages of the list. The server answers from one moment, which is where the watch goes on.
    async fn list(&mut self, client: &kube::Client) -> Result<(), End> {
        let mut keys = HashSet::new();
        let mut token: Option<String> = None;
        loop {
            // 0: everything at once.
            let limit = if self.pages { self.timing.page } else { 0 };
            let mut path = format!("{}?limit={limit}", self.watched.path());
            if let Some(token) = &token {
                push(&mut path, "continue", token);
            }
            let wait = self.timing.answer;
            let answer = Answer::get(client, &self.select(path), wait).await?;
            let body = answer.whole(wait).await?;
            self.heard = SystemTime::now();
            let page: Page<'_> = wire::parse_bytes(&body)?;
            for object in page.items.unwrap_or_default() {
                self.object(object, Some(&mut keys));
                if self.batch.len() >= BATCH {
                    self.flush().await?;
                }
            }
            token = page.metadata.r#continue.filter(|token| !token.is_empty());
            if token.is_none() {
                self.complete(keys, page.metadata.resource_version).await?;
                self.pages = true;
                return Ok(());
            }
        }
    }

    async fn watch(&mut self, mut answer: Answer) -> Result<(), End> {
        let mut listing = None;
        if self.resource_version.is_some() {
            self.alive().await?;
        } else {
            listing = Some(HashSet::new());
        }
        loop {
            let silence = match listing {
                Some(_) => self.timing.initial_event,
                None => self.timing.silence,
            };
            let line = match answer.line(silence).await {
                Ok(Some(line)) => line,
                Ok(None) if listing.is_some() => {
                    let reason = "it ended before the list was complete";
                    return Err(Failure::Connection(reason.to_owned()).into());
                }
                Ok(None) => return Ok(()),
                Err(Failure::Silent(_)) if listing.is_some() => {
                    return Err(Failure::NoStreaming.into());
                }
                Err(failure) => return Err(failure.into()),
            };
            self.heard = SystemTime::now();
            if line.trim().is_empty() {
                continue;
            }
            let event: Event<'_> = wire::parse(line)?;
            match &*event.kind {
                "ADDED" | "MODIFIED" => self.object(event.object, listing.as_mut()),
                "DELETED" => self.deleted(event.object, listing.as_mut()),
                "BOOKMARK" => {
                    let bookmark: Bookmark = wire::parse(event.object.get())?;
                    let metadata = bookmark.metadata;
                    if metadata.ends_list()
                        && let Some(keys) = listing.take()
                    {
                        self.complete(keys, metadata.resource_version).await?;
                        self.alive().await?;
                    } else if listing.is_some() {
                        // A server that streams lists sends no other bookmark before that one.
                        return Err(Failure::NoStreaming.into());
                    } else {
                        self.resource_version = Some(metadata.resource_version);
                        self.flush().await?;
                        self.tell(News::Heard).await?;
                    }
                }
                "ERROR" => {
                    let refusal: Refusal = wire::parse(event.object.get())?;
                    return Err(refusal.into_failure(None).into());
                }
                // A newer server may tell more.
                other => {
                    tracing::debug!(kind = %self.watched, event = other, "unknown event is passed over");
                }
            }
            if self.batch.len() >= BATCH || !answer.has_line() {
                self.flush().await?;
            }
        }
    }

    /// Takes in an object. While a list is read it is noted there, and no version is one to go on
    /// from.
    fn object(&mut self, object: &RawValue, listing: Option<&mut HashSet<ObjectKey>>) {
        match self.watched.read(object.get()) {
            Ok(read) => {
                match listing {
                    Some(keys) => {
                        keys.insert(read.key.clone());
                    }
                    None => self.go_on_from(&read.resource_version),
                }
                self.batch.push(Item::Read(read));
            }
            Err(error) => self.batch.push(Item::Nameless(error.to_string())),
        }
    }

    fn deleted(&mut self, object: &RawValue, listing: Option<&mut HashSet<ObjectKey>>) {
        match self.watched.read(object.get()) {
            Ok(read) => {
                match listing {
                    Some(keys) => {
                        keys.remove(&read.key);
                    }
                    None => self.go_on_from(&read.resource_version),
                }
                self.batch.push(Item::Gone(read.key));
            }
            Err(error) => self.batch.push(Item::Nameless(error.to_string())),
        }
    }

    fn go_on_from(&mut self, version: &str) {
        if !version.is_empty() {
            self.resource_version = Some(version.to_owned());
        }
    }

    async fn complete(&mut self, keys: HashSet<ObjectKey>, version: String) -> Result<(), End> {
        if version.is_empty() {
            let reason = "the list has no resourceVersion";
            return Err(Failure::Malformed(reason.to_owned()).into());
        }
        self.flush().await?;
        self.tell(News::Listed(keys)).await?;
        self.resource_version = Some(version);
        Ok(())
    }

    async fn alive(&mut self) -> Result<(), End> {
        self.blind_since = None;
        Ok(self.tell(News::Alive).await?)
    }

    async fn flush(&mut self) -> Result<(), Deaf> {
        if self.batch.is_empty() {
            return Ok(());
        }
        // The place first, then the objects: ended while it waits for one, this loses none.
        let place = self.reports.reserve().await.map_err(|_| Deaf)?;
        let objects = std::mem::take(&mut self.batch);
        place.send(Report {
            watched: self.watched,
            news: News::Objects(objects),
        });
        Ok(())
    }

    async fn tell(&self, news: News) -> Result<(), Deaf> {
        let watched = self.watched;
        let report = Report { watched, news };
        self.reports.send(report).await.map_err(|_| Deaf)
    }
}

/// Adds a parameter, percent-encoded.
fn push(path: &mut String, name: &str, value: &str) {
    let _ = write!(path, "&{name}=");
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
    }
}
