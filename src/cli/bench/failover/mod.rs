//! `edgelb bench failover`: does each fault to the owner of a VIP many times over, and tells how long
//! a client had no answer; then the same with keepalived, on the same machine in the same run.
//!
//! ```text
//!  client-1 (a request each 5 ms, TCP and UDP) ──┐            ┌── edge-a ──┐
//!  client-2 (asks each 10 ms who has the VIP)  ──┼── bridge ──┼── edge-b ──┼── second network
//!                                                │            ├── edge-c ──┘
//!                                                └────────────┴── edge-d (workloads, owns nothing)
//! ```

mod fault;
mod lan;
mod observation;
mod peer;
mod report;

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::Args;

use super::{complain, note};
use crate::cli::demo::Datapath;
use crate::cli::exit::Exit;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::{Format, write_json};
use crate::lab::keepalived;
use crate::lab::sandbox;

use fault::Fault;
use lan::{Lan, NODES, Source};
use peer::{ADVERTISEMENT, PeerLan};
use report::{FailoverReport, FaultReport, PeerReport, Run};

/// What `edgelb bench failover` takes.
#[derive(Debug, Clone, Args)]
pub struct FailoverArguments {
    /// How often each fault is done
    #[arg(long, value_name = "N", default_value = "30")]
    runs: NonZeroUsize,
    /// The faults to do, separated by commas; all by default
    #[arg(long, value_name = "FAULTS", value_enum, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// How the daemons shall forward
    #[arg(long, value_enum, default_value_t = Datapath::Auto)]
    datapath: Datapath,
    /// The edgelb program to run in the nodes; this one by default
    #[arg(long, hide = true)]
    program: Option<PathBuf>,
}

/// The measurement while it runs.
struct Bench<'a> {
    arguments: &'a FailoverArguments,
    interrupt: &'a Interrupt,
    /// Whether people read along.
    lines: bool,
    report: FailoverReport,
}

/// Measures, and prints the result.
pub(super) fn run(arguments: &FailoverArguments, interrupt: &Interrupt, output: Format) -> Exit {
    let start = Instant::now();
    let mut bench = Bench {
        arguments,
        interrupt,
        lines: output == Format::Table,
        report: FailoverReport {
            faults: Vec::new(),
            peers: Vec::new(),
            nodes: NODES,
            datapath: arguments.datapath.key().to_owned(),
            error: None,
            elapsed_ms: 0,
        },
    };
    let mut result = bench.run();
    let mut report = bench.report;
    report.elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    if let Err(error) = &result {
        complain(error);
        report.error = Some(format!("{error:#}"));
    } else if report.faults.iter().any(|fault| fault.error.is_some()) {
        let reason = "some faults could not be measured as often as asked for";
        report.error = Some(reason.to_owned());
    }
    if output == Format::Json {
        result = result.and(write_json(&report).map_err(anyhow::Error::new));
    }
    match (result, &report.error) {
        (Ok(()), None) => Exit::Fine,
        _ => Exit::Problem,
    }
}

impl<'a> Bench<'a> {
    fn run(&mut self) -> anyhow::Result<()> {
        self.say(&FaultReport::heads())?;
        let faults: Vec<_> = Fault::ALL
            .into_iter()
            .filter(|fault| {
                self.arguments.faults.is_empty() || self.arguments.faults.contains(fault)
            })
            .collect();
        let mut lan = None;
        for fault in &faults {
            self.measure(*fault, &mut lan)?;
        }
        // Two LANs at once would measure one another.
        drop(lan);
        self.measure_peer(&faults)
    }

    /// All runs of one fault. The first one that fails ends them.
    fn measure(&mut self, fault: Fault, lan: &mut Option<(Source, Lan<'a>)>) -> anyhow::Result<()> {
        // The API server is part of that LAN alone in which it goes away.
        let source = match fault {
            Fault::ApiAway => Source::ApiServer,
            _ => Source::Manifests,
        };
        let mut runs = Vec::new();
        let result = self.runs_of(fault, source, lan, &mut runs);
        self.interrupt.check()?;
        if let Err(error) = &result {
            note(&format!("{}: {error:#}", fault.name()));
            if let Some((_, lan)) = lan.as_ref() {
                note(&format!("the ends of the logs:\n{}", lan.log_tails()));
            }
            // Who knows what it left behind.
            *lan = None;
        }
        let error = result.as_ref().err();
        let report = FaultReport::of(fault, fault.description(), &runs, error);
        self.say(&report.line("edgelb"))?;
        self.report.faults.push(report);
        Ok(())
    }

    fn runs_of(
        &mut self,
        fault: Fault,
        source: Source,
        lan: &mut Option<(Source, Lan<'a>)>,
        runs: &mut Vec<Run>,
    ) -> anyhow::Result<()> {
        if lan.as_ref().is_some_and(|(other, _)| *other != source) {
            *lan = None;
        }
        if lan.is_none() {
            let program = self.arguments.program.clone();
            let program = program.unwrap_or_else(sandbox::own_program);
            let datapath = self.arguments.datapath.key();
            let built = Lan::build(source, program, datapath, self.interrupt)?;
            if let Some(datapath) = built.datapath()? {
                self.report.datapath = datapath;
            }
            *lan = Some((source, built));
        }
        if let Some((_, lan)) = lan {
            for _ in 0..self.arguments.runs.get() {
                runs.push(lan.measure(fault)?);
            }
        }
        Ok(())
    }

    /// keepalived, where it is installed.
    fn measure_peer(&mut self, faults: &[Fault]) -> anyhow::Result<()> {
        let mut report = PeerReport {
            name: "keepalived",
            version: None,
            advertisement_ms: u64::try_from(ADVERTISEMENT.as_millis()).unwrap_or(u64::MAX),
            faults: Vec::new(),
            error: None,
        };
        if let Some((program, version)) = keepalived::installed() {
            report.version = Some(version);
            let mut lan = None;
            for fault in Fault::OF_THE_PEER {
                if faults.contains(&fault) {
                    let measured = self.measure_fault_of_the_peer(fault, &program, &mut lan)?;
                    self.say(&measured.line(report.name))?;
                    report.faults.push(measured);
                }
            }
        } else {
            let reason = "keepalived is not installed, so there is nothing to compare with";
            note(&format!("{reason} (Debian: apt-get install keepalived)"));
            report.error = Some(reason.to_owned());
        }
        self.report.peers.push(report);
        Ok(())
    }

    fn measure_fault_of_the_peer(
        &self,
        fault: Fault,
        program: &Path,
        lan: &mut Option<PeerLan<'a>>,
    ) -> anyhow::Result<FaultReport> {
        let mut runs = Vec::new();
        let mut all = || -> anyhow::Result<()> {
            if lan.is_none() {
                *lan = Some(PeerLan::build(program.to_owned(), self.interrupt)?);
            }
            if let Some(lan) = lan.as_mut() {
                for _ in 0..self.arguments.runs.get() {
                    runs.push(lan.measure(fault)?);
                }
            }
            Ok(())
        };
        let result = all();
        self.interrupt.check()?;
        if let Err(error) = &result {
            note(&format!("keepalived: {}: {error:#}", fault.name()));
            if let Some(lan) = lan.as_ref() {
                note(&format!("the ends of the logs:\n{}", lan.log_tails()));
            }
            *lan = None;
        }
        Ok(FaultReport::of(
            fault,
            fault.description_of_the_peer(),
            &runs,
            result.as_ref().err(),
        ))
    }

    fn say(&self, line: &str) -> anyhow::Result<()> {
        if self.lines {
            let mut stdout = io::stdout().lock();
            writeln!(stdout, "{}", line.trim_end())
                .and_then(|()| stdout.flush())
                .context("cannot print")?;
        }
        Ok(())
    }
}
