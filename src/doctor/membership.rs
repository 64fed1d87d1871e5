//! Whether the other nodes are heard, decide alike, and nobody else uses the VIPs: what the daemon on
//! this node tells, judged. Pure.

use std::collections::BTreeMap;

use super::finding::Depth;
use super::running::Running;
use super::service::of_a_node;
use super::{Finding, Level, Section};
use crate::admin::view::Peer;
use crate::config::Config;
use crate::model::peer::Presence;
use crate::plan::reason::Reason;

/// The findings; none without a daemon, of which others tell.
pub(super) fn examine(config: &Config, running: Option<&Running>) -> Vec<Finding> {
    let Some(running) = running else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let port = config.membership.listen.port;
    let others: Vec<&Peer> = (running.peers.peers.iter())
        .filter(|peer| !peer.this_node)
        .collect();
    if running.peers.membership {
        findings.extend(unopened(&running.unopened));
        let settled = running.status.uptime_seconds >= SETTLED_SECONDS;
        findings.extend(others.iter().flat_map(|peer| judge(peer, port.get())));
        findings.extend(unheard(&others).filter(|_| settled));
        let known = others.iter().filter(|peer| peer.presence.is_some()).count();
        let configured = config.membership.peers.len();
        if settled && known < configured && findings.is_empty() {
            let message =
                format!("{known} of {configured} nodes in membership.peers were ever heard");
            findings.push(finding(Level::Warning, message, UNHEARD));
        }
        if findings.is_empty() {
            let heard = others
                .iter()
                .filter(|peer| peer.presence == Some(Presence::Alive));
            let message = format!("{} other nodes are heard", heard.count());
            findings.push(Finding::new(Section::Membership, Level::Fine, message));
        }
    } else if !others.is_empty() {
        findings.push(finding(
            Level::Warning,
            format!(
                "there are {} Nodes and no membership key: nodes do not talk with one another, and one \
                 that dies keeps its VIPs until its Node goes",
                others.len() + 1
            ),
            "write a key (head -c 32 /dev/urandom | base64), copy it to every edge node, name it in \
             membership.key_files",
        ));
    }
    let own = running.peers.peers.iter().filter(|peer| peer.this_node);
    findings.extend(own.flat_map(this_node));
    findings.extend(running.status.address_conflicts.iter().map(|conflict| {
        let announced = if conflict.announced {
            "this node announces it all the same, and clients reach now the one, now the other"
        } else {
            "so it is not announced"
        };
        finding(
            Level::Problem,
            format!(
                "the host with the Ethernet address {} uses the VIP {}: {announced}",
                conflict.mac, conflict.address
            ),
            "take the address from that host, or leave it out of the pool",
        )
    }));
    findings
}

/// Datagrams that came just now and had no effect.
fn unopened(counts: &BTreeMap<String, u64>) -> Vec<Finding> {
    let count = |reason: &str| counts.get(reason).copied().unwrap_or(0);
    let mut findings = Vec::new();
    let sealed = count("unknown_key") + count("forged");
    if sealed > 0 {
        let message = "another node speaks with a membership key that this node does not have: they do \
                       not hear one another, and both may own the same VIP";
        let told = finding(
            Level::Problem,
            message.to_owned(),
            "copy the same key to every edge node (sha256sum the files of membership.key_files; while a key \
             is exchanged, each node has both), then systemctl restart edgelb",
        );
        let seen = format!("{sealed} datagrams could not be opened just now");
        findings.push(told.seen(seen).at(Depth::Ground));
    }
    if count("own_name") > 0 {
        let message = "another node speaks under this node's name: each takes the other for itself";
        let remedy = "set node.name of one of them to its own name (host names are the same after cloning \
                      a machine), then systemctl restart edgelb there";
        let told = finding(Level::Problem, message.to_owned(), remedy);
        let seen = format!("{} of its datagrams came just now", count("own_name"));
        findings.push(told.seen(seen).at(Depth::Ground));
    }
    if count("malformed") > 0 {
        let message = "datagrams of membership come that this version does not understand";
        let remedy = "edgelb --version on every edge node: run the same everywhere";
        findings.push(finding(Level::Warning, message.to_owned(), remedy));
    }
    findings
}

/// By then whoever is there was heard.
const SETTLED_SECONDS: u64 = 3;
const UNHEARD: &str = "see `systemctl status edgelb` there, whether the same key is in membership.key_files on \
                       both (sha256sum), and whether UDP 9751 passes between them";

/// Why this node itself may not own a VIP; that it is drained is told beside the daemon.
fn this_node(peer: &Peer) -> Vec<Finding> {
    let told = peer.reasons.iter().filter_map(|reason| {
        let level = match reason.reason {
            Reason::NodeUnknown => Level::Problem,
            Reason::NotSelected | Reason::ExcludedByLabel | Reason::NodeDeleting => Level::Info,
            _ => return None,
        };
        let message = format!("this node may not announce: {}", reason.text);
        Some(finding(level, message, of_a_node(&reason.reason)))
    });
    told.collect()
}

/// Whether a node is to run a daemon that announces.
fn is_meant(peer: &Peer) -> bool {
    let left_out = |reason: &Reason| {
        matches!(
            reason,
            Reason::NotSelected | Reason::ExcludedByLabel | Reason::NodeDeleting
        )
    };
    !peer.reasons.iter().any(|reason| left_out(&reason.reason))
}

/// Nodes that were never heard, in one line: where edgelb runs on some Nodes only, they are many.
fn unheard(others: &[&Peer]) -> Option<Finding> {
    let unheard: Vec<&str> = (others.iter())
        .filter(|peer| peer.presence.is_none() && is_meant(peer))
        .map(|peer| peer.name.as_str())
        .collect();
    let remedy = format!(
        "{UNHEARD}; where edgelb is to run on some Nodes only, let announce.node_selector say which"
    );
    match unheard.as_slice() {
        [] => None,
        [one] => {
            let message = format!("{one} was never heard since this daemon started");
            Some(finding(Level::Warning, message, &remedy))
        }
        [first, second, ..] => {
            let message = format!(
                "{} nodes were never heard since this daemon started",
                unheard.len()
            );
            let told = finding(Level::Warning, message, &remedy);
            Some(told.seen(format!("{first}, {second}…")))
        }
    }
}

/// What is wrong with one other node.
fn judge(peer: &Peer, port: u16) -> Vec<Finding> {
    let mut findings = Vec::new();
    match (peer.presence, peer.heard) {
        (Some(Presence::Down), _) => findings.push(finding(
            Level::Warning,
            format!("{} does not answer", peer.name),
            "see `systemctl status edgelb` there; a node that is gone for good leaves membership.peers",
        )),
        (Some(Presence::Alive), Some(heard)) if !heard.udp => findings.push(finding(
            Level::Warning,
            format!(
                "{} is heard by frames on the LAN only: UDP port {port} does not come through",
                peer.name
            ),
            "let UDP to that port pass between the edge nodes (firewalls on both, and between them)",
        )),
        _ => {}
    }
    if peer.presence == Some(Presence::Alive) && peer.same_configuration == Some(false) {
        findings.push(finding(
            Level::Warning,
            format!("{} decides by another configuration than this node", peer.name),
            "make [[pool]], [announce], [load_balancer] and [proxy] the same on all nodes, and reload",
        ));
    }
    findings
}

fn finding(level: Level, message: String, remedy: &str) -> Finding {
    Finding::new(Section::Membership, level, message).mend(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::peer::Heard;

    fn peer(presence: Presence, udp: bool, same: bool) -> Peer {
        Peer {
            name: "edge-b".to_owned(),
            this_node: false,
            addresses: Vec::new(),
            eligible: true,
            reasons: Vec::new(),
            vips: 0,
            presence: Some(presence),
            heard: Some(Heard { udp, lan: true }),
            draining: false,
            same_configuration: Some(same),
        }
    }

    #[test]
    fn datagrams_without_effect_are_told_by_their_cause() {
        let told = |reason: &str| {
            let found = unopened(&BTreeMap::from([(reason.to_owned(), 3)]));
            found.first().map_or_else(
                || (Level::Fine, String::new()),
                |it| (it.level, it.message.clone()),
            )
        };
        for (reason, level, word) in [
            ("unknown_key", Level::Problem, "membership key"),
            ("forged", Level::Problem, "membership key"),
            ("own_name", Level::Problem, "under this node's name"),
            ("malformed", Level::Warning, "does not understand"),
            ("replayed", Level::Fine, ""),
        ] {
            let (found, message) = told(reason);
            assert_eq!(found, level, "{reason}");
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn nodes_that_were_never_heard_are_one_line() {
        let mut silent = peer(Presence::Alive, true, true);
        (silent.presence, silent.heard, silent.same_configuration) = (None, None, None);
        let heard = peer(Presence::Alive, true, true);
        let told = |others: &[&Peer]| unheard(others).map(|it| it.message);
        assert_eq!(told(&[&heard]), None);
        let one = told(&[&heard, &silent]);
        assert_eq!(
            one.as_deref(),
            Some("edge-b was never heard since this daemon started")
        );
        let two = told(&[&silent, &silent]);
        assert_eq!(
            two.as_deref(),
            Some("2 nodes were never heard since this daemon started")
        );
        silent.reasons = vec![(&Reason::NotSelected).into()];
        assert_eq!(told(&[&silent]), None);
    }

    #[test]
    fn each_trouble_of_another_node_has_its_line() {
        for (peer, words) in [
            (peer(Presence::Alive, true, true), &[][..]),
            (peer(Presence::Restarting, true, true), &[]),
            (peer(Presence::Down, false, true), &["does not answer"]),
            (peer(Presence::Alive, false, true), &["UDP port 9751"]),
            (
                peer(Presence::Alive, false, false),
                &["UDP port 9751", "another configuration"],
            ),
        ] {
            let findings = judge(&peer, 9751);
            assert_eq!(findings.len(), words.len(), "{findings:?}");
            for (finding, word) in findings.iter().zip(words) {
                assert!(finding.message.contains(word), "{finding:?}");
                assert!(finding.remedy.is_some());
            }
        }
    }
}
