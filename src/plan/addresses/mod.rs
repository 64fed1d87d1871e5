//! Who holds which address, as a plan of its own: it knows nothing of forwarding, so that an
//! allocator can make it alone. Like every plan it is made at the price of what changed, and equals
//! the one that is made from nothing.

mod allocate;
mod by_status;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::Scope;
use super::address::AddressBook;
use super::reason::Reason;
use super::request::request;
use super::sharing::sharing_key;
use crate::config::{Config, SourceKind};
use crate::model::allocation::Allocations;
use crate::model::cluster::ClusterState;
use crate::model::compact_set::CompactSet;
use crate::model::foreign::ForeignHosts;
use crate::model::host::Host;
use crate::model::service::{Service, ServiceKey, ServiceType};
use crate::model::standing::Standing;

pub(super) use allocate::allocate;
pub(super) use by_status::read;

/// Who gives addresses to Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressSource {
    /// This plan does, from the pools and the records of the past.
    #[default]
    Here,
    /// An allocator that writes statuses does: a Service holds what its status names.
    Status,
}

impl From<SourceKind> for AddressSource {
    fn from(source: SourceKind) -> Self {
        match source {
            SourceKind::Manifests => Self::Here,
            SourceKind::Kubernetes => Self::Status,
        }
    }
}

/// What address management depends on, besides the configuration.
#[derive(Debug, Clone, Copy)]
pub struct AddressInputs<'a> {
    /// The node that makes the edits: its name stands in the records.
    pub node: &'a str,
    /// What the sources know.
    pub cluster: &'a ClusterState,
    /// The host that decides: its addresses, gateways and resolvers are never a Service's.
    pub host: &'a Host,
    /// Who else uses addresses of the pools. Where this differs from what the previous plan knew, the
    /// Services that it concerns are looked at again, whatever the scope says.
    pub foreign: &'a ForeignHosts,
    /// Addresses whose claims cannot be read; a change of them concerns everything.
    pub reserved: &'a BTreeSet<IpAddr>,
    /// Which statuses name which address; those of the cluster. What stands in another Service's status
    /// is given to nobody, unless that one holds it and shares it. Where this differs from what the
    /// previous plan knew, the Services that it concerns are looked at again, whatever the scope says.
    /// Empty where this plan writes no statuses.
    pub standing: &'a Standing,
    /// Services that records name and the cluster does not show, of which it is not known that they
    /// are gone: whoever wrote the record may have seen more. Their records stay as they are; one that
    /// is taken out of here belongs into the scope.
    pub unconfirmed: &'a BTreeSet<ServiceKey>,
    /// Services that are given no first address by this plan: somebody else is about to.
    pub deferred: &'a BTreeSet<ServiceKey>,
    /// The records of the past. Where one differs from what the previous plan ended with, its
    /// Service is looked at again, whatever the scope says.
    pub allocations: &'a Allocations,
}

/// Who holds which address, and what is needed to decide it the next time at the price of the change.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AddressPlan {
    /// Who holds which VIP now.
    pub allocations: Allocations,
    /// What address management could not do, by Service; never an empty list.
    pub pending: OrdMap<ServiceKey, Vec<Reason>>,
    /// Who asks for an address that it does not hold: planned again when its holders change.
    asks: OrdMap<IpAddr, CompactSet<ServiceKey>>,
    /// The Services of each sharing key, which are planned together.
    sharing: OrdMap<String, CompactSet<ServiceKey>>,
    /// What each Service contributed to the two above; none for one without a contribution.
    contributions: OrdMap<ServiceKey, Arc<Contribution>>,
    /// What was known of other hosts on the LAN.
    foreign: ForeignHosts,
    /// Which statuses named which address.
    standing: Standing,
}

/// An address plan, and what else must be planned again because of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Managed {
    /// The plan.
    pub plan: AddressPlan,
    /// The Services of the scope, and those beyond it that hold other addresses than before, have
    /// other reasons, or name an address that changed hands. Some of them may be gone.
    pub dirty: BTreeSet<ServiceKey>,
}

/// What one Service contributes to the indexes.
#[derive(Debug, Clone, PartialEq)]
struct Contribution {
    /// The Service as it was then.
    service: Arc<Service>,
    /// Addresses that it names and does not hold, sorted.
    asks: Vec<IpAddr>,
    /// Its sharing key.
    sharing: Option<String>,
}

/// Gives addresses to the Services of the scope, and to whatever depends on them; everything else is
/// shared with `previous`. The oldest Service comes first, and what a Service holds it keeps. What
/// another host on the LAN uses is given to nobody.
pub fn manage(
    config: &Config,
    inputs: &AddressInputs<'_>,
    previous: &AddressPlan,
    scope: &Scope,
) -> Managed {
    let book = AddressBook::new(inputs.cluster, inputs.host)
        .refusing(inputs.foreign)
        .reserving(inputs.reserved);
    allocate(config, inputs, &book, previous, scope)
}

impl AddressPlan {
    /// The Services whose addresses or reasons may become others when other hosts on the LAN use
    /// these addresses, compared with what this plan knew: whoever holds or asks for one of them, and
    /// whoever waits, when one came free. Empty: a plan for these hosts would say the same.
    pub fn concerned(&self, foreign: &ForeignHosts) -> BTreeSet<ServiceKey> {
        let mut concerned = BTreeSet::new();
        for address in self.foreign.changed(foreign) {
            concerned.extend(self.allocations.holders_of(address).iter().cloned());
            concerned.extend(
                self.asks
                    .get(&address)
                    .into_iter()
                    .flat_map(CompactSet::iter)
                    .cloned(),
            );
            if foreign.get(address).is_none() {
                concerned.extend(self.waiting().cloned());
            }
        }
        concerned
    }

    /// The Services that may get something when an address comes free: by their request, or by what
    /// their status names. Not those that are other implementations'.
    fn waiting(&self) -> impl Iterator<Item = &ServiceKey> {
        let pending = self.pending.iter();
        pending.filter_map(|(key, reasons)| {
            let ours = !reasons.iter().any(Reason::is_not_ours);
            ours.then_some(key)
        })
    }

    /// What a pass of this scope starts from, and the Services that it looks at.
    fn start(&self, cluster: &ClusterState, scope: &Scope) -> (Self, BTreeSet<ServiceKey>) {
        match scope {
            Scope::Everything => {
                let known = self.contributions.keys();
                let all = cluster.services.keys().chain(known).cloned();
                (Self::default(), all.collect())
            }
            Scope::Services(services) => (self.clone(), services.clone()),
        }
    }

    /// Puts what a Service contributes in the place of what it did before; its addresses are settled.
    fn contribute(&mut self, key: &ServiceKey, service: Option<&Arc<Service>>) {
        if let Some(old) = self.contributions.remove(key) {
            for address in &old.asks {
                forget(&mut self.asks, address, key);
            }
            if let Some(sharing) = &old.sharing {
                forget(&mut self.sharing, sharing, key);
            }
        }
        let Some(service) = service else { return };
        let asks = asks(service, self.allocations.addresses(key));
        if asks.is_empty() && service.kind != ServiceType::LoadBalancer {
            return;
        }
        for address in &asks {
            self.asks.entry(*address).or_default().insert(key.clone());
        }
        let sharing = sharing_key(service).map(str::to_owned);
        if let Some(sharing) = sharing.clone() {
            self.sharing.entry(sharing).or_default().insert(key.clone());
        }
        let contribution = Contribution {
            service: Arc::clone(service),
            asks,
            sharing,
        };
        self.contributions
            .insert(key.clone(), Arc::new(contribution));
    }

    /// Notes what could not be done for a Service.
    fn settle(&mut self, key: &ServiceKey, reasons: Vec<Reason>) {
        if reasons.is_empty() {
            self.pending.remove(key);
        } else {
            self.pending.insert(key.clone(), reasons);
        }
    }
}

/// The addresses that a Service names in any way and does not hold, sorted.
fn asks(service: &Service, held: &[IpAddr]) -> Vec<IpAddr> {
    let requested = match service.kind {
        ServiceType::LoadBalancer => request(service).unwrap_or_default().addresses,
        _ => Vec::new(),
    };
    let ingress = service.ingress.iter().map(|ingress| ingress.address);
    let named = service.external_ips.iter().copied().chain(ingress);
    let asks: BTreeSet<IpAddr> = named
        .chain(requested)
        .filter(|address| !held.contains(address))
        .collect();
    asks.into_iter().collect()
}

/// These Services as far as they exist, the oldest first.
fn by_age<'a>(
    services: &'a OrdMap<ServiceKey, Arc<Service>>,
    keys: &BTreeSet<ServiceKey>,
) -> Vec<&'a Service> {
    let mut found: Vec<&Service> = keys
        .iter()
        .filter_map(|key| services.get(key))
        .map(AsRef::as_ref)
        .collect();
    found.sort_by_key(|service| service.by_age());
    found
}

/// Takes a Service out of the set at `key`, and the set with its last Service.
pub(super) fn forget<K: Ord + Clone>(
    sets: &mut OrdMap<K, CompactSet<ServiceKey>>,
    key: &K,
    service: &ServiceKey,
) {
    let emptied = sets.get_mut(key).is_some_and(|set| {
        set.remove(service);
        set.is_empty()
    });
    if emptied {
        sets.remove(key);
    }
}
