//! Asks the LAN once who uses some addresses, for a node that is about to announce them and does not
//! know whether another does. Asks by frames that change nobody's neighbour table (RFC 5227, RFC 4862);
//! decides nothing about what the answers mean.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdSet;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, trace};

use super::{LinkKey, Lost, addresses, claim, send_probe, split};
use crate::apply::announcer::ndp;
use crate::apply::announcer::socket::PacketSocket;
use crate::apply::announcer::verdict::Claim;
use crate::model::foreign::{ForeignHosts, MacAddress, Wanted};

/// Probes in one go and the pause behind them, so that a switch's and a host's queues take them: 6,400
/// in a second.
const BATCH: usize = 32;
const PAUSE: Duration = Duration::from_millis(5);
/// Claims that may wait; more are dropped by the kernel when its queue is full.
const WAITING_CLAIMS: usize = 256;

/// How often and how fast is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeOnce {
    /// Probes for each address.
    pub probes: u32,
    /// From one probe to the next, and from the last one to the verdict.
    pub spacing: Duration,
}

impl ProbeOnce {
    /// For an address that was just given out: nobody waits for it yet.
    pub const FULL: Self = Self {
        probes: 3,
        spacing: Duration::from_millis(200),
    };
    /// For an address whose owner seems to be gone: somebody waits.
    pub const SHORT: Self = Self {
        probes: 2,
        spacing: Duration::from_millis(30),
    };
}

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    /// Hosts that are no nodes and use one of the addresses.
    pub foreign: ForeignHosts,
    /// Other nodes that use one of the addresses.
    pub peers: ForeignHosts,
    /// Interfaces on which nobody could be asked, or not to the end, with the error: that nobody
    /// answered there says nothing.
    pub unasked: BTreeMap<String, String>,
}

impl Answers {
    /// Whether somebody uses the address.
    pub fn is_used(&self, address: IpAddr) -> bool {
        self.foreign.get(address).is_some() || self.peers.get(address).is_some()
    }
}

/// One probe that is to be sent.
#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    link: LinkKey,
    address: IpAddr,
    /// Probes that were sent before.
    sent: u32,
}

/// The questions under way.
struct Asking {
    sockets: BTreeMap<LinkKey, Arc<PacketSocket>>,
    names: BTreeMap<LinkKey, String>,
    /// In the order of their time: each one that is sent is followed by its next one after the same
    /// spacing.
    queue: VecDeque<Due>,
    answers: Answers,
}

impl ProbeOnce {
    /// Asks on each interface for its addresses, and gives who answered, after `probes` × `spacing` at
    /// the latest, a little more for many addresses. An address that is used is not asked for again, and
    /// when all of them are the answer comes at once.
    ///
    /// `wanted.own` are never heard; `peers` are the hardware addresses of the other nodes.
    pub async fn ask(self, wanted: &Wanted, peers: &OrdSet<MacAddress>) -> Answers {
        let (claims, mut heard) = mpsc::channel(WAITING_CLAIMS);
        let mut listeners = JoinSet::new();
        let mut asking = open(wanted).await;
        for (link, socket) in &asking.sockets {
            listeners.spawn(listen(*link, Arc::clone(socket), claims.clone()));
        }
        asking.fill(wanted);
        while let Some(due) = asking.queue.front().map(|due| due.at) {
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => self.send(&mut asking).await,
                Some(claim) = heard.recv() => asking.hear(claim, wanted, peers),
                Some(Ok(lost)) = listeners.join_next() => asking.lose(&lost),
            }
        }
        // What came in the same moment as the end.
        while let Ok(claim) = heard.try_recv() {
            asking.hear(claim, wanted, peers);
        }
        asking.answers
    }

    /// Sends some of the probes that are due, and drops the questions that are over.
    async fn send(self, asking: &mut Asking) {
        let now = Instant::now();
        let mut sent = 0;
        while let Some(due) = asking.queue.front().copied().filter(|due| due.at <= now) {
            asking.queue.pop_front();
            if due.sent == self.probes {
                continue;
            }
            let Some(socket) = asking.sockets.get(&due.link) else {
                continue;
            };
            match send_probe(socket, due.address) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    asking.queue.push_front(due);
                    tokio::time::sleep(PAUSE).await;
                    return;
                }
                Err(error) => {
                    asking.fail(due.link, &error.to_string());
                    continue;
                }
            }
            asking.queue.push_back(Due {
                at: now + self.spacing,
                sent: due.sent + 1,
                ..due
            });
            sent += 1;
            if sent == BATCH {
                tokio::time::sleep(PAUSE).await;
                return;
            }
        }
    }
}

impl Asking {
    /// One probe is due for each address of each interface that works.
    fn fill(&mut self, wanted: &Wanted) {
        let now = Instant::now();
        for (link, interface) in split(wanted) {
            if !self.sockets.contains_key(&link) {
                continue;
            }
            let due = interface.addresses.iter().map(|address| Due {
                at: now,
                link,
                address: *address,
                sent: 0,
            });
            self.queue.extend(due);
        }
    }

    fn hear(
        &mut self,
        (link, claim): (LinkKey, Claim),
        wanted: &Wanted,
        peers: &OrdSet<MacAddress>,
    ) {
        let (index, _) = link;
        let asked = wanted.interfaces.get(&index);
        let mac = MacAddress(claim.mac);
        if wanted.own.contains(&mac)
            || !asked.is_some_and(|asked| asked.addresses.contains(&claim.address))
        {
            return;
        }
        trace!(address = %claim.address, %mac, "heard a claim");
        let users = if peers.contains(&mac) {
            &mut self.answers.peers
        } else {
            &mut self.answers.foreign
        };
        if users.get(claim.address).is_none() {
            users.insert(claim.address, mac);
            self.queue.retain(|due| due.address != claim.address);
        }
    }

    fn lose(&mut self, lost: &Lost) {
        self.fail(lost.link, &lost.error.to_string());
    }

    /// Gives the interface up.
    fn fail(&mut self, link: LinkKey, error: &str) {
        self.sockets.remove(&link);
        self.queue.retain(|due| due.link != link);
        if let Some(name) = self.names.get(&link) {
            debug!(interface = name, error, "cannot ask on interface");
            let unasked = self.answers.unasked.entry(name.clone());
            unasked.or_insert_with(|| error.to_owned());
        }
    }
}

/// Opens all interfaces at the same time: each takes some 20 ms.
async fn open(wanted: &Wanted) -> Asking {
    let mut asking = Asking {
        sockets: BTreeMap::new(),
        names: BTreeMap::new(),
        queue: VecDeque::new(),
        answers: Answers::default(),
    };
    let mut opening = JoinSet::new();
    for (link, interface) in split(wanted) {
        asking.names.insert(link, interface.name.clone());
        let vips: Arc<[IpAddr]> = addresses(&interface).into();
        opening.spawn(async move {
            let (index, protocol) = link;
            let name = interface.name;
            (
                link,
                PacketSocket::open_in_background(protocol, index, &name, vips).await,
            )
        });
    }
    let mut failed = BTreeSet::new();
    while let Some(opened) = opening.join_next().await {
        match opened {
            Ok((link, Ok(socket))) => {
                asking.sockets.insert(link, Arc::new(socket));
            }
            Ok((link, Err(error))) => {
                failed.insert((link, error.to_string()));
            }
            // Only a defect of opening; its interface has no socket, so it is told below.
            Err(_) => {}
        }
    }
    for (link, error) in failed {
        asking.fail(link, &error);
    }
    let silent: Vec<LinkKey> = (asking.names.keys())
        .filter(|link| !asking.sockets.contains_key(link))
        .copied()
        .collect();
    for link in silent {
        asking.fail(link, "the packet socket could not be opened");
    }
    asking
}

/// Passes on the claims in the frames of one interface until that goes down or away.
async fn listen(
    link: LinkKey,
    socket: Arc<PacketSocket>,
    claims: mpsc::Sender<(LinkKey, Claim)>,
) -> Lost {
    let mut buffer = [0; ndp::LONGEST_FRAME + 2];
    loop {
        let length = match socket.receive(&mut buffer).await {
            Ok(length) => length,
            Err(error) => {
                return Lost {
                    link,
                    socket,
                    error,
                };
            }
        };
        match claim(&socket, buffer.get(..length).unwrap_or(&buffer)) {
            Ok(claim) => drop(claims.send((link, claim)).await),
            Err(reason) => trace!(%reason, "ignored frame"),
        }
    }
}
