//! What becomes of packets: who answers, whom they saw, refusals, silence, and what others count.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use edgelb::lab::client::{Answer, Protocol, RequestError, RequestOptions, request_with};
use edgelb::lab::{LabError, Namespace, Workload, tool};

use crate::rig::{ipvs, request};

pub const TCP: Protocol = Protocol::Tcp;
pub const UDP: Protocol = Protocol::Udp;
pub const PROTOCOLS: [Protocol; 2] = [TCP, UDP];
/// Where nobody listens, in every namespace.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);
/// Whether it is IPv6.
pub const FAMILIES: [bool; 2] = [false, true];

/// The answer to a request that must be answered.
#[track_caller]
pub fn answered(from: &Namespace, to: SocketAddr, protocol: Protocol) -> Answer {
    request(from, to, protocol)
        .unwrap_or_else(|error| panic!("{} to {protocol} {to}: {error}", from.name()))
}

/// Requests until every one of these workloads has answered, and some more; no other one may answer.
/// With n workloads of equal chance one of them stays away from 100 requests in one of 10^17 runs for
/// n = 3. Gives the addresses that they saw.
#[track_caller]
pub fn reaches(
    from: &Namespace,
    to: SocketAddr,
    protocol: Protocol,
    workloads: &[&Workload],
) -> BTreeSet<IpAddr> {
    let wanted: BTreeSet<&str> = workloads.iter().map(|it| it.name.as_str()).collect();
    let mut by_workload = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut more = 4;
    for _ in 0..100 {
        let answer = answered(from, to, protocol);
        assert!(
            wanted.contains(answer.workload.as_str()),
            "{} to {protocol} {to}: {} answered, not {wanted:?}",
            from.name(),
            answer.workload
        );
        by_workload.insert(answer.workload);
        seen.insert(answer.seen.ip());
        if by_workload.len() == wanted.len() {
            more -= 1;
        }
        if more == 0 {
            return seen;
        }
    }
    panic!(
        "{} to {protocol} {to}: only {by_workload:?} answered, not {wanted:?}",
        from.name()
    );
}

/// Whether a request met a refusal; a process on the node itself is told so by send(2) with EPERM,
/// where the refusal is in its way out.
pub fn is_refusal(result: &Result<Answer, RequestError>) -> bool {
    match result {
        Err(RequestError::Refused) => true,
        Err(RequestError::Other(error)) => error.kind() == std::io::ErrorKind::PermissionDenied,
        _ => false,
    }
}

/// A request must be refused, within a second: the first packet, not one that is sent again. But
/// Linux 6.12, on which the tests with IPVS run, loses the first ICMP error over IPv6 for a process of
/// its own, whoever sent it (so with a single reject rule of nft and nothing of ours): its connect is
/// refused by the answer to the second packet, a second later. Linux 6.18 does not. An emulated
/// machine may take its time for anything: what a refusal by the loopback takes at the same time is
/// allowed on top there.
#[track_caller]
pub fn refused(from: &Namespace, to: SocketAddr, protocol: Protocol) {
    let timed = |to, protocol| {
        let start = Instant::now();
        (request(from, to, protocol), start.elapsed())
    };
    let (result, elapsed, control) = std::thread::scope(|scope| {
        let control = ipvs().then(|| scope.spawn(|| timed(NOBODY, TCP).1));
        let (result, elapsed) = timed(to, protocol);
        let control = control.map_or(Duration::ZERO, |it| it.join().unwrap());
        (result, elapsed, control)
    });
    assert!(
        is_refusal(&result),
        "{} to {protocol} {to}: {result:?}, not refused",
        from.name()
    );
    // Nodes are the only ones here that refuse their own requests.
    let second_packet = ipvs() && to.is_ipv6() && from.name().starts_with("edge-");
    let bound = Duration::from_secs(if second_packet { 2 } else { 1 }) + control;
    assert!(
        elapsed < bound,
        "{} to {protocol} {to}: refused after {elapsed:?}, not within {bound:?}",
        from.name()
    );
}

/// A request must meet silence. A refusal comes within milliseconds here (and within a second on an
/// emulated machine), an answer too; nothing is held back by an address resolution, which the
/// requests before have done. So a second tells silence from both, and three where all is slow.
#[track_caller]
pub fn silent(from: &Namespace, to: SocketAddr, protocol: Protocol) {
    let options = RequestOptions {
        timeout: Duration::from_secs(if ipvs() { 3 } else { 1 }),
        ..RequestOptions::default()
    };
    let result = request_with(from, to, protocol, &options);
    assert!(
        matches!(result, Err(RequestError::TimedOut)),
        "{} to {protocol} {to}: {result:?}, not silence",
        from.name()
    );
}

/// Packets that arrive in a namespace, counted by a rule of its own before anything else sees them.
pub struct Arrivals<'a> {
    namespace: &'a Namespace,
    matches: String,
}

impl<'a> Arrivals<'a> {
    /// Of these transport ports.
    pub fn at(namespace: &'a Namespace, ports: &str) -> Self {
        Self::of(
            namespace,
            &format!("meta l4proto {{ tcp, udp }} th dport {{ {ports} }}"),
        )
    }

    /// Of what the words of an nft rule match.
    pub fn of(namespace: &'a Namespace, matches: &str) -> Self {
        let ruleset = format!(
            "table inet arrivals {{ chain seen {{ type filter hook prerouting priority -450; {matches} counter; }}; }}"
        );
        tool(namespace, "nft", &[&ruleset]).unwrap();
        Self {
            namespace,
            matches: matches.to_owned(),
        }
    }

    pub fn packets(&self) -> u64 {
        let text = tool(
            self.namespace,
            "nft",
            &["list", "chain", "inet", "arrivals", "seen"],
        )
        .unwrap();
        let mut words = text
            .split_whitespace()
            .skip_while(|word| *word != "packets");
        words.nth(1).unwrap().parse().unwrap()
    }

    #[track_caller]
    pub fn assert_none(&self) {
        assert_eq!(
            self.packets(),
            0,
            "{}: {} arrived",
            self.namespace.name(),
            self.matches
        );
    }
}

impl Drop for Arrivals<'_> {
    fn drop(&mut self) {
        // The namespace may be gone already.
        let _ = tool(
            self.namespace,
            "nft",
            &["delete", "table", "inet", "arrivals"],
        );
    }
}

/// Everything that a program says of the whole datapath: rules, routes and virtual servers.
pub fn datapath_text(namespace: &Namespace) -> String {
    try_datapath_text(namespace).unwrap()
}

/// The same while there may be no table.
pub fn try_datapath_text(namespace: &Namespace) -> Result<String, LabError> {
    let mut text = tool(namespace, "nft", &["-s", "list", "table", "inet", "edgelb"])?;
    for family in ["-4", "-6"] {
        let routes = [family, "route", "show", "table", "local", "proto", "225"];
        text += &tool(namespace, "ip", &routes)?;
    }
    if ipvs() {
        text += &tool(namespace, "ipvsadm", &["-Sn"])?;
    }
    Ok(text)
}

/// The same without what changes by itself (counters, the time that entries have left) and without
/// an order: the words between the punctuation of nft, the lines of the others.
pub fn try_datapath_items(namespace: &Namespace) -> Result<Vec<String>, LabError> {
    let text = try_datapath_text(namespace)?;
    let mut items: Vec<String> = text
        .split([',', '{', '}', '\n'])
        .map(|item| {
            let words: Vec<&str> = item.split_whitespace().collect();
            let mut kept = Vec::new();
            let mut index = 0;
            while let Some(word) = words.get(index) {
                index += match *word {
                    "packets" | "bytes" | "expires" | "handle" => 2,
                    word => {
                        kept.push(word);
                        1
                    }
                };
            }
            kept.join(" ")
        })
        .filter(|item| !item.is_empty())
        .collect();
    items.sort();
    Ok(items)
}

/// An HTTP answer: status, head in lower case, body.
pub struct Http {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Http {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Asks by HTTP from there; an error is the connection's.
pub fn http(from: &Namespace, to: SocketAddr, request: &str) -> std::io::Result<Http> {
    let limit = Duration::from_secs(if ipvs() { 10 } else { 2 });
    let text = from.try_run(|| {
        let mut stream = TcpStream::connect_timeout(&to, limit)?;
        stream.set_read_timeout(Some(limit))?;
        let message = format!(
            "{request} HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(message.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok(Http {
        status: status.unwrap_or_else(|| panic!("no HTTP: {text}")),
        head: head.to_lowercase(),
        body: body.to_owned(),
    })
}
