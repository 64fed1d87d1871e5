//! The daemon as a process: started with a configuration of its own, watched through its log and
//! through `/proc`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// A running `edgelb run`; killed when this is dropped.
pub struct Daemon {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

/// Memory of a process, in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub resident: u64,
    /// The most that was ever resident.
    pub highest: u64,
    /// The part of it that is not mapped from a file.
    pub anonymous: u64,
}

impl Daemon {
    /// Starts the program in this thread's network namespace.
    pub fn start(config: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_edgelb"))
            .arg("run")
            .arg("--config")
            .arg(config)
            .env("RUST_LOG", "info,edgelb::reconcile=debug,kube_client=off")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("edgelb starts");
        let log = BufReader::new(child.stderr.take().expect("its log"));
        let (sender, lines) = mpsc::channel();
        let quiet = std::env::var_os("EDGELB_BENCH_LOG").is_none();
        thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if !quiet {
                    eprintln!("{line}");
                }
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits for a line of the log that has this text; returns when it came.
    pub fn until(&self, text: &str, limit: Duration) -> Instant {
        let deadline = Instant::now() + limit;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok((at, line)) if line.contains(text) => return at,
                Ok((_, line)) => seen.push(line),
                Err(error) => panic!("no {text:?} in the log, {error}:\n{}", seen.join("\n")),
            }
        }
    }

    /// Forgets what the log says up to now.
    pub fn forget(&self) {
        while self.lines.try_recv().is_ok() {}
    }

    pub fn memory(&self) -> Memory {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("the daemon runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).expect(name)
        };
        Memory {
            resident: field("VmRSS:"),
            highest: field("VmHWM:"),
            anonymous: field("RssAnon:"),
        }
    }

    /// Processor time of all threads that run now.
    pub fn processor_time(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("tasks");
        let nanoseconds = tasks.flatten().filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
