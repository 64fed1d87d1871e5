//! Puts the plan of one Service in the place of its old one, and settles what several Services want:
//! a port is the lowest Service's, an address stays as long as somebody needs it.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use super::Plan;
use super::addresses::forget;
use super::forwarding::ServicePlan;
use super::reason::Reason;
use crate::model::compact_set::CompactSet;
use crate::model::frontend::FrontendPort;
use crate::model::node_state::HeldFor;
use crate::model::service::ServiceKey;

impl Plan {
    /// Puts the new plan of one Service in the place of the old one, and settles who wins each port.
    pub(super) fn exchange(&mut self, key: &ServiceKey, new: Option<&Arc<ServicePlan>>) {
        let old = self.services.remove(key);
        if let Some(old) = &old {
            for (port, _) in &old.frontends {
                forget(&mut self.claims, port, key);
            }
            for hold in &old.held {
                count_down(&mut self.holds, hold);
            }
            for address in &old.hairpin {
                count_down(&mut self.hairpins, address);
            }
            for address in &old.dead {
                count_down(&mut self.dead, address);
            }
        }
        if let Some(new) = new {
            for (port, _) in &new.frontends {
                self.claims.entry(*port).or_default().insert(key.clone());
            }
            for hold in &new.held {
                *self.holds.entry(*hold).or_insert(0) += 1;
            }
            for address in &new.hairpin {
                *self.hairpins.entry(*address).or_insert(0) += 1;
            }
            for address in &new.dead {
                *self.dead.entry(*address).or_insert(0) += 1;
            }
            self.services.insert(key.clone(), Arc::clone(new));
        }
        let both = || old.iter().chain(new);
        for (port, _) in both().flat_map(|plan| &plan.frontends) {
            self.settle_port(*port);
        }
        for (address, _) in both().flat_map(|plan| &plan.held) {
            self.settle_address(*address);
        }
        for address in both().flat_map(|plan| &plan.hairpin) {
            if self.hairpins.contains_key(address) {
                self.state.hairpin.insert(*address);
            } else {
                self.state.hairpin.remove(address);
            }
        }
        for address in both().flat_map(|plan| &plan.dead) {
            if self.dead.contains_key(address) {
                self.state.dead.insert(*address);
            } else {
                self.state.dead.remove(address);
            }
        }
        match new.and_then(|plan| plan.health_check.clone()) {
            Some(health_check) => {
                self.state.health_checks.insert(key.clone(), health_check);
            }
            None => {
                self.state.health_checks.remove(key);
            }
        }
    }

    /// The lowest Service that wants a port gets it.
    fn settle_port(&mut self, port: FrontendPort) {
        let winner = self
            .claims
            .get(&port)
            .and_then(CompactSet::get_min)
            .and_then(|key| {
                let frontends = &self.services.get(key)?.frontends;
                let at = frontends
                    .binary_search_by_key(&port, |(port, _)| *port)
                    .ok()?;
                frontends.get(at).map(|(_, frontend)| Arc::clone(frontend))
            });
        match winner {
            // An equal frontend stays the same object, so that a diff passes over it.
            Some(frontend) if self.state.frontends.get(&port) == Some(&frontend) => {}
            Some(frontend) => {
                self.state.frontends.insert(port, frontend);
            }
            None => {
                self.state.frontends.remove(&port);
            }
        }
    }

    /// An address is held as long as some Service needs it; a VIP is one whatever else it may be.
    fn settle_address(&mut self, address: IpAddr) {
        let held = [HeldFor::Vip, HeldFor::External, HeldFor::ClusterIp]
            .into_iter()
            .find(|held| self.holds.contains_key(&(address, *held)));
        match held {
            Some(held) => {
                self.state.held.insert(address, held);
            }
            None => {
                self.state.held.remove(&address);
            }
        }
    }

    /// Why a Service is not served as it asks, address management and conflicts included.
    pub fn reasons(&self, key: &ServiceKey) -> Vec<Reason> {
        let mut reasons = self.addresses.pending.get(key).cloned().unwrap_or_default();
        if let Some(plan) = self.services.get(key) {
            // What address management refuses, forwarding refuses too: once is enough.
            let told: Vec<IpAddr> = reasons.iter().filter_map(Reason::refused).collect();
            let more = plan.reasons.iter();
            let more = more.filter(|reason| {
                let refused = reason.refused();
                refused.is_none_or(|address| !told.contains(&address))
            });
            reasons.extend(more.cloned());
            for (port, _) in &plan.frontends {
                if let Some(holder) = self
                    .claims
                    .get(port)
                    .and_then(CompactSet::get_min)
                    .filter(|holder| *holder != key)
                {
                    reasons.push(Reason::FrontendTaken {
                        frontend: *port,
                        holder: holder.clone(),
                    });
                }
            }
        }
        reasons
    }
}

fn count_down<K: Ord + Clone>(counts: &mut OrdMap<K, usize>, key: &K) {
    let gone = counts.get_mut(key).is_some_and(|count| {
        *count = count.saturating_sub(1);
        *count == 0
    });
    if gone {
        counts.remove(key);
    }
}
