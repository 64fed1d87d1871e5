//! A link between two network namespaces, the announcer on its one end, independent eyes on the other.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edgelb::apply::announcer::burst::BurstSettings;
use edgelb::apply::announcer::socket::{PacketSocket, Protocol};
use edgelb::apply::announcer::thread::AnnouncerThread;
use edgelb::apply::announcer::{Announcer, AnnouncerView, arp};
use edgelb::model::announcement::AnnouncedSet;
use nix::sched::{CloneFlags, setns};
use tokio::sync::watch;

use super::capture::Capture;

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
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

pub fn run(program: &str, arguments: &[&str]) -> String {
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

pub fn runtime() -> tokio::runtime::Runtime {
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
    pub fn new(vips: &[impl Into<IpAddr> + Copy]) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let lan = Self {
            announcing: Namespace::new("a", number),
            client: Namespace::new("c", number),
        };
        let settings = "echo 1 > net/ipv4/conf/all/arp_ignore; echo 0 > net/ipv6/conf/all/accept_dad; \
                        echo 0 > net/ipv6/conf/default/accept_dad";
        for namespace in [&lan.announcing.0, &lan.client.0] {
            let settings = format!("cd /proc/sys; {settings}");
            run("ip", &["netns", "exec", namespace, "sh", "-c", &settings]);
        }
        lan.ip(&["link", "set", "lo", "up"]);
        for vip in vips {
            lan.hold((*vip).into());
        }
        lan.create_link();
        lan
    }

    /// Makes an address a local route of the announcing end.
    fn hold(&self, vip: IpAddr) {
        let (family, length) = if vip.is_ipv4() {
            ("-4", 32)
        } else {
            ("-6", 128)
        };
        let vip = format!("{vip}/{length}");
        self.ip(&[
            family, "route", "add", "local", &vip, "dev", "lo", "proto", "225", "table", "local",
        ]);
    }

    /// The names of both namespaces: the announcer's and the client's.
    pub fn namespaces(&self) -> [&str; 2] {
        [&self.announcing.0, &self.client.0]
    }

    /// A program in the client's namespace, which must end well.
    pub fn client(&self, program: &str, arguments: &[&str]) -> String {
        let inside = ["netns", "exec", &self.client.0, program];
        run("ip", &[&inside, arguments].concat())
    }

    /// Whether a program in the client's namespace ends well.
    pub fn client_can(&self, program: &str, arguments: &[&str]) -> bool {
        let inside = ["netns", "exec", &self.client.0, program];
        let output = Command::new("ip")
            .args([&inside, arguments].concat())
            .output()
            .unwrap();
        output.status.success()
    }

    /// What the client's kernel knows of the address's hardware address.
    pub fn neighbour(&self, address: impl Into<IpAddr>) -> String {
        let address = address.into().to_string();
        self.client("ip", &["neigh", "show", &address, "dev", "eth0"])
    }

    /// Makes the client's kernel believe, as if it had just learnt it, that the address is at this
    /// hardware address.
    pub fn teach_client(&self, address: impl Into<IpAddr>, mac: [u8; 6]) {
        let (address, mac) = (address.into().to_string(), text(mac));
        let entry = [&address, "lladdr", &mac, "dev", "eth0", "nud", "reachable"];
        self.client("ip", &[&["neigh", "replace"], &entry[..]].concat());
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
        for (namespace, link, addresses) in [
            (
                announcing,
                "lan0",
                ["192.0.2.1/24".to_owned(), "2001:db8::1/64".to_owned()],
            ),
            (
                client,
                "eth0",
                [format!("{CLIENT}/24"), "2001:db8::100/64".to_owned()],
            ),
        ] {
            run("ip", &["-n", namespace, "link", "set", link, "up"]);
            for address in addresses {
                let arguments = ["-n", namespace, "address", "add", &address, "dev", link];
                run("ip", &arguments);
            }
        }
    }

    pub fn delete_link(&self) {
        self.ip(&["link", "delete", "lan0"]);
    }

    /// Index and hardware address of `lan0`.
    pub fn announcing_link(&self) -> (u32, [u8; 6]) {
        link(&self.announcing.0, "lan0")
    }

    /// The same of any link in the announcer's namespace.
    pub fn link(&self, name: &str) -> (u32, [u8; 6]) {
        link(&self.announcing.0, name)
    }

    /// The client's hardware address.
    pub fn client_mac(&self) -> [u8; 6] {
        link(&self.client.0, "eth0").1
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
        Capture::start(&self.client.0, &["arp"])
    }

    /// Everything of neighbor discovery and MLD that the client's end sees from now on.
    pub fn capture_ipv6(&self) -> Capture {
        Capture::start(&self.client.0, &["-v", "ip6"])
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

/// Publishes sets to an announcer that runs in the announcing namespace.
pub struct Publisher {
    sets: Option<watch::Sender<Arc<AnnouncedSet>>>,
    view: AnnouncerView,
    thread: Option<AnnouncerThread>,
}

impl Publisher {
    pub fn start(lan: &Lan, settings: BurstSettings, first: AnnouncedSet) -> Self {
        let (sets, announced) = watch::channel(Arc::new(first));
        let (follower, view) = Announcer::new(settings, announced);
        let start = move || AnnouncerThread::start(follower).unwrap();
        let thread = within(&lan.announcing.0, start).join().unwrap();
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
        let thread = self.thread.take().unwrap();
        let ended = runtime().block_on(thread.ended());
        if !std::thread::panicking() {
            ended.expect("the announcer ended well");
        }
    }
}
