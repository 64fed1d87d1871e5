//! `edgelb demo` as a user starts it.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

#[path = "../schemas/validator.rs"]
pub mod validator;

const PROGRAM: &str = env!("CARGO_BIN_EXE_edgelb");
/// The demo promises to be done in this time; an emulated machine with a tenth of the pace takes longer.
fn longest() -> Duration {
    Duration::from_secs(if crate::rig::ipvs() { 150 } else { 30 })
}

/// A place for the demo's files, where anything left behind is seen.
struct Place(std::path::PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("edgelb-demo-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        // Ordinary users must be able to use it as well.
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        Self(path)
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("TMPDIR", &self.0).stdin(Stdio::null());
        command
    }

    fn assert_empty(&self) {
        let left: Vec<_> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// Processes that have this place in their environment: the demo, its inner process, its daemons.
    fn processes(&self) -> Vec<i32> {
        let variable = format!("TMPDIR={}", self.0.display());
        let all = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        all.filter(|pid: &i32| {
            // A process that has just ended, or is a zombie, has no environment to read.
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
                environment
                    .split(|byte| *byte == 0)
                    .any(|entry| entry == variable.as_bytes())
            })
        })
        .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An emulated machine is too slow for nodes that ask one another ten times a second.
fn pace() -> &'static [&'static str] {
    if crate::rig::ipvs() {
        &["--probe-interval", "1s"]
    } else {
        &[]
    }
}

fn assert_shows_everything(output: &Output, nodes: usize) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}\n{}\n{stderr}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let schema: Value = serde_json::from_str(include_str!("../schemas/demo.json")).unwrap();
    assert_eq!(validator::problems(&schema, &report), Vec::<String>::new());
    assert_eq!(report["result"], "ok");
    assert_eq!(report["nodes"].as_array().unwrap().len(), nodes);
    for service in report["services"].as_array().unwrap() {
        assert!(
            service["vip"].as_str().unwrap().starts_with("192.0.2.2"),
            "{service}"
        );
        assert_eq!(service["requests"], service["succeeded"], "{service}");
    }
    assert_eq!(report["services"].as_array().unwrap().len(), 2);
    assert!(report["node_port"].is_object() && report["cluster_ip"].is_object());
    assert_eq!(report["takeover"].is_object(), nodes > 1);
    assert_eq!(report["drain"].is_object(), nodes > 1);
    if nodes > 1 {
        let (takeover, drain) = (&report["takeover"], &report["drain"]);
        assert_ne!(takeover["from"], takeover["to"]);
        assert_eq!(takeover["to"], drain["from"]);
        assert_ne!(drain["from"], drain["to"]);
        // With ten times the probe interval, ten times the time.
        let most = if crate::rig::ipvs() { 10_000 } else { 1_000 };
        let blackout = takeover["blackout_ms"].as_u64().unwrap();
        assert!(blackout < most, "{takeover}");
        assert_eq!(drain["requests"], drain["succeeded"], "{drain}");
    }
}

#[test]
fn root_sees_the_whole_story() {
    let place = Place::new("root");
    let start = Instant::now();
    let output = place
        .command(PROGRAM)
        .args(["demo", "-o", "json"])
        .args(pace())
        .output()
        .unwrap();
    let elapsed = start.elapsed();
    assert!(elapsed < longest(), "{elapsed:?}");
    assert_shows_everything(&output, 3);
    place.assert_empty();
}

#[test]
fn an_ordinary_user_sees_the_whole_story() {
    let place = Place::new("user");
    // The build directory may be closed to other users.
    let program = place.0.join("edgelb");
    fs::copy(PROGRAM, &program).unwrap();
    let output = place
        .command("runuser")
        .args(["-u", "nobody", "--"])
        .arg(&program)
        .args(["demo", "-o", "json"])
        .args(pace())
        .output()
        .unwrap();
    fs::remove_file(&program).unwrap();
    assert_shows_everything(&output, 3);
    place.assert_empty();
}

#[test]
fn the_smallest_lan_is_enough_for_all_but_the_take_over() {
    let place = Place::new("small");
    let arguments = [
        "demo",
        "--nodes",
        "1",
        "--workloads",
        "1",
        "--datapath",
        "nftables",
        "-o",
        "json",
    ];
    let output = place.command(PROGRAM).args(arguments).output().unwrap();
    assert_shows_everything(&output, 1);
}

#[test]
fn nothing_is_left_however_it_ends() {
    for (name, signal) in [
        ("int", Signal::SIGINT),
        ("term", Signal::SIGTERM),
        ("kill", Signal::SIGKILL),
    ] {
        let place = Place::new(name);
        let mut demo = place
            .command(PROGRAM)
            .args(["demo", "--keep"])
            .args(pace())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("three daemons", || place.processes().len() >= 5);
        kill(Pid::from_raw(demo.id().try_into().unwrap()), signal).unwrap();
        demo.wait().unwrap();
        wait_for("the end of all processes", || place.processes().is_empty());
        wait_for("the removal of all files", || {
            fs::read_dir(&place.0).unwrap().next().is_none()
        });
    }
}

#[test]
fn a_failed_step_says_why_and_leaves_nothing() {
    let place = Place::new("failed");
    let script = place.0.join("daemon");
    // Any problem, and the daemon's word for a kernel that lacks what it needs.
    for (daemon, code) in [(1, 1), (4, 4)] {
        fs::write(
            &script,
            format!("#!/bin/sh\necho the reason >&2\nexit {daemon}\n"),
        )
        .unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let output = place
            .command(PROGRAM)
            .args(["demo", "-o", "json", "--program"])
            .arg(&script)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let schema: Value = serde_json::from_str(include_str!("../schemas/demo.json")).unwrap();
        assert_eq!(validator::problems(&schema, &report), Vec::<String>::new());
        assert_eq!(report["result"], "failed");
        let error = report["error"].as_str().unwrap();
        assert!(
            error.contains("edge-") && error.contains("the reason"),
            "{error}"
        );
    }
    fs::remove_file(&script).unwrap();
    place.assert_empty();
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + longest();
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
