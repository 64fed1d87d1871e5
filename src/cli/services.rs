//! `edgelb services`: a line for each Service, then why some are not served as they ask.

use std::path::Path;

use super::exit::Exit;
use super::output::Format;
use super::table::{Table, with_notes};
use super::view::{list, show};
use super::watch::WatchedArguments;
use crate::admin::protocol::Command;
use crate::admin::view::Services;
use crate::model::service::ServiceType;

/// Asks and prints.
pub fn run(arguments: &WatchedArguments, config: &Path, format: Format) -> anyhow::Result<Exit> {
    show(Command::Services, arguments, config, format, text)
}

fn text(answer: &Services) -> String {
    let mut table = Table::new([
        "SERVICE",
        "TYPE",
        "VIP",
        "OWNER",
        "CLUSTER-IP",
        "PORTS",
        "ENDPOINTS",
    ]);
    let mut notes = Vec::new();
    for service in &answer.services {
        let name = format!("{}/{}", service.namespace, service.name);
        for reason in &service.reasons {
            notes.push((name.clone(), reason.text.clone()));
        }
        let mut owners: Vec<&str> = (service.vips.iter())
            .filter_map(|vip| vip.owner.as_deref())
            .collect();
        owners.dedup();
        table.row([
            name,
            match service.kind {
                ServiceType::ClusterIP => "ClusterIP",
                ServiceType::NodePort => "NodePort",
                ServiceType::LoadBalancer => "LoadBalancer",
                ServiceType::ExternalName => "ExternalName",
            }
            .to_owned(),
            list(service.vips.iter().map(|vip| vip.address)),
            list(owners),
            // The first alone, as kubectl get service writes it: -o json has both.
            list(service.cluster_ips.first()),
            list(service.ports.iter().map(|port| {
                // As kubectl get service writes it.
                let node_port = port.node_port.map(|number| format!(":{number}"));
                format!(
                    "{}{}/{}",
                    port.port,
                    node_port.unwrap_or_default(),
                    port.protocol
                )
            })),
            service.endpoints.to_string(),
        ]);
    }
    with_notes(&table, &notes)
}
