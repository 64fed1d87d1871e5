//! Who else runs here: the processes of this network namespace by name, with what they were started
//! as. Reads `/proc`; judges nothing.

use std::fs;

use super::sockets::processes;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) number: u32,
    /// At most 15 characters of it, as the kernel keeps them.
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
}

/// All that are in this network namespace, as far as that can be seen.
pub(super) fn here() -> Vec<Process> {
    let own = fs::read_link("/proc/self/ns/net").ok();
    let found = processes().into_iter().filter(|(number, _)| {
        let its = fs::read_link(format!("/proc/{number}/ns/net")).ok();
        own.is_some() && own == its
    });
    let found = found.map(|(number, name)| {
        let bytes = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        let arguments = bytes.split(|byte| *byte == 0);
        Process {
            number,
            name,
            arguments: (arguments.filter(|it| !it.is_empty()))
                .map(|it| String::from_utf8_lossy(it).into_owned())
                .collect(),
        }
    });
    found.collect()
}

/// Those of this name.
pub(super) fn named<'p>(processes: &'p [Process], name: &str) -> Vec<&'p Process> {
    processes.iter().filter(|it| it.name == name).collect()
}
