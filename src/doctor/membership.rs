//! Whether the other nodes are heard, decide alike, and nobody else uses the VIPs: what the daemon on
//! this node tells, judged. Pure.

use super::running::Running;
use super::{Finding, Level, Section};
use crate::admin::view::Peer;
use crate::config::Config;
use crate::model::peer::Presence;

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
        findings.extend(others.iter().flat_map(|peer| judge(peer, port.get())));
        if findings.is_empty() {
            let heard = others
                .iter()
                .filter(|peer| peer.presence == Some(Presence::Alive));
            findings.push(Finding {
                section: Section::Membership,
                level: Level::Fine,
                message: format!("{} other nodes are heard", heard.count()),
                remedy: None,
            });
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
    Finding {
        section: Section::Membership,
        level,
        message,
        remedy: Some(remedy.to_owned()),
    }
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
