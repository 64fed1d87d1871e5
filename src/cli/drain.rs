//! `edgelb drain` and `undrain`: tell the daemon, then watch where its VIPs go. The daemon keeps what it
//! was told, whatever becomes of this process.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::exit::Exit;
use super::output::{self, Format};
use super::table::{Table, printable, with_notes};
use super::view::{ViewArguments, unanswered};
use crate::admin::client::{AskError, ask, order};
use crate::admin::protocol::{Command, Order};
use crate::admin::view::{Drained, Peers, VipView, Vips};
use crate::config::duration;
use crate::plan::ownership::DRAIN_LABEL;

/// How often the daemon is asked where the VIPs are.
const PAUSE: Duration = Duration::from_millis(50);

/// The options of `drain`.
#[derive(Debug, Args)]
pub struct DrainArguments {
    #[command(flatten)]
    view: ViewArguments,
    /// How long to wait until other nodes announce this node's VIPs.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    timeout: Duration,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    node: String,
    draining: bool,
    changed: bool,
    /// Other nodes hear of it; without that none follows, and this one goes on as before.
    membership: bool,
    moved: Vec<Moved>,
    stayed: Vec<Stayed>,
    /// Waited for the VIPs to go.
    seconds: f64,
}

/// A VIP that this node announced, and who does now; nobody where no node does.
#[derive(Debug, Serialize)]
struct Moved {
    vip: IpAddr,
    service: String,
    owner: Option<String>,
}

/// A VIP that this node goes on announcing.
#[derive(Debug, Serialize)]
struct Stayed {
    vip: IpAddr,
    service: String,
    why: String,
}

impl Report {
    fn new(drained: Drained, membership: bool) -> Self {
        Self {
            membership,
            node: drained.node,
            draining: drained.draining,
            changed: drained.changed,
            moved: Vec::new(),
            stayed: Vec::new(),
            seconds: 0.0,
        }
    }

    fn exit(&self) -> Exit {
        let lost = self.moved.iter().any(|moved| moved.owner.is_none());
        let unheard = self.draining && !self.membership;
        if lost || unheard || !self.stayed.is_empty() {
            Exit::Problem
        } else {
            Exit::Fine
        }
    }
}

/// Tells the daemon to give its VIPs up, and waits until it announces none.
pub fn drain(arguments: &DrainArguments, config: &Path, format: Format) -> anyhow::Result<Exit> {
    let socket = match arguments.view.socket(config) {
        Ok(socket) => socket,
        Err(exit) => return Ok(exit),
    };
    match wait(&socket, arguments.timeout) {
        Ok(report) => print(&report, format),
        Err(error) => Ok(unanswered(error)),
    }
}

/// Tells the daemon to take VIPs again. It takes none from a node that announces it well.
pub fn undrain(arguments: &ViewArguments, config: &Path, format: Format) -> anyhow::Result<Exit> {
    let socket = match arguments.socket(config) {
        Ok(socket) => socket,
        Err(exit) => return Ok(exit),
    };
    let ordered = order(&socket, Order::Undrain)
        .and_then(|drained| Ok(Report::new(drained, membership(&socket)?)));
    match ordered {
        Ok(report) => print(&report, format),
        Err(error) => Ok(unanswered(error)),
    }
}

/// Whether nodes talk with one another.
fn membership(socket: &Path) -> Result<bool, AskError> {
    ask::<Peers>(socket, Command::Peers).map(|peers| peers.membership)
}

fn wait(socket: &Path, timeout: Duration) -> Result<Report, AskError> {
    let vips = || ask::<Vips>(socket, Command::Vips).map(|answer| answer.vips);
    let mut had: BTreeSet<IpAddr> = (vips()?.iter())
        .filter(|vip| vip.owned_here)
        .map(|vip| vip.address)
        .collect();
    let mut report = Report::new(order(socket, Order::Drain)?, membership(socket)?);
    let begin = Instant::now();
    let now = loop {
        let now = vips()?;
        let owned = now.iter().filter(|vip| vip.owned_here);
        let owned: Vec<IpAddr> = owned.map(|vip| vip.address).collect();
        // One that came here in between is told of as well.
        had.extend(&owned);
        // Whom nobody hears is not followed, however long one waits.
        if owned.is_empty() || !report.membership || begin.elapsed() >= timeout {
            break now;
        }
        sleep(PAUSE.min(timeout.saturating_sub(begin.elapsed())));
    };
    report.seconds = begin.elapsed().as_secs_f64();
    let (stayed, left): (Vec<&VipView>, Vec<&VipView>) = now
        .iter()
        .filter(|vip| had.contains(&vip.address))
        .partition(|vip| vip.owned_here);
    report.moved = left.into_iter().map(moved).collect();
    if !stayed.is_empty() {
        let peers = ask::<Peers>(socket, Command::Peers)?;
        report.stayed = stayed.into_iter().map(|vip| stays(vip, &peers)).collect();
    }
    Ok(report)
}

fn moved(vip: &VipView) -> Moved {
    Moved {
        vip: vip.address,
        service: vip.service.clone(),
        owner: vip.owner.clone(),
    }
}

/// Names what keeps each of the others from taking it.
fn stays(vip: &VipView, peers: &Peers) -> Stayed {
    if !peers.membership {
        return Stayed {
            vip: vip.address,
            service: vip.service.clone(),
            why: "the Nodes alone decide who owns it".to_owned(),
        };
    }
    let others = peers.peers.iter().filter(|peer| !peer.this_node);
    let (mut able, mut reasons) = (Vec::new(), Vec::new());
    for other in others.map(|peer| &peer.name) {
        match vip.excluded.iter().find(|excluded| excluded.node == *other) {
            Some(excluded) => reasons.push(format!("{other}: {}", excluded.reason.text)),
            None => able.push(other.as_str()),
        }
    }
    let why = if !able.is_empty() {
        format!("{} may take it and did not in time", able.join(", "))
    } else if reasons.is_empty() {
        "no other node is known".to_owned()
    } else {
        format!("no other node may take it ({})", reasons.join("; "))
    };
    Stayed {
        vip: vip.address,
        service: vip.service.clone(),
        why,
    }
}

fn print(report: &Report, format: Format) -> anyhow::Result<Exit> {
    match format {
        Format::Json => output::write_json(report),
        Format::Table => output::write_text(&text(report)),
    }
    .context("cannot write the result")?;
    Ok(report.exit())
}

fn text(report: &Report) -> String {
    let node = printable(&report.node);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match (report.draining, report.changed) {
        (true, _) if !report.membership => writeln!(
            text,
            "{node} is to be drained, and no other node hears of it: nodes do not talk with one another \
             (membership.key_files is empty), so it goes on owning what the Nodes give it. Label its Node \
             instead ({DRAIN_LABEL}=true), or configure [membership]"
        ),
        (true, _) => writeln!(
            text,
            "{node} is drained and takes no VIP until edgelb undrain"
        ),
        (false, true) => writeln!(
            text,
            "{node} takes VIPs again, but none from a node that serves it"
        ),
        (false, false) => writeln!(text, "{node} was not drained by edgelb drain"),
    };
    if report.moved.is_empty() && report.stayed.is_empty() {
        return text;
    }
    let mut table = Table::new(["VIP", "SERVICE", "NOW-ON"]);
    for moved in &report.moved {
        let owner = moved.owner.clone().unwrap_or_default();
        table.row([moved.vip.to_string(), moved.service.clone(), owner]);
    }
    let mut notes = Vec::new();
    for stayed in &report.stayed {
        table.row([
            stayed.vip.to_string(),
            stayed.service.clone(),
            report.node.clone(),
        ]);
        notes.push((
            stayed.vip.to_string(),
            format!("stays here: {}", stayed.why),
        ));
    }
    text.push_str(&with_notes(&table, &notes));
    text
}
