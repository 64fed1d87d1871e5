//! The file exactly as TOML has it: each section with its keys, durations and addresses still text.
//!
//! The one list of known keys; what their values may be is decided in validate.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::document::{Document, Entry, Section, TextList};
use super::findings::Findings;
use super::problem::{Location, Problem};

/// Declares a section: each key and how it is read.
macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($key:ident: $type:ty = $read:ident($written:literal)),* $(,)? }) => {
        $(#[$meta])*
        pub struct $name {
            $(pub $key: $type,)*
            /// Where the table stands.
            pub at: Location,
        }

        impl $name {
            fn read(mut section: Section<'_>) -> Self {
                let at = section.at.clone();
                $(let $key = section.$read($written);)*
                section.finish();
                Self { $($key,)* at }
            }
        }
    };
}

section!(Node {
    name: Entry<String> = text("name"),
    state_dir: Entry<String> = text("state_dir"),
    runtime_dir: Entry<String> = text("runtime_dir"),
});

section!(KubernetesSource {
    kubeconfig: Entry<String> = text("kubeconfig"),
    lease: Entry<String> = text("lease"),
});

section!(ManifestSource {
    dir: Entry<String> = text("dir"),
});

pub struct Source {
    pub kind: Entry<String>,
    pub kubernetes: KubernetesSource,
    pub manifests: ManifestSource,
}

impl Source {
    fn read(mut section: Section<'_>) -> Self {
        let kind = section.text("kind");
        let kubernetes = KubernetesSource::read(section.section("kubernetes"));
        let manifests = ManifestSource::read(section.section("manifests"));
        section.finish();
        Self {
            kind,
            kubernetes,
            manifests,
        }
    }
}

section!(LoadBalancer {
    class: Entry<String> = text("class"),
    default: Entry<bool> = flag("default"),
});

section!(Pool {
    name: Entry<String> = text("name"),
    addresses: TextList = texts("addresses"),
    auto_assign: Entry<bool> = flag("auto_assign"),
    priority: Entry<i128> = integer("priority"),
    avoid_buggy_ips: Entry<bool> = flag("avoid_buggy_ips"),
    namespaces: TextList = texts("namespaces"),
    namespace_selector: TextList = texts("namespace_selector"),
    service_selector: TextList = texts("service_selector"),
    share_across_namespaces: Entry<bool> = flag("share_across_namespaces"),
    forwarding_methods: TextList = texts("forwarding_methods"),
    interfaces: TextList = texts("interfaces"),
    prefer: TextList = texts("prefer"),
});

section!(Announce {
    gratuitous_burst: TextList = durations("gratuitous_burst"),
    refresh: Entry<String> = duration("refresh"),
    exclude_interfaces: TextList = texts("exclude_interfaces"),
    node_selector: TextList = texts("node_selector"),
    ping: Entry<bool> = flag("ping"),
});

section!(Membership {
    listen: Entry<String> = text("listen"),
    peers: TextList = texts("peers"),
    key_files: TextList = texts("key_files"),
    probe_interval: Entry<String> = duration("probe_interval"),
    restart_grace: Entry<String> = duration("restart_grace"),
    preempt: Entry<bool> = flag("preempt"),
});

section!(Proxy {
    datapath: Entry<String> = text("datapath"),
    scope: Entry<String> = text("scope"),
    scheduler: Entry<String> = text("scheduler"),
    strict_arp: Entry<bool> = flag("strict_arp"),
    node_port_range: Entry<String> = text("node_port_range"),
    node_port_addresses: TextList = texts("node_port_addresses"),
    cluster_cidrs: TextList = texts("cluster_cidrs"),
    cluster_interfaces: TextList = texts("cluster_interfaces"),
    service_cidrs: TextList = texts("service_cidrs"),
    external_ip_ranges: TextList = texts("external_ip_ranges"),
    cluster_ip_from_outside: Entry<bool> = flag("cluster_ip_from_outside"),
    masquerade_all: Entry<bool> = flag("masquerade_all"),
    mark_mask: Entry<i128> = integer("mark_mask"),
    min_sync_interval: Entry<String> = duration("min_sync_interval"),
    resync_interval: Entry<String> = duration("resync_interval"),
    drain_deadline: Entry<String> = duration("drain_deadline"),
    tcp_timeout: Entry<String> = duration("tcp_timeout"),
    tcp_fin_timeout: Entry<String> = duration("tcp_fin_timeout"),
    udp_timeout: Entry<String> = duration("udp_timeout"),
});

section!(Observability {
    listen: Entry<String> = text("listen"),
    health_listen: Entry<String> = text("health_listen"),
    log_format: Entry<String> = text("log_format"),
    log_level: Entry<String> = text("log_level"),
});

/// The whole file.
pub struct File {
    pub node: Node,
    pub source: Source,
    pub load_balancer: LoadBalancer,
    /// `None`: something else stands in their place, which is a problem already.
    pub pools: Option<Vec<Pool>>,
    pub announce: Announce,
    pub membership: Membership,
    pub proxy: Proxy,
    pub observability: Observability,
}

impl File {
    /// Reads what can be read; the problems are wrong types and unknown keys.
    ///
    /// The error is a list of syntax errors, after which no key can be relied on.
    pub fn read(text: &str) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let (file, mut findings) = Self::walk(text)?;
        findings.settle_unknown(&known_keys());
        Ok((file, findings.problems))
    }

    fn walk(text: &str) -> Result<(Self, Findings), Vec<Problem>> {
        let document = Document::parse(text)?;
        let findings = RefCell::new(Findings::default());
        let mut root = document.root(&findings);
        let file = Self {
            node: Node::read(root.section("node")),
            source: Source::read(root.section("source")),
            load_balancer: LoadBalancer::read(root.section("load_balancer")),
            pools: root
                .sections("pool")
                .map(|pools| pools.into_iter().map(Pool::read).collect()),
            announce: Announce::read(root.section("announce")),
            membership: Membership::read(root.section("membership")),
            proxy: Proxy::read(root.section("proxy")),
            observability: Observability::read(root.section("observability")),
        };
        root.finish();
        Ok((file, findings.into_inner()))
    }
}

/// Every key there is, such as `announce.refresh` and `pool.name`.
pub fn known_keys() -> BTreeSet<String> {
    // The keys of a pool are asked for only where there is one.
    File::walk("[[pool]]")
        .map(|(_, findings)| findings.known)
        .unwrap_or_default()
}
