//! Sends requests at a steady pace and tells the longest time without an answer.
//!
//! Each request is a new connection with a timeout of its own, started on time whether or not the
//! earlier ones were answered: so an outage is measured to within one interval.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::client::{Answer, Protocol, RequestError, client_error, parse_answer};
use super::{LabError, Namespace};

/// The pace of a prober.
#[derive(Debug, Clone, Copy)]
pub struct ProberOptions {
    /// From the start of one request to the start of the next.
    pub interval: Duration,
    /// The longest life of one request. Shorter than TCP's first retransmission of 1 s (RFC 6298),
    /// so that a request sent into an outage cannot answer long after it.
    pub timeout: Duration,
}

impl Default for ProberOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(5),
            timeout: Duration::from_millis(250),
        }
    }
}

/// What a prober has seen so far. Its size does not grow with time.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ProbeReport {
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that failed, by reason.
    pub failed: BTreeMap<&'static str, u64>,
    /// Answers by the name of the server.
    pub by_workload: BTreeMap<String, u64>,
    /// The longest time between two answers, the time since the last one included.
    #[serde(skip)]
    pub longest_gap: Duration,
    /// When the last answer came, since the start.
    #[serde(skip)]
    pub last_answer: Option<Duration>,
}

/// A running prober; dropping it stops it.
#[derive(Debug)]
pub struct Prober {
    state: Arc<Mutex<Tally>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug)]
struct Tally {
    report: ProbeReport,
    start: Instant,
    /// The last answer, or the start of the present measurement.
    last: Instant,
}

impl Prober {
    /// Starts to send requests from the namespace.
    pub fn start(
        from: &Namespace,
        to: SocketAddr,
        protocol: Protocol,
        options: ProberOptions,
    ) -> Result<Self, LabError> {
        let start = Instant::now();
        let state = Arc::new(Mutex::new(Tally {
            report: ProbeReport::default(),
            start,
            last: start,
        }));
        let (stop, stopped) = oneshot::channel();
        let tally = Arc::clone(&state);
        let thread = from
            .spawn_thread(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(probe(to, protocol, options, tally, stopped));
                Ok(())
            })
            .map_err(|source| client_error(from, source))?;
        Ok(Self {
            state,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// What was seen so far.
    pub fn report(&self) -> ProbeReport {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .report(Instant::now())
    }

    /// Forgets everything seen so far; a gap is measured from now at the earliest.
    pub fn reset(&self) {
        let mut tally = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        *tally = Tally {
            report: ProbeReport::default(),
            start: now,
            last: now,
        };
    }

    /// Stops, and gives what was seen. Requests still on their way count neither way.
    pub fn stop(mut self) -> Result<ProbeReport, io::Error> {
        self.end()?;
        Ok(self.report())
    }

    /// Sends nothing more, waits for what is on its way, and gives what was seen: every request that
    /// was ever sent counts as answered or failed.
    pub fn finish(mut self) -> Result<ProbeReport, LabError> {
        if let Some(stop) = self.stop.take() {
            // The thread may have ended with an error, which comes next.
            let _ = stop.send(());
        }
        let ended = self.end();
        ended.map_err(|source| LabError::Client {
            namespace: "a prober".to_owned(),
            source,
        })?;
        Ok(self.report())
    }

    fn end(&mut self) -> io::Result<()> {
        self.stop = None;
        match self.thread.take() {
            Some(thread) => thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the prober panicked"))),
            None => Ok(()),
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "prober failed");
        }
    }
}

impl Tally {
    fn report(&self, now: Instant) -> ProbeReport {
        let mut report = self.report.clone();
        report.longest_gap = report.longest_gap.max(now.duration_since(self.last));
        report
    }

    fn record(&mut self, result: Result<Answer, RequestError>, now: Instant) {
        match result {
            Ok(answer) => {
                self.report.answered += 1;
                *self.report.by_workload.entry(answer.workload).or_default() += 1;
                self.report.longest_gap =
                    self.report.longest_gap.max(now.duration_since(self.last));
                self.report.last_answer = Some(now.duration_since(self.start));
                self.last = now;
            }
            Err(error) => *self.report.failed.entry(reason(&error)).or_default() += 1,
        }
    }
}

fn reason(error: &RequestError) -> &'static str {
    match error {
        RequestError::Refused => "refused",
        RequestError::Reset => "reset",
        RequestError::TimedOut => "timed_out",
        RequestError::Unreachable => "unreachable",
        RequestError::Closed => "closed",
        RequestError::Unintelligible(_) => "unintelligible",
        RequestError::Other(_) => "other",
    }
}

async fn probe(
    to: SocketAddr,
    protocol: Protocol,
    options: ProberOptions,
    tally: Arc<Mutex<Tally>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut ticks = tokio::time::interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut running = JoinSet::new();
    let waits_for_the_rest = loop {
        tokio::select! {
            result = &mut stopped => break result.is_ok(),
            _ = ticks.tick() => {
                running.spawn(async move {
                    match tokio::time::timeout(options.timeout, send(to, protocol)).await {
                        Ok(result) => result,
                        Err(_) => Err(RequestError::TimedOut),
                    }
                });
            }
            Some(Ok(result)) = running.join_next() => {
                tally.lock().unwrap_or_else(PoisonError::into_inner).record(result, Instant::now());
            }
        }
    };
    while waits_for_the_rest && let Some(result) = running.join_next().await {
        if let Ok(result) = result {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.record(result, Instant::now());
        }
    }
}

async fn send(to: SocketAddr, protocol: Protocol) -> Result<Answer, RequestError> {
    let start = Instant::now();
    match protocol {
        Protocol::Tcp => {
            let mut stream = TcpStream::connect(to).await?;
            // Thousands of connections in a row: end each by a reset, so that none of them keeps its
            // port and its entry in the connection tables for another minute.
            stream.set_zero_linger()?;
            stream.write_all(b"probe\n").await?;
            let mut line = Vec::new();
            BufReader::new(&mut stream)
                .read_until(b'\n', &mut line)
                .await?;
            if line.is_empty() {
                Err(RequestError::Closed)
            } else {
                parse_answer(&line, start.elapsed())
            }
        }
        Protocol::Udp => {
            let any: SocketAddr = if to.is_ipv4() {
                ([0; 4], 0).into()
            } else {
                ([0_u16; 8], 0).into()
            };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(to).await?;
            socket.send(b"probe").await?;
            let mut buffer = [0; 2048];
            let length = socket.recv(&mut buffer).await?;
            parse_answer(buffer.get(..length).unwrap_or_default(), start.elapsed())
        }
    }
}
