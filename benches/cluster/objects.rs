//! The objects of a made-up cluster, as an API server serves them: as large as real ones, with all
//! that edgelb drops (`managedFields`, owners, target references) beside what it keeps.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Namespaces that the Services are spread over.
const NAMESPACES: u32 = 100;
/// Endpoints in one slice at most, as the slice controller has it.
const LARGEST_SLICE: u32 = 100;
const WORDS: [&str; 8] = [
    "checkout", "catalog", "frontend", "payments", "search", "sessions", "shipping", "gateway",
];

/// What a cluster is made of.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub services: u32,
    /// Endpoints of each Service.
    pub endpoints: u32,
    pub nodes: u32,
}

impl Size {
    /// One Service of four has a VIP.
    fn is_load_balancer(service: u32) -> bool {
        service.is_multiple_of(4)
    }

    pub fn load_balancers(self) -> u32 {
        self.services.div_ceil(4)
    }
}

fn namespace(service: u32) -> String {
    format!("team-{:03}", service % NAMESPACES)
}

fn name(service: u32) -> String {
    let word = WORDS[service as usize % WORDS.len()];
    format!("{word}-{service:05}")
}

/// The node that edgelb runs on is the first one.
pub fn node_name(node: u32) -> String {
    format!("edge-{:02}.example.net", node + 1)
}

/// Any number that looks like an identifier and is another one for each object.
fn uid(kind: u32, number: u32) -> String {
    let mixed = u64::from(number)
        .wrapping_add(u64::from(kind) << 32)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        mixed >> 32,
        (mixed >> 16) & 0xffff,
        mixed & 0xfff,
        (mixed >> 20) & 0xfff,
        mixed.rotate_left(17) & 0xffff_ffff_ffff
    )
}

fn address(base: [u8; 4], number: u32) -> String {
    Ipv4Addr::from_bits(Ipv4Addr::from(base).to_bits() + number).to_string()
}

pub fn service(size: Size, number: u32) -> Value {
    let name = name(number);
    let load_balancer = Size::is_load_balancer(number);
    let mut port = json!({"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080});
    if load_balancer {
        port["nodePort"] = json!(30_000 + number / 4 % 2_768);
    }
    let cluster_ip = address([10, 96, 0, 10], number);
    let mut object = json!({
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": namespace(number),
            "uid": uid(1, number),
            "resourceVersion": (1_000_000 + number).to_string(),
            "creationTimestamp": "2026-10-02T08:15:42Z",
            "labels": labels(&name),
            "annotations": {
                "meta.helm.sh/release-name": name,
                "meta.helm.sh/release-namespace": namespace(number),
            },
            "managedFields": [service_fields("helm", false), service_fields("kube-controller-manager", true)],
        },
        "spec": {
            "ports": [port],
            "selector": {"app.kubernetes.io/name": WORDS[number as usize % WORDS.len()], "app.kubernetes.io/instance": name},
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "type": if load_balancer { "LoadBalancer" } else { "ClusterIP" },
            "sessionAffinity": "None",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    });
    if load_balancer {
        debug_assert!(number < size.services);
        object["spec"]["allocateLoadBalancerNodePorts"] = json!(true);
        object["spec"]["externalTrafficPolicy"] = json!("Cluster");
        object["status"] = json!({
            "loadBalancer": {"ingress": [{"ip": address([198, 18, 0, 1], number / 4), "ipMode": "VIP"}]},
            "conditions": [{
                "type": "edgelb.io/AddressAllocated",
                "status": "True",
                "lastTransitionTime": "2026-10-02T08:15:43Z",
                "reason": "Allocated",
                "message": "allocated from the pool lan",
            }],
        });
    }
    object
}

fn labels(name: &str) -> Value {
    json!({
        "app.kubernetes.io/name": name.rsplit_once('-').map_or(name, |(word, _)| word),
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/managed-by": "Helm",
        "app.kubernetes.io/version": "2.14.3",
        "helm.sh/chart": "web-service-4.0.1",
    })
}

fn service_fields(manager: &str, status: bool) -> Value {
    let fields = if status {
        json!({"f:status": {"f:loadBalancer": {"f:ingress": {}}, "f:conditions": {".": {}, "k:{\"type\":\"edgelb.io/AddressAllocated\"}": {".": {}, "f:lastTransitionTime": {}, "f:message": {}, "f:reason": {}, "f:status": {}, "f:type": {}}}}})
    } else {
        json!({
            "f:metadata": {
                "f:annotations": {".": {}, "f:meta.helm.sh/release-name": {}, "f:meta.helm.sh/release-namespace": {}},
                "f:labels": {".": {}, "f:app.kubernetes.io/name": {}, "f:app.kubernetes.io/instance": {}, "f:app.kubernetes.io/managed-by": {}, "f:app.kubernetes.io/version": {}, "f:helm.sh/chart": {}},
            },
            "f:spec": {
                "f:allocateLoadBalancerNodePorts": {}, "f:externalTrafficPolicy": {}, "f:internalTrafficPolicy": {},
                "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}},
                "f:selector": {}, "f:sessionAffinity": {}, "f:type": {},
            },
        })
    };
    let mut entry = json!({
        "manager": manager, "operation": "Update", "apiVersion": "v1",
        "time": "2026-10-02T08:15:42Z", "fieldsType": "FieldsV1", "fieldsV1": fields,
    });
    if status {
        entry["subresource"] = json!("status");
    }
    entry
}

/// How many slices one Service has.
pub fn slices(size: Size) -> u32 {
    size.endpoints.div_ceil(LARGEST_SLICE)
}

/// A slice of a Service; the endpoint numbered `unready` in it, if any, is not ready.
pub fn slice(size: Size, number: u32, part: u32, unready: Option<u32>) -> Value {
    let service = name(number);
    let first = part * LARGEST_SLICE;
    let last = size.endpoints.min(first + LARGEST_SLICE);
    let endpoints: Vec<Value> = (first..last)
        .map(|index| {
            let pod = number * size.endpoints + index;
            let node = (number.wrapping_mul(7) + index) % size.nodes;
            let ready = unready != Some(index);
            json!({
                "addresses": [address([10, 112, 0, 2], pod)],
                "conditions": {"ready": ready, "serving": ready, "terminating": false},
                "targetRef": {
                    "kind": "Pod", "namespace": namespace(number),
                    "name": format!("{service}-5d8f7c9b64-{pod:05x}"), "uid": uid(3, pod),
                },
                "nodeName": node_name(node),
                "zone": format!("zone-{}", node % 3 + 1),
            })
        })
        .collect();
    let version = 2_000_000 + number + if unready.is_some() { 1_000_000 } else { 0 };
    let owner = uid(1, number);
    let owner_field = format!("k:{{\"uid\":\"{owner}\"}}");
    let mut all_labels = labels(&service);
    all_labels["endpointslice.kubernetes.io/managed-by"] = json!("endpointslice-controller.k8s.io");
    all_labels["kubernetes.io/service-name"] = json!(service);
    json!({
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": format!("{service}-{:05x}", number * 31 + part),
            "generateName": format!("{service}-"),
            "namespace": namespace(number),
            "uid": uid(2, number * slices(size) + part),
            "resourceVersion": version.to_string(),
            "generation": 7,
            "creationTimestamp": "2026-10-02T08:15:42Z",
            "labels": all_labels,
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-11-20T11:02:31Z"},
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": service, "uid": owner,
                "controller": true, "blockOwnerDeletion": true,
            }],
            "managedFields": [{
                "manager": "kube-controller-manager", "operation": "Update",
                "apiVersion": "discovery.k8s.io/v1", "time": "2026-11-20T11:02:31Z",
                "fieldsType": "FieldsV1",
                "fieldsV1": {
                    "f:addressType": {}, "f:endpoints": {},
                    "f:metadata": {
                        "f:annotations": {".": {}, "f:endpoints.kubernetes.io/last-change-trigger-time": {}},
                        "f:generateName": {},
                        "f:labels": {".": {}, "f:app.kubernetes.io/name": {}, "f:endpointslice.kubernetes.io/managed-by": {}, "f:kubernetes.io/service-name": {}},
                        "f:ownerReferences": {".": {}, owner_field: {}},
                    },
                    "f:ports": {},
                },
            }],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    })
}

pub fn node(number: u32) -> Value {
    let name = node_name(number);
    let images: Vec<Value> = (0_u32..50)
        .map(|image| json!({"names": [format!("registry.example.net/team/image-{image:02}@sha256:{:064x}", u64::from(image) * 977), format!("registry.example.net/team/image-{image:02}:2.14.3")], "sizeBytes": 120_000_000}))
        .collect();
    json!({
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": name, "uid": uid(4, number),
            "resourceVersion": (3_000_000 + number).to_string(),
            "creationTimestamp": "2026-10-02T08:15:42Z",
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "topology.kubernetes.io/zone": format!("zone-{}", number % 3 + 1)},
            "annotations": {"node.alpha.kubernetes.io/ttl": "0"},
        },
        "spec": {
            "podCIDR": address([10, 112, 0, 0], number << 16) + "/16",
            "podCIDRs": [address([10, 112, 0, 0], number << 16) + "/16"],
        },
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            "addresses": [
                {"type": "InternalIP", "address": address([198, 18, 255, 1], number)},
                {"type": "Hostname", "address": name},
            ],
            "images": images,
        },
    })
}
