//! A running tcpdump on the client's end, and what it saw.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// A neighbor advertisement as tcpdump saw it.
#[derive(Debug, Clone)]
pub struct Advertisement {
    pub seconds: f64,
    /// Hardware addresses of the frame.
    pub from: String,
    pub to: String,
    /// Source and destination of the packet.
    pub addresses: String,
    pub flags: String,
    /// What the option says.
    pub mac: String,
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
    pub fn start(namespace: &str, filter: &[&str]) -> Self {
        let mut tcpdump = Command::new("ip")
            .args([
                "netns", "exec", namespace, "tcpdump", "-i", "eth0", "-Z", "root",
            ])
            .args(["-n", "-e", "-tt", "-l", "--immediate-mode"])
            .args(filter)
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
        let sink: Arc<Mutex<Vec<String>>> = Arc::clone(&lines);
        std::thread::spawn(move || {
            // Kept open, or tcpdump would end when it prints its summary.
            let _errors = errors;
            for line in output.lines().map_while(Result::ok) {
                let mut lines = sink.lock().unwrap();
                // What is said of options follows in lines of their own.
                match lines.last_mut() {
                    Some(last) if line.starts_with(['\t', ' ']) => *last += &line,
                    _ => lines.push(line),
                }
            }
        });
        Self { tcpdump, lines }
    }

    /// What tcpdump printed, one line a frame.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The neighbor advertisements of the VIP.
    pub fn advertisements(&self, vip: Ipv6Addr) -> Vec<Advertisement> {
        let target = format!("tgt is {vip},");
        let lines = self.lines();
        let advertisements = lines
            .iter()
            .filter(|line| line.contains("neighbor advertisement") && line.contains(&target));
        advertisements
            .filter_map(|line| {
                let mut words = line.split(' ');
                let seconds = words.next()?.parse().ok()?;
                let (_, headers) = line.split_once("payload length: 32) ")?;
                let (addresses, _) = headers.split_once(": ")?;
                let (_, flags) = line.split_once("Flags [")?;
                assert!(
                    line.contains("hlim 255") && line.contains("[icmp6 sum ok]"),
                    "{line}"
                );
                Some(Advertisement {
                    seconds,
                    from: words.next()?.to_owned(),
                    to: words.nth(1)?.trim_end_matches(',').to_owned(),
                    addresses: addresses.to_owned(),
                    flags: flags.split(']').next()?.to_owned(),
                    mac: line.rsplit(' ').next()?.to_owned(),
                })
            })
            .collect()
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
