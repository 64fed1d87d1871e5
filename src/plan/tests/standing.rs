//! Addresses that move: an address leaves one status before another Service's names it, whatever is
//! edited meanwhile and in whatever order the statuses are written.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;

use super::addresses::managed;
use super::generate::{any_passes, small};
use super::{annotated, config, inputs, ip, ips, key, load_balancer, pool, port, with_status};
use crate::config::Config;
use crate::model::cluster::{ClusterChange, ClusterState};
use crate::model::family::Protocol;
use crate::model::service::{IngressAddress, IpMode, Service, ServiceKey, ServiceType};
use crate::model::standing::Standing;
use crate::plan::addresses::AddressPlan;
use crate::plan::ipam::not_ours;
use crate::plan::reason::Reason;
use crate::plan::sharing::refusal;
use crate::plan::status::{StatusWrite, status};
use crate::plan::{Inputs, Scope};

/// An allocator that plans, writes and hears what was written.
struct Round<'a> {
    config: &'a Config,
    inputs: Inputs,
    plan: AddressPlan,
    scope: Scope,
    standing: Standing,
    /// Who held an address together with whom in any plan. What a Service got while it might share it
    /// stays its own when an edit parts the two, also before its status says so.
    together: BTreeSet<(IpAddr, ServiceKey, ServiceKey)>,
}

impl<'a> Round<'a> {
    fn new(config: &'a Config, inputs: Inputs) -> Self {
        let standing = Standing::of(&inputs.cluster.services);
        Self {
            config,
            inputs,
            plan: AddressPlan::default(),
            scope: Scope::Everything,
            standing,
            together: BTreeSet::new(),
        }
    }

    fn apply(&mut self, change: ClusterChange) {
        let before = self.inputs.cluster.services.clone();
        for dirty in self.inputs.cluster.apply(change) {
            self.scope.add(dirty);
        }
        self.standing
            .take_in(&before, &self.inputs.cluster.services);
        assert_eq!(self.standing, Standing::of(&self.inputs.cluster.services));
    }

    /// Plans what changed, as from nothing; returns how many Services it looked at.
    fn manage(&mut self) -> usize {
        let next = managed(self.config, &self.inputs, &self.plan, &self.scope);
        let full = managed(
            self.config,
            &self.inputs,
            &AddressPlan::default(),
            &Scope::Everything,
        );
        assert_eq!(next.plan, full.plan, "from the same records and statuses");
        self.inputs.allocations = next.plan.allocations.clone();
        let allocations = &next.plan.allocations;
        for (address, key) in allocations.holders() {
            let holders = allocations.holders_of(address).iter();
            let pairs = holders.map(|other| (address, key.clone(), other.clone()));
            self.together.extend(pairs);
        }
        self.plan = next.plan;
        self.scope = Scope::nothing();
        next.dirty.len()
    }

    fn wanted(&self, service: &Service) -> Option<StatusWrite> {
        let allocations = &self.plan.allocations;
        let not_ours = service.kind != ServiceType::LoadBalancer
            || not_ours(self.config, allocations, service).is_some();
        let reasons = self.plan.pending.get(&service.key);
        let reasons = reasons.map_or(&[][..], Vec::as_slice);
        let held = allocations.addresses(&service.key);
        status(self.config, service, not_ours, held, reasons)
    }

    /// The Services whose status is to say something else.
    fn unwritten(&self) -> Vec<ServiceKey> {
        let services = self.inputs.cluster.services.values();
        services
            .filter(|service| self.wanted(service).is_some())
            .map(|service| service.key.clone())
            .collect()
    }

    /// Writes one status. Nobody else's may name what it names from now on, except those that share it.
    fn write(&mut self, key: &ServiceKey) {
        let Some(service) = self.inputs.cluster.services.get(key) else {
            return;
        };
        let mut service = service.as_ref().clone();
        let before: BTreeSet<IpAddr> = (service.ingress.iter())
            .map(|ingress| ingress.address)
            .collect();
        match self.wanted(&service) {
            None => return,
            Some(StatusWrite::Set {
                addresses,
                condition,
            }) => {
                service = with_addresses(service, &addresses);
                service.condition = Some(condition.into());
            }
            Some(StatusWrite::Clear) => {
                service = with_addresses(service, &[]);
                service.condition = None;
            }
            Some(StatusWrite::ClearCondition) => service.condition = None,
        }
        for ingress in &service.ingress {
            if !before.contains(&ingress.address) {
                let mut others = conflicts(self.config, &self.inputs.cluster, &service, *ingress);
                others.retain(|other| {
                    let pair = (ingress.address, key.clone(), other.clone());
                    !self.together.contains(&pair)
                });
                assert_eq!(others, [], "{} is named with {key}", ingress.address);
            }
        }
        self.apply(ClusterChange::Service(service.into()));
    }

    /// Plans and writes until there is nothing left to do; returns the rounds.
    fn settle(&mut self) -> usize {
        for round in 0..20 {
            self.manage();
            let unwritten = self.unwritten();
            if unwritten.is_empty() {
                return round;
            }
            for key in unwritten {
                self.write(&key);
            }
        }
        panic!("it never ends: {:?}", self.unwritten());
    }

    fn named(&self, name: &str) -> Vec<IpAddr> {
        let service = &self.inputs.cluster.services[&key(name)];
        service
            .ingress
            .iter()
            .map(|ingress| ingress.address)
            .collect()
    }

    fn pending(&self, name: &str) -> Vec<Reason> {
        let pending = self.plan.pending.get(&key(name));
        pending.cloned().unwrap_or_default()
    }
}

fn with_addresses(mut service: Service, addresses: &[IpAddr]) -> Service {
    service.other_ingress = false;
    service.ingress = (addresses.iter())
        .map(|address| IngressAddress {
            address: *address,
            mode: IpMode::Vip,
        })
        .collect();
    service
}

/// The other Services whose status names this address of the Service's, and which may not.
fn conflicts(
    config: &Config,
    cluster: &ClusterState,
    service: &Service,
    ingress: IngressAddress,
) -> Vec<ServiceKey> {
    let others = cluster.services.values().filter(|other| {
        other.key != service.key
            && (other.ingress.iter()).any(|theirs| theirs.address == ingress.address)
            && refusal(config, ingress.address, service, other).is_some()
    });
    others.map(|other| other.key.clone()).collect()
}

fn asks(name: &str, address: &str) -> Service {
    annotated(load_balancer(name), &[("edgelb.io/ips", address)])
}

/// The Service with this request and the status that it has.
fn asks_now(round: &Round<'_>, name: &str, address: &str) -> ClusterChange {
    let service = round.inputs.cluster.services[&key(name)].as_ref().clone();
    let service = annotated(service, &[("edgelb.io/ips", address)]);
    ClusterChange::Service(service.into())
}

#[test]
fn two_services_swap_their_addresses() {
    let (one, two) = ("192.0.2.200", "192.0.2.201");
    let config = config(vec![pool("lan", "192.0.2.200/31")]);
    let mut inputs = inputs();
    inputs.put(asks("web", one)).put(asks("dns", two));
    let mut round = Round::new(&config, inputs);
    round.settle();
    assert_eq!(
        (round.named("web"), round.named("dns")),
        (ips(one), ips(two))
    );
    for (name, address) in [("web", two), ("dns", one)] {
        round.apply(asks_now(&round, name, address));
    }
    round.manage();
    let taken = |address: &str, holder: &str| {
        let (address, holder) = (ip(address), key(holder));
        vec![Reason::RequestTaken { address, holder }]
    };
    assert_eq!(round.pending("web"), taken(two, "dns"));
    assert_eq!(round.pending("dns"), taken(one, "web"));
    let rounds = round.settle();
    assert_eq!(
        (round.named("web"), round.named("dns")),
        (ips(two), ips(one))
    );
    assert_eq!(
        (round.pending("web"), round.pending("dns")),
        (vec![], vec![])
    );
    assert!(rounds <= 3, "{rounds}");
}

#[test]
fn what_another_implementations_status_names_is_not_free() {
    let config = config(vec![pool("lan", "192.0.2.200/31")]);
    let address = ip("192.0.2.200");
    let foreign = |mode: IpMode, class: Option<&str>| {
        let mut foreign = with_status(load_balancer("foreign"), "192.0.2.200 198.51.100.9");
        foreign.load_balancer_class = class.map(str::to_owned);
        foreign.ingress[0].mode = mode;
        foreign
    };
    for (case, foreign) in [
        (
            "another class",
            foreign(IpMode::Vip, Some("example.com/other")),
        ),
        ("served by another", foreign(IpMode::Vip, None)),
        ("a proxy's", foreign(IpMode::Proxy, None)),
    ] {
        let mut inputs = inputs();
        inputs
            .put(foreign.clone())
            .put(load_balancer("any"))
            .put(load_balancer("late"))
            .put(asks("asks", "192.0.2.200"));
        let mut round = Round::new(&config, inputs);
        round.settle();
        let holder = key("foreign");
        let taken = Reason::RequestTaken { address, holder };
        assert_eq!(round.named("any"), ips("192.0.2.201"), "{case}");
        assert_eq!(round.named("asks"), ips(""), "{case}");
        assert_eq!(round.pending("asks"), [taken], "{case}");
        let pools = vec!["lan".to_owned()];
        assert_eq!(round.pending("late"), [Reason::PoolExhausted { pools }]);
        // It leaves that status, and whoever waits gets it.
        let mut left = foreign;
        left.ingress.remove(0);
        round.apply(ClusterChange::Service(left.into()));
        round.settle();
        assert_eq!(round.named("asks"), [address], "{case}");
        assert_eq!(round.named("any"), ips("192.0.2.201"), "{case}");
    }
}

#[test]
fn whoever_shares_an_address_does_not_wait_for_its_holders() {
    let config = config(vec![pool("lan", "192.0.2.200/31")]);
    let shares = |name: &str, number: u16| {
        let mut service = annotated(load_balancer(name), &[("edgelb.io/sharing-key", "k")]);
        service.ports = vec![port("", Protocol::Tcp, number)];
        service
    };
    let mut inputs = inputs();
    inputs.put(shares("web", 80));
    let mut round = Round::new(&config, inputs);
    round.settle();
    round.apply(ClusterChange::Service(shares("tls", 443).into()));
    round.settle();
    assert_eq!(round.named("tls"), ips("192.0.2.200"));
    // One that names it and does not hold it is in the way, whatever its key.
    let mut stranger = with_status(shares("stranger", 25), "192.0.2.200");
    stranger.load_balancer_class = Some("example.com/other".to_owned());
    round.apply(ClusterChange::Service(stranger.into()));
    round.apply(ClusterChange::Service(shares("mail", 587).into()));
    round.settle();
    assert_eq!(round.named("mail"), ips("192.0.2.201"));
    assert_eq!(
        round.named("web"),
        ips("192.0.2.200"),
        "what is held is kept"
    );
}

#[test]
fn the_status_that_was_written_concerns_its_own_service_alone() {
    let config = config(vec![pool("lan", "192.0.2.224/28")]);
    let mut round = Round::new(&config, inputs());
    for number in 0..40 {
        let service = load_balancer(&format!("s{number:02}"));
        round.apply(ClusterChange::Service(service.into()));
    }
    assert_eq!(round.manage(), 40);
    let mut looked_at = 0;
    for key in round.unwritten() {
        round.write(&key);
        looked_at += round.manage();
    }
    assert_eq!(looked_at, 40, "24 of them wait");
    // One goes: all that wait are looked at, once when it gives its address back.
    round.apply(ClusterChange::ServiceGone(key("s00")));
    assert_eq!(round.manage(), 25);
    assert_eq!(round.unwritten(), [key("s16")]);
    // Others' Services wait for nothing.
    let mut foreign = load_balancer("foreign");
    foreign.load_balancer_class = Some("example.com/other".to_owned());
    round.apply(ClusterChange::Service(foreign.into()));
    round.settle();
    round.apply(ClusterChange::ServiceGone(key("s01")));
    assert_eq!(round.manage(), 24);
}

/// What is done between two edits: some statuses are written, in an order of their own, and sometimes
/// what was heard is planned.
fn any_steps() -> impl Strategy<Value = Vec<(prop::sample::Index, bool)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..8)
}

/// An edit leaves the status as it is, and a new Service of others names what is free.
fn as_edited(round: &Round<'_>, change: ClusterChange) -> ClusterChange {
    let ClusterChange::Service(service) = change else {
        return change;
    };
    let mut service = service.as_ref().clone();
    if let Some(old) = round.inputs.cluster.services.get(&service.key) {
        service.ingress.clone_from(&old.ingress);
        service.condition.clone_from(&old.condition);
        service.other_ingress = old.other_ingress;
    } else {
        service.condition = None;
        service.ingress.retain(|ingress| {
            let address = ingress.address;
            round.standing.named_by(address).next().is_none()
                && round.plan.allocations.holders_of(address).is_empty()
        });
    }
    ClusterChange::Service(service.into())
}

proptest! {
    #[test]
    fn no_two_statuses_name_an_address_that_they_may_not_share(
        passes in any_passes().prop_flat_map(|passes| {
            let count = passes.len();
            (Just(passes), prop::collection::vec(any_steps(), count))
        }),
    ) {
        let config = small();
        let mut round = Round::new(&config, inputs());
        for (changes, steps) in passes.0.into_iter().zip(passes.1) {
            for change in changes {
                let change = as_edited(&round, change);
                round.apply(change);
            }
            round.manage();
            for (which, plans) in steps {
                let unwritten = round.unwritten();
                if !unwritten.is_empty() {
                    round.write(&unwritten[which.index(unwritten.len())]);
                }
                if plans {
                    round.manage();
                }
            }
            // Nothing is written for a view that is older than the plan.
            round.manage();
        }
        round.settle();
        for service in round.inputs.cluster.services.values() {
            for ingress in &service.ingress {
                let others = conflicts(&config, &round.inputs.cluster, service, *ingress);
                prop_assert_eq!(others, [], "{} is named with {}", ingress.address, service.key);
            }
        }
    }
}
