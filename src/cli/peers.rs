//! `edgelb peers`: the nodes among which VIPs are shared out.

use std::path::Path;

use super::exit::Exit;
use super::output::Format;
use super::table::{Table, with_notes};
use super::view::{ViewArguments, list, show, yes_or_no};
use crate::admin::protocol::Command;
use crate::admin::view::Peers;

/// Asks and prints.
pub fn run(arguments: &ViewArguments, config: &Path, format: Format) -> anyhow::Result<Exit> {
    show(Command::Peers, arguments, config, format, text)
}

fn text(answer: &Peers) -> String {
    let mut table = Table::new(["NODE", "ADDRESSES", "VIPS", "ELIGIBLE"]);
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
        ]);
    }
    with_notes(&table, &notes)
}
