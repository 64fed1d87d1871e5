//! What packages install beside the program: shell completions and man pages, made from the command
//! line's own definition so that they cannot say something else.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::exit::Exit;
use super::output;

/// Which shell.
#[derive(Debug, Args)]
pub(super) struct CompletionsArguments {
    /// The shell that is to complete.
    #[arg(value_enum)]
    shell: Shell,
}

/// Where to.
#[derive(Debug, Args)]
pub(super) struct ManArguments {
    /// The directory for the pages, one a command; made where it is missing.
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

/// Prints the script that the shell reads.
pub(super) fn completions(arguments: &CompletionsArguments) -> anyhow::Result<Exit> {
    let mut command = super::Arguments::command();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "edgelb", &mut script);
    let script = String::from_utf8(script).context("the script is no text")?;
    output::write_text(&script).context("cannot write the result")?;
    Ok(Exit::Fine)
}

/// Writes `edgelb.1` and a page for each command.
pub(super) fn man(arguments: &ManArguments) -> anyhow::Result<Exit> {
    let directory = &arguments.directory;
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let mut command = super::Arguments::command();
    // Names of pages are those of the whole command: edgelb-bench-failover.
    command.build();
    write_pages(&command, directory)?;
    Ok(Exit::Fine)
}

fn write_pages(command: &clap::Command, directory: &Path) -> anyhow::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = directory.join(format!("{name}.1"));
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .context("cannot make the page")?;
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    for command in command.get_subcommands() {
        if !command.is_hide_set() && command.get_name() != "help" {
            write_pages(command, directory)?;
        }
    }
    Ok(())
}
