//! Which Services' statuses name an address now, whoever wrote them and in whatever mode. An address
//! that moves from one Service to another must leave the first status before the second one names it.
//! Decides nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};

use super::allocation::Allocations;
use super::service::{Service, ServiceKey};

type Services = OrdMap<ServiceKey, Arc<Service>>;

/// The Services whose status names an address, by address; never an empty set. Cloning shares
/// everything large.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing(OrdMap<IpAddr, OrdSet<ServiceKey>>);

impl Standing {
    /// What the statuses of these Services name.
    pub fn of(services: &Services) -> Self {
        let mut standing = Self::default();
        standing.take_in(&Services::new(), services);
        standing
    }

    /// Takes in what is new; returns the Services that differ. Costs what differs.
    pub fn take_in(&mut self, old: &Services, new: &Services) -> BTreeSet<ServiceKey> {
        let mut differing = BTreeSet::new();
        for difference in old.diff(new) {
            let (before, after) = match difference {
                DiffItem::Add(key, after) => (None, Some((key, after))),
                DiffItem::Update { old, new } => (Some(old), Some(new)),
                DiffItem::Remove(key, before) => (Some((key, before)), None),
            };
            if let Some((key, service)) = before {
                differing.insert(key.clone());
                for ingress in &service.ingress {
                    self.forget(ingress.address, key);
                }
            }
            if let Some((key, service)) = after {
                differing.insert(key.clone());
                for ingress in &service.ingress {
                    let services = self.0.entry(ingress.address).or_default();
                    services.insert(key.clone());
                }
            }
        }
        differing
    }

    /// A Service's status names the address, or may by now.
    pub fn name(&mut self, address: IpAddr, service: &ServiceKey) {
        let services = self.0.entry(address).or_default();
        services.insert(service.clone());
    }

    fn forget(&mut self, address: IpAddr, key: &ServiceKey) {
        if let Some(services) = self.0.get_mut(&address) {
            services.remove(key);
            if services.is_empty() {
                self.0.remove(&address);
            }
        }
    }

    /// The Services whose status names the address, by key.
    pub fn named_by(&self, address: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        self.0.get(&address).into_iter().flatten()
    }

    /// Of these, the ones that do not hold it.
    pub fn strangers<'a>(
        &'a self,
        address: IpAddr,
        allocations: &'a Allocations,
    ) -> impl Iterator<Item = &'a ServiceKey> {
        let holders = allocations.holders_of(address);
        self.named_by(address)
            .filter(|service| !holders.contains(service))
    }

    /// Whether a Service that does not hold the address names it.
    pub fn stands(&self, address: IpAddr, allocations: &Allocations) -> bool {
        self.strangers(address, allocations).next().is_some()
    }

    /// The addresses that other Services name in `other`. Costs what differs where one was made from
    /// the other.
    pub fn changed<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = IpAddr> {
        self.0.diff(&other.0).map(|difference| match difference {
            DiffItem::Add(address, _) | DiffItem::Remove(address, _) => *address,
            DiffItem::Update { new, .. } => *new.0,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::service::{IngressAddress, IpMode, ServiceType};

    fn services(statuses: &[(&str, &[u8])]) -> Services {
        let service = |name: &str, lasts: &[u8]| {
            let key = ServiceKey::new("shop", name);
            let mut service = Service::new(key.clone(), ServiceType::LoadBalancer);
            service.ingress = lasts
                .iter()
                .map(|last| IngressAddress {
                    address: ip(*last),
                    mode: IpMode::Proxy,
                })
                .collect();
            (key, Arc::new(service))
        };
        let statuses = statuses.iter();
        statuses.map(|(name, lasts)| service(name, lasts)).collect()
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn what_is_taken_in_step_by_step_is_what_stands() {
        let steps: [&[(&str, &[u8])]; 5] = [
            &[("alpha", &[1, 2]), ("beta", &[2])],
            &[("alpha", &[2]), ("beta", &[2, 2]), ("gamma", &[])],
            &[("beta", &[3]), ("gamma", &[2])],
            &[("beta", &[3]), ("gamma", &[2])],
            &[],
        ];
        let differing = [
            "alpha beta",
            "alpha beta gamma",
            "alpha beta gamma",
            "",
            "beta gamma",
        ];
        let (mut standing, mut before) = (Standing::default(), Services::new());
        for (step, differing) in steps.into_iter().zip(differing) {
            let after = services(step);
            // What is equal is shared, as it is between two looks at one cluster.
            let after: Services = after
                .into_iter()
                .map(|(key, service)| match before.get(&key) {
                    Some(old) if **old == *service => (key, Arc::clone(old)),
                    _ => (key, service),
                })
                .collect();
            let names = standing.take_in(&before, &after);
            let names: Vec<&str> = names.iter().map(|key| key.name.as_str()).collect();
            assert_eq!(names.join(" "), differing);
            assert_eq!(standing, Standing::of(&after));
            before = after;
        }
        assert_eq!(standing, Standing::default());
    }

    #[test]
    fn whoever_holds_an_address_is_no_stranger_to_it() {
        let standing = Standing::of(&services(&[("alpha", &[1]), ("beta", &[1, 2])]));
        let mut allocations = Allocations::default();
        let alpha = ServiceKey::new("shop", "alpha");
        assert!(standing.stands(ip(1), &allocations));
        allocations.set(&alpha, vec![ip(1), ip(3)], "edge-a");
        let strangers: Vec<_> = standing.strangers(ip(1), &allocations).collect();
        assert_eq!(strangers, [&ServiceKey::new("shop", "beta")]);
        assert!(!standing.stands(ip(3), &allocations));
        let other = Standing::of(&services(&[("alpha", &[1]), ("beta", &[1, 3])]));
        assert_eq!(standing.changed(&other).collect::<Vec<_>>(), [ip(2), ip(3)]);
    }
}
