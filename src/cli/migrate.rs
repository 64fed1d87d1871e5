//! `edgelb migrate`: another load balancer's objects as a configuration of this one.
//!
//! Reads the named files; touches nothing else.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};

use super::exit::Exit;
use super::output::{self, Format};
use super::tell;
use crate::migrate::{Input, Migration, Origin, Weight, migrate};

/// A whole cluster's Services fit many times.
const LARGEST_FILE: u64 = 256 << 20;

const METALLB_EXAMPLE: &str = "Example:
  kubectl get ipaddresspools.metallb.io,l2advertisements.metallb.io,bgpadvertisements.metallb.io,services -A -o yaml |
    edgelb migrate metallb - > edgelb.toml";
const KUBE_VIP_EXAMPLE: &str = "Example:
  kubectl get configmaps,daemonsets -n kube-system -o yaml > kube-vip.yaml
  kubectl get services -A -o yaml > services.yaml
  edgelb migrate kube-vip kube-vip.yaml services.yaml > edgelb.toml";

/// What is moved away from.
#[derive(Debug, Subcommand)]
pub(super) enum MigrateCommand {
    // Attributes instead of comments: those want names quoted as code, which a terminal shows.
    #[command(
        name = "metallb",
        about = "Reads IPAddressPool, L2Advertisement and Service objects of MetalLB",
        after_help = METALLB_EXAMPLE
    )]
    MetalLb(MigrateArguments),
    #[command(
        about = "Reads the ConfigMap, DaemonSet, Pod and Service objects of kube-vip",
        after_help = KUBE_VIP_EXAMPLE
    )]
    KubeVip(MigrateArguments),
}

/// The files.
#[derive(Debug, Args)]
pub(super) struct MigrateArguments {
    /// YAML or JSON, as kubectl writes them; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Prints the configuration; what has no equivalent stands in it as comments.
pub(super) fn run(command: &MigrateCommand, format: Format) -> anyhow::Result<Exit> {
    let (origin, files) = match command {
        MigrateCommand::MetalLb(arguments) => (Origin::MetalLb, &arguments.files),
        MigrateCommand::KubeVip(arguments) => (Origin::KubeVip, &arguments.files),
    };
    let mut inputs = Vec::new();
    for file in files {
        match read(file) {
            Ok(input) => inputs.push(input),
            Err(error) => {
                tell(&format!("{error:#}"));
                return Ok(Exit::Usage);
            }
        }
    }
    let migration = match migrate(origin, &inputs) {
        Ok(migration) => migration,
        Err(error) => {
            tell(&error.to_string());
            return Ok(Exit::Usage);
        }
    };
    match format {
        Format::Json => output::write_json(&migration),
        Format::Table => output::write_text(&migration.toml),
    }
    .context("cannot write the result")?;
    Ok(judge(origin, &migration))
}

/// Says on stderr what stands in the comments; a file without a pool is no configuration.
fn judge(origin: Origin, migration: &Migration) -> Exit {
    let lost = (migration.notes.iter())
        .filter(|note| note.weight == Weight::Lost)
        .count();
    match lost {
        0 => {}
        1 => tell("one thing has no equivalent; the comments at the top say which"),
        _ => tell(&format!(
            "{lost} things have no equivalent; the comments at the top say which"
        )),
    }
    if migration.pools > 0 {
        return Exit::Fine;
    }
    tell(match origin {
        Origin::MetalLb => {
            "there is no pool in these files; name one with IPAddressPool objects (kubectl get ipaddresspools.metallb.io -A -o yaml)"
        }
        Origin::KubeVip => {
            "there is no pool in these files; name the ConfigMap of its cloud provider (kubectl get configmap kubevip -n kube-system -o yaml)"
        }
    });
    Exit::Problem
}

fn read(path: &Path) -> anyhow::Result<Input> {
    let mut bytes = Vec::new();
    let name = if path == Path::new("-") {
        let stdin = std::io::stdin().lock();
        stdin
            .take(LARGEST_FILE + 1)
            .read_to_end(&mut bytes)
            .context("cannot read standard input")?;
        "stdin".to_owned()
    } else {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        file.take(LARGEST_FILE + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read {}", path.display()))?;
        path.display().to_string()
    };
    anyhow::ensure!(
        bytes.len() as u64 <= LARGEST_FILE,
        "{name} is larger than {LARGEST_FILE} bytes"
    );
    Ok(Input { name, bytes })
}
