//! Finds the addresses of configured peers. A lookup runs on a thread of its own, for it may take as
//! long as it likes: neither the machine nor the end of the daemon waits for it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use tokio::sync::mpsc;
use tracing::warn;

use crate::config::PeerAddress;

/// The addresses of one peer, or why they are not known.
type Answer = (usize, Result<Vec<SocketAddr>, String>);

/// Configured peers and what is known of their addresses.
#[derive(Debug)]
pub struct Resolver {
    peers: Vec<Resolved>,
    answers: mpsc::UnboundedReceiver<Answer>,
    sender: mpsc::UnboundedSender<Answer>,
    under_way: BTreeSet<usize>,
}

#[derive(Debug)]
struct Resolved {
    peer: PeerAddress,
    addresses: Vec<SocketAddr>,
    /// The last error, so that each is logged once.
    error: Option<String>,
}

impl Resolver {
    /// Of these peers; addresses are known at once, names by and by.
    pub fn new(peers: &[PeerAddress]) -> Self {
        let (sender, answers) = mpsc::unbounded_channel();
        let peers = peers.iter().map(|peer| {
            let address = peer.host.parse::<IpAddr>().ok();
            let addresses = address.map(|address| SocketAddr::new(address, peer.port.get()));
            Resolved {
                peer: peer.clone(),
                addresses: addresses.into_iter().collect(),
                error: None,
            }
        });
        Self {
            peers: peers.collect(),
            answers,
            sender,
            under_way: BTreeSet::new(),
        }
    }

    /// The addresses of each peer, as far as they are known.
    pub fn addresses(&self) -> impl Iterator<Item = &[SocketAddr]> {
        self.peers.iter().map(|peer| peer.addresses.as_slice())
    }

    /// Looks up the names of all peers that are not found at the addresses that are known.
    pub fn look_up(&mut self, is_found: impl Fn(&[SocketAddr]) -> bool) {
        for (index, resolved) in self.peers.iter().enumerate() {
            let is_name = resolved.peer.host.parse::<IpAddr>().is_err();
            if !is_name || is_found(&resolved.addresses) || !self.under_way.insert(index) {
                continue;
            }
            let (sender, peer) = (self.sender.clone(), resolved.peer.clone());
            let work = move || {
                let found = (peer.host.as_str(), peer.port.get()).to_socket_addrs();
                let answer = found
                    .map(Iterator::collect)
                    .map_err(|error| error.to_string());
                // Nobody waits any more when the daemon has ended.
                let _ = sender.send((index, answer));
            };
            let name = "resolver".to_owned();
            if let Err(error) = std::thread::Builder::new().name(name).spawn(work) {
                warn!(%error, "cannot start a thread to look up a peer; it is tried again");
                self.under_way.remove(&index);
            }
        }
    }

    /// Waits for a lookup to end; whether the addresses are other ones now. Cancel safe.
    pub async fn changed(&mut self) -> bool {
        let Some((index, answer)) = self.answers.recv().await else {
            return std::future::pending().await;
        };
        self.under_way.remove(&index);
        let Some(resolved) = self.peers.get_mut(index) else {
            return false;
        };
        match answer {
            Ok(addresses) => {
                resolved.error = None;
                let changed = resolved.addresses != addresses;
                resolved.addresses = addresses;
                changed
            }
            Err(error) => {
                // What was known may still be right.
                if resolved.error.as_ref() != Some(&error) {
                    warn!(peer = %resolved.peer.host, %error, "cannot look up a peer of membership.peers; it is tried again");
                    resolved.error = Some(error);
                }
                false
            }
        }
    }
}
