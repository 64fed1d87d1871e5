//! What a running daemon serves to Prometheus, on the datapath under test: the list in the README, read by
//! two parsers that are not ours, and the traffic of each Service.

#![allow(clippy::float_cmp, reason = "counts are exact")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use edgelb::lab::client::Protocol;
use edgelb::lab::daemon::{Daemon, DaemonOptions};
use edgelb::lab::membership::{Membership, MembershipNetwork};
use edgelb::lab::tool;

use super::rig::{PATIENCE, Rig, START, eventually, ipvs, request, socket, web};

/// Served in circumstances that this lab has not.
const ELSEWHERE: [&str; 7] = [
    "edgelb_address_conflicts_total",
    "edgelb_allocator_leading",
    "edgelb_allocator_statuses_waiting",
    "edgelb_allocator_statuses_written_total",
    "edgelb_neighbour_refreshes_total",
    "edgelb_rival_claims_total",
    "edgelb_source_blind_since_timestamp_seconds",
];

/// What a node's daemon answers to a scrape with these header lines.
fn scrape(rig: &Rig, node: usize, lines: &str) -> String {
    let text = rig.node(node).try_run(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9750")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: node\r\n{lines}\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    let text = text.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{text}");
    body.to_owned()
}

/// The samples by name with labels, as they are written.
fn samples(rig: &Rig, node: usize) -> BTreeMap<String, f64> {
    let text = scrape(rig, node, "");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

/// A program of this project's tests, with that on its standard input; fails with what it says.
pub fn filter(program: &str, arguments: &[&str], input: &str) -> String {
    let path = format!("{}/tests/{program}", env!("CARGO_MANIFEST_DIR"));
    let mut child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(input.as_bytes()).unwrap();
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {said}\n{input}");
    // promtool ends well where it has advice.
    assert_eq!(said, "", "{program}\n{input}");
    String::from_utf8(output.stdout).unwrap()
}

/// Name, type and labels of each metric, as the README's table has them.
pub fn documented() -> BTreeMap<String, (String, String)> {
    let rows = include_str!("../../README.md")
        .lines()
        .filter(|line| line.starts_with("| `edgelb_"));
    let row = |line: &str| {
        let cells: Vec<String> = line.split('|').map(|cell| cell.replace('`', "")).collect();
        let [_, name, kind, labels, what, ..] = cells.as_slice() else {
            panic!("{line}");
        };
        assert!(!what.trim().is_empty(), "{line}");
        let mut labels: Vec<&str> = labels.split(',').map(str::trim).collect();
        labels.sort_unstable();
        let kind = kind.trim().to_owned();
        (name.trim().to_owned(), (kind, labels.join(",")))
    };
    rows.map(row).collect()
}

/// The same of a scrape in the text format.
fn served(text: &str) -> BTreeMap<String, (String, String)> {
    let mut families: BTreeMap<String, (String, BTreeSet<&str>)> = BTreeMap::new();
    let mut family = "";
    for line in text.lines() {
        if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, kind) = told.split_once(' ').unwrap();
            family = name;
            let before = families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
            assert_eq!(before, None, "twice: {line}");
        } else if let Some((_, rest)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let labels = rest
                .split("\",")
                .filter_map(|label| label.split_once("=\""));
            let names = labels.map(|(name, _)| name).filter(|name| *name != "le");
            families.get_mut(family).unwrap().1.extend(names);
        }
    }
    let joined = families.into_iter().map(|(name, (kind, labels))| {
        let labels: Vec<&str> = labels.into_iter().collect();
        (name, (kind, labels.join(",")))
    });
    joined.collect()
}

/// Two nodes that hear one another, with Services of every kind of trouble that has a metric.
fn field() -> Rig {
    let mut rig = Rig::new(2, 2);
    rig.daemons.clear();
    let network = MembershipNetwork::Lan;
    let options = DaemonOptions {
        membership: Some(Membership::among(&rig.lab, 2, network).unwrap()),
        ..rig.options(toml::Table::new())
    };
    for node in 0..2 {
        let daemon = Daemon::start(&rig.lab, node, &options).unwrap();
        rig.daemons.push(daemon);
    }
    for daemon in &mut rig.daemons {
        daemon.wait_ready(START).unwrap();
    }
    rig.serve(&web("web", 70), &rig.workloads());
    let mut lost = web("lost", 71);
    let pool = ("edgelb.io/pool".to_owned(), "nowhere".to_owned());
    lost.annotations.extend([pool]);
    rig.serve(&lost, &rig.workloads());
    // Nodes that have just heard of one another wait for all the others.
    eventually(START * 2, || {
        let owned = |node: usize| {
            let vips = rig.ask(node, "vips");
            let vips = vips["vips"].as_array()?.clone();
            let all = vips.iter().all(|vip| vip["owner"].is_string());
            (all && !vips.is_empty()).then_some(())
        };
        owned(0).and_then(|()| owned(1))
    });
    rig
}

#[test]
fn what_is_served_is_what_the_readme_lists_and_others_can_read_it() {
    let rig = field();
    let (vip, owner) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), Protocol::Tcp);
    // By Neighbor Discovery, too.
    let vip6 = eventually(PATIENCE, || {
        let vips = rig.ask(owner, "vips");
        let mut vips = vips["vips"].as_array().unwrap().iter();
        let found = vips.find(|vip| vip["family"] == "IPv6" && vip["owned_here"] == true)?;
        found["address"].as_str()?.parse::<std::net::IpAddr>().ok()
    });
    rig.wait_served(rig.client(), socket(vip6, 80), Protocol::Tcp);
    rig.node(owner)
        .try_run(|| {
            TcpStream::connect("127.0.0.1:9756").map(|mut stream| {
                let _ = stream.write_all(b"GET /livez HTTP/1.0\r\n\r\n");
                let _ = stream.read_to_string(&mut String::new());
            })
        })
        .unwrap();

    let text = scrape(&rig, owner, "");
    let mut documented = documented();
    let found = served(&text);
    for name in ELSEWHERE {
        assert!(documented.contains_key(name), "{name} is not in the README");
        if !found.contains_key(name) {
            documented.remove(name);
        }
    }
    if !ipvs() {
        documented.remove("edgelb_bytes_total").unwrap();
    }
    assert_eq!(found, documented);
    assert!(!text.contains("# EOF"));
    assert_eq!(filter("promtool", &["check", "metrics"], &text), "");

    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let open = scrape(&rig, owner, accept);
    assert!(open.ends_with("\n# EOF\n"), "{open}");
    let families = filter("openmetrics", &[], &open);
    let by_sample = families.lines().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, kind, labels] = words.as_slice() else {
            panic!("{line}");
        };
        let (suffix, kind) = match *kind {
            "counter" => ("_total", "counter"),
            "info" => ("_info", "gauge"),
            other => ("", other),
        };
        let labels = labels.trim_matches('-').to_owned();
        (format!("{name}{suffix}"), (kind.to_owned(), labels))
    });
    assert_eq!(by_sample.collect::<BTreeMap<_, _>>(), documented);
}

const CONNECTIONS: &str =
    r#"edgelb_connections_total{namespace="default",service="web",port="80"}"#;

/// What it has counted when nothing comes any more: IPVS adds up each two seconds what its processors
/// counted, on an emulated machine later.
fn settled(rig: &Rig, series: &str) -> f64 {
    let quiet = Duration::from_secs(if ipvs() { 5 } else { 2 });
    let mut before = (f64::NAN, Instant::now());
    eventually(PATIENCE * 3, || {
        std::thread::sleep(Duration::from_millis(100));
        let now = samples(rig, 0).get(series).copied()?;
        if now != before.0 {
            before = (now, Instant::now());
        }
        (now >= 1.0 && before.1.elapsed() >= quiet).then_some(now)
    })
}

/// Waits until it has counted exactly so many, over all nodes; two readings are a second apart.
fn counted(rig: &Rig, series: &str, wanted: f64) {
    let mut last = Vec::new();
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let nodes = 0..rig.daemons.len();
        last = nodes
            .map(|node| samples(rig, node).get(series).copied())
            .collect();
        if last.iter().flatten().sum::<f64>() == wanted {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{series}: {last:?}, not {wanted}");
}

#[test]
fn each_connection_is_counted_once_and_no_counter_goes_back() {
    let rig = Rig::new(1, 2);
    rig.serve(&web("web", 70), &rig.workloads());
    let (vip, _) = rig.vip("web");
    let vip = socket(vip, 80);
    rig.wait_served(rig.client(), vip, Protocol::Tcp);
    let ask = |to, times| {
        for _ in 0..times {
            request(rig.client(), to, Protocol::Tcp).unwrap();
        }
    };
    let first = settled(&rig, CONNECTIONS);
    ask(vip, 7);
    counted(&rig, CONNECTIONS, first + 7.0);
    let node_port = socket(rig.lab.node(0).unwrap().address.ipv4, 30_070);
    ask(node_port, 5);
    counted(&rig, CONNECTIONS, first + 12.0);
    // Fewer endpoints: nothing is forgotten, and what comes is counted.
    rig.endpoints(&web("web", 70), &rig.workloads()[..1]);
    eventually(PATIENCE, || {
        (0..4)
            .all(|_| {
                let answer = request(rig.client(), vip, Protocol::Tcp);
                answer.is_ok_and(|answer| answer.workload == rig.workloads()[0].name)
            })
            .then_some(())
    });
    let second = settled(&rig, CONNECTIONS);
    assert!(second >= first + 16.0, "{second}");
    // The kernel loses its counters with all else; what was shown stays.
    if ipvs() {
        tool(rig.node(0), "ipvsadm", &["-C"]).unwrap();
    }
    tool(rig.node(0), "nft", &["flush ruleset"]).unwrap();
    eventually(START * 3, || request(rig.client(), vip, Protocol::Tcp).ok());
    let third = settled(&rig, CONNECTIONS);
    assert!(third >= second, "{third} after {second}");
    ask(vip, 3);
    counted(&rig, CONNECTIONS, third + 3.0);

    let bytes = |direction| {
        let series = format!(
            r#"edgelb_bytes_total{{namespace="default",service="web",port="80",direction="{direction}"}}"#
        );
        samples(&rig, 0).get(&series).copied()
    };
    if ipvs() {
        // A request is a handshake, a line and an end, with 20 bytes of header each and more.
        assert!(bytes("in").unwrap() > 15.0 * 100.0, "{:?}", bytes("in"));
        assert!(bytes("out").unwrap() > 15.0 * 100.0, "{:?}", bytes("out"));
    } else {
        assert_eq!((bytes("in"), bytes("out")), (None, None));
    }
    rig.manifests.remove("service-web.yaml").unwrap();
    eventually(PATIENCE, || {
        let text = scrape(&rig, 0, "");
        (!text.contains("service=\"web\"")).then_some(())
    });
}

/// On IPVS it is nftables that remembers clients, and counts their connections.
#[test]
fn connections_of_services_with_affinity_are_counted() {
    let rig = Rig::new(1, 2);
    let mut sticky = web("web", 70);
    "  sessionAffinity: ClientIP\n".clone_into(&mut sticky.more);
    rig.serve(&sticky, &rig.workloads());
    let (vip, _) = rig.vip("web");
    let vip = socket(vip, 80);
    rig.wait_served(rig.client(), vip, Protocol::Tcp);
    let first = settled(&rig, CONNECTIONS);
    for _ in 0..6 {
        request(rig.client(), vip, Protocol::Tcp).unwrap();
    }
    counted(&rig, CONNECTIONS, first + 6.0);
}

/// Somebody on a node speaks for a VIP that is another one's.
#[test]
fn what_the_fence_keeps_in_is_counted() {
    let rig = Rig::new(2, 1);
    rig.serve(&web("web", 70), &rig.workloads());
    let (vip, owner) = rig.vip("web");
    let other = 1 - owner;
    for node in [owner, other] {
        eventually(PATIENCE, || {
            (samples(&rig, node)["edgelb_fence_in_force"] == 1.0).then_some(())
        });
    }
    let series = r#"edgelb_fence_dropped_frames_total{family="ipv4"}"#;
    let before = samples(&rig, other)[series];
    let vip = vip.to_string();
    let lie = ["-U", "-c", "3", "-w", "5", "-I", "eth0", "-s", &vip, &vip];
    rig.node(other)
        .set_sysctl("net/ipv4/ip_nonlocal_bind", "1")
        .unwrap();
    // It gets no answer, and says so.
    let _ = tool(rig.node(other), "arping", &lie);
    eventually(PATIENCE, || {
        (samples(&rig, other)[series] == before + 3.0).then_some(())
    });
    assert_eq!(samples(&rig, other)["edgelb_fence_failures_total"], 0.0);
}
