//! Daemons that do not run, hang, or lack something.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use edgelb::lab::server::{Listen, Server};

use super::super::rig::Rig;
use super::{healthy, lines, names, run};

/// A process that is ended with its owner.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A small disk that goes with its owner.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: &Path, options: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(path)
            .status()
            .unwrap();
        assert!(mounted.success());
        Self(path.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_daemon_that_does_not_run_or_hangs_is_the_cause() {
    let mut rig = Rig::new(1, 1);
    rig.daemons[0].freeze().unwrap();
    names(
        &rig,
        None,
        "problem",
        &["the daemon is there and hangs", "systemctl restart edgelb"],
    );
    rig.daemons[0].thaw().unwrap();

    rig.daemons[0].kill().unwrap();
    names(
        &rig,
        None,
        "problem",
        &["does not run now", "systemctl restart edgelb"],
    );
    let _server = Server::start(rig.node(0), "squatter", &[Listen::tcp(9750)]).unwrap();
    names(
        &rig,
        None,
        "problem",
        &["listens on tcp 9750", "observability.listen needs"],
    );
}

#[test]
fn what_a_daemon_lacks_is_told() {
    let rig = Rig::new(1, 1);
    rig.manifests
        .write("broken.yaml", "kind: Service\nmetadata: [\n")
        .unwrap();
    names(&rig, None, "warning", &["broken.yaml", "cannot be used"]);
    rig.manifests.remove("broken.yaml").unwrap();

    let pid = rig.daemons[0].pid();
    run(&rig, 0, &format!("prlimit --pid {pid} --nofile=64:1024"));
    names(
        &rig,
        None,
        "warning",
        &["may open only few file descriptors", "of 64", "LimitNOFILE"],
    );
    run(&rig, 0, &format!("prlimit --pid {pid} --nofile=1024:1024"));

    // Another one that is started by hand.
    let script = rig.lab.directory().join("edgelb");
    fs::write(&script, "#!/bin/sh\nsleep 600\n").unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(&script);
    command
        .arg("run")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let second = Guard(rig.node(0).spawn(&mut command).unwrap());
    names(
        &rig,
        None,
        "problem",
        &["two daemons run on this node", &second.0.id().to_string()],
    );
    drop(second);

    let drained = rig.daemons[0].ask(&["drain"]).unwrap();
    names(
        &rig,
        None,
        "warning",
        &["this node is drained", "edgelb undrain"],
    );
    assert!(drained.status.code().is_some());
}

#[test]
fn what_the_daemon_works_from_is_compared_with_the_disk() {
    let mut rig = Rig::new(1, 1);
    let file = rig.daemons[0].configuration_path();
    let before = fs::read_to_string(&file).unwrap();
    let mut changed: toml::Table = before.parse().unwrap();
    changed.insert(
        "announce".to_owned(),
        "refresh = \"30s\"".parse::<toml::Table>().unwrap().into(),
    );
    fs::write(&file, changed.to_string()).unwrap();
    names(
        &rig,
        None,
        "warning",
        &["was changed and not loaded", "systemctl reload edgelb"],
    );
    fs::write(&file, before).unwrap();
    let found = super::findings(&rig, 0, None);
    let stale = |it: &&serde_json::Value| it["message"].as_str().unwrap().contains("not loaded");
    assert_eq!(found.iter().find(stale), None);

    // Nobody else tells of the manifests where no daemon runs.
    rig.manifests
        .write("broken.yaml", "kind: Service\nmetadata: [\n")
        .unwrap();
    rig.daemons[0].kill().unwrap();
    names(&rig, None, "warning", &["broken.yaml", "cannot be used"]);
    names(
        &rig,
        None,
        "problem",
        &["does not run now", "journalctl -u edgelb"],
    );
}

#[test]
fn files_that_a_daemon_needs_are_looked_at() {
    let rig = healthy::with_membership();
    let key = rig.lab.directory().join("membership.key");
    fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    names(
        &rig,
        None,
        "warning",
        &["can read the membership key", "chmod 600"],
    );
    fs::write(&key, "c2hvcnQ=\n").unwrap();
    names(
        &rig,
        None,
        "problem",
        &["membership key", "cannot be used", "chmod 600"],
    );

    // Without a daemon: a disk that is full, and one that cannot be written.
    let directory = rig.lab.directory().join("disk");
    let file = rig.lab.directory().join("disk.toml");
    let text = format!(
        "node.name = \"edge-a\"\nnode.state_dir = \"{0}\"\nnode.runtime_dir = \"{0}\"\nsource.kind = \"manifests\"\n",
        directory.display()
    );
    fs::write(&file, text).unwrap();
    let look = || {
        let mut command = Command::new(super::super::rig::PROGRAM);
        command
            .arg("doctor")
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::piped());
        let child = rig.node(0).spawn(&mut command).unwrap();
        let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        text.lines().take(3).map(str::to_owned).collect::<Vec<_>>()
    };
    for (options, words) in [
        ("size=1m", ["is full", "df -h"]),
        ("ro", ["read-only file system", "remount,rw"]),
    ] {
        let _disk = Disk::mount(&directory, options);
        let lines = look();
        let is_it = |line: &String| super::is_it(line, "problem", &words);
        assert!(lines.iter().any(is_it), "{options}: {lines:#?}");
    }
}

#[test]
fn a_name_that_is_no_service_is_wrong_usage() {
    let rig = Rig::new(1, 1);
    let (code, lines) = lines(&rig, 0, Some("web"));
    assert_eq!((code, lines.len()), (Some(2), 0));
}
