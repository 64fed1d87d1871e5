//! Two fenced nodes and a client on one bridge; frames by packet sockets, tcpdump as the eye.

use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use edgelb::apply::fence::{Fence, FenceError, Fenced, Lease, Renewal, TIMEOUT};
use edgelb::lab::{Namespace, tool};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, bind};
use socket2::{Domain, Protocol, Socket, Type};

pub const VIP4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
pub const OTHER4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 200);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0x100);
pub const OTHER6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0x200);
pub const CLIENT: &str = "10.9.0.9";
/// Protocols that a packet socket may state, right or wrong: ARP, all, none, IPv4, IPv6, VLAN.
pub const PROTOCOLS: [u16; 6] = [0x0806, 3, 0, 0x0800, 0x86dd, 0x8100];
/// Timeouts are counted in ticks of the kernel, ten milliseconds at most.
pub const TICKS: Duration = Duration::from_millis(20);
const DEADLINE: Duration = Duration::from_secs(10);

/// A fence with the lease that opens it.
pub struct Held {
    fence: Fence,
    lease: Lease,
}

impl Held {
    pub fn renew(&mut self) -> Result<Renewal, FenceError> {
        self.lease.renew()
    }
}

impl Deref for Held {
    type Target = Fence;

    fn deref(&self) -> &Fence {
        &self.fence
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Fence {
        &mut self.fence
    }
}

/// Runs `ip` or another program in a namespace, its arguments in one text.
pub fn run(namespace: &Namespace, command: &str) -> String {
    let (program, arguments) = command.split_once(' ').unwrap();
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    tool(namespace, program, &arguments).unwrap()
}

/// A namespace on the LAN, by its interface `eth0`.
pub struct Node {
    pub namespace: Namespace,
    pub address: String,
}

/// Client, two nodes and the bridge between them, `lan0`, which is the client's interface.
pub struct Lan {
    pub client: Namespace,
    pub nodes: [Node; 2],
}

impl Lan {
    pub fn new() -> Self {
        let client = Namespace::create("client").unwrap();
        run(&client, "ip link add lan0 type bridge");
        run(&client, "ip link set lan0 up");
        run(&client, &format!("ip addr add {CLIENT}/24 dev lan0"));
        run(&client, "ip addr add fd09::9/64 dev lan0 nodad");
        let nodes = [1, 2].map(|number| {
            let node = Node {
                namespace: Namespace::create("node").unwrap(),
                address: format!("10.9.0.{number}"),
            };
            node.connect(&client, number);
            node
        });
        Self { client, nodes }
    }

    /// What the client hears from now on.
    pub fn capture(&self) -> Capture {
        Capture::start(&self.client)
    }
}

impl Node {
    pub fn connect(&self, client: &Namespace, number: u32) {
        let place = format!("/proc/{}/fd/{}", std::process::id(), client.descriptor());
        let node = &self.namespace;
        run(
            node,
            &format!("ip link add eth0 type veth peer name port{number} netns {place}"),
        );
        run(node, "ip link set eth0 up");
        run(client, &format!("ip link set port{number} master lan0 up"));
        run(node, &format!("ip addr add {}/24 dev eth0", self.address));
        run(
            node,
            &format!("ip addr add fd09::{number}/64 dev eth0 nodad"),
        );
    }

    /// Runs in a thread of the node.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(work).unwrap()
    }

    pub fn index(&self, interface: &str) -> u32 {
        self.within(|| nix::net::if_::if_nametoindex(interface).unwrap())
    }

    /// Everything fenced on eth0; owned is what is given.
    pub fn fenced(&self, owned: &[IpAddr]) -> Fenced {
        Fenced {
            interfaces: [(self.index("eth0"), "eth0".to_owned())].into(),
            vips: [IpAddr::V4(VIP4), IpAddr::V6(VIP6)].into_iter().collect(),
            owned: owned.iter().copied().collect(),
        }
    }

    /// A fence that holds this.
    pub fn fence(&self, fenced: &Fenced) -> Held {
        self.within(|| {
            let mut fence = Fence::open().unwrap();
            fence.set(fenced).unwrap();
            let lease = fence.lease();
            Held { fence, lease }
        })
    }

    /// Sends a frame by a packet socket that states this protocol; whether it left.
    pub fn sends(&self, interface: &str, protocol: u16, frame: &[u8]) -> bool {
        match self.within(|| send(interface, protocol, frame)) {
            Ok(_) => true,
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => false,
            Err(error) => panic!("{interface}: {error}"),
        }
    }

    /// The same right after a renewal; once more where this machine stood still for so long that the
    /// lease was over by right.
    pub fn sends_leased(&self, fence: &mut Held, interface: &str, frame: &[u8]) -> bool {
        loop {
            let renewal = self.within(|| fence.renew()).unwrap();
            assert_eq!(renewal, Renewal::Taken);
            let renewed = Instant::now();
            let left = self.sends(interface, 0x0806, frame);
            if left || renewed.elapsed() + TICKS < TIMEOUT {
                return left;
            }
        }
    }

    pub fn mac(&self, interface: &str) -> [u8; 6] {
        self.within(|| link(interface).unwrap().addr().unwrap())
    }

    /// Both forms of an announcement of the address, and a solicitation or request in its name.
    pub fn announcements(&self, address: IpAddr) -> Vec<Vec<u8>> {
        let mac = self.mac("eth0");
        match address {
            IpAddr::V4(address) => vec![
                arp(1, mac, address, address),
                arp(2, mac, address, address),
                arp(1, mac, address, CLIENT.parse().unwrap()),
            ],
            IpAddr::V6(address) => {
                let own = "fe80::1".parse().unwrap();
                vec![
                    neighbor(136, mac, own, address),
                    neighbor(135, mac, address, "fd09::9".parse().unwrap()),
                    neighbor(133, mac, address, Ipv6Addr::UNSPECIFIED),
                ]
            }
        }
    }
}

fn link(interface: &str) -> io::Result<LinkAddr> {
    getifaddrs()?
        .filter(|it| it.interface_name == interface)
        .find_map(|it| it.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

fn send(interface: &str, protocol: u16, frame: &[u8]) -> io::Result<usize> {
    let protocol = i32::from(protocol.to_be());
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(protocol)))?;
    bind(socket.as_raw_fd(), &link(interface)?)?;
    socket.send(frame)
}

fn arp(operation: u8, mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend(if operation == 1 { [0; 6] } else { mac });
    frame.extend(target.octets());
    frame
}

/// A neighbor or router message; the client need not believe it, hence no checksum.
fn neighbor(kind: u8, mac: [u8; 6], source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(mac);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
    frame.extend(source.octets());
    frame.extend("ff02::1".parse::<Ipv6Addr>().unwrap().octets());
    frame.extend([kind, 0, 0, 0, 0x20, 0, 0, 0]);
    frame.extend(target.octets());
    frame.extend([2, 1]);
    frame.extend(mac);
    frame
}

/// The same frame with a tag of this VLAN.
pub fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let control = vlan.to_be_bytes();
    [addresses, &[0x81, 0], &control, rest].concat()
}

/// A running tcpdump.
pub struct Capture {
    tcpdump: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Capture {
    fn start(namespace: &Namespace) -> Self {
        let mut command = Command::new("tcpdump");
        command
            .args(["-i", "lan0", "-Z", "root", "-n", "-e", "-t", "-l"])
            .args(["--immediate-mode", "arp or icmp6 or vlan"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut tcpdump = namespace.spawn(&mut command).unwrap();
        let mut errors = BufReader::new(tcpdump.stderr.take().unwrap());
        let mut started = String::new();
        while !started.contains("listening on") {
            let length = errors.read_line(&mut started).unwrap();
            assert_ne!(length, 0, "tcpdump: {started}");
        }
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sink, output) = (Arc::clone(&lines), tcpdump.stdout.take().unwrap());
        std::thread::spawn(move || {
            // Kept open, or tcpdump would end when it prints its summary.
            let _errors = errors;
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Self { tcpdump, lines }
    }

    /// The lines up to this one of a node, which it must hear: so nothing before it is missing.
    pub fn up_to(&self, node: &Node, mark: Ipv4Addr) -> Vec<String> {
        let frame = arp(1, node.mac("eth0"), mark, mark);
        assert!(node.sends("eth0", 0x0806, &frame), "the mark itself");
        let start = Instant::now();
        loop {
            let lines = self.lines.lock().unwrap().clone();
            if lines.iter().any(|line| line.contains(&mark.to_string())) {
                return lines;
            }
            assert!(start.elapsed() < DEADLINE, "{mark} never came: {lines:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}
