//! Writes Kubernetes manifests for the lab's parts into a directory that daemons watch.
//!
//! Each object has a file of its own, replaced as a whole: a reader sees the old text or the new one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::client::Protocol;
use super::{DualStack, LabError, Node, Workload};

/// The Kubernetes namespace of the lab's objects.
pub const NAMESPACE: &str = "default";

/// A directory of manifests.
#[derive(Debug, Clone)]
pub struct ManifestDirectory(PathBuf);

/// A Service as a person would write it.
#[derive(Debug, Clone)]
pub struct ServiceManifest {
    /// Its name.
    pub name: String,
    /// `LoadBalancer`, `NodePort` or `ClusterIP`.
    pub kind: &'static str,
    /// Its `ClusterIPs`.
    pub cluster_ips: DualStack,
    /// Its ports, at least one.
    pub ports: Vec<ServicePort>,
    /// `Cluster` or `Local`; not for `ClusterIP`.
    pub external_traffic_policy: &'static str,
    /// Annotations, such as `edgelb.io/ips`.
    pub annotations: BTreeMap<String, String>,
    /// More lines of its `spec`, as YAML indented by two spaces.
    pub more: String,
}

/// One port of a Service.
#[derive(Debug, Clone)]
pub struct ServicePort {
    /// Its name, which the `EndpointSlices` repeat.
    pub name: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port of the `ClusterIP` and the VIP.
    pub port: u16,
    /// The port of the workloads.
    pub target_port: u16,
    /// The port of every node, if there is one.
    pub node_port: Option<u16>,
}

impl ManifestDirectory {
    /// Makes the directory.
    pub fn create(path: &Path) -> Result<Self, LabError> {
        fs::create_dir_all(path).map_err(|source| LabError::File {
            what: "create",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self(path.to_owned()))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a Service.
    pub fn write_service(&self, service: &ServiceManifest) -> Result<(), LabError> {
        self.write(
            &format!("service-{}.yaml", service.name),
            &service_text(service),
        )
    }

    /// Writes the `EndpointSlices` of a Service, one for each family, with these workloads as ready
    /// endpoints. `nodes` are the lab's.
    pub fn write_endpoints(
        &self,
        service: &ServiceManifest,
        workloads: &[&Workload],
        nodes: &[Node],
    ) -> Result<(), LabError> {
        let text = slice_text(service, "IPv4", workloads, nodes, |address| {
            IpAddr::V4(address.ipv4)
        }) + "---\n"
            + &slice_text(service, "IPv6", workloads, nodes, |address| {
                IpAddr::V6(address.ipv6)
            });
        self.write(&format!("endpoints-{}.yaml", service.name), &text)
    }

    /// Writes a ready Node.
    pub fn write_node(&self, node: &Node) -> Result<(), LabError> {
        self.write_labelled_node(node, &[])
    }

    /// Writes a ready Node with these labels beside its own.
    pub fn write_labelled_node(
        &self,
        node: &Node,
        labels: &[(&str, &str)],
    ) -> Result<(), LabError> {
        self.write(&node_file(&node.name), &node_text(node, labels))
    }

    /// Removes a Node.
    pub fn remove_node(&self, name: &str) -> Result<(), LabError> {
        self.remove(&node_file(name))
    }

    /// Writes any file. The text first goes to a file that no reader of manifests looks at.
    pub fn write(&self, file: &str, text: &str) -> Result<(), LabError> {
        let path = self.0.join(file);
        let draft = self.0.join(format!(".{file}.draft"));
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .map_err(|source| LabError::File {
                what: "write",
                path,
                source,
            })
    }

    /// Removes a file; one that is not there is fine.
    pub fn remove(&self, file: &str) -> Result<(), LabError> {
        let path = self.0.join(file);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LabError::File {
                what: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }
}

impl ServiceManifest {
    /// A Service of type `LoadBalancer`, reached by traffic policy `Cluster`.
    pub fn load_balancer(name: &str, cluster_ips: DualStack, ports: Vec<ServicePort>) -> Self {
        Self {
            name: name.to_owned(),
            kind: "LoadBalancer",
            cluster_ips,
            ports,
            external_traffic_policy: "Cluster",
            annotations: BTreeMap::new(),
            more: String::new(),
        }
    }
}

fn node_file(name: &str) -> String {
    format!("node-{name}.yaml")
}

/// A string as YAML takes it whatever it holds: a JSON string is one (YAML 1.2, section 7.3.1).
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

fn service_text(service: &ServiceManifest) -> String {
    let mut annotations = String::new();
    for (key, value) in &service.annotations {
        if annotations.is_empty() {
            annotations.push_str("  annotations:\n");
        }
        // Writing to a String cannot fail.
        let _ = writeln!(annotations, "    {}: {}", quoted(key), quoted(value));
    }
    let mut ports = String::new();
    for port in &service.ports {
        let _ = writeln!(ports, "  - name: {}", quoted(&port.name));
        let _ = writeln!(ports, "    protocol: {}", protocol_name(port.protocol));
        let _ = writeln!(ports, "    port: {}", port.port);
        let _ = writeln!(ports, "    targetPort: {}", port.target_port);
        if let Some(node_port) = port.node_port {
            let _ = writeln!(ports, "    nodePort: {node_port}");
        }
    }
    let policy = match service.kind {
        "ClusterIP" => String::new(),
        _ => format!(
            "  externalTrafficPolicy: {}\n",
            service.external_traffic_policy
        ),
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\n{annotations}\
         spec:\n  type: {kind}\n  clusterIP: {ipv4}\n  clusterIPs:\n  - {ipv4}\n  - {ipv6}\n  ipFamilies:\n  - IPv4\n  - IPv6\n  \
         ipFamilyPolicy: RequireDualStack\n{policy}  selector:\n    app: {name}\n  ports:\n{ports}{more}",
        name = quoted(&service.name),
        kind = service.kind,
        ipv4 = service.cluster_ips.ipv4,
        ipv6 = quoted(&service.cluster_ips.ipv6.to_string()),
        more = service.more,
    )
}

fn slice_text(
    service: &ServiceManifest,
    family: &str,
    workloads: &[&Workload],
    nodes: &[Node],
    address: impl Fn(DualStack) -> IpAddr,
) -> String {
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {slice}\n  namespace: {NAMESPACE}\n  labels:\n    \
         kubernetes.io/service-name: {name}\naddressType: {family}\n",
        slice = quoted(&format!("{}-{}", service.name, family.to_lowercase())),
        name = quoted(&service.name),
    );
    text.push_str(if workloads.is_empty() {
        "endpoints: []\n"
    } else {
        "endpoints:\n"
    });
    for workload in workloads {
        let _ = writeln!(
            text,
            "- addresses:\n  - {}",
            quoted(&address(workload.address).to_string())
        );
        text.push_str(
            "  conditions:\n    ready: true\n    serving: true\n    terminating: false\n",
        );
        if let Some(node) = nodes.get(workload.node) {
            let _ = writeln!(text, "  nodeName: {}", quoted(&node.name));
        }
        let _ = writeln!(
            text,
            "  targetRef:\n    kind: Pod\n    namespace: {NAMESPACE}\n    name: {}",
            quoted(&workload.name)
        );
    }
    text.push_str("ports:\n");
    for port in &service.ports {
        let _ = writeln!(text, "- name: {}", quoted(&port.name));
        let _ = writeln!(
            text,
            "  protocol: {}\n  port: {}",
            protocol_name(port.protocol),
            port.target_port
        );
    }
    text
}

fn node_text(node: &Node, labels: &[(&str, &str)]) -> String {
    let [ipv4_pods, ipv6_pods] = node.pod_ranges;
    let mut more = String::new();
    for (key, value) in labels {
        // Writing to a String cannot fail.
        let _ = writeln!(more, "    {}: {}", quoted(key), quoted(value));
    }
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels:\n    kubernetes.io/hostname: {name}\n{more}\
         spec:\n  podCIDR: {ipv4_pods}\n  podCIDRs:\n  - {ipv4_pods}\n  - {ipv6_pods}\n\
         status:\n  addresses:\n  - type: InternalIP\n    address: {ipv4}\n  - type: InternalIP\n    address: {ipv6}\n  \
         - type: Hostname\n    address: {name}\n  conditions:\n  - type: Ready\n    status: \"True\"\n",
        name = quoted(&node.name),
        ipv6_pods = quoted(&ipv6_pods.to_string()),
        ipv4 = node.address.ipv4,
        ipv6 = quoted(&node.address.ipv6.to_string()),
    )
}
