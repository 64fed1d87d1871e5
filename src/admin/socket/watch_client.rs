//! A client that keeps its connection and is told what happens, or how a view changes. Pushes, and never
//! waits for a slow one: what does not fit into its queue is counted, and the number told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error};

use super::{ANSWER_TIMEOUT, MOST_WATCHERS};
use crate::admin::events::{Event, EventKind, between, present};
use crate::admin::protocol::{Arguments, Command, VIEW, begin_line, error_line, stream_line};
use crate::admin::snapshot::Snapshot;
use crate::admin::view::View;

/// Events that wait for one client.
const LONGEST_QUEUE: usize = 1024;

/// A view of ten thousand Services is not made more often than this.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);

/// Serves one client until it goes.
pub(super) async fn serve(
    mut stream: UnixStream,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    arguments: &Arguments,
    watchers: &Semaphore,
) {
    let view = arguments.get(VIEW);
    let command = view.map(|name| Command::ALL.into_iter().find(|it| it.as_str() == name));
    let place = watchers.try_acquire();
    let refusal = match (&command, &place) {
        (Some(None), _) => {
            error_line(&"watch knows the views status, services, vips, pools and peers")
        }
        (_, Err(_)) => error_line(&format!(
            "{MOST_WATCHERS} clients watch already: end one of them"
        )),
        (_, Ok(_)) => {
            if send(&mut stream, begin_line()).await {
                match command.flatten() {
                    Some(command) => views(stream, snapshots, command).await,
                    None => events(stream, snapshots).await,
                }
            }
            return;
        }
    };
    send(&mut stream, refusal).await;
}

/// Whether the line was taken in time.
async fn send(stream: &mut UnixStream, line: Result<Vec<u8>, serde_json::Error>) -> bool {
    match line {
        Ok(line) => matches!(
            timeout(ANSWER_TIMEOUT, stream.write_all(&line)).await,
            Ok(Ok(()))
        ),
        Err(error) => {
            error!(%error, "cannot write an admin answer");
            false
        }
    }
}

/// What waits for one client.
#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of the first line that are sent.
    sent: usize,
    /// Events that found no room since the last one that did.
    missed: u64,
}

impl Queue {
    fn push(&mut self, event: &Event) {
        self.tell_missed();
        if self.lines.len() >= LONGEST_QUEUE {
            self.missed += 1;
            return;
        }
        match stream_line(event) {
            Ok(line) => self.lines.push_back(line),
            Err(error) => error!(%error, "cannot write an event"),
        }
    }

    /// Tells how many are missing as soon as half the queue is free: not one for one.
    fn tell_missed(&mut self) {
        if self.missed > 0 && self.lines.len() < LONGEST_QUEUE / 2 {
            let count = std::mem::take(&mut self.missed);
            self.push(&Event::now(EventKind::Missed { count }));
        }
    }

    /// What is to be sent next; nothing where all is.
    fn rest(&self) -> &[u8] {
        let line = self.lines.front().map(Vec::as_slice).unwrap_or_default();
        line.get(self.sent..).unwrap_or_default()
    }

    fn took(&mut self, bytes: usize) {
        self.sent += bytes;
        if self
            .lines
            .front()
            .is_some_and(|line| self.sent >= line.len())
        {
            self.lines.pop_front();
            self.sent = 0;
            self.tell_missed();
        }
    }
}

async fn events(mut stream: UnixStream, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let (mut reader, mut writer) = stream.split();
    let mut last = Arc::clone(&snapshots.borrow_and_update());
    let mut queue = Queue::default();
    for event in present(&last) {
        queue.push(&event);
    }
    let mut ignored = [0; 256];
    loop {
        tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                let new = Arc::clone(&snapshots.borrow_and_update());
                for event in between(&last, &new) {
                    queue.push(&event);
                }
                last = new;
            }
            written = writer.write(queue.rest()), if !queue.rest().is_empty() => match written {
                Ok(bytes) => queue.took(bytes),
                Err(error) => {
                    debug!(%error, "admin client went away");
                    return;
                }
            },
            // Whatever it says, it has asked already; that it says no more may be its way to read on.
            read = reader.read(&mut ignored) => match read {
                Ok(0) | Err(_) => {
                    debug!("admin client watches no more");
                    return;
                }
                Ok(_) => {}
            },
        }
    }
}

/// Sends a view whenever it is another one; a slow client gets the newest, not all.
async fn views(
    mut stream: UnixStream,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    command: Command,
) {
    let mut last: Option<Vec<u8>> = None;
    let mut ignored = [0; 256];
    loop {
        let next = Instant::now() + SHORTEST_PAUSE;
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let Some((content, line)) = written(command, snapshot).await else {
            return;
        };
        // Compared without the time that goes by.
        if last.as_ref() != Some(&content) {
            if stream.write_all(&line).await.is_err() {
                return;
            }
            last = Some(content);
        }
        sleep_until(next).await;
        tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            read = stream.read(&mut ignored) => if matches!(read, Ok(0) | Err(_)) {
                return;
            },
        }
    }
}

/// The view as it would be at the daemon's start, to compare, and as it is.
async fn written(command: Command, snapshot: Arc<Snapshot>) -> Option<(Vec<u8>, Vec<u8>)> {
    let written = tokio::task::spawn_blocking(move || {
        let at = |time| stream_line(&View::of(command, &snapshot, time));
        Ok::<_, serde_json::Error>((at(snapshot.started)?, at(SystemTime::now())?))
    });
    match written.await {
        Ok(Ok(lines)) => Some(lines),
        Ok(Err(error)) => {
            error!(%error, "cannot write an admin answer");
            None
        }
        Err(error) => {
            error!(%error, "admin request failed");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ready() -> Event {
        Event::now(EventKind::Ready)
    }

    fn next(queue: &mut Queue) -> Option<Event> {
        let line = queue.rest().to_vec();
        let event = serde_json::from_slice(&line).ok();
        queue.took(line.len());
        event
    }

    #[test]
    fn a_slow_client_is_told_how_many_it_missed_in_their_place() {
        let mut queue = Queue::default();
        for _ in 0..LONGEST_QUEUE + 7 {
            queue.push(&ready());
        }
        let mut got = Vec::new();
        while let Some(event) = next(&mut queue) {
            got.push(event.kind);
        }
        assert_eq!(got.len(), LONGEST_QUEUE + 1);
        assert_eq!(got.last(), Some(&EventKind::Missed { count: 7 }));
        queue.push(&ready());
        assert_eq!(next(&mut queue).unwrap().kind, EventKind::Ready);
        assert!(queue.rest().is_empty());
    }

    #[test]
    fn a_line_that_goes_out_in_pieces_goes_out_whole() {
        let mut queue = Queue::default();
        queue.push(&ready());
        let whole = queue.rest().to_vec();
        let mut sent = Vec::new();
        while !queue.rest().is_empty() {
            let piece = queue.rest().iter().take(3).copied().collect::<Vec<u8>>();
            sent.extend_from_slice(&piece);
            queue.took(piece.len());
        }
        assert_eq!(sent, whole);
    }
}
