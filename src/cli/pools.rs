//! `edgelb pools`: how full each pool is.

use std::path::Path;

use super::exit::Exit;
use super::output::Format;
use super::table::Table;
use super::view::{show, yes_or_no};
use super::watch::WatchedArguments;
use crate::admin::protocol::Command;
use crate::admin::view::Pools;

/// Asks and prints.
pub fn run(arguments: &WatchedArguments, config: &Path, format: Format) -> anyhow::Result<Exit> {
    show(Command::Pools, arguments, config, format, text)
}

fn text(answer: &Pools) -> String {
    let mut table = Table::new([
        "POOL",
        "FAMILY",
        "TOTAL",
        "ALLOCATED",
        "FREE",
        "PRIORITY",
        "AUTO-ASSIGN",
    ]);
    for pool in &answer.pools {
        table.row([
            pool.name.clone(),
            pool.family.to_string(),
            pool.total.to_string(),
            pool.allocated.to_string(),
            pool.free.to_string(),
            pool.priority.to_string(),
            yes_or_no(pool.auto_assign),
        ]);
    }
    table.text()
}
