//! The endpoints of a Service: whether there are any, whether they are ready, and whether they answer
//! this node. Pure: who answered comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::probe::{Seen, Target};
use crate::doctor::finding::{Depth, Finding, Level, Section};
use crate::doctor::machine::SourceRule;
use crate::model::cluster::ClusterState;
use crate::model::endpoint::{Endpoint, EndpointSlice};
use crate::model::family::Family;
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
    /// An `EndpointSlice` of the namespace that belongs to no Service.
    pub(super) stray: Option<&'s str>,
    /// The rules of policy routing by source.
    pub(super) rules: &'s [SourceRule],
}

/// What sends the answers of an endpoint another way than the main table.
pub(super) fn rule_for(rules: &[SourceRule], endpoint: IpAddr) -> Option<&SourceRule> {
    rules.iter().find(|rule| rule.from.contains(&endpoint))
}

/// Its words, and how it is looked at.
pub(super) fn stolen(rule: &SourceRule) -> (String, String) {
    let (priority, from, table) = (rule.priority, rule.from, rule.table);
    (
        format!("ip rule {priority} sends what comes from {from} by table {table}"),
        format!(
            "ip route show table {table}; ip rule del pref {priority} if nobody needs it, or ip rule add pref \
             {} from {from} lookup main before it",
            priority.saturating_sub(1)
        ),
    )
}

impl<'s> Slices<'s> {
    pub(super) fn new(cluster: &'s ClusterState, service: &'s Service) -> Self {
        let slices = cluster.slices_of(&service.key).map(AsRef::as_ref);
        Self {
            service,
            all: slices.collect(),
            network: UNNAMED,
            stray: None,
            rules: &[],
        }
    }

    /// With the name of the pod network.
    pub(super) fn on(self, network: &'s str) -> Self {
        Self { network, ..self }
    }

    /// With a slice of the namespace that lacks its label.
    pub(super) fn beside(self, stray: Option<&'s str>) -> Self {
        Self { stray, ..self }
    }

    /// With the rules of policy routing.
    pub(super) fn under(self, rules: &'s [SourceRule]) -> Self {
        Self { rules, ..self }
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
            let leaving = endpoints.iter().all(|it| it.conditions.terminating);
            return vec![self.unready(&endpoints, leaving)];
        }
        let mut findings = self.misnamed();
        findings.extend(self.other_family());
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
        if let (true, Some(slice)) = (self.all.is_empty(), self.stray) {
            let message = format!(
                "it has no endpoint: EndpointSlice {slice} has no label kubernetes.io/service-name, so it \
                 belongs to no Service"
            );
            return self.finding(Level::Problem, message).mend(format!(
                "kubectl -n {} label endpointslice {slice} kubernetes.io/service-name={}, if it is meant \
                 for it",
                key.namespace, key.name
            ));
        }
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

    /// A family of the Service of which no slice is, where there are some of the other one.
    fn other_family(&self) -> Option<Finding> {
        let key = &self.service.key;
        let there: BTreeSet<Family> = self.all.iter().map(|slice| slice.family).collect();
        let wanted: BTreeSet<Family> = (self.service.families.iter().copied())
            .chain(self.service.cluster_ips.iter().copied().map(Family::of))
            .collect();
        let lacks: Vec<String> = (wanted.iter())
            .filter(|family| !there.contains(family))
            .map(ToString::to_string)
            .collect();
        let all = lacks.len() == wanted.len();
        (!lacks.is_empty()).then(|| {
            let has: Vec<String> = there.iter().map(ToString::to_string).collect();
            let level = if all { Level::Problem } else { Level::Warning };
            let lacks = lacks.join(" and ");
            let message = format!(
                "it is {lacks}, and its endpoints are {} alone: nothing serves its {lacks} addresses",
                has.join(" and ")
            );
            self.finding(level, message).mend(format!(
                "kubectl -n {0} get endpointslices -l kubernetes.io/service-name={1} (ADDRESSTYPE); let the \
                 pods have {lacks} addresses, or give the Service the ipFamilies of its pods",
                key.namespace, key.name
            ))
        })
    }

    fn unready(&self, endpoints: &[&Endpoint], leaving: bool) -> Finding {
        let count = endpoints.len();
        let message = if leaving {
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
                _ if rule_for(self.rules, ip).is_some() => {
                    let (what, remedy) = rule_for(self.rules, ip).map(stolen).unwrap_or_default();
                    (
                        format!(
                            "{count} endpoints do not answer this node: {what}, and so their answers"
                        ),
                        remedy,
                    )
                }
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
