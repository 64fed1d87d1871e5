//! Decides what follows when others claim VIPs that this node announces, and tells who does. Nothing
//! that a claim says makes this node fall silent: anybody on the LAN can forge one.
//!
//! A foreign host is answered with one announcement in ten seconds (RFC 5227, section 2.4 (c)). Another
//! node is a rival: membership decides which of the two withdraws, and soon; whoever still announces the
//! VIP after that announces it once more, as the frames of the other have spoilt neighbours' tables.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdMap;
use tokio::sync::watch;

use crate::model::foreign::{ForeignHosts, MacAddress};

/// Between two defences of a VIP, and two log lines about it (RFC 5227, `DEFEND_INTERVAL`).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// From a rival's frame to this node's next announcement, so that membership can decide meanwhile, where
/// nobody says how long that takes.
const RIVAL_PATIENCE: Duration = Duration::from_millis(300);
/// Between two announcements because of rivals.
const RIVAL_INTERVAL: Duration = Duration::from_secs(1);
/// Who is not heard for so long does not claim the VIP any more.
const SILENCE: Duration = Duration::from_secs(60);
/// A claim that goes on is told anew after so long.
const RESOLUTION: Duration = Duration::from_millis(100);

/// Another node that claims a VIP which this node announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rival {
    /// Its hardware address.
    pub mac: MacAddress,
    /// When it was heard last, to a tenth of a second.
    pub heard: Instant,
}

/// The rivals by VIP. Cloning shares.
pub type Rivals = OrdMap<IpAddr, Rival>;

/// Where the claims on all interfaces are told.
#[derive(Debug, Clone)]
pub(super) struct Told {
    foreign: Arc<watch::Sender<Arc<ForeignHosts>>>,
    rivals: Arc<watch::Sender<Rivals>>,
    rival_patience: Duration,
}

impl Told {
    /// Nobody claims anything yet.
    pub(super) fn new() -> Self {
        Self {
            foreign: Arc::new(watch::channel(Arc::default()).0),
            rivals: Arc::new(watch::channel(Rivals::default()).0),
            rival_patience: RIVAL_PATIENCE,
        }
    }

    /// Membership takes so long to decide which of two nodes withdraws.
    pub(super) fn settled_within(self, patience: Duration) -> Self {
        let rival_patience = patience.max(RIVAL_PATIENCE);
        Self {
            rival_patience,
            ..self
        }
    }

    pub(super) fn foreign(&self) -> watch::Receiver<Arc<ForeignHosts>> {
        self.foreign.subscribe()
    }

    pub(super) fn rivals(&self) -> watch::Receiver<Rivals> {
        self.rivals.subscribe()
    }

    fn tell(&self, vip: IpAddr, claim: &Claimed) {
        if claim.by_peer {
            let rival = Rival {
                mac: claim.mac,
                heard: claim.heard,
            };
            self.rivals.send_modify(|rivals| {
                rivals.insert(vip, rival);
            });
        } else {
            self.foreign.send_if_modified(|foreign| {
                let other = foreign.get(vip) != Some(claim.mac);
                if other {
                    Arc::make_mut(foreign).insert(vip, claim.mac);
                }
                other
            });
        }
    }

    /// Takes back what was told, unless another interface has told something else meanwhile.
    fn take_back(&self, vip: IpAddr, claim: &Claimed) {
        if claim.by_peer {
            self.rivals.send_if_modified(|rivals| {
                let mac = rivals.get(&vip).map(|rival| rival.mac);
                mac == Some(claim.mac) && rivals.remove(&vip).is_some()
            });
        } else {
            self.foreign.send_if_modified(|foreign| {
                foreign.get(vip) == Some(claim.mac) && Arc::make_mut(foreign).remove(vip).is_some()
            });
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Claimed {
    mac: MacAddress,
    by_peer: bool,
    heard: Instant,
    told: Instant,
}

/// What was done about the claims to one VIP.
#[derive(Debug, Default)]
struct Contest {
    /// By a foreign host and by another node: they may both claim it.
    foreign: Option<Claimed>,
    rival: Option<Claimed>,
    logged: Option<Instant>,
    defended: Option<Instant>,
    repeated: Option<Instant>,
}

/// What is to be done about a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reaction {
    /// Say it in the log.
    pub(super) log: bool,
    /// Announce the VIP now.
    pub(super) defend: bool,
}

/// The claims to the VIPs of one interface.
#[derive(Debug)]
pub(super) struct Claims {
    told: Told,
    contests: BTreeMap<IpAddr, Contest>,
    /// The VIPs to be announced once more because of a rival.
    repeats: BTreeMap<IpAddr, Instant>,
    /// When the contests are looked through for those that are over.
    look: Option<Instant>,
}

impl Claims {
    pub(super) const fn new(told: Told) -> Self {
        Self {
            told,
            contests: BTreeMap::new(),
            repeats: BTreeMap::new(),
            look: None,
        }
    }

    /// Somebody claims a VIP which is announced here. Of several hosts of a kind, the one that was heard
    /// first counts for as long as it goes on.
    pub(super) fn heard(
        &mut self,
        vip: IpAddr,
        mac: [u8; 6],
        by_peer: bool,
        now: Instant,
    ) -> Reaction {
        let contest = self.contests.entry(vip).or_default();
        let known = if by_peer {
            &mut contest.rival
        } else {
            &mut contest.foreign
        };
        let new = Claimed {
            mac: MacAddress(mac),
            by_peer,
            heard: now,
            told: now,
        };
        match known {
            Some(claim) if claim.mac == new.mac => {
                claim.heard = now;
                if is_over(Some(claim.told), RESOLUTION, now) {
                    claim.told = now;
                    self.told.tell(vip, claim);
                }
            }
            // Rivals are few and known: the newest is the one to know of.
            Some(_) if !by_peer => {}
            _ => self.told.tell(vip, known.insert(new)),
        }
        self.look.get_or_insert(now + SILENCE);
        let interval = RIVAL_INTERVAL.max(self.told.rival_patience);
        if by_peer && is_over(contest.repeated, interval, now) {
            contest.repeated = Some(now);
            self.repeats.insert(vip, now + self.told.rival_patience);
        }
        Reaction {
            log: is_over(contest.logged, DEFEND_INTERVAL, now)
                .then(|| contest.logged = Some(now))
                .is_some(),
            defend: !by_peer && is_over(contest.defended, DEFEND_INTERVAL, now),
        }
    }

    /// The VIP was announced because of a claim.
    pub(super) fn defended(&mut self, vip: IpAddr, now: Instant) {
        if let Some(contest) = self.contests.get_mut(&vip) {
            contest.defended = Some(now);
        }
    }

    /// The VIP is not announced here any more.
    pub(super) fn withdraw(&mut self, vip: IpAddr) {
        self.repeats.remove(&vip);
        if let Some(contest) = self.contests.remove(&vip) {
            for claim in [contest.foreign, contest.rival].into_iter().flatten() {
                self.told.take_back(vip, &claim);
            }
        }
    }

    /// When there is something to do next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.repeats.values().copied().chain(self.look).min()
    }

    /// Forgets who has been silent for long, and gives a VIP that is to be announced once more now.
    pub(super) fn due(&mut self, now: Instant) -> Option<IpAddr> {
        if self.look.is_some_and(|look| look <= now) {
            self.forget(now);
        }
        let (vip, _) = self.repeats.iter().find(|(_, due)| **due <= now)?;
        let vip = *vip;
        self.repeats.remove(&vip);
        Some(vip)
    }

    fn forget(&mut self, now: Instant) {
        let told = &self.told;
        let mut next: Option<Instant> = None;
        self.contests.retain(|vip, contest| {
            for claim in [&mut contest.foreign, &mut contest.rival] {
                let Some(known) = claim else { continue };
                let over = known.heard + SILENCE;
                if over <= now {
                    told.take_back(*vip, known);
                    *claim = None;
                } else {
                    next = Some(next.map_or(over, |next| next.min(over)));
                }
            }
            contest.foreign.is_some() || contest.rival.is_some()
        });
        self.look = next;
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        let vips: Vec<IpAddr> = self.contests.keys().copied().collect();
        for vip in vips {
            self.withdraw(vip);
        }
    }
}

fn is_over(since: Option<Instant>, interval: Duration, now: Instant) -> bool {
    since.is_none_or(|since| now.saturating_duration_since(since) >= interval)
}
