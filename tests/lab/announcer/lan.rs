//! A link between two network namespaces, the announcer on its one end, independent eyes on the other.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edgelb::apply::announcer::burst::BurstSettings;
use edgelb::apply::announcer::socket::{PacketSocket, Protocol};
use edgelb::apply::announcer::{Announcer, AnnouncerView, arp};
use edgelb::model::announcement::AnnouncedSet;
use nix::sched::{CloneFlags, setns};
use tokio::sync::watch;

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
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

/// The usual notation of a hardware address.
pub fn text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs in a thread of the namespace: what it opens belongs there. A runtime has to be built inside.
fn within<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Removes the namespace, also when the test panics.
struct Namespace(String);

impl Namespace {
    fn new(role: &str, number: u32) -> Self {
        let name = format!("edgelb-arp-{}-{number}-{role}", std::process::id());
        run("ip", &["netns", "add", &name]);
        Self(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let removed = Command::new("ip").args(["netns", "del", &self.0]).status();
        if !removed.is_ok_and(|status| status.success()) {
            eprintln!("could not remove the namespace {}", self.0);
        }
    }
}

/// The link `lan0` (announcer) to `eth0` (client).
pub struct Lan {
    announcing: Namespace,
    client: Namespace,
}

impl Lan {
    /// A link that is up; the announcing end holds the VIPs as the daemon does: as local routes, with
    /// a kernel that does not answer for them.
    pub fn new(vips: &[Ipv4Addr]) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let lan = Self {
            announcing: Namespace::new("a", number),
            client: Namespace::new("c", number),
        };
        let sysctl = "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore";
        run(
            "ip",
            &["netns", "exec", &lan.announcing.0, "sh", "-c", sysctl],
        );
        lan.ip(&["link", "set", "lo", "up"]);
        for vip in vips {
            let vip = format!("{vip}/32");
            lan.ip(&[
                "route", "add", "local", &vip, "dev", "lo", "proto", "225", "table", "local",
            ]);
        }
        lan.create_link();
        lan
    }

    /// `ip` in the announcer's namespace.
    pub fn ip(&self, arguments: &[&str]) -> String {
        run("ip", &[&["-n", &self.announcing.0], arguments].concat())
    }

    pub fn create_link(&self) {
        let (announcing, client) = (self.announcing.0.as_str(), self.client.0.as_str());
        self.ip(&[
            "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", client,
        ]);
        for (namespace, link, address) in [
            (announcing, "lan0", "192.0.2.1/24".to_owned()),
            (client, "eth0", format!("{CLIENT}/24")),
        ] {
            run(
                "ip",
                &["-n", namespace, "address", "add", &address, "dev", link],
            );
            run("ip", &["-n", namespace, "link", "set", link, "up"]);
        }
    }

    pub fn delete_link(&self) {
        self.ip(&["link", "delete", "lan0"]);
    }

    /// Index and hardware address of `lan0`.
    pub fn announcing_link(&self) -> (u32, [u8; 6]) {
        link(&self.announcing.0, "lan0")
    }

    /// Whether arping on the client ends well: an answer, or none where it looks for duplicates.
    pub fn arping(&self, arguments: &[&str]) -> bool {
        let arping = ["netns", "exec", &self.client.0, "arping", "-I", "eth0"];
        let output = Command::new("ip")
            .args([&arping, arguments].concat())
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(
            printed.contains("Sent "),
            "{printed}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.status.success()
    }

    /// The client's broadcast request for the VIP.
    pub fn request(&self, vip: Ipv4Addr) -> Vec<u8> {
        let (_, mac) = link(&self.client.0, "eth0");
        let [mut request, _] = arp::gratuitous(vip, mac);
        request[28..32].copy_from_slice(&CLIENT.octets());
        request.to_vec()
    }

    /// Sends frames from the client as they are.
    pub fn inject(&self, frames: &[Vec<u8>]) {
        let frames = frames.to_vec();
        let send = move || {
            let runtime = runtime();
            let _context = runtime.enter();
            let socket = PacketSocket::open(Protocol::Arp, 0, "eth0", &[]).unwrap();
            for frame in frames {
                socket.send(&frame).unwrap();
            }
        };
        within(&self.client.0, send).join().unwrap();
    }

    /// Sends a frame from the client again and again until the flood is dropped.
    pub fn flood(&self, frame: Vec<u8>) -> Flood {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let send = move || {
            let runtime = runtime();
            let _context = runtime.enter();
            let socket = PacketSocket::open(Protocol::Arp, 0, "eth0", &[]).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                // A full queue is fine, as long as it is full.
                let _ = socket.send(&frame);
            }
        };
        Flood {
            stop,
            thread: Some(within(&self.client.0, send)),
        }
    }

    /// Everything of ARP that the client's end sees from now on.
    pub fn capture(&self) -> Capture {
        Capture::start(&self.client.0)
    }
}

/// A running flood.
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn link(namespace: &str, name: &str) -> (u32, [u8; 6]) {
    let shown = run("ip", &["-n", namespace, "-j", "link", "show", "dev", name]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let index = shown[0]["ifindex"].as_u64().unwrap();
    let mac = shown[0]["address"].as_str().unwrap();
    let octets: Vec<u8> = mac
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).unwrap())
        .collect();
    (u32::try_from(index).unwrap(), octets.try_into().unwrap())
}

/// A gratuitous frame as tcpdump saw it.
#[derive(Debug, Clone)]
pub struct Gratuitous {
    pub seconds: f64,
    pub form: &'static str,
    pub mac: String,
}

/// A running tcpdump.
pub struct Capture {
    tcpdump: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Capture {
    fn start(namespace: &str) -> Self {
        let mut tcpdump = Command::new("ip")
            .args([
                "netns", "exec", namespace, "tcpdump", "-i", "eth0", "-Z", "root",
            ])
            .args(["-n", "-e", "-tt", "-l", "--immediate-mode", "arp"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump");
        let mut started = String::new();
        let mut errors = BufReader::new(tcpdump.stderr.take().unwrap());
        while !started.contains("listening on") {
            assert_ne!(
                errors.read_line(&mut started).unwrap(),
                0,
                "tcpdump: {started}"
            );
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

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The hardware addresses told in replies to the client, in order of arrival.
    pub fn replies(&self, vip: Ipv4Addr) -> Vec<String> {
        let reply = format!("Reply {vip} is-at ");
        let lines = self.lines();
        let unicast = lines
            .iter()
            .filter(|line| !line.contains("> ff:ff:ff:ff:ff:ff,"));
        unicast.filter_map(|line| mac_after(line, &reply)).collect()
    }

    /// The gratuitous frames for the VIP, in order of arrival.
    pub fn gratuitous(&self, vip: Ipv4Addr) -> Vec<Gratuitous> {
        let reply = format!("Reply {vip} is-at ");
        let request = [
            format!("Announcement {vip},"),
            format!("Request who-has {vip} tell {vip},"),
        ];
        let lines = self.lines();
        let broadcast = lines
            .iter()
            .filter(|line| line.contains("> ff:ff:ff:ff:ff:ff,"));
        broadcast
            .filter_map(|line| {
                let seconds = line.split(' ').next()?.parse().ok()?;
                let (form, mac) = if request.iter().any(|request| line.contains(request)) {
                    ("request", line.split(' ').nth(1)?.to_owned())
                } else {
                    ("reply", mac_after(line, &reply)?)
                };
                Some(Gratuitous { seconds, form, mac })
            })
            .collect()
    }
}

fn mac_after(line: &str, words: &str) -> Option<String> {
    let (_, rest) = line.split_once(words)?;
    rest.split(',').next().map(str::to_owned)
}

impl Drop for Capture {
    fn drop(&mut self) {
        // `ip netns exec` becomes tcpdump, so this is its process.
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

/// Publishes sets to an announcer that runs in the announcing namespace.
pub struct Publisher {
    sets: Option<watch::Sender<Arc<AnnouncedSet>>>,
    view: AnnouncerView,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    pub fn start(lan: &Lan, settings: BurstSettings, first: AnnouncedSet) -> Self {
        let (sets, announced) = watch::channel(Arc::new(first));
        let (follower, view) = Announcer::new(settings, announced);
        let thread = within(&lan.announcing.0, move || {
            runtime().block_on(follower.run()).unwrap();
        });
        Self {
            sets: Some(sets),
            view,
            thread: Some(thread),
        }
    }

    pub fn publish(&self, set: AnnouncedSet) {
        self.sets.as_ref().unwrap().send(Arc::new(set)).unwrap();
    }

    pub fn wait_in_force(&self, generation: u64) {
        let waiting = self.view.wait_in_force(generation);
        runtime()
            .block_on(async { tokio::time::timeout(DEADLINE, waiting).await })
            .expect("in force in time")
            .expect("announcer runs");
        assert!(self.view.in_force() >= Some(generation));
    }

    pub const fn view(&self) -> &AnnouncerView {
        &self.view
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // The announcer ends with its publisher.
        self.sets = None;
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().expect("the announcer ended well");
        }
    }
}
