//! A LAN of network namespaces with a member of membership in each, and a host without the key.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edgelb::config::{Config, ListenAddress, PeerAddress};
use edgelb::membership::transport::lan::LanInterface;
use edgelb::membership::{Inputs, Membership, MembershipView, Settings};
use edgelb::model::allocation::Allocations;
use edgelb::model::foreign::MacAddress;
use edgelb::model::peer::{Heard, MemberState, Peers, Presence, Publication};
use nix::sched::{CloneFlags, setns};
use tokio::sync::watch;

pub const PORT: u16 = 9751;
const DEADLINE: Duration = Duration::from_secs(10);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Waits until it is so; fails when it does not become so.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs in a thread of the namespace: what it opens belongs there.
pub fn within<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

/// Removes the namespace, also when the test panics.
pub struct Namespace(pub String);

impl Drop for Namespace {
    fn drop(&mut self) {
        let removed = Command::new("ip").args(["netns", "del", &self.0]).status();
        if !removed.is_ok_and(|status| status.success()) {
            eprintln!("could not remove the namespace {}", self.0);
        }
    }
}

/// A bridge with hosts 0.. at 192.0.2.1 and so on.
pub struct Lan {
    bridge: Namespace,
    pub hosts: Vec<Namespace>,
    directory: tempfile::TempDir,
}

pub fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, u8::try_from(host + 1).unwrap())
}

pub fn name(host: usize) -> String {
    format!("edge-{host}")
}

fn mac(host: usize) -> MacAddress {
    MacAddress([2, 0, 0, 0, 2, u8::try_from(host + 1).unwrap()])
}

/// The interface of the host, asked for in its namespace.
pub fn lan_interface(host: usize) -> LanInterface {
    LanInterface {
        index: nix::net::if_::if_nametoindex("eth0").unwrap(),
        name: "eth0".to_owned(),
        mac: mac(host),
        subnets: vec![format!("{}/24", address(host)).parse().unwrap()],
    }
}

impl Lan {
    pub fn new(hosts: usize) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = |role: &str| {
            let name = format!("edgelb-mem-{}-{number}-{role}", std::process::id());
            run("ip", &["netns", "add", &name]);
            run("ip", &["-n", &name, "link", "set", "lo", "up"]);
            Namespace(name)
        };
        let bridge = namespace("lan");
        run(
            "ip",
            &["-n", &bridge.0, "link", "add", "br0", "type", "bridge"],
        );
        run("ip", &["-n", &bridge.0, "link", "set", "br0", "up"]);
        let hosts: Vec<Namespace> = (0..hosts)
            .map(|host| namespace(&host.to_string()))
            .collect();
        for (host, Namespace(inside)) in hosts.iter().enumerate() {
            let port = format!("port{host}");
            let mac = mac(host).to_string();
            run(
                "ip",
                &[
                    "-n", &bridge.0, "link", "add", &port, "type", "veth", "peer", "name", "eth0",
                    "address", &mac, "netns", inside,
                ],
            );
            run(
                "ip",
                &["-n", &bridge.0, "link", "set", &port, "master", "br0", "up"],
            );
            let address = format!("{}/24", address(host));
            run(
                "ip",
                &["-n", inside, "address", "add", &address, "dev", "eth0"],
            );
            run("ip", &["-n", inside, "link", "set", "eth0", "up"]);
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("key"),
            "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=\n",
        )
        .unwrap();
        Self {
            bridge,
            hosts,
            directory,
        }
    }

    pub fn key_file(&self) -> &Path {
        self.directory.path()
    }

    /// `nft` in a host's namespace.
    pub fn nft(&self, host: usize, script: &str) {
        run("ip", &["netns", "exec", &self.hosts[host].0, "nft", script]);
    }

    /// Takes the host's cable out, at the other end.
    pub fn unplug(&self, host: usize) {
        run(
            "ip",
            &[
                "-n",
                &self.bridge.0,
                "link",
                "set",
                &format!("port{host}"),
                "nomaster",
            ],
        );
    }

    pub fn plug(&self, host: usize) {
        run(
            "ip",
            &[
                "-n",
                &self.bridge.0,
                "link",
                "set",
                &format!("port{host}"),
                "master",
                "br0",
            ],
        );
    }

    /// Starts a member that knows the first `peers` hosts as its configured peers.
    pub fn member(&self, host: usize, peers: usize) -> Member {
        Member::start(self, host, peers)
    }
}

/// What a member saw, and when.
pub type Log = Arc<Mutex<Vec<(Instant, Arc<Peers>)>>>;

/// A member in a thread of its host.
pub struct Member {
    pub view: MembershipView,
    pub publication: watch::Sender<Arc<Publication>>,
    pub log: Log,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Duration>>,
    // Kept, for a sender that is gone says nothing new.
    _nodes: watch::Sender<Arc<BTreeMap<String, Vec<IpAddr>>>>,
    _interfaces: watch::Sender<Arc<Vec<LanInterface>>>,
}

impl Member {
    fn start(lan: &Lan, host: usize, peers: usize) -> Self {
        let mut configuration = Config::defaults(&name(host)).membership;
        configuration.listen = ListenAddress {
            address: None,
            port: PORT.try_into().unwrap(),
        };
        configuration.peers = (0..peers)
            .map(|peer| PeerAddress {
                host: address(peer).to_string(),
                port: PORT.try_into().unwrap(),
            })
            .collect();
        configuration.key_files = vec![lan.key_file().join("key")];
        let settings = Settings {
            node: name(host),
            configuration,
            program: "0.0.0-test".to_owned(),
        };
        let (publication, publication_input) = watch::channel(Arc::new(Publication {
            state: MemberState {
                ready: true,
                ..MemberState::default()
            },
            allocations: Allocations::default(),
            ..Publication::default()
        }));
        let (nodes, node_addresses) = watch::channel(Arc::default());
        let (interfaces, interfaces_input) = watch::channel(Arc::default());
        let (stop, mut stopped) = watch::channel(false);
        let (opened, view) = std::sync::mpsc::channel();
        let log: Log = Arc::default();
        let (seen, sent) = (Arc::clone(&log), interfaces.clone());
        let thread = within(&lan.hosts[host].0, move || {
            sent.send_replace(Arc::new(vec![lan_interface(host)]));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let inputs = Inputs {
                    publication: publication_input,
                    node_addresses,
                    interfaces: interfaces_input,
                };
                let (membership, view) = Membership::open(settings, inputs).unwrap();
                opened.send(view.clone()).unwrap();
                let mut peers = view.peers.clone();
                let record = async move {
                    while peers.changed().await.is_ok() {
                        let shown = Arc::clone(&peers.borrow_and_update());
                        seen.lock().unwrap().push((Instant::now(), shown));
                    }
                };
                let stop = stopped.clone();
                tokio::select! {
                    () = membership.run(stop) => {}
                    () = record => {}
                }
                let _ = stopped.wait_for(|stopped| *stopped).await;
            });
            let used = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            Duration::from_nanos(used.split(' ').next().unwrap().parse().unwrap())
        });
        Self {
            view: view.recv_timeout(DEADLINE).unwrap(),
            publication,
            log,
            stop,
            thread: Some(thread),
            _nodes: nodes,
            _interfaces: interfaces,
        }
    }

    pub fn presence(&self, host: usize) -> Option<Presence> {
        self.view
            .peers
            .borrow()
            .members
            .get(&name(host))
            .map(|peer| peer.presence)
    }

    pub fn heard(&self, host: usize) -> Option<Heard> {
        self.view
            .peers
            .borrow()
            .members
            .get(&name(host))
            .map(|peer| peer.heard)
    }

    /// Whether any of these was seen as something else than alive after it had been.
    pub fn was_lost(&self, host: usize) -> bool {
        let log = self.log.lock().unwrap();
        let presences = log
            .iter()
            .filter_map(|(_, peers)| peers.members.get(&name(host)));
        presences
            .skip_while(|peer| peer.presence != Presence::Alive)
            .any(|peer| peer.presence != Presence::Alive)
    }

    /// When the host was first seen so after that moment.
    pub fn seen_after(&self, from: Instant, host: usize, presence: Presence) -> Option<Duration> {
        let log = self.log.lock().unwrap();
        let mut after = log.iter().filter(|(at, _)| *at >= from);
        let found = after.find(|(_, peers)| {
            peers
                .members
                .get(&name(host))
                .is_some_and(|peer| peer.presence == presence)
        });
        found.map(|(at, _)| *at - from)
    }

    pub fn received(&self, result: &'static str) -> u64 {
        self.view.counters.received(result)
    }

    /// Ends it without a word; the processor time of its thread.
    pub fn end(mut self) -> Duration {
        self.stop.send_replace(true);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Senders and payloads.
pub type Captured = Vec<(SocketAddr, Vec<u8>)>;

/// The payloads of UDP datagrams that come to the port of a host, until it is dropped.
pub struct Capture {
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: Option<JoinHandle<Captured>>,
}

impl Capture {
    /// Begins to capture.
    pub fn start(lan: &Lan, host: usize) -> Self {
        use socket2::{Domain, Protocol, Socket, Type};
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (ready, started) = std::sync::mpsc::channel();
        let thread = within(&lan.hosts[host].0, move || {
            // A raw socket sees a copy of each datagram, with its IP header.
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(20)))
                .unwrap();
            ready.send(()).unwrap();
            let mut socket = socket;
            let mut captured = Vec::new();
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                let Ok(length) = std::io::Read::read(&mut socket, &mut buffer) else {
                    continue;
                };
                let header = usize::from(buffer[0] & 15) * 4;
                let to = u16::from_be_bytes([buffer[header + 2], buffer[header + 3]]);
                if to == PORT {
                    let from: [u8; 4] = buffer[12..16].try_into().unwrap();
                    let port = u16::from_be_bytes([buffer[header], buffer[header + 1]]);
                    captured.push((
                        SocketAddr::from((from, port)),
                        buffer[header + 8..length].to_vec(),
                    ));
                }
            }
            captured
        });
        started.recv_timeout(DEADLINE).unwrap();
        Self {
            stop,
            thread: Some(thread),
        }
    }

    pub fn end(mut self) -> Captured {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}
