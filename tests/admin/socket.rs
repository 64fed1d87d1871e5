//! The admin socket: its place in the file system, and clients that mean well, badly, or nothing.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use edgelb::admin::client::{AskError, ask};
use edgelb::admin::protocol::{Command, LARGEST_REQUEST};
use edgelb::admin::snapshot::Snapshot;
use edgelb::admin::socket::{AdminSocket, BindError, MOST_CLIENTS, REQUEST_TIMEOUT};
use edgelb::admin::view::{Services, Status};
use edgelb::apply::state_directory::StateDirectory;
use edgelb::drain_flag::DrainFlag;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};

use crate::world;

/// A daemon's admin socket in a directory of its own, on a thread with a current-thread runtime.
pub struct Served {
    pub directory: TempDir,
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    /// What the daemon was told.
    pub drain: watch::Receiver<bool>,
    stop: watch::Sender<bool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Served {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = socket_in(&directory);
        let (snapshots, seen) = watch::channel(Arc::new(world::snapshot()));
        let (state, _) = StateDirectory::open(&directory.path().join("state")).unwrap();
        let flag = Arc::new(DrainFlag::open(Arc::new(state)).unwrap());
        let drain = flag.watch();
        let (stop, stopping) = watch::channel(false);
        let (ready, bound) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let socket = AdminSocket::bind(&path).unwrap();
                ready.send(()).unwrap();
                socket.serve(seen, flag, stopping).await;
            });
        });
        bound.blocking_recv().unwrap();
        Self {
            directory,
            snapshots,
            drain,
            stop,
            thread: Some(thread),
        }
    }

    pub fn path(&self) -> PathBuf {
        socket_in(&self.directory)
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).unwrap()
    }

    /// Sends these bytes, says that no more will come, and reads the answer.
    fn send(&self, bytes: &[u8]) -> Value {
        let mut stream = self.connect();
        // A refused request may be answered before all of it was taken.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        answer(stream)
    }

    pub fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// In a directory that does not exist yet.
fn socket_in(directory: &TempDir) -> PathBuf {
    directory.path().join("run/edgelb/admin.sock")
}

fn answer(mut stream: UnixStream) -> Value {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(
        text.ends_with('\n') && text.matches('\n').count() == 1,
        "one line: {text}"
    );
    serde_json::from_str(&text).unwrap()
}

/// The error of a refused request.
fn refusal(answer: &Value) -> &str {
    assert_eq!(answer["ok"], false, "{answer}");
    assert_eq!(answer.get("data"), None);
    answer["error"].as_str().unwrap()
}

#[test]
fn every_command_is_answered_on_one_line() {
    let served = Served::new();
    for command in Command::ALL {
        let answer = served.send(format!("{{\"command\":\"{}\"}}\n", command.as_str()).as_bytes());
        assert_eq!(answer["ok"], true, "{answer}");
        let schema = crate::views::schema(command);
        assert_eq!(
            crate::schema_validator::problems(&schema, &answer["data"]),
            [""; 0]
        );
    }
    // Also without a newline.
    let answer = served.send(br#"{"command":"pools"}"#);
    assert_eq!(answer["ok"], true);
}

#[test]
fn the_newest_snapshot_answers() {
    let served = Served::new();
    let status: Status = ask(&served.path(), Command::Status).unwrap();
    assert_eq!(status.services.total, 5);
    served.snapshots.send_replace(Arc::new(world::empty()));
    let status: Status = ask(&served.path(), Command::Status).unwrap();
    assert_eq!(status.services.total, 0);
}

#[test]
fn hostile_requests_get_an_error_and_the_next_one_an_answer() {
    let served = Served::new();
    for (request, part) in [
        (&b"\n"[..], "malformed request"),
        (b"status\n", "malformed request"),
        (b"\xff\xfe\x00\n", "malformed request"),
        (b"{}\n", "missing field `command`"),
        (b"[]\n", "malformed request"),
        (b"{\"command\":7}\n", "malformed request"),
        (b"{\"command\":\"reboot\"}\n", "unknown command \"reboot\""),
        (
            b"{\"command\":\"pools\",\"later\":\"1\"}\n",
            "pools does not know the argument \"later\"; it takes none",
        ),
        (
            b"{\"command\":\"drain\",\"node\":\"edge-b\"}\n",
            "drain does not know the argument \"node\"",
        ),
    ] {
        let answer = served.send(request);
        assert!(refusal(&answer).contains(part), "{answer}");
    }
    // What changes something is not done by halves.
    for request in [
        &b"{\"command\":\"drain"[..],
        b"{\"command\":\"drain \"}\n",
        b"drain\n",
    ] {
        refusal(&served.send(request));
    }
    assert!(!served.drain.has_changed().unwrap());
    let long_name = format!("{{\"command\":\"{}\"}}\n", "x".repeat(10_000));
    let answer = served.send(long_name.as_bytes());
    assert!(refusal(&answer).len() < 300, "not all of it is repeated");
    // Nesting that would overflow a stack, within the limit of size.
    let answer = served.send(format!("{}\n", "[".repeat(LARGEST_REQUEST)).as_bytes());
    assert!(refusal(&answer).contains("malformed request"));
    for size in [LARGEST_REQUEST + 1, 50 * LARGEST_REQUEST] {
        let answer = served.send(&vec![b'a'; size]);
        assert!(refusal(&answer).contains("longer than 65536 bytes"));
    }
    drop(served.connect());
    assert_eq!(served.send(b"{\"command\":\"status\"}\n")["ok"], true);
}

#[test]
fn many_silent_clients_are_timed_out_and_the_others_served() {
    let served = Served::new();
    let begin = Instant::now();
    let silent: Vec<UnixStream> = (0..MOST_CLIENTS)
        .map(|_| {
            let mut stream = served.connect();
            stream.write_all(b"{\"comm").unwrap();
            stream
        })
        .collect();
    // All places are taken: this one waits until the silent ones have had their time.
    let answer = served.send(b"{\"command\":\"status\"}\n");
    assert_eq!(answer["ok"], true);
    assert!(begin.elapsed() + Duration::from_millis(500) >= REQUEST_TIMEOUT);
    assert!(begin.elapsed() < REQUEST_TIMEOUT * 2);
    for stream in silent {
        let answer = crate::socket::answer(stream);
        assert!(refusal(&answer).contains("in time"));
    }
}

#[test]
fn a_hundred_clients_at_once_all_get_their_answer() {
    let served = Served::new();
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let services: Services = ask(&served.path(), Command::Services).unwrap();
                assert_eq!(services.services.len(), 5);
            });
        }
    });
}

#[test]
fn the_socket_is_for_root_and_the_group_and_goes_with_the_daemon() {
    let mut served = Served::new();
    let path = served.path();
    let directory = fs::metadata(path.parent().unwrap()).unwrap();
    assert_eq!(directory.permissions().mode() & 0o777, 0o755);
    let group = nix::unistd::Group::from_name("edgelb").unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    let root = nix::unistd::geteuid().is_root();
    assert_eq!(
        mode,
        if group.is_some() && root {
            0o660
        } else {
            0o600
        }
    );
    served.stop();
    assert!(!path.exists());
    let error = ask::<Status>(&path, Command::Status).unwrap_err();
    assert!(matches!(error, AskError::NoDaemon { .. }), "{error}");
}

/// Binds in a runtime, as every caller must.
fn bind(path: &Path) -> Result<(), BindError> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    AdminSocket::bind(path).map(drop)
}

#[test]
fn a_dead_daemons_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    drop(UnixListener::bind(&path).unwrap());
    let error = UnixStream::connect(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "it is dead");
    bind(&path).unwrap();
}

#[test]
fn a_live_daemons_socket_is_never_taken() {
    let served = Served::new();
    let error = bind(&served.path()).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains(served.path().to_str().unwrap()));
    ask::<Status>(&served.path(), Command::Status).expect("it still answers");

    // Nor that of a program that knows nothing of the lock.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let error = bind(&path).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
    UnixStream::connect(&path).expect("it is still there");
}

#[test]
fn what_is_no_socket_is_never_taken_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    fs::write(&path, "precious").unwrap();
    let error = bind(&path).unwrap_err();
    assert!(matches!(error, BindError::NotASocket { .. }), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}
