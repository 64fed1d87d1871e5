//! What a pass did to the kernel, gathered over all its parts: edits by kind, and what failed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nix::errno::Errno;

use super::{
    Failure, conntrack, module, netlink, nftables, route, sysctl, told_once, virtual_servers,
};

/// What one call did.
#[derive(Debug, Default)]
pub struct Report {
    /// Edits by object and operation.
    pub changes: BTreeMap<(&'static str, &'static str), usize>,
    /// What could not be applied.
    pub failures: Vec<Failure>,
    /// Addresses of virtual servers that were refused and of routes that could not be made: this node
    /// does not serve them whole.
    pub unserved: BTreeSet<IpAddr>,
    /// Whether filter and forwarding of everything new are in place: only then may it be announced.
    pub forwards: bool,
    /// Whether something was left undone that the next pass must find by comparing.
    pub uncertain: bool,
}

impl Report {
    /// Nothing was changed, and the kernel forwards.
    pub fn unchanged() -> Self {
        Self {
            forwards: true,
            ..Self::default()
        }
    }

    pub(super) fn telling_once(mut self) -> Self {
        self.failures = told_once(self.failures);
        self
    }

    pub(super) fn count(&mut self, object: &'static str, operation: &'static str, number: usize) {
        if number > 0 {
            *self.changes.entry((object, operation)).or_default() += number;
        }
    }

    /// Takes in what the table did; false where it failed.
    pub(super) fn table(&mut self, result: Result<nftables::Changes, nftables::Error>) -> bool {
        match result {
            Ok(changes) => {
                self.uncertain |= changes.held;
                self.count("element", "add", changes.added);
                self.count("element", "remove", changes.removed);
                self.count("table", "add", usize::from(changes.rebuilt));
                true
            }
            Err(error) => {
                self.failures.push(if lacks_nftables(&error) {
                    let message = format!(
                        "this kernel has no nf_tables: {}",
                        module::remedy("nf_tables")
                    );
                    Failure::told("table", "inet edgelb".to_owned(), &message)
                } else {
                    Failure::new("table", "inet edgelb", &error)
                });
                false
            }
        }
    }

    pub(super) fn virtual_servers(&mut self, outcome: virtual_servers::Outcome) {
        self.count("virtual_server", "add", outcome.virtual_servers_added);
        self.count("virtual_server", "change", outcome.virtual_servers_changed);
        self.count("virtual_server", "remove", outcome.virtual_servers_removed);
        self.count("real_server", "add", outcome.real_servers_added);
        self.count("real_server", "change", outcome.real_servers_changed);
        self.count("real_server", "remove", outcome.real_servers_removed);
        let refused = outcome.refused.servers.iter();
        self.unserved.extend(refused.map(|server| server.address));
        self.failures.extend(outcome.failures);
    }

    pub(super) fn routes(&mut self, result: Result<route::Outcome, route::Error>) {
        match result {
            Ok(outcome) => {
                self.count("route", "add", outcome.added);
                self.count("route", "change", outcome.replaced);
                self.count("route", "remove", outcome.removed);
                let prefixes = outcome.failures.iter().map(route::Failure::prefix);
                let whole =
                    prefixes.filter(|prefix| prefix.prefix_len() == prefix.max_prefix_len());
                self.unserved.extend(whole.map(|prefix| prefix.addr()));
                self.failures.extend(
                    outcome.failures.iter().map(|failure| {
                        Failure::new("route", &failure.prefix().to_string(), failure)
                    }),
                );
            }
            Err(error) => self
                .failures
                .push(Failure::new("route", "table local", &error)),
        }
    }

    pub(super) fn conntrack(&mut self, result: Result<usize, conntrack::Error>) {
        match result {
            Ok(deleted) => self.count("flow", "remove", deleted),
            Err(error) => self
                .failures
                .push(Failure::new("conntrack", "flows", &error)),
        }
    }

    pub(super) fn sysctls(
        &mut self,
        result: Result<sysctl::Outcome, super::state_directory::Error>,
    ) {
        match result {
            Ok(outcome) => {
                self.count("sysctl", "change", outcome.written.len());
                self.failures.extend(
                    outcome
                        .failures
                        .iter()
                        .map(|failure| Failure::new("sysctl", failure.path(), failure)),
                );
            }
            Err(error) => {
                self.failures
                    .push(Failure::new("state_directory", "sysctls.json", &error));
            }
        }
    }
}

/// nfnetlink knows no such subsystem, and could not load it.
fn lacks_nftables(error: &nftables::Error) -> bool {
    matches!(error, nftables::Error::Observe(netlink::Error::Refused(refusal))
        if refusal.errno == Errno::EINVAL as i32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Who could not program a VIP leaves it to nodes that could.
    #[test]
    fn addresses_of_what_was_refused_are_unserved() {
        let mut outcome = virtual_servers::Outcome::default();
        for name in ["TCP 192.0.2.1:80", "UDP [2001:db8::1]:53"] {
            outcome.refused.servers.insert(name.parse().unwrap());
        }
        let foreign = |prefix: &str| route::Failure::Foreign {
            prefix: prefix.parse().unwrap(),
            protocol: 4,
        };
        let routes = route::Outcome {
            failures: vec![foreign("192.0.2.7/32"), foreign("10.96.0.0/12")],
            ..route::Outcome::default()
        };
        let mut report = Report::unchanged();
        report.virtual_servers(outcome);
        report.routes(Ok(routes));
        let unserved = ["192.0.2.1", "192.0.2.7", "2001:db8::1"];
        assert_eq!(
            report.unserved,
            unserved.iter().map(|it| it.parse().unwrap()).collect()
        );
        assert_eq!(report.failures.len(), 2);
    }
}
