//! How the connections of a Service are spread over its endpoints, and whether session affinity is why
//! they are uneven. Counts what the kernel holds; decides by shares.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};

use super::endpoints::{named, stolen};
use crate::apply::conntrack;
use crate::apply::ipvs::Ipvs;
use crate::apply::ipvs::types::VirtualServerKey;
use crate::doctor::finding::{Depth, Finding, Level, Section};
use crate::doctor::machine::SourceRule;
use crate::model::service::Service;

/// Fewer connections are uneven by chance.
const FEWEST: u64 = 16;
/// Fewer without an answer may be on their way.
const FEWEST_LOST: usize = 2;
/// As IP numbers it.
const TCP: u8 = 6;
/// A larger table takes longer to read than a person waits.
const MOST_TRACKED: u64 = 200_000;

/// Connections by endpoint: with IPVS all since its virtual server is there, else those that are tracked.
pub(super) type Counts = BTreeMap<SocketAddr, u64>;

/// What the kernel holds of the Service at `frontends`; none where that cannot be told.
pub(super) fn count(ipvs: bool, frontends: &BTreeSet<(u8, SocketAddr)>) -> Option<Counts> {
    let mut counts = Counts::new();
    let mut add = |endpoint: SocketAddr, more: u64| *counts.entry(endpoint).or_default() += more;
    if ipvs {
        let mut ipvs = Ipvs::open().ok()?;
        for server in ipvs.virtual_servers().ok()? {
            let VirtualServerKey::Address {
                protocol,
                address,
                port,
            } = server.key
            else {
                continue;
            };
            let number = u8::try_from(protocol.number()).unwrap_or(0);
            if !frontends.contains(&(number, SocketAddr::new(address, port))) {
                continue;
            }
            for real in ipvs.real_servers(&server.key).ok()? {
                let now = u64::from(real.connections.active) + u64::from(real.connections.inactive);
                let ever = real.statistics.connections;
                add(
                    SocketAddr::new(real.key.address, real.key.port),
                    ever.max(now),
                );
            }
        }
    }
    // Beside IPVS some frontends, those with affinity among them, are netfilter's.
    let text = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").ok()?;
    if text.trim().parse::<u64>().ok()? > MOST_TRACKED {
        return None;
    }
    for flow in conntrack::translated().ok()? {
        let socket = |(address, port): (IpAddr, u16)| SocketAddr::new(address, port);
        if frontends.contains(&(flow.protocol, socket(flow.original_destination))) {
            add(socket(flow.reply_source), 1);
        }
    }
    Some(counts)
}

/// Connections to an endpoint of which this node saw no answer.
pub(super) struct Lost {
    pub(super) endpoint: SocketAddr,
    client: Option<IpAddr>,
    count: usize,
    /// Those of the same endpoint that were answered.
    answered: usize,
}

/// The endpoint that most connections to `frontends` get no answer from, of those that answer this node
/// itself; fewer than some can be on their way just now.
pub(super) fn lost(
    frontends: &BTreeSet<(u8, SocketAddr)>,
    open: &BTreeSet<SocketAddr>,
) -> Option<Lost> {
    let text = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").ok()?;
    if text.trim().parse::<u64>().ok()? > MOST_TRACKED {
        return None;
    }
    let socket = |(address, port): (IpAddr, u16)| SocketAddr::new(address, port);
    let wanted = |flow: &conntrack::Flow| {
        flow.protocol == TCP
            && frontends.contains(&(flow.protocol, socket(flow.original_destination)))
            && open.contains(&socket(flow.reply_source))
    };
    let mut by_endpoint: BTreeMap<SocketAddr, Lost> = BTreeMap::new();
    for flow in conntrack::flows(wanted).ok()? {
        let endpoint = socket(flow.reply_source);
        let lost = by_endpoint.entry(endpoint).or_insert(Lost {
            endpoint,
            client: None,
            count: 0,
            answered: 0,
        });
        if flow.answered {
            lost.answered += 1;
        } else {
            lost.count += 1;
            lost.client = flow.original_source;
        }
    }
    let most = by_endpoint.into_values().max_by_key(|lost| lost.count)?;
    (most.count >= FEWEST_LOST && most.count > most.answered).then_some(most)
}

/// What these mean.
pub(super) fn judge_lost(service: &Service, lost: &Lost, rule: Option<&SourceRule>) -> Finding {
    let key = &service.key;
    let (endpoint, client) = (lost.endpoint, lost.client);
    let from = client.map_or_else(|| "CLIENT".to_owned(), |client| client.to_string());
    let message = format!(
        "{} connections of clients to {endpoint} get no answer, though it answers this node itself: its \
         answers do not come back through this node",
        lost.count
    );
    let common = format!(
        "ip route get {from} from {} iif INTERFACE here; kubectl -n {} exec POD -- ip route (the way back has \
         to lead to this node)",
        endpoint.ip(),
        key.namespace
    );
    let (seen, remedy) = match rule.map(stolen) {
        Some((what, remedy)) => (format!("from {from} too; {what}"), remedy),
        None => (format!("from {from} too"), common),
    };
    Finding::new(Section::Service, Level::Problem, message)
        .of(key.to_string())
        .at(Depth::Asked)
        .seen(seen)
        .mend(remedy)
}

/// What the spread means; `endpoints` are those that could have connections.
pub(super) fn judge(
    service: &Service,
    endpoints: &BTreeSet<SocketAddr>,
    counts: Option<&Counts>,
) -> Option<Finding> {
    if endpoints.len() < 2 {
        return None;
    }
    let counted =
        |endpoint: &SocketAddr| counts.and_then(|it| it.get(endpoint).copied()).unwrap_or(0);
    let total: u64 = endpoints.iter().map(counted).sum();
    let (busiest, most) = (endpoints.iter())
        .map(|endpoint| (endpoint, counted(endpoint)))
        .max_by_key(|(_, count)| *count)?;
    // Twice the fair share, or with two endpoints nine tenths.
    let of = u64::try_from(endpoints.len()).unwrap_or(u64::MAX);
    let uneven = total >= FEWEST
        && (most.saturating_mul(of) >= total.saturating_mul(2)
            || most.saturating_mul(10) >= total.saturating_mul(9));
    let key = &service.key;
    let finding = |level, message: String| {
        let seen: Vec<String> = endpoints
            .iter()
            .map(|it| format!("{it}: {}", counted(it)))
            .collect();
        let told = Finding::new(Section::Service, level, message).of(key.to_string());
        let told = told.at(Depth::Asked);
        if total == 0 {
            told
        } else {
            told.seen(format!("connections: {}", named(seen)))
        }
    };
    let edit = format!("kubectl -n {} patch service {}", key.namespace, key.name);
    match service.session_affinity {
        Some(timeout) if uneven => Some(
            finding(
                Level::Warning,
                format!(
                    "sessionAffinity ClientIP is why connections are uneven: {most} of {total} are on \
                     {busiest}, since each client address stays with its endpoint for {} s",
                    timeout.as_secs()
                ),
            )
            .mend(format!("{edit} -p '{{\"spec\":{{\"sessionAffinity\":\"None\"}}}}'")),
        ),
        Some(timeout) => Some(
            finding(
                Level::Info,
                format!(
                    "sessionAffinity ClientIP keeps each client address (behind NAT: all clients there) \
                     with one endpoint for {} s",
                    timeout.as_secs()
                ),
            )
            .mend(format!("{edit} -p '{{\"spec\":{{\"sessionAffinity\":\"None\"}}}}' to spread them")),
        ),
        None if uneven => Some(
            finding(
                Level::Info,
                format!("connections are uneven: {most} of {total} are on {busiest}, without affinity"),
            )
            .mend("long-lived connections stay where they are: let clients reconnect, or use scheduler lc"),
        ),
        None => None,
    }
}
