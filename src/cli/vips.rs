//! `edgelb vips`: who announces each VIP, and why not this node.

use std::path::Path;

use super::exit::Exit;
use super::output::Format;
use super::table::{Table, with_notes};
use super::view::{list, show};
use super::watch::WatchedArguments;
use crate::admin::protocol::Command;
use crate::admin::view::Vips;
use crate::plan::reason::Reason;

/// Asks and prints.
pub fn run(arguments: &WatchedArguments, config: &Path, format: Format) -> anyhow::Result<Exit> {
    show(Command::Vips, arguments, config, format, text)
}

fn text(answer: &Vips) -> String {
    let mut table = Table::new(["VIP", "SERVICE", "POOL", "OWNER", "ANNOUNCED-ON"]);
    let mut notes = Vec::new();
    for vip in &answer.vips {
        // The table says who announces it.
        let reasons = (vip.reasons.iter())
            .filter(|reason| !matches!(reason.reason, Reason::OwnedBy { .. }))
            .map(|reason| reason.text.as_str());
        let reasons = reasons.collect::<Vec<_>>().join("; ");
        if !reasons.is_empty() {
            notes.push((vip.address.to_string(), reasons));
        }
        table.row([
            vip.address.to_string(),
            vip.service.clone(),
            vip.pool.clone().unwrap_or_default(),
            vip.owner.clone().unwrap_or_default(),
            list(&vip.interfaces),
        ]);
    }
    with_notes(&table, &notes)
}
