//! `--watch`: the daemon pushes, this prints. A table is drawn again whenever it is another one; with
//! `-o json` it is an object a line, and for `edgelb status` an event a line. Never asks twice.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::exit::Exit;
use super::output::{self, Format};
use super::table::printable;
use super::tell;
use super::view::{ViewArguments, unanswered};
use crate::admin::client::{AskError, watch};
use crate::admin::protocol::{Arguments, Command, VIEW};

/// Puts the cursor at the top left and clears from there (ECMA-48).
const CLEAR: &str = "\u{1b}[H\u{1b}[2J\u{1b}[3J";

/// The options of the commands that can be watched.
#[derive(Debug, Args)]
pub struct WatchedArguments {
    #[command(flatten)]
    pub view: ViewArguments,
    /// Shows it again whenever it changes, until it is interrupted or the daemon goes.
    #[arg(short, long)]
    pub watch: bool,
}

/// Prints each event as one JSON object a line.
pub fn events(arguments: &ViewArguments, config: &Path) -> anyhow::Result<Exit> {
    follow(arguments, config, &Arguments::new(), |event: &RawValue| {
        output::write_line(event.get())
    })
}

/// Prints a view whenever it is another one.
pub fn view<T>(
    command: Command,
    arguments: &ViewArguments,
    config: &Path,
    format: Format,
    table: impl Fn(&T) -> String,
) -> anyhow::Result<Exit>
where
    T: Serialize + DeserializeOwned,
{
    let asked = Arguments::from([(VIEW.to_owned(), command.as_str().to_owned())]);
    match format {
        Format::Json => follow(arguments, config, &asked, |view: &RawValue| {
            output::write_line(view.get())
        }),
        Format::Table => {
            let clear = if io::stdout().is_terminal() {
                CLEAR
            } else {
                ""
            };
            let mut between = "";
            follow(arguments, config, &asked, move |view: &RawValue| {
                let view: T = serde_json::from_str(view.get()).map_err(io::Error::other)?;
                let going = output::write_on(&format!("{clear}{between}{}", table(&view)));
                if clear.is_empty() {
                    between = "\n";
                }
                going
            })
        }
    }
}

/// Now, in seconds since 1970.
pub fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// Hands on each line of the stream until the daemon goes, or `print` says that nobody reads.
fn follow(
    arguments: &ViewArguments,
    config: &Path,
    asked: &Arguments,
    mut print: impl FnMut(&RawValue) -> io::Result<bool>,
) -> anyhow::Result<Exit> {
    let path = match arguments.socket(config) {
        Ok(path) => path,
        Err(exit) => return Ok(exit),
    };
    let lines = match watch(&path, asked) {
        Ok(lines) => lines,
        Err(error) => return Ok(unanswered(error)),
    };
    for line in lines {
        let value: Result<Box<RawValue>, AskError> = line;
        match value {
            Ok(value) => {
                if !print(&value).context("cannot write the result")? {
                    return Ok(Exit::Fine);
                }
            }
            Err(error) => return Ok(unanswered(error)),
        }
    }
    tell(&printable(&format!(
        "the daemon at {} ended: watch again when it is back",
        path.display()
    )));
    Ok(Exit::NoDaemon)
}
