//! `edgelb status --record`: the recording is complete, in the form that its schema says, for those
//! alone who may have it, and planned from again it gives the same plan.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command as Process, Output};

use edgelb::admin::record::{self, Record};
use edgelb::plan::plan;
use serde_json::Value;

use crate::schema_validator::problems;
use crate::socket::Served;
use crate::world;

pub fn schema() -> Value {
    serde_json::from_str(include_str!("../schemas/record.json")).unwrap()
}

fn edgelb(served: &Served, file: &Path) -> Process {
    let mut process = Process::new(env!("CARGO_BIN_EXE_edgelb"));
    let socket = served.path();
    process.args(["status", "--socket", socket.to_str().unwrap(), "--record"]);
    process.arg(file);
    process
}

fn error(output: &Output) -> &str {
    assert!(output.stdout.is_empty(), "{output:?}");
    std::str::from_utf8(&output.stderr).unwrap()
}

fn valid(text: &[u8]) -> Record {
    let value: Value = serde_json::from_slice(text).unwrap();
    assert_eq!(problems(&schema(), &value), [""; 0]);
    record::parse(text).unwrap()
}

#[test]
fn a_recording_holds_all_that_the_plan_was_made_from() {
    let served = Served::new();
    let file = served.directory.path().join("inputs.json");
    let output = edgelb(&served, &file).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(error(&output).contains("edgelb plan --inputs"));
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let record = valid(&fs::read(&file).unwrap());
    let snapshot = world::snapshot();
    assert_eq!(record.inputs, *snapshot.inputs);
    assert_eq!(record.config, *snapshot.config);
    assert_eq!(record.config_digest, record::digest(&snapshot.config));
    assert_eq!(
        plan(&record.config, &record.inputs).state,
        plan(&snapshot.config, &snapshot.inputs).state
    );

    let output = edgelb(&served, Path::new("-")).output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    assert_eq!(valid(&output.stdout).inputs, record.inputs);
}

#[test]
fn a_recording_is_for_root_and_the_group_alone() {
    let served = Served::new();
    let socket = served.path();
    if !nix::unistd::geteuid().is_root() {
        // Nobody else can be had here; the daemon's own user may.
        let output = edgelb(&served, Path::new("-")).output().unwrap();
        valid(&output.stdout);
        return;
    }
    // Whoever opened the socket to everybody has not opened this.
    for path in socket.ancestors().take(4).chain([socket.as_path()]) {
        let _ = fs::set_permissions(path, Permissions::from_mode(0o777));
    }
    let mut process = Process::new(crate::program_for_all(served.directory.path()));
    process
        .args(["status", "--record", "-", "--socket"])
        .arg(&socket);
    let output = crate::as_nobody(&mut process).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(
        error(&output).contains("record is for root and the group edgelb alone"),
        "{output:?}"
    );
}

#[test]
fn what_cannot_be_written_is_told_and_nothing_is_lost() {
    let served = Served::new();
    let output = edgelb(&served, served.directory.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        error(&output).contains("is there and is no file"),
        "{output:?}"
    );
}
