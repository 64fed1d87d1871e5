//! The Kubernetes objects of the cases, as the API server would serve them.

use std::net::IpAddr;

use edgelb::lab::{DualStack, Node, Workload};
use serde_json::{Value, json};

use super::bench::{CLUSTER_IP, EXTERNAL, NODE_PORT, VIP};

const NAMESPACE: &str = "default";

/// The Service `web` of this type in both families: port 80 by TCP and UDP to port 8080.
pub fn service(kind: &str) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "web", "namespace": NAMESPACE, "uid": "service-web",
            "creationTimestamp": "2026-11-23T01:00:00Z",
        },
        "spec": {
            "type": kind,
            "clusterIP": CLUSTER_IP.ipv4, "clusterIPs": [CLUSTER_IP.ipv4, CLUSTER_IP.ipv6],
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080},
                {"name": "dns", "protocol": "UDP", "port": 80, "targetPort": 8080},
            ],
        },
    });
    if kind != "ClusterIP" {
        service["spec"]["externalTrafficPolicy"] = json!("Cluster");
        for port in service["spec"]["ports"].as_array_mut().unwrap() {
            port["nodePort"] = json!(NODE_PORT);
        }
    }
    service
}

pub fn cluster_ip() -> Value {
    service("ClusterIP")
}

pub fn node_port() -> Value {
    service("NodePort")
}

/// With the VIP and an external address.
pub fn load_balancer() -> Value {
    let mut service = service("LoadBalancer");
    let wanted = format!("{},{}", VIP.ipv4, VIP.ipv6);
    service["metadata"]["annotations"] = json!({"edgelb.io/ips": wanted});
    service["spec"]["externalIPs"] = json!(EXTERNAL.both());
    service
}

/// The same with the traffic policy Local and a health check port.
pub fn local_load_balancer() -> Value {
    let mut service = load_balancer();
    service["spec"]["externalTrafficPolicy"] = json!("Local");
    service["spec"]["healthCheckNodePort"] = json!(HEALTH_CHECK_PORT);
    service
}

/// Of [`local_load_balancer`].
pub const HEALTH_CHECK_PORT: u16 = 32_010;

/// A `ClusterIP` Service of one family, with the ports of `web`.
pub fn single(name: &str, address: IpAddr) -> Value {
    let mut service = cluster_ip();
    service["metadata"]["name"] = json!(name);
    service["metadata"]["uid"] = json!(format!("service-{name}"));
    let spec = &mut service["spec"];
    spec["clusterIP"] = json!(address);
    spec["clusterIPs"] = json!([address]);
    spec["ipFamilies"] = json!([if address.is_ipv4() { "IPv4" } else { "IPv6" }]);
    spec["ipFamilyPolicy"] = json!("SingleStack");
    service
}

/// One port of a Service.
pub fn port(name: &str, protocol: &str, number: u16, target: u16) -> Value {
    json!({"name": name, "protocol": protocol, "port": number, "targetPort": target})
}

/// One endpoint of a slice.
#[derive(Clone)]
pub struct Endpoint {
    address: DualStack,
    /// Everything but its address.
    rest: Value,
}

impl Endpoint {
    pub fn ready(workload: &Workload, node: &str) -> Self {
        Self {
            address: workload.address,
            rest: json!({
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": node,
                "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": workload.name},
            }),
        }
    }

    /// A ready pod in the network of its node.
    pub fn of_node(node: &Node) -> Self {
        Self {
            address: node.address,
            rest: json!({
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": node.name,
            }),
        }
    }

    /// Still serves while it goes away.
    pub fn terminating(self) -> Self {
        self.conditions(&json!({"ready": false, "serving": true, "terminating": true}))
    }

    pub fn conditions(mut self, conditions: &Value) -> Self {
        self.rest["conditions"] = conditions.clone();
        self
    }

    pub fn zone(mut self, zone: &str) -> Self {
        self.rest["zone"] = json!(zone);
        self.rest["hints"]["forZones"] = json!([{"name": zone}]);
        self
    }

    pub fn hinted_to_node(mut self, node: &str) -> Self {
        self.rest["hints"]["forNodes"] = json!([{"name": node}]);
        self
    }

    fn of(&self, family: &str) -> Value {
        let mut endpoint = self.rest.clone();
        endpoint["addresses"] = match family {
            "IPv4" => json!([self.address.ipv4]),
            _ => json!([self.address.ipv6]),
        };
        endpoint
    }
}

/// A slice of a Service with these endpoints of one family and these ports.
pub fn slice(
    name: &str,
    service: &Value,
    family: &str,
    endpoints: &[Endpoint],
    ports: &Value,
) -> Value {
    let endpoints: Vec<Value> = endpoints.iter().map(|it| it.of(family)).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": NAMESPACE, "uid": format!("slice-{name}"),
            "labels": {"kubernetes.io/service-name": service["metadata"]["name"]},
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    })
}

/// The ports of slices that are named and numbered as the Service says.
pub fn slice_ports(service: &Value) -> Value {
    let ports = service["spec"]["ports"].as_array().unwrap().iter();
    ports
        .map(|port| {
            json!({"name": port["name"], "protocol": port["protocol"], "port": port["targetPort"]})
        })
        .collect()
}

/// One slice of each family.
pub fn slices(service: &Value, endpoints: &[Endpoint]) -> [Value; 2] {
    let name = service["metadata"]["name"].as_str().unwrap();
    ["IPv4", "IPv6"].map(|family| {
        let slice_name = format!("{name}-{}", family.to_lowercase());
        slice(
            &slice_name,
            service,
            family,
            endpoints,
            &slice_ports(service),
        )
    })
}

/// A ready Node in zone `a`.
pub fn node(node: &Node) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": node.name, "uid": format!("node-{}", node.name),
            "labels": {"kubernetes.io/hostname": node.name, "topology.kubernetes.io/zone": "a"},
        },
        "spec": {"podCIDR": node.pod_ranges[0], "podCIDRs": node.pod_ranges},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": node.address.ipv4},
                {"type": "InternalIP", "address": node.address.ipv6},
            ],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// Several objects as one.
pub fn list(objects: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": objects})
}
