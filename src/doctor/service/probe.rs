//! Opens TCP connections from this node and closes them at once: whether somebody listens there, and if
//! not, how that shows. Sends no data; a bounded number, at the same time, for a bounded time.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::model::family::Protocol;

/// A host on the same site answers in a fraction of this.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// Connections under way at the same time.
const AT_ONCE: usize = 64;

/// Where is asked.
pub(super) type Target = (Protocol, SocketAddr);

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seen {
    /// Somebody listens.
    Open,
    /// Nothing was asked: what is no TCP says nothing of itself. There is a way to it.
    Unasked,
    /// The host is there, and nobody listens.
    Refused,
    /// There is no way to it, or its neighbour does not answer.
    NoRoute,
    /// A firewall of this node forbids it.
    Forbidden,
    /// Nothing came back, and it went out by the default route.
    Astray,
    /// Nothing came back.
    Silent,
}

impl Seen {
    /// As the evidence says it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "answers",
            Self::Unasked => "was not asked",
            Self::Refused => "refuses connections",
            Self::NoRoute => "has no route to it",
            Self::Forbidden => "is forbidden by a firewall of this node",
            Self::Astray => "is sent out by the default route",
            Self::Silent => "does not answer within 500 ms",
        }
    }
}

/// Asks them all.
pub(super) async fn ask(targets: impl IntoIterator<Item = Target>) -> BTreeMap<Target, Seen> {
    let limit = Arc::new(Semaphore::new(AT_ONCE));
    let mut asking = JoinSet::new();
    for target in targets {
        let limit = Arc::clone(&limit);
        asking.spawn(async move {
            // Never closed.
            let _permit = limit.acquire().await;
            (target, one(target).await)
        });
    }
    asking.join_all().await.into_iter().collect()
}

async fn one((protocol, address): Target) -> Seen {
    if protocol != Protocol::Tcp {
        return way(address).await;
    }
    match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            drop(stream);
            Seen::Open
        }
        Ok(Err(error)) => told(&error),
        Err(_) => Seen::Silent,
    }
}

fn told(error: &io::Error) -> Seen {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Seen::Refused,
        // A blackhole is an invalid argument to the kernel.
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::InvalidInput => {
            Seen::NoRoute
        }
        ErrorKind::PermissionDenied => Seen::Forbidden,
        _ => Seen::Silent,
    }
}

/// Connecting a datagram socket looks up the route and sends nothing.
async fn way(address: SocketAddr) -> Seen {
    let own: IpAddr = match address {
        SocketAddr::V4(_) => IpAddr::from([0; 4]),
        SocketAddr::V6(_) => IpAddr::from([0; 16]),
    };
    let Ok(socket) = UdpSocket::bind((own, 0)).await else {
        return Seen::Unasked;
    };
    match socket.connect(address).await {
        Err(error) if told(&error) == Seen::NoRoute => Seen::NoRoute,
        _ => Seen::Unasked,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    #[tokio::test]
    async fn who_listens_is_told_from_who_does_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = {
            let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            gone.local_addr().unwrap()
        };
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let seen = ask([(tcp, open), (tcp, closed), (udp, closed)]).await;
        let seen: Vec<Seen> = [(tcp, open), (tcp, closed), (udp, closed)]
            .iter()
            .map(|target| seen[target])
            .collect();
        assert_eq!(seen, [Seen::Open, Seen::Refused, Seen::Unasked]);
    }
}
