//! What the commands that show a running daemon's view have in common: where its admin socket is,
//! and what a failure to reach it means for the exit code.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::exit::Exit;
use super::output::{self, Format};
use super::table::printable;
use super::watch::WatchedArguments;
use super::{tell, watch};
use crate::admin::client::{AskError, ask};
use crate::admin::protocol::{Command, SOCKET_NAME};
use crate::config::Config;

/// The options of these commands.
#[derive(Debug, Args)]
pub struct ViewArguments {
    /// The admin socket; without it, the one of the configuration.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl ViewArguments {
    /// The admin socket to ask; where none is known that is told, and this is how the command ends.
    pub fn socket(&self, config: &Path) -> Result<PathBuf, Exit> {
        match &self.socket {
            Some(path) => Ok(path.clone()),
            None => socket_of(config).map_err(|error| failed(&error, Exit::Usage)),
        }
    }
}

/// Tells why there is no answer; how the command ends.
pub fn unanswered(error: AskError) -> Exit {
    let exit = match &error {
        AskError::NoDaemon { .. } | AskError::Silent { .. } => Exit::NoDaemon,
        AskError::Permission { .. } | AskError::Denied { .. } => Exit::Privilege,
        AskError::Refused { .. } | AskError::Answer { .. } => Exit::Problem,
    };
    failed(&anyhow!(error), exit)
}

/// Asks the daemon and prints its answer in the form that was asked for.
pub fn show<T>(
    command: Command,
    WatchedArguments {
        view: arguments,
        watch,
    }: &WatchedArguments,
    config: &Path,
    format: Format,
    table: impl Fn(&T) -> String,
) -> anyhow::Result<Exit>
where
    T: Serialize + DeserializeOwned,
{
    if *watch {
        return watch::view(command, arguments, config, format, table);
    }
    let path = match arguments.socket(config) {
        Ok(path) => path,
        Err(exit) => return Ok(exit),
    };
    let answer: T = match ask(&path, command) {
        Ok(answer) => answer,
        Err(error) => return Ok(unanswered(error)),
    };
    match format {
        Format::Json => output::write_json(&answer),
        Format::Table => output::write_text(&table(&answer)),
    }
    .context("cannot write the result")?;
    Ok(Exit::Fine)
}

/// The admin socket that a configuration names. Nothing else in the file matters here: a daemon that
/// runs with older settings can still be asked when the file is broken in another place.
fn socket_of(config: &Path) -> anyhow::Result<PathBuf> {
    let file = config.display();
    let text = fs::read_to_string(config).with_context(|| {
        format!("cannot read {file}: name the configuration with --config FILE, or the socket with --socket PATH")
    })?;
    let document: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| anyhow!("{}", error.message().to_owned()))
        .with_context(|| format!("{file} is no TOML; edgelb check -c {file} says where"))?;
    let directory = match document
        .get("node")
        .and_then(|node| node.get("runtime_dir"))
    {
        None => Config::defaults("").node.runtime_dir,
        Some(value) => value
            .as_str()
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .with_context(|| {
                format!("{file}: node.runtime_dir is no absolute path; write: \"/run/edgelb\"")
            })?,
    };
    Ok(directory.join(SOCKET_NAME))
}

fn failed(error: &anyhow::Error, exit: Exit) -> Exit {
    tell(&printable(&format!("{error:#}")));
    exit
}

/// `yes` or `no`.
pub fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

/// Each on its own, with commas between.
pub fn list<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    texts.join(",")
}
