//! This host's interfaces, addresses, gateways and resolvers, published as they change.
//!
//! Notifications only say that something changed; what is published is always a whole listing,
//! taken after the subscription. Routes outside of the main table cause no work: the kernel filters
//! them, among them the local routes that edgelb itself makes by the thousand.

mod listing;
mod message;
mod resolver;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_ROUTE;
use socket2::SockFilter;
use tokio::sync::watch;

use crate::model::host::Host;
use crate::netlink_listener::{NetlinkListener, filter};
use listing::Listing;

/// `RTNLGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
/// `rtm_table`, counted from `struct nlmsghdr` on.
const TABLE_OFFSET: u32 = 20;
const RESOLVER_FILE: &str = "/etc/resolv.conf";
/// Changes come in flocks: an interface that goes up brings addresses and routes.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// A listing is followed by this many times its own duration of rest.
const REST_FACTOR: u32 = 10;
/// Never by more than this: beside other work a listing may take long for no fault of its own.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// After a listing that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Why this host's facts are not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot subscribe to rtnetlink notifications")]
    Subscribe(#[source] io::Error),
    #[error("cannot read notifications from rtnetlink")]
    Receive(#[source] io::Error),
    #[error("cannot list interfaces, addresses and routes")]
    List(#[source] io::Error),
}

/// Lists this host once, in the calling thread's network namespace. Takes milliseconds.
pub fn list() -> Result<Host, Error> {
    Listing::open()
        .and_then(|mut listing| list_with(&mut listing, Path::new(RESOLVER_FILE)))
        .map_err(Error::List)
}

/// Watches one network namespace.
#[derive(Debug)]
pub struct HostSource {
    listener: NetlinkListener,
    listing: Listing,
    resolver_file: PathBuf,
    sender: watch::Sender<Host>,
    listings: watch::Sender<u64>,
}

impl HostSource {
    /// Subscribes, then lists, both in the calling thread's network namespace and inside a tokio
    /// runtime. The receiver has the host as it is now; [`Self::run`] keeps it so.
    pub fn open() -> Result<(Self, watch::Receiver<Host>), Error> {
        Self::open_with(PathBuf::from(RESOLVER_FILE))
    }

    /// Like [`Self::open`], with another file in place of `/etc/resolv.conf`.
    pub fn open_with(resolver_file: PathBuf) -> Result<(Self, watch::Receiver<Host>), Error> {
        let listener = NetlinkListener::open(NETLINK_ROUTE, &GROUPS, &main_table_only())
            .map_err(Error::Subscribe)?;
        let mut listing = Listing::open().map_err(Error::List)?;
        let host = list_with(&mut listing, &resolver_file).map_err(Error::List)?;
        let (sender, receiver) = watch::channel(host);
        let source = Self {
            listener,
            listing,
            resolver_file,
            sender,
            listings: watch::channel(1).0,
        };
        Ok((source, receiver))
    }

    /// Counts the listings so far.
    pub fn listings(&self) -> watch::Receiver<u64> {
        self.listings.subscribe()
    }

    /// Publishes every change until nobody listens any more.
    pub async fn run(mut self) -> Result<(), Error> {
        loop {
            tokio::select! {
                () = self.sender.closed() => return Ok(()),
                // Lost ones are no different: all is listed anyway.
                result = self.listener.receive() => {
                    result.map_err(Error::Receive)?;
                }
            }
            let mut rest = DEBOUNCE;
            loop {
                tokio::time::sleep(rest).await;
                // What was told so far will be in the listing, what is told later in the next one.
                self.discard()?;
                let (listed, duration);
                (self, listed, duration) = self.refresh().await?;
                match listed {
                    Ok(()) => {
                        tokio::time::sleep((duration * REST_FACTOR).min(LONGEST_REST)).await;
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot list interfaces, addresses and routes");
                        rest = RETRY;
                    }
                }
            }
        }
    }

    fn discard(&mut self) -> Result<(), Error> {
        while self
            .listener
            .try_receive()
            .map_err(Error::Receive)?
            .is_some()
        {}
        Ok(())
    }

    /// Lists on a thread that may block: a full internet table takes a second.
    async fn refresh(self) -> Result<(Self, io::Result<()>, Duration), Error> {
        let Self {
            listener,
            mut listing,
            resolver_file,
            sender,
            listings,
        } = self;
        let began = Instant::now();
        let work = move || {
            let host = list_with(&mut listing, &resolver_file);
            (listing, resolver_file, host)
        };
        let (listing, resolver_file, host) = tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::List(io::Error::other(error)))?;
        let listed = host.map(|host| {
            sender.send_if_modified(|published| {
                let changed = *published != host;
                *published = host;
                changed
            });
        });
        listings.send_modify(|count| *count = count.saturating_add(1));
        let source = Self {
            listener,
            listing,
            resolver_file,
            sender,
            listings,
        };
        Ok((source, listed, began.elapsed()))
    }
}

fn list_with(listing: &mut Listing, resolver_file: &Path) -> io::Result<Host> {
    let mut host = listing.host()?;
    host.infrastructure
        .extend(resolver::name_servers(resolver_file));
    host.infrastructure.sort_unstable();
    host.infrastructure.dedup();
    Ok(host)
}

/// Takes all notifications about links and addresses, and those about routes of the main table.
fn main_table_only() -> [SockFilter; 7] {
    [
        filter::load_half(filter::TYPE),
        filter::half_is(message::NEW_ROUTE, 1, 0),
        filter::half_is(message::DELETE_ROUTE, 0, 2),
        filter::load_byte(TABLE_OFFSET),
        filter::byte_is(message::TABLE_MAIN, 0, 1),
        filter::accept(),
        filter::ignore(),
    ]
}
