//! The endpoints of a Service: whether there are any, whether they are ready, and whether they answer
//! this node. Pure: who answered comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::probe::{Seen, Target};
use crate::doctor::finding::{Depth, Finding, Level, Section};
use crate::model::cluster::ClusterState;
use crate::model::endpoint::{Endpoint, EndpointSlice};
use crate::model::service::{Service, ServiceType};

/// Addresses that an evidence names; more are counted.
const MOST_NAMED: usize = 3;
/// A pod network that shows nothing by which it is known.
const UNNAMED: &str = "the pod network (CNI)";

/// What a pod network is called that has these interfaces.
pub(super) fn pod_network<'l>(links: impl Iterator<Item = &'l str>) -> &'static str {
    const KNOWN: [(&str, &str); 9] = [
        ("cali", "Calico (DaemonSet calico-node)"),
        ("vxlan.calico", "Calico (DaemonSet calico-node)"),
        ("cilium", "Cilium (DaemonSet cilium)"),
        ("flannel", "Flannel (DaemonSet kube-flannel-ds)"),
        ("kube-bridge", "kube-router (DaemonSet kube-router)"),
        ("antrea", "Antrea (DaemonSet antrea-agent)"),
        ("weave", "Weave (DaemonSet weave-net)"),
        ("ovn-k8s", "OVN-Kubernetes (DaemonSet ovnkube-node)"),
        ("cni0", "the bridge plugin of CNI"),
    ];
    let found = links
        .filter_map(|link| {
            KNOWN
                .iter()
                .position(|(prefix, _)| link.starts_with(prefix))
        })
        .min();
    found
        .and_then(|at| KNOWN.get(at))
        .map_or(UNNAMED, |(_, name)| *name)
}

/// A Service with its slices.
pub(super) struct Slices<'s> {
    pub(super) service: &'s Service,
    pub(super) all: Vec<&'s EndpointSlice>,
    /// What the pod network is called here.
    pub(super) network: &'s str,
}

impl<'s> Slices<'s> {
    pub(super) fn new(cluster: &'s ClusterState, service: &'s Service) -> Self {
        let slices = cluster.slices_of(&service.key).map(AsRef::as_ref);
        Self {
            service,
            all: slices.collect(),
            network: UNNAMED,
        }
    }

    /// With the name of the pod network.
    pub(super) fn on(self, network: &'s str) -> Self {
        Self { network, ..self }
    }

    /// Every endpoint once, by its address.
    fn endpoints(&self) -> Vec<&'s Endpoint> {
        let mut seen = BTreeSet::new();
        let all = self.all.iter().flat_map(|slice| &slice.endpoints);
        all.filter(|endpoint| seen.insert(endpoint.address))
            .collect()
    }

    /// Where the ready endpoints of the Service's ports are.
    pub(super) fn targets(&self) -> Vec<Target> {
        let mut targets = BTreeSet::new();
        for slice in &self.all {
            for port in &slice.ports {
                let mut ports = self.service.ports.iter();
                if !ports.any(|it| (&it.name, it.protocol) == (&port.name, port.protocol)) {
                    continue;
                }
                let ready = slice.endpoints.iter().filter(|it| it.conditions.ready);
                targets.extend(
                    ready.map(|it| (port.protocol, SocketAddr::new(it.address, port.port))),
                );
            }
        }
        targets.into_iter().collect()
    }

    fn finding(&self, level: Level, message: impl Into<String>) -> Finding {
        Finding::new(Section::Service, level, message)
            .of(self.service.key.to_string())
            .at(Depth::Asked)
    }

    /// What is wrong with them.
    pub(super) fn judge(&self, seen: &BTreeMap<Target, Seen>) -> Vec<Finding> {
        if self.service.kind == ServiceType::ExternalName {
            return Vec::new();
        }
        let endpoints = self.endpoints();
        if endpoints.is_empty() {
            return vec![self.none()];
        }
        let ready = endpoints.iter().filter(|it| it.conditions.ready).count();
        if ready == 0 {
            let serving = endpoints.iter().any(|it| it.conditions.serving);
            return vec![self.unready(&endpoints, serving)];
        }
        let mut findings = self.misnamed();
        if ready < endpoints.len() {
            let message = format!("{ready} of {} endpoints are ready", endpoints.len());
            let unready = endpoints.iter().filter(|it| !it.conditions.ready).copied();
            let told = self.finding(Level::Info, message).at(Depth::Symptom);
            findings.push(
                told.seen(named(unready.map(place).collect()))
                    .mend(self.look()),
            );
        }
        findings.extend(self.unreached(seen));
        findings
    }

    fn look(&self) -> String {
        let (key, selector) = (&self.service.key, &self.service.selector);
        if selector.is_empty() {
            return format!(
                "kubectl -n {} get endpointslices -l kubernetes.io/service-name={} -o yaml",
                key.namespace, key.name
            );
        }
        format!("kubectl -n {} describe pods -l {selector}", key.namespace)
    }

    fn none(&self) -> Finding {
        let (key, selector) = (&self.service.key, &self.service.selector);
        if selector.is_empty() {
            return self
                .finding(
                    Level::Problem,
                    "it has no endpoint: it has no selector, and no EndpointSlice names an address for it",
                )
                .mend(format!(
                    "give it a selector, or write an EndpointSlice with the label \
                     kubernetes.io/service-name: {}",
                    key.name
                ));
        }
        self.finding(
            Level::Problem,
            format!("it has no endpoint: its selector {selector} matches no pod that has an address"),
        )
        .mend(format!(
            "compare it with the labels of the pods (kubectl -n {} get pods --show-labels), then kubectl \
             -n {} edit service {}",
            key.namespace, key.namespace, key.name
        ))
    }

    fn unready(&self, endpoints: &[&Endpoint], serving: bool) -> Finding {
        let count = endpoints.len();
        let message = if serving {
            format!("none of its {count} endpoints is ready: all are terminating")
        } else {
            format!(
                "none of its {count} endpoints is ready: readiness probes fail, or the pods do not start"
            )
        };
        let seen = named(endpoints.iter().copied().map(place).collect());
        self.finding(Level::Problem, message)
            .seen(seen)
            .mend(self.look())
    }

    /// Ports for which no slice has one of that name.
    fn misnamed(&self) -> Vec<Finding> {
        let there: BTreeSet<String> = (self.all.iter())
            .flat_map(|slice| &slice.ports)
            .map(|port| {
                format!(
                    "{:?} ({} {})",
                    port.name,
                    port.protocol.lowercase(),
                    port.port
                )
            })
            .collect();
        let has = |name: &str, protocol| {
            let mut ports = self.all.iter().flat_map(|slice| &slice.ports);
            ports.any(|port| (port.name.as_str(), port.protocol) == (name, protocol))
        };
        let lost = self
            .service
            .ports
            .iter()
            .filter(|port| !has(&port.name, port.protocol));
        let told =
            lost.map(|port| {
                let name = if port.name.is_empty() {
                    "without a name"
                } else {
                    &port.name
                };
                self.finding(
                Level::Problem,
                format!(
                    "its port {} ({name}) leads nowhere: no endpoint has a {} port of that name",
                    port.port,
                    port.protocol.lowercase()
                ),
            )
            .seen(format!("they have {}", named(there.iter().cloned().collect())))
            .mend(format!(
                "let targetPort name a port of the pods: kubectl -n {} edit service {}",
                self.service.key.namespace, self.service.key.name
            ))
            });
        told.collect()
    }

    /// Ready endpoints that do not answer this node.
    fn unreached(&self, seen: &BTreeMap<Target, Seen>) -> Vec<Finding> {
        let asked: Vec<(&Target, Seen)> = (self.targets().iter())
            .filter_map(|target| seen.get_key_value(target))
            .map(|(target, seen)| (target, *seen))
            .collect();
        let mut findings = Vec::new();
        for wrong in [
            Seen::Refused,
            Seen::NoRoute,
            Seen::Astray,
            Seen::Forbidden,
            Seen::Silent,
        ] {
            let bad: Vec<&Target> = (asked.iter())
                .filter(|(_, seen)| *seen == wrong)
                .map(|(target, _)| *target)
                .collect();
            let Some((_, first)) = bad.first() else {
                continue;
            };
            let all = bad.len() == asked.len();
            let level = if all { Level::Problem } else { Level::Warning };
            let count = format!("{} of {}", bad.len(), asked.len());
            let ip = first.ip();
            let namespace = &self.service.key.namespace;
            let (message, remedy) = match wrong {
                Seen::Refused => (
                    format!(
                        "nothing listens on the target port of {count} endpoints: they refuse connections"
                    ),
                    format!(
                        "kubectl -n {namespace} exec POD -- ss -ltn shows the port and whether it is bound \
                         to 127.0.0.1 only; then correct targetPort: kubectl -n {namespace} edit service {}",
                        self.service.key.name
                    ),
                ),
                Seen::NoRoute => (
                    format!(
                        "this node cannot reach {count} endpoints: there is no route to the pods"
                    ),
                    format!(
                        "ip route get {ip}; ip route show type blackhole; restart {} on this node and on \
                         theirs",
                        self.network
                    ),
                ),
                Seen::Astray => (
                    format!(
                        "this node has no route of its own to the pods of {count} endpoints: what it sends \
                         them leaves by the default route, and nothing answers"
                    ),
                    format!(
                        "ip route get {ip}; see whether {} runs on this node and knows it, and restart it",
                        self.network
                    ),
                ),
                Seen::Forbidden => (
                    format!("a firewall of this node forbids connections to {count} endpoints"),
                    "nft list ruleset | grep -B5 -E 'hook output|reject|drop'".to_owned(),
                ),
                _ => (
                    format!(
                        "{count} endpoints do not answer this node, though it has a route to them"
                    ),
                    format!(
                        "tcpdump -ni any host {ip} here and on the pod's node; look at firewalls and \
                         NetworkPolicies that do not let the node in"
                    ),
                ),
            };
            let evidence = bad
                .iter()
                .map(|(_, address)| format!("{address} {}", wrong.as_str()));
            // A firewall or a lost route has a finding of its own, which explains this one.
            let depth = if wrong == Seen::Refused {
                Depth::Asked
            } else {
                Depth::Symptom
            };
            let told = self.finding(level, message).at(depth);
            findings.push(told.seen(named(evidence.collect())).mend(remedy));
        }
        findings
    }
}

fn place(endpoint: &Endpoint) -> String {
    let conditions = &endpoint.conditions;
    let state = if conditions.terminating {
        "terminating"
    } else if conditions.ready {
        "ready"
    } else {
        "not ready"
    };
    let node = (endpoint.node.as_ref()).map_or_else(String::new, |node| format!(" on {node}"));
    format!("{} {state}{node}", endpoint.address)
}

/// The first ones, and how many more there are.
pub(super) fn named(mut all: Vec<String>) -> String {
    let more = all.len().saturating_sub(MOST_NAMED);
    all.truncate(MOST_NAMED);
    let shown = all.join(", ");
    if more == 0 {
        shown
    } else {
        format!("{shown} and {more} more")
    }
}
