//! From the file as written to a [`Config`]: every rule, all problems at once.
//!
//! Pure: what it must know of the machine is in the [`Environment`]. One value in each key is
//! judged by `values`; rules between keys stand in `pools`, `networks`, `sockets` and `interfaces`.

mod addresses;
mod interfaces;
mod networks;
mod pools;
mod sockets;
mod values;

use std::collections::BTreeSet;
use std::time::Duration;

use super::document::{Entry, TextList};
use super::file::{self, File};
use super::problem::{Located, Location, Problem, Refusal};
use super::{Config, Datapath, Environment, ProxyScope, SourceKind};

/// The configuration as far as it could be read, and every problem; usable only without errors.
pub fn validate(file: File, environment: &Environment) -> (Config, Vec<Problem>) {
    let mut check = Check {
        problems: Vec::new(),
        environment,
    };
    let mut config = Config::defaults(&environment.host_name.to_lowercase());
    check.node(&mut config, file.node);
    check.source(&mut config, file.source);
    check.load_balancer(&mut config, file.load_balancer);
    let ranges = check.pools(&mut config, file.pools);
    check.announce(&mut config, file.announce);
    let membership = check.membership(&mut config, file.membership);
    check.proxy(&mut config, file.proxy, &ranges);
    check.observability(&mut config, file.observability, membership);
    (config, check.problems)
}

/// Collects problems while values move from the file to the configuration.
struct Check<'e> {
    problems: Vec<Problem>,
    environment: &'e Environment,
}

impl Check<'_> {
    fn error(&mut self, at: &Location, refusal: &Refusal) {
        self.problems.push(Problem::error(at, refusal));
    }

    fn warn(&mut self, at: &Location, refusal: &Refusal) {
        self.problems.push(Problem::warning(at, refusal));
    }

    /// Puts a valid value into its slot; gives its place back where there was one.
    fn set<T>(
        &mut self,
        slot: &mut T,
        entry: Entry<String>,
        parse: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Option<Location> {
        self.set_value(slot, entry, |text| parse(&text))
    }

    /// The same for what is not text.
    fn set_value<W, T>(
        &mut self,
        slot: &mut T,
        entry: Entry<W>,
        parse: impl Fn(W) -> Result<T, Refusal>,
    ) -> Option<Location> {
        let Entry::Given(Located { value, at }) = entry else {
            return None;
        };
        match parse(value) {
            Ok(value) => {
                *slot = value;
                Some(at)
            }
            Err(refusal) => {
                self.error(&at, &refusal);
                None
            }
        }
    }

    fn flag(&mut self, slot: &mut bool, entry: Entry<bool>) {
        self.set_value(slot, entry, Ok);
    }

    /// Puts the valid items into their slot; gives them back with their places.
    fn set_list<T: Clone>(
        &mut self,
        slot: &mut Vec<T>,
        entry: TextList,
        parse: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Vec<Located<T>> {
        let Entry::Given(list) = entry else {
            return Vec::new();
        };
        let mut located = Vec::new();
        for item in list.value {
            match parse(&item.value) {
                Ok(value) => located.push(Located { value, at: item.at }),
                Err(refusal) => self.error(&item.at, &refusal),
            }
        }
        *slot = located.iter().map(|item| item.value.clone()).collect();
        located
    }

    fn node(&mut self, config: &mut Config, file: file::Node) {
        if matches!(file.name, Entry::Absent) && values::node_name(&config.node.name).is_err() {
            let message = format!(
                "the host name \"{}\" is not a node name",
                self.environment.host_name
            );
            self.error(
                &Location::of_key("node.name"),
                &Refusal::new(message).write("name = \"NODE\""),
            );
        }
        self.set(&mut config.node.name, file.name, values::node_name);
        self.set(
            &mut config.node.state_dir,
            file.state_dir,
            values::absolute_path,
        );
        self.set(
            &mut config.node.runtime_dir,
            file.runtime_dir,
            values::runtime_dir,
        );
    }

    fn source(&mut self, config: &mut Config, file: file::Source) {
        let kinds = [
            ("kubernetes", SourceKind::Kubernetes),
            ("manifests", SourceKind::Manifests),
        ];
        self.set(&mut config.source.kind, file.kind, |text| {
            values::choice(text, &kinds)
        });
        let kubernetes = &mut config.source.kubernetes;
        self.set(
            &mut kubernetes.kubeconfig,
            file.kubernetes.kubeconfig,
            |text| values::absolute_path(text).map(Some),
        );
        self.set(&mut kubernetes.lease, file.kubernetes.lease, values::lease);
        self.set(
            &mut config.source.manifests.dir,
            file.manifests.dir,
            values::absolute_path,
        );
    }

    fn load_balancer(&mut self, config: &mut Config, file: file::LoadBalancer) {
        self.set(&mut config.load_balancer.class, file.class, values::class);
        self.flag(&mut config.load_balancer.default, file.default);
    }

    fn announce(&mut self, config: &mut Config, file: file::Announce) {
        let announce = &mut config.announce;
        let given = match &file.gratuitous_burst {
            Entry::Given(list) => Some((list.at.clone(), list.value.is_empty())),
            _ => None,
        };
        let hour = Duration::from_secs(3600);
        let offset = |text: &str| values::duration(text, Duration::ZERO, hour);
        let offsets = self.set_list(
            &mut announce.gratuitous_burst,
            file.gratuitous_burst,
            offset,
        );
        match given {
            Some((at, true)) => {
                let message =
                    "without any, the LAN learns of a take-over only when its own entries expire";
                self.warn(&at, &Refusal::new(message).write("[\"0s\", \"1s\"]"));
            }
            Some((at, false)) => self.burst(&at, &offsets),
            None => {}
        }
        self.set(&mut announce.refresh, file.refresh, values::refresh);
        let excluded = self.set_list(
            &mut announce.exclude_interfaces,
            file.exclude_interfaces,
            values::pattern,
        );
        self.excluded_interfaces(&excluded);
        self.set_list(
            &mut announce.node_selector,
            file.node_selector,
            values::selector,
        );
        self.flag(&mut announce.ping, file.ping);
    }

    fn burst(&mut self, at: &Location, offsets: &[Located<Duration>]) {
        let mut sorted: Vec<Duration> = offsets.iter().map(|offset| offset.value).collect();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() > values::LONGEST_BURST {
            let message = format!(
                "at most {} announcements may follow a take-over",
                values::LONGEST_BURST
            );
            self.error(at, &Refusal::new(message));
        } else if !sorted.iter().eq(offsets.iter().map(|offset| &offset.value)) {
            let refusal = Refusal::new("the offsets must ascend, each one once");
            self.error(at, &refusal.write(values::duration_list(&sorted)));
        }
    }

    fn proxy(&mut self, config: &mut Config, file: file::Proxy, pools: &[pools::PoolRange]) {
        let proxy = &mut config.proxy;
        let datapaths = [
            ("auto", Datapath::Auto),
            ("ipvs", Datapath::Ipvs),
            ("nftables", Datapath::Nftables),
        ];
        self.set(&mut proxy.datapath, file.datapath, |text| {
            values::choice(text, &datapaths)
        });
        let scopes = [("all", ProxyScope::All), ("external", ProxyScope::External)];
        self.set(&mut proxy.scope, file.scope, |text| {
            values::choice(text, &scopes)
        });
        self.set(&mut proxy.scheduler, file.scheduler, values::scheduler);
        self.flag(&mut proxy.strict_arp, file.strict_arp);
        self.set(
            &mut proxy.node_port_range,
            file.node_port_range,
            addresses::port_range,
        );
        self.set_list(
            &mut proxy.node_port_addresses,
            file.node_port_addresses,
            addresses::network,
        );
        let cluster = self.set_list(
            &mut proxy.cluster_cidrs,
            file.cluster_cidrs,
            addresses::network,
        );
        let patterns = self.set_list(
            &mut proxy.cluster_interfaces,
            file.cluster_interfaces,
            values::beginning,
        );
        self.matching_interfaces(&patterns);
        let service = self.set_list(
            &mut proxy.service_cidrs,
            file.service_cidrs,
            addresses::network,
        );
        self.set_list(
            &mut proxy.external_ip_ranges,
            file.external_ip_ranges,
            addresses::network,
        );
        self.networks(pools, &cluster, &service);
        self.flag(
            &mut proxy.cluster_ip_from_outside,
            file.cluster_ip_from_outside,
        );
        self.flag(&mut proxy.masquerade_all, file.masquerade_all);
        if let Some(at) = self.set_value(&mut proxy.mark_mask, file.mark_mask, values::mark_mask) {
            self.foreign_marks(&at, proxy.mark_mask.get());
        }
        let between = |least, most| move |text: &str| values::duration(text, least, most);
        let second = Duration::from_secs(1);
        let day = Duration::from_secs(86_400);
        self.set(
            &mut proxy.min_sync_interval,
            file.min_sync_interval,
            between(Duration::ZERO, second * 60),
        );
        self.set(
            &mut proxy.resync_interval,
            file.resync_interval,
            between(second, day),
        );
        self.set(
            &mut proxy.drain_deadline,
            file.drain_deadline,
            between(Duration::ZERO, day * 30),
        );
        self.set(
            &mut proxy.tcp_timeout,
            file.tcp_timeout,
            values::kernel_timeout,
        );
        self.set(
            &mut proxy.tcp_fin_timeout,
            file.tcp_fin_timeout,
            values::kernel_timeout,
        );
        self.set(
            &mut proxy.udp_timeout,
            file.udp_timeout,
            values::kernel_timeout,
        );
    }

    /// kube-proxy and iptables plug-ins of the cluster set bits 14 and 15 of the packet mark.
    fn foreign_marks(&mut self, at: &Location, mask: u32) {
        if mask & values::KUBE_PROXY_MARKS != 0 {
            let message = format!(
                "holds mark bits that kube-proxy uses ({:#x}): packets could be masqueraded or dropped by it",
                mask & values::KUBE_PROXY_MARKS
            );
            self.warn(at, &Refusal::new(message).write("0x00f00000"));
        }
    }

    fn unique<T: Ord>(&mut self, items: &[Located<T>], message: &str) {
        let mut seen = BTreeSet::new();
        for item in items {
            if !seen.insert(&item.value) {
                self.error(&item.at, &Refusal::new(message));
            }
        }
    }
}
