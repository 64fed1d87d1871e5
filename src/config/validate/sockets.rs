//! Membership and observability: their sockets, and that nothing stands in the way of these.

use std::path::PathBuf;
use std::time::Duration;

use super::super::defaults::{HEALTH_PORT, STATUS_PORT};
use super::super::document::Entry;
use super::super::problem::{Located, Location, Refusal};
use super::super::{Config, LogFormat, LogLevel, file};
use super::{Check, addresses, values};

impl Check<'_> {
    /// Gives back where its socket stands.
    pub(super) fn membership(
        &mut self,
        config: &mut Config,
        file: file::Membership,
    ) -> Option<Location> {
        let membership = &mut config.membership;
        let listen = self.set(
            &mut membership.listen,
            file.listen,
            addresses::listen_address,
        );
        let peers = self.set_list(&mut membership.peers, file.peers, addresses::peer);
        self.unique(&peers, "this peer is named twice");
        let keys_absent = match &file.key_files {
            Entry::Absent => true,
            Entry::Given(list) => list.value.is_empty(),
            Entry::Broken => false,
        };
        let key_files: Vec<Located<PathBuf>> = self.set_list(
            &mut membership.key_files,
            file.key_files,
            values::absolute_path,
        );
        self.unique(&key_files, "this key file is named twice");
        if let Some(third) = key_files.get(2) {
            self.error(
                &third.at,
                &Refusal::new("at most two key files: the one that sends and the one it replaces"),
            );
        }
        if let (true, Some(peer)) = (keys_absent, peers.first()) {
            let at = peer.at.with_key("membership.key_files".to_owned());
            let refusal =
                Refusal::new("required as soon as there is a peer: its messages are authenticated");
            self.error(
                &at,
                &refusal.write("key_files = [\"/etc/edgelb/membership.key\"]"),
            );
        }
        // The kernel counts a lease in ticks of up to ten milliseconds: it must not outlive detection.
        let probe =
            |text: &str| values::duration(text, Duration::from_millis(20), Duration::from_secs(60));
        self.set(&mut membership.probe_interval, file.probe_interval, probe);
        let grace = |text: &str| values::duration(text, Duration::ZERO, Duration::from_secs(3600));
        self.set(&mut membership.restart_grace, file.restart_grace, grace);
        self.flag(&mut membership.preempt, file.preempt);
        listen
    }

    pub(super) fn observability(
        &mut self,
        config: &mut Config,
        file: file::Observability,
        membership: Option<Location>,
    ) {
        let observability = &mut config.observability;
        let listen = self.set(&mut observability.listen, file.listen, |text| {
            addresses::socket_address(text, STATUS_PORT)
        });
        let health = self.set(
            &mut observability.health_listen,
            file.health_listen,
            |text| addresses::socket_address(text, HEALTH_PORT),
        );
        if let Some(at) = health.as_ref().or(listen.as_ref())
            && addresses::collide(observability.listen, observability.health_listen)
        {
            let message = format!(
                "observability.listen ({}) and observability.health_listen ({}) need different ports",
                observability.listen, observability.health_listen
            );
            self.error(at, &Refusal::new(message));
        }
        self.own_ports(config, [listen, health, membership]);
        let observability = &mut config.observability;
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        self.set(&mut observability.log_format, file.log_format, |text| {
            values::choice(text, &formats)
        });
        let levels = [
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ];
        self.set(&mut observability.log_level, file.log_level, |text| {
            values::choice(text, &levels)
        });
    }

    /// A `NodePort` of the same number would take what is sent to our own sockets.
    fn own_ports(&mut self, config: &Config, [listen, health, membership]: [Option<Location>; 3]) {
        let range = config.proxy.node_port_range;
        let sockets = [
            (
                config.observability.listen.port(),
                listen,
                "observability.listen",
            ),
            (
                config.observability.health_listen.port(),
                health,
                "observability.health_listen",
            ),
            (
                config.membership.listen.port.get(),
                membership,
                "membership.listen",
            ),
        ];
        for (port, at, key) in sockets {
            let at = at.unwrap_or_else(|| Location::of_key(key));
            if range.contains(port) {
                let message = format!(
                    "port {port} is within proxy.node_port_range ({range}): a NodePort could hide it"
                );
                self.warn(&at, &Refusal::new(message));
            }
        }
    }
}
