//! `edgelb status`, `services`, `vips`, `pools` and `peers` as processes.

use std::fs;
use std::path::Path;
use std::process::{Command as Process, Output};

use edgelb::admin::protocol::Command;
use serde_json::Value;

use crate::schema_validator::problems;
use crate::socket::Served;
use crate::views::schema;

fn edgelb(arguments: &[&str]) -> Output {
    edgelb_in(arguments, "200")
}

/// As wide as this.
fn edgelb_in(arguments: &[&str], columns: &str) -> Output {
    Process::new(env!("CARGO_BIN_EXE_edgelb"))
        .args(arguments)
        .env("COLUMNS", columns)
        .output()
        .unwrap()
}

/// A configuration whose only use is to say where the socket is.
fn config_for(socket: &Path) -> String {
    let directory = socket.parent().unwrap();
    let file = directory.join("edgelb.toml");
    // Whatever else is wrong with the file, the daemon can be asked.
    let text = format!(
        "node.runtime_dir = \"{}\"\nunknown.key = 1\n",
        directory.display()
    );
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn stdout(output: &Output) -> &str {
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn json_is_as_the_schema_says() {
    let served = Served::new();
    let config = config_for(&served.path());
    for command in Command::ALL {
        let output = edgelb(&[command.as_str(), "-c", &config, "-o", "json"]);
        let value: Value = serde_json::from_str(stdout(&output)).unwrap();
        assert_eq!(problems(&schema(command), &value), [""; 0], "{command:?}");
    }
}

#[test]
fn tables_show_what_matters() {
    let served = Served::new();
    let socket = served.path();
    let table = |command: &str| {
        let output = edgelb(&[command, "--socket", socket.to_str().unwrap()]);
        stdout(&output).to_owned()
    };
    assert_eq!(
        table("pools"),
        "POOL   FAMILY  TOTAL             ALLOCATED  FREE              PRIORITY  AUTO-ASSIGN\n\
         lan    IPv4    4                 2          2                 100       yes\n\
         large  IPv6    9007199254740991  0          9007199254740991  100       yes\n"
    );
    let services = table("services");
    let lines: Vec<&str> = services.lines().collect();
    assert_eq!(
        lines[..2],
        [
            "SERVICE          TYPE          VIP          OWNER   CLUSTER-IP  PORTS                 ENDPOINTS",
            "default/web      LoadBalancer  192.0.2.200  edge-a  10.96.0.10  80:30080/TCP,443/TCP  4",
        ]
    );
    assert!(
        services
            .contains("\nother/lost: it names the pool no\\u{1b}[2Jwhere, which does not exist\n"),
        "{services}"
    );
    assert_eq!(
        table("vips"),
        "VIP          SERVICE      POOL  OWNER   ANNOUNCED-ON\n\
         192.0.2.200  default/web  lan   edge-a  eth0\n\
         192.0.2.201  other/far    lan   -       -\n\
         \n\
         192.0.2.201: no node may announce it; no endpoint is ready on the node, and its policy is Local\n"
    );
    assert_eq!(
        table("peers"),
        "NODE           ADDRESSES   VIPS  ELIGIBLE  HEARD\n\
         edge-a (this)  192.0.2.11  1     yes       -\n\
         edge-b         192.0.2.12  0     no        -\n\
         edge-c         192.0.2.13  0     no        -\n\
         \n\
         edge-b: the node is labelled node.kubernetes.io/exclude-from-external-load-balancers\n\
         edge-c: the Node is being deleted\n"
    );
    let status = table("status");
    for part in [
        " on edge-a: not ready, nftables datapath, up ",
        "\nconfiguration  the newest file is not in force: ",
        "\nservices       5, of them 3 LoadBalancer, 1 waiting for a VIP\n",
        "\nvips           2 held, 1 announced by this node\n",
        "\nproblem        web.yaml:7: spec.ports[0].port: 70000 is no port (what was good before stays in force)\n",
        "\nconflict       tcp node port 30080 (IPv4) is default/web's; default/zgreedy does not get it\n",
        "\nfailure        route local 192.0.2.200 dev lo: no permission\n",
    ] {
        assert!(status.contains(part), "{part:?} in:\n{status}");
    }
}

#[test]
fn tables_fit_eighty_columns_with_whole_addresses() {
    let served = Served::new();
    let socket = served.path();
    for command in ["services", "vips", "pools", "peers"] {
        let arguments = [command, "--socket", socket.to_str().unwrap()];
        let output = edgelb_in(&arguments, "80");
        let text = stdout(&output);
        let table = text.split("\n\n").next().unwrap();
        for line in table.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        if command != "pools" {
            assert!(table.contains("192.0.2."), "{table}");
        }
        // Whoever filters or keeps it gets everything.
        let whole = edgelb_in(&arguments, "");
        assert!(!stdout(&whole).contains('…'), "{}", stdout(&whole));
    }
}

#[test]
fn colour_is_for_terminals_alone() {
    let served = Served::new();
    let output = edgelb(&["status", "--socket", served.path().to_str().unwrap()]);
    assert!(!stdout(&output).contains('\u{1b}'));
}

#[test]
fn without_a_daemon_it_ends_with_3_and_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let config = config_for(&socket);
    for arguments in [
        &["status", "-c", config.as_str()][..],
        &["vips", "--socket", socket.to_str().unwrap(), "-o", "json"],
    ] {
        let output = edgelb(arguments);
        assert_eq!(output.status.code(), Some(3));
        assert!(output.stdout.is_empty());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(socket.to_str().unwrap()), "{error}");
        assert!(error.contains("edgelb run"), "{error}");
    }
}

#[test]
fn a_configuration_that_names_no_socket_ends_with_2() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("edgelb.toml");
    let file = file.to_str().unwrap();
    let error = |text: Option<&str>| {
        if let Some(text) = text {
            fs::write(file, text).unwrap();
        }
        let output = edgelb(&["status", "-c", file]);
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    for (text, part) in [
        (None, "--config FILE"),
        (Some("node.runtime_dir ="), "edgelb check -c"),
        (Some("node.runtime_dir = 7"), "no absolute path"),
        (Some("node.runtime_dir = \"run\""), "no absolute path"),
    ] {
        let error = error(text);
        assert!(error.contains(file) && error.contains(part), "{error}");
    }
}

#[test]
fn a_daemon_that_says_nothing_understandable_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let answers = [
        "",
        "{\"ok\":true,\"data\":{}}\n",
        "{\"ok\":false,\"error\":\"busy\"}\n",
    ];
    let server = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
            std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
            std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        }
    });
    for (code, part) in [
        (3, "does not answer"),
        (1, "another version"),
        (1, "refused: busy"),
    ] {
        let output = edgelb(&["status", "--socket", socket.to_str().unwrap()]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(part), "{error}");
    }
    server.join().unwrap();
}
