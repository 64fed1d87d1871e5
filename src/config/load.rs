//! From a path to a [`Config`], at the daemon's start, at a reload, and for `edgelb check`.

use std::fs::File as Open;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::file::File;
use super::problem::{Level, Location, Problem, Refusal};
use super::{Config, Environment, Invalid, validate};

/// A file larger than this is no configuration; a device or pipe could be endless.
const LARGEST_FILE: u64 = 1 << 20;

/// A usable configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    /// In file order.
    pub warnings: Vec<Problem>,
}

/// Reads and validates a file; the error holds every problem with it.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Invalid> {
    let invalid = |problems| Invalid {
        file: path.to_owned(),
        problems,
    };
    let bytes = read(path)
        .map_err(|refusal| invalid(vec![Problem::error(&Location::default(), &refusal)]))?;
    parse_bytes(&bytes, environment).map_err(invalid)
}

/// Validates the text of a file; the error is every problem, in file order.
pub fn parse(text: &str, environment: &Environment) -> Result<Loaded, Vec<Problem>> {
    let (file, mut problems) = File::read(text)?;
    let (config, found) = validate::validate(file, environment);
    problems.extend(found);
    // What stands nowhere in the file comes last.
    problems.sort_by_key(|problem| (problem.line.is_none(), problem.line, problem.column));
    if problems.iter().any(|problem| problem.level == Level::Error) {
        return Err(problems);
    }
    Ok(Loaded {
        config,
        warnings: problems,
    })
}

fn parse_bytes(bytes: &[u8], environment: &Environment) -> Result<Loaded, Vec<Problem>> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.split(|byte| *byte == b'\n').count();
        let last = before
            .rsplit(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default();
        let column = String::from_utf8_lossy(last).chars().count() + 1;
        let at = Location {
            key: String::new(),
            line: Some(line),
            column: Some(column),
        };
        vec![Problem::error(
            &at,
            &Refusal::new("the file is not UTF-8 text"),
        )]
    })?;
    parse(text, environment)
}

fn read(path: &Path) -> Result<Vec<u8>, Refusal> {
    let refusal = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => {
            Refusal::new("there is no such file: name the configuration with --config FILE")
        }
        ErrorKind::PermissionDenied => Refusal::new("no permission to read the file"),
        ErrorKind::IsADirectory => Refusal::new("this is a directory, not a file"),
        _ => Refusal::new(format!("cannot read the file: {error}")),
    };
    let mut bytes = Vec::new();
    Open::open(path)
        .and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes))
        .map_err(refusal)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(Refusal::new(format!(
            "the file is larger than {LARGEST_FILE} bytes"
        )));
    }
    Ok(bytes)
}
