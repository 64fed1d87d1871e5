//! Hosts on the LAN that use addresses of a pool (case 64), looked for on a real link: what is on the
//! wire is seen by tcpdump on another host, and the host's addresses are the kernel's own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edgelb::apply::announcer::arp;
use edgelb::apply::announcer::socket::{PacketSocket, Protocol};
use edgelb::apply::prober::{ProbeSettings, Prober};
use edgelb::lab::{Host, Lab, LabOptions, Namespace, tool};
use edgelb::model::foreign::{ForeignHosts, MacAddress, Wanted, WantedInterface};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::cluster::Cluster;
use super::rig::{PATIENCE, Rig, eventually, web};
use crate::user::load_balancer;

const USED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const FREE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 201);
/// From what is wanted to the report: a wait, three probes and answers.
const REPORT: Duration = Duration::from_secs(2);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A prober in a node's namespace.
struct Asking {
    wanted: Option<watch::Sender<Arc<Wanted>>>,
    foreign: watch::Receiver<Arc<ForeignHosts>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Asking {
    fn start(node: &Namespace, settings: ProbeSettings, wanted: Wanted) -> Self {
        let (wanted, asked) = watch::channel(Arc::new(wanted));
        let (telling, foreign) = watch::channel(Arc::new(ForeignHosts::default()));
        let prober = Prober::new(settings, asked, telling);
        let run = move || {
            runtime()
                .block_on(prober.run())
                .map_err(std::io::Error::other)
        };
        Self {
            wanted: Some(wanted),
            foreign,
            thread: Some(node.spawn_thread(run).unwrap()),
        }
    }

    fn want(&self, wanted: Wanted) {
        self.wanted.as_ref().unwrap().send_replace(Arc::new(wanted));
    }

    fn heard(&self) -> Vec<(IpAddr, MacAddress)> {
        self.foreign.borrow().iter().collect()
    }

    #[track_caller]
    fn wait_heard(&self, patience: Duration, expected: &[(Ipv4Addr, MacAddress)]) {
        let expected: Vec<(IpAddr, MacAddress)> = expected
            .iter()
            .map(|(address, mac)| (IpAddr::V4(*address), *mac))
            .collect();
        let start = Instant::now();
        while self.heard() != expected {
            let heard = self.heard();
            assert!(start.elapsed() < patience, "{heard:?}, not {expected:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // The prober ends with its publisher.
        self.wanted = None;
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap().expect("the prober ended well");
        }
    }
}

/// A running tcpdump of all ARP on a host's link.
struct Capture {
    tcpdump: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Capture {
    fn start(host: &Host) -> Self {
        let mut command = Command::new("tcpdump");
        command
            .args(["-i", "eth0", "-Z", "root", "-n", "-e", "-tt", "-l"])
            .args(["--immediate-mode", "arp"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut tcpdump = host.namespace.spawn(&mut command).unwrap();
        let mut errors = BufReader::new(tcpdump.stderr.take().unwrap());
        let mut started = String::new();
        while !started.contains("listening on") {
            let read = errors.read_line(&mut started).unwrap();
            assert_ne!(read, 0, "tcpdump: {started}");
        }
        let lines = Arc::new(Mutex::new(Vec::new()));
        let output = BufReader::new(tcpdump.stdout.take().unwrap());
        let sink = Arc::clone(&lines);
        std::thread::spawn(move || {
            // Kept open, or tcpdump would end when it prints its summary.
            let _errors = errors;
            for line in output.lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Self { tcpdump, lines }
    }

    /// When each probe of this hardware address for the address was seen, in seconds.
    fn probes(&self, mac: MacAddress, address: Ipv4Addr) -> Vec<f64> {
        let lines = self.lines.lock().unwrap();
        let from = format!("{mac} > ff:ff:ff:ff:ff:ff,");
        // Newer versions of tcpdump have a word of their own for it.
        let forms = [
            format!("Request who-has {address} tell 0.0.0.0,"),
            format!("Probe {address},"),
        ];
        let probes = lines.iter().filter(|line| {
            line.contains(&from) && forms.iter().any(|form| line.contains(form.as_str()))
        });
        probes
            .map(|line| line.split(' ').next().unwrap().parse().unwrap())
            .collect()
    }

    /// Every ARP frame of a hardware address.
    fn frames(&self, mac: MacAddress) -> usize {
        let lines = self.lines.lock().unwrap();
        let from = format!(" {mac} > ");
        lines.iter().filter(|line| line.contains(&from)).count()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

fn lan() -> Lab {
    Lab::build(LabOptions {
        nodes: 1,
        workloads: 0,
        clients: 3,
        ..LabOptions::default()
    })
    .unwrap()
}

fn wanted(node: &Namespace, addresses: &[Ipv4Addr], own: &[MacAddress]) -> Wanted {
    let interface = WantedInterface {
        name: "eth0".to_owned(),
        mac: node.mac_address("eth0").unwrap(),
        addresses: addresses.iter().copied().map(IpAddr::V4).collect(),
    };
    let index = node.link_index("eth0").unwrap();
    Wanted {
        interfaces: BTreeMap::from([(index, interface)]),
        own: own.iter().copied().collect::<BTreeSet<_>>(),
    }
}

/// Puts the address on a host's link or takes it away.
fn address(host: &Host, operation: &str, address: Ipv4Addr) {
    let address = format!("{address}/24");
    let arguments = ["address", operation, &address, "dev", "eth0"];
    tool(&host.namespace, "ip", &arguments).unwrap();
}

/// Sends frames from a host as they are.
fn inject(host: &Host, frames: &[arp::Frame]) {
    let send = || {
        let runtime = runtime();
        let _context = runtime.enter();
        let socket = PacketSocket::open(Protocol::Arp, 0, "eth0", &[]).unwrap();
        for frame in frames {
            socket.send(frame).unwrap();
        }
    };
    host.namespace.run(send).unwrap();
}

fn impatient() -> ProbeSettings {
    ProbeSettings {
        foreign_interval: Duration::from_millis(500),
        ..ProbeSettings::default()
    }
}

#[test]
fn a_host_with_an_address_of_a_pool_is_found_and_seen_to_go() {
    let lab = lan();
    let [host, witness, ..] = lab.clients() else {
        panic!("two hosts")
    };
    let node = &lab.node(0).unwrap().namespace;
    let own = node.mac_address("eth0").unwrap();
    let mac = host.namespace.mac_address("eth0").unwrap();
    address(host, "add", USED);
    let neighbours = || tool(&host.namespace, "ip", &["neigh", "show"]).unwrap();
    let before = neighbours();
    let capture = Capture::start(witness);
    let asking = Asking::start(node, impatient(), wanted(node, &[USED, FREE], &[own]));
    asking.wait_heard(REPORT, &[(USED, mac)]);
    let probes = eventually(PATIENCE, || {
        let probes = capture.probes(own, FREE);
        (probes.len() >= 3).then_some(probes)
    });
    // 200 ms and a fifth more or less, and what a busy machine is late.
    for pair in probes.windows(2) {
        let spacing = pair[1] - pair[0];
        assert!((0.155..0.6).contains(&spacing), "{spacing} s");
    }
    assert!(capture.probes(own, USED).len() >= 3);
    assert!(!neighbours().contains("0.0.0.0"), "{before}");
    // A kernel that is probed learns nothing of the node: there is nothing to learn.
    assert_eq!(neighbours(), before);

    address(host, "del", USED);
    asking.wait_heard(PATIENCE, &[]);
    let rounds = capture.probes(own, USED).len();
    assert!(rounds >= 6 && rounds.is_multiple_of(3), "{rounds}");
    assert_eq!(capture.probes(own, FREE).len(), 3, "not asked for again");
    let probes = rounds + 3;
    assert_eq!(capture.frames(own), probes, "nothing but probes");
}

#[test]
fn who_claims_an_address_unasked_is_looked_into() {
    let lab = lan();
    let [host, other, _] = lab.clients() else {
        panic!("three hosts")
    };
    let node = &lab.node(0).unwrap().namespace;
    let own = node.mac_address("eth0").unwrap();
    let mac = host.namespace.mac_address("eth0").unwrap();
    let other_mac = other.namespace.mac_address("eth0").unwrap();
    let capture = Capture::start(other);
    let asking = Asking::start(node, impatient(), wanted(node, &[FREE], &[own]));
    eventually(PATIENCE, || {
        (capture.probes(own, FREE).len() == 3).then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    // Other nodes probe the same addresses; nobody takes one on the word of a probe.
    inject(other, &[arp::probe(FREE, other_mac.0)]);
    // An address that nobody wants to know of, and octets that are no ARP at all.
    inject(host, &[arp::gratuitous(USED, mac.0)[0], [0xff; 42]]);
    std::thread::sleep(Duration::from_millis(900));
    assert_eq!(asking.heard(), []);
    assert_eq!(capture.probes(own, FREE).len(), 3);

    // By the word of one frame alone, until a round without an answer.
    inject(host, &[arp::gratuitous(FREE, mac.0)[0]]);
    asking.wait_heard(REPORT, &[(FREE, mac)]);
    asking.wait_heard(PATIENCE, &[]);

    // By an address that the host has, until it is given to a Service: then it is nobody's business.
    address(host, "add", FREE);
    let announce = ["-U", "-c", "1", "-I", "eth0", "192.0.2.201"];
    tool(&host.namespace, "arping", &announce).unwrap();
    asking.wait_heard(REPORT, &[(FREE, mac)]);
    asking.want(Wanted::default());
    asking.wait_heard(PATIENCE, &[]);
    // A host of our own is none.
    asking.want(wanted(node, &[FREE], &[own, mac]));
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(asking.heard(), []);
}

#[test]
fn a_link_that_is_down_proves_nothing_and_is_used_again() {
    let lab = lan();
    let host = &lab.clients()[0];
    let node = &lab.node(0).unwrap().namespace;
    let mac = host.namespace.mac_address("eth0").unwrap();
    address(host, "add", USED);
    let asking = Asking::start(node, impatient(), wanted(node, &[USED], &[]));
    asking.wait_heard(REPORT, &[(USED, mac)]);
    node.set_down("eth0").unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    asking.wait_heard(Duration::ZERO, &[(USED, mac)]);
    address(host, "del", USED);
    node.set_up("eth0").unwrap();
    asking.wait_heard(PATIENCE, &[]);
}

/// What a Service is told about addresses that others have.
fn told(services: &Value, name: &str) -> Vec<String> {
    let mut services = services["services"].as_array().unwrap().iter();
    let service = services.find(|service| service["name"] == name);
    let reasons = service.map_or(&Value::Null, |service| &service["reasons"]);
    let reasons = reasons.as_array().into_iter().flatten();
    reasons
        .filter(|reason| reason["label"] == "address_of_infrastructure")
        .map(|reason| reason["text"].as_str().unwrap().to_owned())
        .collect()
}

/// Every node decides for itself there: the address is given all the same, and it is told.
#[test]
fn a_daemon_with_manifests_tells_of_it() {
    let rig = Rig::new(1, 1);
    let host = rig.lab.client().unwrap();
    let mac = host.namespace.mac_address("eth0").unwrap();
    address(host, "add", USED);
    let announce = ["-U", "-c", "1", "-I", "eth0", "192.0.2.200"];
    eventually(PATIENCE, || {
        tool(&host.namespace, "arping", &announce).unwrap();
        let log = rig.daemons[0].log().unwrap();
        let heard = "another host uses an address of a pool";
        (log.contains(heard) && log.contains(&mac.to_string())).then_some(())
    });
    rig.serve(&web("web", 20), &rig.workloads());
    let (vip, _) = rig.vip("web");
    assert_eq!(vip, USED);
    let expected =
        format!("{USED} belongs to a host on the LAN ({mac}): a Service must not take it");
    assert_eq!(told(&rig.ask(0, "services"), "web"), [expected.as_str()]);
    let printed = rig.daemons[0].ask(&["services"]).unwrap();
    let printed = String::from_utf8_lossy(&printed.stdout);
    assert!(printed.contains(&mac.to_string()), "{printed}");
}

/// Case 64: the allocator gives out another one, and says why it does not give the one asked for.
#[test]
fn an_allocator_gives_out_another_address() {
    let cluster = Cluster::new();
    let host = cluster.lab.client().unwrap();
    let mac = host.namespace.mac_address("eth0").unwrap();
    address(host, "add", USED);
    let announce = ["-U", "-c", "1", "-I", "eth0", "192.0.2.200"];
    eventually(PATIENCE, || {
        tool(&host.namespace, "arping", &announce).unwrap();
        let heard = |daemon: &edgelb::lab::daemon::Daemon| {
            let log = daemon.log().unwrap();
            log.contains("another host uses an address of a pool") && log.contains(&mac.to_string())
        };
        cluster.daemons.iter().all(heard).then_some(())
    });
    cluster.serve("web");
    let vip = cluster.address("web", Duration::from_secs(20));
    assert_eq!(vip, IpAddr::V4(FREE));

    let mut asks = load_balancer("shop", "asks");
    asks["metadata"]["annotations"]["edgelb.io/ips"] = Value::from("192.0.2.200");
    cluster
        .secure
        .server
        .with(|script| script.create_service(asks));
    let note = format!("{USED} belongs to a host on the LAN ({mac}): a Service must not take it");
    eventually(Duration::from_secs(10), || {
        let events = cluster.secure.server.with(|script| script.events());
        let told = |event: &Value| event["reason"] == "IPConflict" && event["note"] == *note;
        events.iter().any(told).then_some(())
    });
    let addresses = cluster
        .secure
        .server
        .with(|script| script.addresses("shop/asks"));
    assert_eq!(addresses, [] as [IpAddr; 0]);

    // Whoever announces what it was just given is no foreign host to the others.
    cluster.serve("more");
    let more = cluster.address("more", Duration::from_secs(20));
    cluster.wait_served(super::rig::socket(more, 80));
    std::thread::sleep(REPORT);
    for daemon in &cluster.daemons {
        let log = daemon.log().unwrap();
        let mut heard = log
            .lines()
            .filter(|line| line.contains("another host uses"));
        assert!(heard.all(|line| line.contains("192.0.2.200")), "{log}");
    }
    let events = cluster.secure.server.with(|script| script.events());
    let mut conflicts = events
        .iter()
        .filter(|event| event["reason"] == "IPConflict");
    assert!(conflicts.all(|event| event["note"] == *note), "{events:?}");
}

#[test]
fn a_host_with_an_ipv6_address_of_a_pool_is_found_and_seen_to_go() {
    let used: IpAddr = "2001:db8::200".parse().unwrap();
    let free: IpAddr = "2001:db8::201".parse().unwrap();
    let lab = lan();
    let [host, ..] = lab.clients() else {
        panic!("a host")
    };
    let node = &lab.node(0).unwrap().namespace;
    let own = node.mac_address("eth0").unwrap();
    let mac = host.namespace.mac_address("eth0").unwrap();
    let address = |operation: &str| {
        let arguments = ["address", operation, "2001:db8::200/64", "dev", "eth0"];
        tool(&host.namespace, "ip", &arguments).unwrap();
    };
    address("add");
    let mut both = wanted(node, &[USED], &[own]);
    for interface in both.interfaces.values_mut() {
        interface.addresses.extend([used, free]);
    }
    let asking = Asking::start(node, impatient(), both);
    let heard = |expected: &[(IpAddr, MacAddress)]| {
        eventually(PATIENCE, || (asking.heard() == expected).then_some(()));
    };
    heard(&[(used, mac)]);
    let neighbours = tool(&host.namespace, "ip", &["neigh", "show"]).unwrap();
    assert!(
        !neighbours.contains(&own.to_string()),
        "asking changes nothing: {neighbours}"
    );
    address("del");
    heard(&[]);
}
