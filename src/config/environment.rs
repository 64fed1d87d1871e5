//! What validation may know of this machine; read here, judged elsewhere.

/// Facts of the machine that a configuration is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// As the kernel has it; becomes `node.name` in lower case. Empty: not known.
    pub host_name: String,
    /// The interfaces there are. `None`: not known, nothing is said about patterns then.
    pub interfaces: Option<Vec<String>>,
}

impl Environment {
    /// Asks the machine for its host name and its interfaces' names; changes nothing.
    pub fn detect() -> Self {
        let host_name = nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let interfaces = nix::net::if_::if_nameindex().ok().map(|interfaces| {
            interfaces
                .iter()
                .map(|interface| interface.name().to_string_lossy().into_owned())
                .collect()
        });
        Self {
            host_name,
            interfaces,
        }
    }
}
