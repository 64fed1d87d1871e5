//! Asks for VIPs at a given rate, by raw frames, and measures the answers: what was lost, and how long
//! each one took. Every request carries a number in its sender address, which the answer gives back.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use edgelb::lab::Namespace;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, bind, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

/// Between two bursts of the sender; as many frames as are due are sent in one go.
const TICK: Duration = Duration::from_micros(100);
/// How long an answer is waited for after the last request.
const PATIENCE: Duration = Duration::from_millis(300);

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Requests in a second.
    pub rate: u32,
    /// How long.
    pub duration: Duration,
    /// Who asks: the frames' source.
    pub mac: [u8; 6],
    /// What for; told from other loads of the same time by `mac`.
    pub vip: IpAddr,
}

/// What came of it.
#[derive(Debug)]
pub struct Measured {
    pub sent: usize,
    pub answered: usize,
    /// Requests in a second that were really sent.
    pub rate: f64,
    latencies: Vec<Duration>,
}

impl Measured {
    /// The latency that this part of the answers did not exceed.
    pub fn quantile(&self, part: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let index = ((last as f64) * part).ceil() as usize;
        self.latencies.get(index).copied().unwrap_or_default()
    }

    pub const fn lost(&self) -> usize {
        self.sent - self.answered
    }

    /// One line for people.
    pub fn line(&self) -> String {
        format!(
            "{:>7.0}/s sent {:>7} answered {:>7} lost {:>7}  p50 {:>5} µs  p99 {:>5} µs  max {:>6} µs",
            self.rate,
            self.sent,
            self.answered,
            self.lost(),
            self.quantile(0.5).as_micros(),
            self.quantile(0.99).as_micros(),
            self.quantile(1.0).as_micros(),
        )
    }
}

/// Asks from the link `eth0` of the namespace, on threads of its own.
pub fn ask(client: &Namespace, load: Load) -> Measured {
    let requests = usize::try_from(load.rate).unwrap() * load.duration.as_millis() as usize / 1000;
    let sent: Arc<Vec<AtomicU64>> = Arc::new((0..requests).map(|_| AtomicU64::new(0)).collect());
    let over = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let receiver = {
        let (sent, over) = (Arc::clone(&sent), Arc::clone(&over));
        let socket = client.try_run(|| open(load.vip)).unwrap();
        std::thread::spawn(move || receive(&socket, load, &sent, &over, start))
    };
    let socket = client.try_run(|| open(load.vip)).unwrap();
    let mut done = 0;
    let mut frame = request(load);
    while done < requests {
        let due = start.elapsed().as_nanos() * u128::from(load.rate) / 1_000_000_000;
        while done < requests.min(usize::try_from(due).unwrap()) {
            number(&mut frame, load.vip, done);
            sent[done].store(nanoseconds(start), Ordering::Relaxed);
            match socket.send(&frame) {
                Ok(_) => done += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("cannot ask: {error}"),
            }
        }
        std::thread::sleep(TICK);
    }
    let rate = f64::from(u32::try_from(done).unwrap()) / start.elapsed().as_secs_f64();
    std::thread::sleep(PATIENCE);
    over.store(true, Ordering::Relaxed);
    let mut latencies = receiver.join().unwrap();
    latencies.sort_unstable();
    Measured {
        sent: done,
        answered: latencies.len(),
        rate,
        latencies,
    }
}

fn receive(
    socket: &Socket,
    load: Load,
    sent: &[AtomicU64],
    over: &AtomicBool,
    start: Instant,
) -> Vec<Duration> {
    let mut latencies = Vec::with_capacity(sent.len());
    let mut buffer = [0_u8; 256];
    let mut seen = vec![false; sent.len()];
    while !over.load(Ordering::Relaxed) {
        let length = match nix::sys::socket::recv(
            socket.as_raw_fd(),
            &mut buffer,
            nix::sys::socket::MsgFlags::empty(),
        ) {
            Ok(length) => length,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => continue,
            Err(error) => panic!("cannot hear: {error}"),
        };
        let now = nanoseconds(start);
        let Some(number) = answered(&buffer[..length], load) else {
            continue;
        };
        if let Some(at) = sent.get(number)
            && !std::mem::replace(&mut seen[number], true)
        {
            let at = at.load(Ordering::Relaxed);
            latencies.push(Duration::from_nanos(now.saturating_sub(at)));
        }
    }
    latencies
}

fn nanoseconds(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap()
}

fn open(vip: IpAddr) -> std::io::Result<Socket> {
    let protocol: u16 = if vip.is_ipv4() { 0x0806 } else { 0x86dd };
    let socket = Socket::new(
        Domain::PACKET,
        Type::RAW,
        Some(Protocol::from(i32::from(protocol.to_be()))),
    )?;
    let address: LinkAddr = getifaddrs()?
        .filter(|entry| entry.interface_name == "eth0")
        .find_map(|entry| entry.address.as_ref()?.as_link_addr().copied())
        .ok_or(ErrorKind::NotFound)?;
    bind(socket.as_raw_fd(), &address)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
    Ok(socket)
}

/// The request with the number zero.
fn request(load: Load) -> Vec<u8> {
    match load.vip {
        IpAddr::V4(vip) => {
            let mut frame = edgelb::apply::announcer::arp::probe(vip, load.mac);
            frame[28..32].copy_from_slice(&Ipv4Addr::new(10, 0, 0, 0).octets());
            frame.to_vec()
        }
        IpAddr::V6(vip) => {
            // From fe80::, with the source link-layer option that hosts send.
            let mut frame = edgelb::apply::announcer::ndp::probe(vip, load.mac).to_vec();
            frame[18..20].copy_from_slice(&32_u16.to_be_bytes());
            frame[22..24].copy_from_slice(&[0xfe, 0x80]);
            frame.extend([1, 1]);
            frame.extend(load.mac);
            frame
        }
    }
}

/// Writes the number of a request.
fn number(frame: &mut [u8], vip: IpAddr, number: usize) {
    let octets = u32::try_from(number).unwrap().to_be_bytes();
    match vip {
        IpAddr::V4(_) => frame[29..32].copy_from_slice(&octets[1..]),
        IpAddr::V6(_) => {
            frame[35..38].copy_from_slice(&octets[1..]);
            frame[56..58].copy_from_slice(&[0, 0]);
            // The pseudo header's length and next header, and all from the addresses on.
            let sum = frame[22..].chunks(2).fold(32 + 58, |sum: u32, pair| {
                sum + (u32::from(pair[0]) << 8 | u32::from(pair[1]))
            });
            let folded = (sum & 0xffff) + (sum >> 16);
            let folded = (folded & 0xffff) + (folded >> 16);
            let checksum = !u16::try_from(folded).unwrap();
            frame[56..58].copy_from_slice(&checksum.to_be_bytes());
        }
    }
}

/// The number of the request that this frame answers, if it is one of this load's.
fn answered(frame: &[u8], load: Load) -> Option<usize> {
    let (ours, number) = match load.vip {
        IpAddr::V4(vip) => (
            frame.len() >= 42 && frame[20..22] == [0, 2] && frame[28..32] == vip.octets(),
            frame.get(38..42)?,
        ),
        IpAddr::V6(vip) => (
            frame.len() >= 86 && frame[54] == 136 && frame[62..78] == vip.octets(),
            frame.get(50..54)?,
        ),
    };
    let [_, rest @ ..] = <[u8; 4]>::try_from(number).ok()?;
    let number = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]);
    (ours && frame[..6] == load.mac).then_some(number as usize)
}
