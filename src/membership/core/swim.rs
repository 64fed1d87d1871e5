//! The SWIM machine (foca) with its timers on our clock. Says who it thinks is up; what becomes of that
//! is decided by who holds it.

use std::collections::BTreeMap;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use foca::{
    AccumulatingRuntime, Config, Foca, Member, NoCustomBroadcast, OwnedNotification,
    PeriodicParams, PostcardCodec, Timer,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};
use tracing::debug;

use super::Timing;
use crate::membership::datagram::BODY_BUDGET;
use crate::model::text::Text;

/// One run of a node. A node that was declared down while it lives renews its identity and goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub name: Text,
    pub epoch: u64,
    pub renewed: u16,
}

impl foca::Identity for Identity {
    type Addr = Text;

    fn renew(&self) -> Option<Self> {
        Some(Self {
            renewed: self.renewed.wrapping_add(1),
            ..self.clone()
        })
    }

    fn addr(&self) -> Text {
        self.name.clone()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.epoch, self.renewed) > (adversary.epoch, adversary.renewed)
    }
}

/// What the machine thinks of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rumour {
    Up(Text),
    Down(Text),
}

/// The machine.
pub struct Swim {
    foca: Foca<Identity, PostcardCodec, SmallRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Identity>,
    timers: BTreeMap<(Duration, u64), Timer<Identity>>,
    scheduled: u64,
}

impl Swim {
    pub fn new(identity: Identity, timing: &Timing, seed: u64) -> Self {
        let one = NonZeroUsize::MIN;
        let config = Config {
            probe_period: timing.probe_interval,
            probe_rtt: timing.probe_interval.mul_f32(0.4),
            num_indirect_probes: one.saturating_add(2),
            max_transmissions: NonZeroU8::MIN.saturating_add(4),
            // A period may pass before the suspicion begins.
            suspect_to_down_after: timing.probe_interval.mul_f32(1.5),
            remove_down_after: Some(Duration::from_secs(60)),
            max_packet_size: one.saturating_add(BODY_BUDGET + 300),
            notify_down_members: true,
            periodic_announce: None,
            periodic_announce_to_down_members: None,
            periodic_gossip: Some(PeriodicParams {
                frequency: timing.probe_interval,
                num_members: one.saturating_add(1),
            }),
        };
        Self {
            foca: Foca::new(
                identity,
                config,
                SmallRng::seed_from_u64(seed),
                PostcardCodec,
            ),
            runtime: AccumulatingRuntime::new(),
            timers: BTreeMap::new(),
            scheduled: 0,
        }
    }

    /// How often the identity was renewed in this run.
    pub fn renewed(&self) -> u16 {
        self.foca.identity().renewed
    }

    pub fn deadline(&self) -> Option<Duration> {
        self.timers.keys().next().map(|(at, _)| *at)
    }

    /// Another run of this node begins.
    pub fn begin(&mut self, now: Duration, epoch: u64) {
        let identity = Identity {
            epoch,
            renewed: 0,
            ..self.foca.identity().clone()
        };
        let done = self.foca.change_identity(identity, &mut self.runtime);
        self.finish(now, done);
    }

    /// A node was met that is this one now.
    pub fn meet(&mut self, now: Duration, identity: Identity) {
        let known = self
            .foca
            .iter_members()
            .any(|member| *member.id() == identity);
        if !known {
            let met = std::iter::once(Member::alive(identity));
            let done = self.foca.apply_many(met, true, &mut self.runtime);
            self.finish(now, done);
        }
    }

    pub fn receive(&mut self, now: Duration, octets: &[u8]) {
        let done = self.foca.handle_data(octets, &mut self.runtime);
        self.finish(now, done);
    }

    pub fn run(&mut self, now: Duration) {
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= now
        {
            let timer = entry.remove();
            let done = self.foca.handle_timer(timer, &mut self.runtime);
            self.finish(now, done);
        }
    }

    /// What is to be sent, and to whom.
    pub fn next_sent(&mut self) -> Option<(Text, Arc<[u8]>)> {
        let (to, octets) = self.runtime.to_send()?;
        Some((to.name, Arc::from(octets.as_ref())))
    }

    pub fn next_rumour(&mut self) -> Option<Rumour> {
        loop {
            match self.runtime.to_notify()? {
                OwnedNotification::MemberUp(identity) => return Some(Rumour::Up(identity.name)),
                OwnedNotification::MemberDown(identity) => {
                    return Some(Rumour::Down(identity.name));
                }
                _ => {}
            }
        }
    }

    fn finish(&mut self, now: Duration, done: Result<(), foca::Error>) {
        if let Err(error) = done {
            debug!(%error, "the membership machine refused an event");
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.scheduled += 1;
            self.timers.insert((now + after, self.scheduled), timer);
        }
    }
}
