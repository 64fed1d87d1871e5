//! The configuration that a lab's daemon gets: the least that the lab needs, the rest by default.

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::LabError;
use super::address_plan::{VIP_POOL, cluster_ip_ranges};
use super::daemon::DaemonOptions;

/// Where a node's configuration lies in its directory.
pub(super) fn configuration_path(directory: &Path) -> PathBuf {
    directory.join("edgelb.toml")
}

/// The lab's configuration for one node, with the caller's keys over it.
pub(super) fn configuration(node: &str, directory: &Path, options: &DaemonOptions) -> Table {
    let path = |path: &Path| Value::from(path.to_string_lossy().into_owned());
    let strings = |values: &[String]| Value::from(values.to_vec());
    let pool = Table::from_iter([
        ("name".to_owned(), Value::from("lan")),
        ("addresses".to_owned(), Value::from(VIP_POOL.to_vec())),
    ]);
    let mut table = Table::from_iter([
        (
            "node".to_owned(),
            Value::Table(Table::from_iter([
                ("name".to_owned(), Value::from(node)),
                ("state_dir".to_owned(), path(&directory.join("state"))),
                ("runtime_dir".to_owned(), path(&directory.join("run"))),
            ])),
        ),
        (
            "source".to_owned(),
            Value::Table(Table::from_iter([
                ("kind".to_owned(), Value::from("manifests")),
                (
                    "manifests".to_owned(),
                    Value::Table(Table::from_iter([(
                        "dir".to_owned(),
                        path(&options.manifests),
                    )])),
                ),
            ])),
        ),
        ("pool".to_owned(), Value::Array(vec![Value::Table(pool)])),
        (
            "proxy".to_owned(),
            Value::Table(Table::from_iter([
                (
                    "datapath".to_owned(),
                    Value::from(options.datapath.as_str()),
                ),
                (
                    "service_cidrs".to_owned(),
                    strings(&cluster_ip_ranges().map(|range| range.to_string())),
                ),
            ])),
        ),
    ]);
    if let Some(membership) = &options.membership {
        let section = Value::Table(membership.section(node));
        table.insert("membership".to_owned(), section);
    }
    merge(&mut table, &options.configuration);
    table
}

fn merge(table: &mut Table, over: &Table) {
    for (key, value) in over {
        match (table.get_mut(key), value) {
            (Some(Value::Table(inner)), Value::Table(over)) => merge(inner, over),
            _ => {
                table.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Replaces the file as a whole: a daemon that reads it meanwhile sees the old one or the new one.
pub(super) fn write_configuration(directory: &Path, configuration: &Table) -> Result<(), LabError> {
    let path = configuration_path(directory);
    let draft = path.with_extension("draft");
    fs::write(&draft, configuration.to_string())
        .and_then(|()| fs::rename(&draft, &path))
        .map_err(|source| LabError::File {
            what: "write",
            path,
            source,
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_callers_keys_win_and_leave_their_neighbors() {
        let mut options = DaemonOptions::new("/bin/edgelb", "/manifests");
        options.configuration =
            "[proxy]\nscheduler = \"mh\"\ndatapath = \"ipvs\"\n[announce]\nping = false\n"
                .parse()
                .unwrap();
        let table = configuration("edge-a", Path::new("/lab/edge-a"), &options);
        let expected: Table = r#"
            [node]
            name = "edge-a"
            state_dir = "/lab/edge-a/state"
            runtime_dir = "/lab/edge-a/run"
            [source]
            kind = "manifests"
            [source.manifests]
            dir = "/manifests"
            [[pool]]
            name = "lan"
            addresses = ["192.0.2.200-192.0.2.219", "fd00:2::200-fd00:2::219"]
            [proxy]
            datapath = "ipvs"
            service_cidrs = ["10.96.0.0/16", "fd00:96::/112"]
            scheduler = "mh"
            [announce]
            ping = false
        "#
        .parse()
        .unwrap();
        assert_eq!(table, expected);
        assert_eq!(table.to_string().parse::<Table>().unwrap(), expected);
    }
}
