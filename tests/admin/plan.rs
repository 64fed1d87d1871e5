//! `edgelb plan --inputs`: a recording planned without root and without a kernel. What it does beside a
//! kernel is tested in the lab.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command as Process, Output};
use std::time::SystemTime;

use edgelb::admin::record::Record;
use serde_json::Value;
use tempfile::TempDir;

use crate::schema_validator::problems;
use crate::world;

/// Nobody's user may read the recording and run the program, and nothing else.
fn recorded(datapath: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut record = Record::of(&world::snapshot(), SystemTime::now());
    datapath.clone_into(&mut record.datapath);
    let text = serde_json::to_vec(&record).unwrap();
    fs::write(directory.path().join("inputs.json"), text).unwrap();
    crate::program_for_all(directory.path());
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    directory
}

fn plan(directory: &TempDir, arguments: &[&str]) -> Output {
    let mut process = Process::new(directory.path().join("edgelb"));
    process
        .current_dir(directory.path())
        .args(["plan", "--inputs", "inputs.json"])
        .args(arguments);
    crate::as_nobody(&mut process).output().unwrap()
}

fn commands(directory: &TempDir) -> Vec<String> {
    let output = plan(directory, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let schema = serde_json::from_str(include_str!("../schemas/plan.json")).unwrap();
    assert_eq!(problems(&schema, &value), [""; 0]);
    assert_eq!(value["compared"], false);
    assert_eq!(value["node"], world::NODE);
    assert_eq!(value["failures"].as_array().unwrap().len(), 0, "{value:#}");
    let changes = value["changes"].as_array().unwrap().iter();
    changes
        .map(|change| {
            assert_ne!(change["operation"], "remove", "{change}");
            change["command"].as_str().unwrap().to_owned()
        })
        .collect()
}

#[track_caller]
fn has(commands: &[String], wanted: &str) {
    assert!(
        commands.iter().any(|command| command == wanted),
        "{wanted:?} in {commands:#?}"
    );
}

#[test]
fn a_recording_is_planned_by_anybody_in_the_words_of_the_tools() {
    let ipvs = commands(&recorded("ipvs"));
    for command in [
        "ipvsadm -A -t 192.0.2.200:80 -s rr",
        "ipvsadm -a -t 192.0.2.200:80 -r 10.244.0.2:8080 -m -w 1",
        "ipvsadm -A -t 192.0.2.11:30080 -s rr",
        "ipvsadm --set 900 120 300",
        "nft add table inet edgelb",
        "nft add element inet edgelb held4 '{ 192.0.2.200 }'",
        "nft add table netdev edgelb",
        "nft add element netdev edgelb vips4 '{ 192.0.2.200 }'",
        "ip route add local 192.0.2.200 dev lo scope host src 192.0.2.11 table local proto 225",
        "sysctl -w net.ipv4.ip_forward=1",
        "sysctl -w net.ipv4.vs.conntrack=1",
    ] {
        has(&ipvs, command);
    }
    let nftables = commands(&recorded("nftables"));
    has(
        &nftables,
        "nft add element inet edgelb endpoints4 '{ 192.0.2.200 . tcp . 80 . 0x00000000 : 10.244.0.2 . 8080 }'",
    );
    let calls_ipvs = |command: &String| command.starts_with("ipvsadm");
    assert!(!nftables.iter().any(calls_ipvs), "{nftables:#?}");
    // Filter and forwarding stand before an address is held.
    let place = |part: &str| ipvs.iter().position(|it| it.contains(part)).unwrap();
    assert!(place("held4 '{ 192.0.2.200 }'") < place("ip route add local 192.0.2.200"));
    assert!(place("ipvsadm -A -t 192.0.2.200:80") < place("ip route add local 192.0.2.200"));
}

#[test]
fn a_plan_reads_as_a_diff_and_says_what_it_was_compared_with() {
    let directory = recorded("ipvs");
    let output = plan(&directory, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("\n+ ipvsadm -A -t 192.0.2.200:80 -s rr\n"),
        "{text}"
    );
    assert!(
        text.lines().all(|line| line.starts_with(['+', '~'])),
        "{text}"
    );
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("a recording says nothing of the kernel"),
        "{error}"
    );
}

#[test]
fn a_configuration_that_is_named_is_taken_and_told_apart() {
    let directory = recorded("ipvs");
    let file = directory.path().join("edgelb.toml");
    let text = "[[pool]]\nname = \"lan\"\naddresses = [\"192.0.2.200-192.0.2.203\"]\n\
                [proxy]\nscheduler = \"wlc\"\n";
    fs::write(&file, text).unwrap();
    let output = plan(&directory, &["-c", "edgelb.toml"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("+ ipvsadm -A -t 192.0.2.200:80 -s wlc\n"),
        "{text}"
    );
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("are not those in force when"), "{error}");
}

#[test]
fn what_cannot_be_planned_from_ends_with_2_and_the_remedy() {
    let directory = recorded("ipvs");
    let error = |text: &str, part: &str| {
        fs::write(directory.path().join("inputs.json"), text).unwrap();
        let output = plan(&directory, &[]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(part), "{error}");
    };
    error("{}", "edgelb status --record FILE");
    error(
        "{\"format\":\"edgelb-inputs\",\"version\":2}",
        "reads version 1",
    );
    fs::remove_file(directory.path().join("inputs.json")).unwrap();
    let output = plan(&directory, &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let missing = Path::new("no.toml").to_str().unwrap();
    let output = Process::new(directory.path().join("edgelb"))
        .args(["plan", "-c", missing])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
