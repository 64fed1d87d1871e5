//! What comes in between two passes: each event is noted with what it makes dirty, and nothing is done.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use imbl::ordmap::DiffItem;

use super::{Reconciler, Trust, warn};
use crate::admin::snapshot::Failure;
use crate::allocator::{AllocatorStatus, View};
use crate::config::Config;
use crate::model::allocation::Allocations;
use crate::model::foreign::ForeignHosts;
use crate::model::host::Host;
use crate::model::peer::{Owners, Peers};
use crate::model::service::ServiceKey;
use crate::plan::addresses::AddressSource;
use crate::plan::announcement::relevant;
use crate::plan::{Inputs, Scope};
use crate::source::{SourceEvent, SourceStatus};

impl Reconciler {
    /// Takes in what a source sent.
    pub fn source(&mut self, event: SourceEvent, now: Instant) {
        match event {
            SourceEvent::Changes(changes) => {
                for change in changes {
                    for dirty in self.inputs.cluster.apply(change) {
                        self.scope.add(dirty);
                    }
                }
            }
            SourceEvent::Complete => {
                self.complete = true;
                self.scope = Scope::Everything;
            }
        }
        self.wait(now);
    }

    /// Takes in how the source is.
    pub fn source_status(&mut self, status: SourceStatus) {
        self.source = status;
        if self.adopted.is_some() && !self.source.from_snapshot {
            // The cluster is known: the kernel is compared with it.
            self.trust = Trust::Look;
        }
    }

    /// Takes in how the allocator is.
    pub fn allocator_status(&mut self, status: AllocatorStatus) {
        self.allocator = Some(status);
    }

    /// What the allocator decides from.
    pub fn view(&self) -> View {
        View {
            config: Arc::clone(&self.config),
            cluster: self.inputs.cluster.clone(),
            host: self.inputs.host.clone(),
            foreign: self.inputs.foreign.clone(),
            ownership: self.plan.ownership.clone(),
            fresh: self.complete && !self.source.from_snapshot,
        }
    }

    /// Takes in what this host looks like now. What no decision depends on is no event: a pod that
    /// comes or goes is a link more or less.
    pub fn host(&mut self, host: Host, now: Instant) {
        let relevant = relevant(&self.config, &host);
        self.host = host;
        if self.inputs.host != relevant {
            self.inputs.host = relevant;
            self.scope = Scope::Everything;
            self.moved_on |= self.pass.number > 0;
            self.wait(now);
        }
    }

    /// Takes in who else uses addresses of the pools; a pass is for those whom it concerns.
    pub fn foreign_hosts(&mut self, foreign: &ForeignHosts, now: Instant) {
        self.inputs.foreign = foreign.clone();
        let concerned = self.plan.addresses.concerned(foreign);
        if !concerned.is_empty() {
            self.scope.add_all(concerned);
            self.wait(now);
        }
    }

    /// Takes in who owns what; a pass is for the Services whose VIPs changed hands.
    pub fn owners(&mut self, owners: &Owners, now: Instant) {
        let moved: Vec<IpAddr> = (self.inputs.owners.diff(owners))
            .map(|difference| match difference {
                DiffItem::Add(vip, _) | DiffItem::Remove(vip, _) => *vip,
                DiffItem::Update { new, .. } => *new.0,
            })
            .collect();
        if moved.is_empty() {
            return;
        }
        self.inputs.owners = owners.clone();
        let allocations = &self.plan.addresses.allocations;
        let holders = moved.iter().flat_map(|vip| allocations.holders_of(*vip));
        self.scope.add_all(holders.cloned());
        self.wait(now);
    }

    /// Takes in who holds which address by the word of the others.
    pub fn allocations(&mut self, others: &Allocations, now: Instant) {
        self.others = others.clone();
        let concerned = self.hear_others();
        if !concerned.is_empty() {
            self.scope.add_all(concerned);
            self.wait(now);
        }
    }

    /// Merges what the others say; returns the Services that it concerns. Before the first complete list
    /// nothing is known to be missing here.
    fn hear_others(&mut self) -> BTreeSet<ServiceKey> {
        if self.inputs.address_source != AddressSource::Here || !self.complete {
            return BTreeSet::new();
        }
        let Inputs {
            cluster,
            node,
            allocations,
            unconfirmed,
            ..
        } = &mut self.inputs;
        (self.agreement).hear(&self.others, cluster, node, allocations, unconfirmed)
    }

    /// Settles what this node leaves to others in the pass that begins.
    pub(super) fn agree(&mut self, scope: &mut Scope, now: Instant) {
        scope.add_all(self.hear_others());
        let Inputs {
            cluster,
            unconfirmed,
            ..
        } = &mut self.inputs;
        unconfirmed.retain(|key| !cluster.services.contains_key(key));
        if self.inputs.address_source != AddressSource::Here || !self.inputs.peers.enabled {
            return;
        }
        self.inputs.deferred = self.agreement.defer(
            scope,
            (&self.inputs.cluster, &self.inputs.allocations),
            (&self.inputs.node, &self.inputs.peers),
            now,
        );
    }

    /// Takes in what the other nodes say of themselves, and that this one is drained or is not.
    pub fn peers(&mut self, peers: &Arc<Peers>, draining: bool, now: Instant) {
        let decide_like = self.inputs.peers.decide_like(peers);
        if self.inputs.draining != draining {
            self.scope = Scope::Everything;
        } else if decide_like {
            self.inputs.peers = Arc::clone(peers);
            return;
        }
        self.inputs.peers = Arc::clone(peers);
        self.inputs.draining = draining;
        self.reasons_changed = true;
        self.wait(now);
    }

    /// Takes a new configuration in force.
    pub fn configure(&mut self, config: Arc<Config>, now: Instant) {
        self.config = config;
        self.config_problem = None;
        if let Err(error) = self.kernel.set_timeouts(&self.config) {
            warn(&Failure::new("virtual_server", "timeouts", &error));
        }
        self.inputs.host = relevant(&self.config, &self.host);
        self.scope = Scope::Everything;
        self.moved_on = true;
        self.trust = Trust::Look;
        self.wait(now);
    }

    /// The newest configuration cannot be used; the one in force stays.
    pub fn refuse_configuration(&mut self, problem: String) {
        self.config_problem = Some(problem);
    }

    /// Somebody else changed what is ours, or it is time to look whether somebody did.
    pub fn distrust_kernel(&mut self) {
        self.trust = Trust::Look;
    }
}
