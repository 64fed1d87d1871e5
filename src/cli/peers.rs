//! `edgelb peers`: the nodes among which VIPs are shared out.

use std::path::Path;

use super::exit::Exit;
use super::output::Format;
use super::table::{Table, with_notes};
use super::view::{list, show, yes_or_no};
use super::watch::WatchedArguments;
use crate::admin::protocol::Command;
use crate::admin::view::{Peer, Peers};
use crate::model::peer::Presence;

/// Asks and prints.
pub fn run(arguments: &WatchedArguments, config: &Path, format: Format) -> anyhow::Result<Exit> {
    show(Command::Peers, arguments, config, format, text)
}

/// How the node is heard, in one word or two.
fn heard(peer: &Peer) -> String {
    let word = match (peer.presence, peer.heard) {
        (Some(Presence::Down), _) => "down",
        (Some(Presence::Restarting), _) => "restarting",
        (Some(Presence::Alive), Some(heard)) => match (heard.udp, heard.lan) {
            (true, true) => "udp, lan",
            (true, false) => "udp",
            (false, true) => "lan",
            (false, false) => "by others",
        },
        _ => "",
    };
    word.to_owned()
}

fn text(answer: &Peers) -> String {
    let mut table = Table::new(["NODE", "ADDRESSES", "VIPS", "ELIGIBLE", "HEARD"]);
    let mut notes = Vec::new();
    for peer in &answer.peers {
        let this = if peer.this_node { " (this)" } else { "" };
        if !peer.reasons.is_empty() {
            let reasons = peer.reasons.iter().map(|reason| reason.text.as_str());
            notes.push((peer.name.clone(), reasons.collect::<Vec<_>>().join("; ")));
        }
        table.row([
            format!("{}{this}", peer.name),
            list(&peer.addresses),
            peer.vips.to_string(),
            yes_or_no(peer.eligible),
            heard(peer),
        ]);
    }
    with_notes(&table, &notes)
}
