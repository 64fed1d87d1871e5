//! The name servers of `/etc/resolv.conf` (resolv.conf(5)): addresses that no Service may have.

use std::net::IpAddr;
use std::path::Path;

/// The name servers; none where the file cannot be read, as in a host without one.
pub(super) fn name_servers(file: &Path) -> Vec<IpAddr> {
    match std::fs::read(file) {
        Ok(content) => parse(&String::from_utf8_lossy(&content)),
        Err(error) => {
            tracing::debug!(file = %file.display(), %error, "no name servers are known");
            Vec::new()
        }
    }
}

/// Addresses of `nameserver` lines, without those that mean this host itself.
pub(super) fn parse(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = (words.next()? == "nameserver").then(|| words.next())??;
            // A link-local address can name its interface.
            let address = address
                .split_once('%')
                .map_or(address, |(address, _)| address);
            address.parse().ok()
        })
        .filter(|address: &IpAddr| !address.is_loopback() && !address.is_unspecified())
        .collect()
}
