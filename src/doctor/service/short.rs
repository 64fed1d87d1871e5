//! All Services in short: what an operator has to mend, one line for several that lack the same.

use std::collections::{BTreeMap, BTreeSet};

use super::endpoints::{Slices, named, pod_network};
use super::{MOST_PROBES, Scene, Ways, astray, probe, reach, told};
use crate::doctor::finding::{Depth, Finding, Level, Section};
use crate::model::service::{ServiceKey, ServiceType};
use crate::plan::reason::Reason;

/// Endpoints of each Service that are asked.
const PROBES_IN_SHORT: usize = 2;

/// All Services in short: what is wrong with several of them in the same way is one line.
pub(in crate::doctor) async fn examine_all(scene: &Scene<'_>, ways: &mut Ways<'_>) -> Vec<Finding> {
    let mut alike: BTreeMap<String, (Finding, Vec<String>)> = BTreeMap::new();
    let mut add = |kind: String, finding: Finding| {
        let service = finding.service.clone().unwrap_or_default();
        let known = alike.entry(kind).or_insert_with(|| (finding, Vec::new()));
        if !known.1.contains(&service) {
            known.1.push(service);
        }
    };
    let mut counted = 0_usize;
    for view in scene
        .running
        .into_iter()
        .flat_map(|it| &it.services.services)
    {
        counted += 1;
        for (reason, mut finding) in view.reasons.iter().zip(told(view)) {
            finding.level = in_short(&reason.reason, finding.level, view.kind);
            if finding.level > Level::Info {
                add(reason.label.clone(), finding);
            }
        }
    }
    for vip in scene.running.into_iter().flat_map(|it| &it.vips.vips) {
        let key = vip
            .service
            .split_once('/')
            .map(|(space, name)| ServiceKey::new(space, name));
        let service = key.and_then(|key| scene.cluster?.services.get(&key));
        let peers = scene.running.map_or(&[][..], |it| &it.peers.peers);
        let policy = service.map(|it| it.external_traffic_policy);
        for finding in reach::announced(vip, policy, peers, None) {
            if finding.level > Level::Info {
                let kind = finding.evidence.clone().unwrap_or_default();
                add(format!("vip {kind}"), finding);
            }
        }
    }
    if let Some(cluster) = scene.cluster {
        let network = pod_network(scene.links.values().map(|link| link.name.as_str()));
        let forwarded = cluster.services.values().filter(|it| it.is_forwarded());
        let slices: Vec<Slices<'_>> = forwarded
            .map(|it| {
                let stray = scene.sources.without_service(&it.key.namespace);
                Slices::new(cluster, it)
                    .on(network)
                    .beside(stray)
                    .under(scene.rules)
            })
            .collect();
        counted = counted.max(cluster.services.len());
        let targets = slices
            .iter()
            .flat_map(|it| it.targets().into_iter().take(PROBES_IN_SHORT));
        let mut seen = probe::ask(targets.take(MOST_PROBES).collect::<BTreeSet<_>>()).await;
        astray(&mut seen, ways);
        for it in slices {
            let outside = it.service.kind == ServiceType::LoadBalancer;
            for mut finding in it.judge(&seen) {
                // Many a Service waits for its pods on purpose.
                finding.level =
                    finding
                        .level
                        .min(if outside { Level::Warning } else { Level::Info });
                if finding.level > Level::Info {
                    let mut words = finding
                        .message
                        .split(' ')
                        .filter(|it| !it.contains(['=', '1']));
                    let kind: Vec<&str> = words.by_ref().take(4).collect();
                    add(kind.join(" "), finding);
                }
            }
        }
    }
    let mut findings: Vec<Finding> = alike
        .into_values()
        .map(|(mut finding, services)| {
            finding = finding.at(Depth::Cluster);
            if services.len() > 1 {
                finding.message =
                    format!("{} Services like this: {}", services.len(), finding.message);
                finding.evidence = Some(named(services));
                finding.service = None;
            }
            finding
        })
        .collect();
    if findings.is_empty() && counted > 0 {
        let message = format!(
            "nothing was found wrong with {counted} Services; edgelb doctor NAMESPACE/NAME looks closer"
        );
        findings.push(Finding::new(Section::Service, Level::Fine, message));
    }
    findings
}

/// Who did not ask for a Service is told what an operator has to mend, not what its owner left undone.
fn in_short(reason: &Reason, level: Level, kind: ServiceType) -> Level {
    match reason {
        Reason::OtherClass { .. } | Reason::ServedByAnother { .. } | Reason::ServedElsewhere => {
            Level::Info
        }
        Reason::BeingDeleted => Level::Info,
        // The endpoints are looked at below.
        Reason::NoEndpoints { .. } if kind != ServiceType::LoadBalancer => Level::Info,
        Reason::NoEndpoints { .. } => level.min(Level::Warning),
        _ => level,
    }
}
