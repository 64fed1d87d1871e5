//! `edgelb explain`: what happens to a packet and why, in words first, then in detail.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use clap::Args;

use super::exit::Exit;
use super::output::{self, Format};
use super::table::{Table, printable};
use super::view::{ViewArguments, list, unanswered, yes_or_no};
use crate::admin::client::ask_to_explain;
use crate::admin::protocol::{Arguments, EXPLAIN_ARGUMENTS};
use crate::explain::question::Question;
use crate::explain::report::{
    AddressDetails, AddressKind, Asker, EndpointDetails, Explanation, Fate, FrontendDetails,
};
use crate::model::observation::Way;
use crate::model::service::TrafficPolicy;

/// What is asked.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// A Service, or an address and port; an IPv6 address stands in brackets.
    #[arg(value_name = "NAMESPACE/NAME|IP:PORT[/tcp|udp|sctp]")]
    target: String,
    /// Who sends; without it a client outside the cluster, or a pod where only these may ask.
    #[arg(long, value_name = "IP")]
    from: Option<String>,
    #[command(flatten)]
    view: ViewArguments,
}

/// Asks and prints; a problem ends with 1.
pub fn run(arguments: &ExplainArguments, config: &Path, format: Format) -> anyhow::Result<Exit> {
    let from = arguments.from.as_deref();
    // What is no question is wrong usage, whether or not a daemon runs.
    if let Err(error) = Question::parse(&arguments.target, from) {
        super::tell(&printable(&error.to_string()));
        return Ok(Exit::Usage);
    }
    let path = match arguments.view.socket(config) {
        Ok(path) => path,
        Err(exit) => return Ok(exit),
    };
    let asked = [Some(arguments.target.as_str()), from];
    let question: Arguments = EXPLAIN_ARGUMENTS
        .into_iter()
        .zip(asked)
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    let explanation: Explanation = match ask_to_explain(&path, &question) {
        Ok(explanation) => explanation,
        Err(error) => return Ok(unanswered(error)),
    };
    match format {
        Format::Json => output::write_json(&explanation),
        Format::Table => output::write_text(&text(&explanation)),
    }
    .context("cannot write the result")?;
    Ok(if explanation.works {
        Exit::Fine
    } else {
        Exit::Problem
    })
}

/// The words, then the details.
fn text(explanation: &Explanation) -> String {
    let mut lines: Vec<String> = explanation.answer.clone();
    lines.extend(
        explanation
            .notes
            .iter()
            .map(|note| format!("Note: {note}.")),
    );
    for frontend in &explanation.frontends {
        lines.push(String::new());
        lines.extend(of_frontend(frontend));
    }
    lines.extend(and_more(explanation.more_frontends, "addresses and ports"));
    let announced = explanation
        .addresses
        .iter()
        .filter(|it| it.kind == AddressKind::Vip);
    for address in announced {
        lines.push(String::new());
        lines.extend(of_vip(address));
    }
    if let Some(check) = &explanation.health_check {
        lines.push(String::new());
        let (port, local, status) = (check.port, check.local_endpoints, check.status);
        lines.push(format!(
            "health-check node port {port}: {local} local endpoints, status {status}"
        ));
    }
    if !explanation.differences.is_empty() {
        lines.push(String::new());
        lines.push(format!(
            "not as planned in the kernel of {}:",
            explanation.node
        ));
        lines.extend(explanation.differences.iter().map(|difference| {
            format!(
                "  {} {}; {}",
                difference.object, difference.problem, difference.remedy
            )
        }));
        lines.extend(and_more(explanation.more_differences, "differences"));
    }
    let lines: Vec<String> = lines.iter().map(|line| printable(line)).collect();
    lines.join("\n") + "\n"
}

fn of_frontend(frontend: &FrontendDetails) -> Vec<String> {
    let here = if frontend.passes_here {
        " (this node)"
    } else {
        ""
    };
    let mut lines = vec![format!("{} of {}", frontend.name, frontend.service)];
    let mut field = |name: &str, value: String| lines.push(format!("  {name:<16}{value}"));
    field("kind", kind(frontend.kind).to_owned());
    field(
        "service port",
        match frontend.node_port {
            Some(node_port) => format!("{}, node port {node_port}", frontend.service_port),
            None => frontend.service_port.to_string(),
        },
    );
    field("decided on", format!("{}{here}", frontend.passes));
    let sources = frontend.allowed_sources.as_ref();
    field(
        "filter",
        sources.map_or("any source".to_owned(), |sources| {
            format!("only {}", list(sources))
        }),
    );
    field("traffic policy", policy(frontend.policy).to_owned());
    field(
        "forwarded by",
        match &frontend.way {
            Some(Way::VirtualServer { name, scheduler }) => {
                format!("ipvs, virtual server {name}, scheduler {scheduler}")
            }
            Some(Way::Chain { map, chain }) => {
                format!(
                    "nftables, map {map}, chain {chain} (scheduler {})",
                    frontend.scheduler
                )
            }
            None if frontend.passes_here => "nothing".to_owned(),
            None => format!("see {}", frontend.passes),
        },
    );
    field("method", frontend.forwarding_method.to_string());
    field(
        "affinity",
        frontend
            .affinity_seconds
            .map_or("none".to_owned(), |seconds| format!("{seconds} s")),
    );
    for treatment in &frontend.treatments {
        let name = match treatment.asker {
            Asker::Outside => "for outside",
            Asker::Pod => "for pods",
            Asker::Node => "for the node",
        };
        let source = if treatment.masquerade {
            "masqueraded"
        } else {
            "source kept"
        };
        field(
            name,
            match treatment.fate {
                Fate::Served => format!("{} endpoints, {source}", treatment.endpoints),
                Fate::Refused => "refused".to_owned(),
                Fate::Dropped => "dropped".to_owned(),
                Fate::Lost => "lost".to_owned(),
            },
        );
    }
    lines.extend(of_endpoints(&frontend.endpoints));
    lines.extend(and_more(frontend.more_endpoints, "endpoints"));
    lines
}

/// What a list that was cut leaves out.
fn and_more(count: usize, what: &str) -> Option<String> {
    (count > 0).then(|| format!("  and {count} more {what}"))
}

fn of_endpoints(endpoints: &[EndpointDetails]) -> Vec<String> {
    if endpoints.is_empty() {
        return vec!["  no endpoints".to_owned()];
    }
    let mut table = Table::new([
        "  ENDPOINT",
        "NODE",
        "CONDITION",
        "USED",
        "WEIGHT",
        "ACTIVE",
        "INACTIVE",
        "REASON",
    ]);
    let number = |number: Option<u64>| number.map_or_else(String::new, |it| it.to_string());
    for endpoint in endpoints {
        let condition = match (endpoint.ready, endpoint.serving, endpoint.terminating) {
            (true, _, _) => "ready",
            (false, true, true) => "serving, terminating",
            (false, false, true) => "terminating",
            (false, true, false) => "serving, not ready",
            (false, false, false) => "not ready",
        };
        let reason = endpoint.reason.as_ref().map(|reason| reason.text.clone());
        table.row([
            format!("  {}", SocketAddr::new(endpoint.address, endpoint.port)),
            endpoint.node.clone().unwrap_or_default(),
            condition.to_owned(),
            yes_or_no(endpoint.used),
            endpoint
                .weight
                .map_or_else(String::new, |it| it.to_string()),
            number(endpoint.active),
            number(endpoint.inactive),
            reason
                .or_else(|| endpoint.unreachable.clone())
                .unwrap_or_default(),
        ]);
    }
    table.text().lines().map(str::to_owned).collect()
}

fn of_vip(address: &AddressDetails) -> Vec<String> {
    let mut lines = vec![format!("VIP {}", address.address)];
    let mut field = |name: &str, value: String| lines.push(format!("  {name:<16}{value}"));
    field(
        "pool",
        address
            .pool
            .clone()
            .unwrap_or_else(|| "none any more".to_owned()),
    );
    field(
        "owner",
        address.owner.clone().unwrap_or_else(|| "nobody".to_owned()),
    );
    field("order", list(&address.ranking));
    if address.owned_here {
        field("announced on", list(&address.interfaces));
    }
    for excluded in &address.excluded {
        field("not", format!("{}: {}", excluded.node, excluded.cause.text));
    }
    lines
}

fn policy(policy: TrafficPolicy) -> &'static str {
    match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    }
}

fn kind(kind: AddressKind) -> &'static str {
    match kind {
        AddressKind::Vip => "VIP",
        AddressKind::ExternalIp => "external IP",
        AddressKind::ClusterIp => "ClusterIP",
        AddressKind::Node => "node port",
    }
}
