//! What people and other controllers do to the cluster, past the HTTP of the scripted server: they
//! make Services, change them and delete them. And what must hold of what is written, whoever did.

use std::collections::BTreeMap;
use std::net::IpAddr;

use edgelb::source::kubernetes::kind::Watched;
use serde_json::{Value, json};

use crate::objects::Store;
use crate::script::Script;

/// A Service of type `LoadBalancer` as a person writes it: one TCP port 80.
pub fn load_balancer(namespace: &str, name: &str) -> Value {
    json!({
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "type": "LoadBalancer",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
            "selector": {"app": name},
        },
    })
}

/// Merges an object into another, field by field; `null` takes a field away.
fn merge(object: &mut Value, change: &Value) {
    let Some(fields) = change.as_object() else {
        *object = change.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    let known = object.as_object_mut().expect("an object");
    for (field, value) in fields {
        if value.is_null() {
            known.remove(field);
        } else {
            merge(known.entry(field.clone()).or_insert(Value::Null), value);
        }
    }
}

/// What the server makes of a Service that people left fields out of, as the recorded ones have it.
fn fill_in(service: &mut Value, store: &mut Store) {
    let spec = &mut service["spec"];
    let kind = spec["type"].as_str().unwrap_or("ClusterIP").to_owned();
    let external = kind != "ClusterIP" && kind != "ExternalName";
    let mut default = |field: &str, value: Value| {
        if spec[field].is_null() {
            spec[field] = value;
        }
    };
    default("type", json!(kind));
    default("sessionAffinity", json!("None"));
    default("ipFamilyPolicy", json!("SingleStack"));
    default("ipFamilies", json!(["IPv4"]));
    default("internalTrafficPolicy", json!("Cluster"));
    if external {
        default("externalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        default("allocateLoadBalancerNodePorts", json!(true));
    }
    let families = spec["ipFamilies"].as_array().cloned().unwrap_or_default();
    if spec["clusterIPs"].as_array().map(Vec::len) != Some(families.len()) {
        let addresses: Vec<String> = families
            .iter()
            .map(|family| store.new_cluster_address(family.as_str().expect("a family")))
            .collect();
        spec["clusterIP"] = json!(addresses.first());
        spec["clusterIPs"] = json!(addresses);
    }
    let node_ports = external && spec["allocateLoadBalancerNodePorts"] != false;
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        if port["protocol"].is_null() {
            port["protocol"] = json!("TCP");
        }
        if port["targetPort"].is_null() {
            port["targetPort"] = port["port"].clone();
        }
        if node_ports && port["nodePort"].is_null() {
            port["nodePort"] = json!(store.new_node_port());
        }
        if let Some(fields) = port.as_object_mut() {
            fields.retain(|field, value| !value.is_null() && (node_ports || field != "nodePort"));
        }
    }
    if kind == "LoadBalancer"
        && spec["externalTrafficPolicy"] == "Local"
        && spec["healthCheckNodePort"].is_null()
    {
        spec["healthCheckNodePort"] = json!(store.new_node_port());
    }
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
}

impl Script {
    /// Creates a Service (as [`load_balancer`] gives, changed at will); fills in what a server
    /// does. Gives its uid, which is new.
    pub fn create_service(&mut self, mut service: Value) -> String {
        let version = self.next_version();
        let uid = self.store.new_uid();
        let metadata = &mut service["metadata"];
        metadata["uid"] = json!(uid);
        if metadata["creationTimestamp"].is_null() {
            // Later ones are younger, as the tables of age need it.
            let (minutes, seconds) = ((version / 60) % 60, version % 60);
            let hours = 1 + (version / 3600) % 22;
            let time = format!("2026-11-23T{hours:02}:{minutes:02}:{seconds:02}Z");
            metadata["creationTimestamp"] = json!(time);
        }
        service["kind"] = json!("Service");
        service["apiVersion"] = json!("v1");
        if service["status"].is_null() {
            service["status"] = json!({"loadBalancer": {}});
        }
        fill_in(&mut service, &mut self.store);
        let services = self.collection(Watched::Services);
        let key = crate::script::key(&service);
        assert!(!services.objects.contains_key(&key), "{key} is there");
        services.change_at(version, "ADDED", service);
        uid
    }

    /// Changes a Service as a person does: fields are merged, `null` takes one away. The status is
    /// out of reach, but for the addresses, which the server clears when the type changes.
    pub fn update_service(&mut self, key: &str, change: &Value) {
        assert!(change["status"].is_null(), "set_status is for that");
        let version = self.next_version();
        let mut service = self.service(key);
        merge(&mut service, change);
        fill_in(&mut service, &mut self.store);
        if service["spec"]["type"] != "LoadBalancer" {
            service["status"]["loadBalancer"] = json!({});
            let spec = service["spec"].as_object_mut().expect("a spec");
            spec.remove("allocateLoadBalancerNodePorts");
            spec.remove("loadBalancerClass");
        }
        let services = self.collection(Watched::Services);
        services.change_at(version, "MODIFIED", service);
    }

    /// Another controller writes a status, whole.
    pub fn set_status(&mut self, key: &str, status: Value) {
        let version = self.next_version();
        let mut service = self.service(key);
        service["status"] = status;
        let services = self.collection(Watched::Services);
        services.change_at(version, "MODIFIED", service);
    }

    /// Somebody creates an object that is no Service.
    pub fn create_object(&mut self, resource: &str, mut object: Value) {
        let version = self.next_version();
        object["metadata"]["uid"] = json!(self.store.new_uid());
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let key = crate::script::key(&object);
        self.store.put(resource, key, object);
    }

    /// Deletes a Service.
    pub fn delete_service(&mut self, key: &str) {
        let version = self.next_version();
        let service = self.service(key);
        let services = self.collection(Watched::Services);
        services.change_at(version, "DELETED", service);
    }

    /// A Service by `namespace/name`, as the server has it now.
    pub fn service(&mut self, key: &str) -> Value {
        let services = self.collection(Watched::Services);
        let text = services.objects.get(key);
        let text = text.unwrap_or_else(|| panic!("there is no Service {key}"));
        let mut service: Value = serde_json::from_str(text).expect("an object");
        service["kind"] = json!("Service");
        service["apiVersion"] = json!("v1");
        service
    }

    /// All Services, by `namespace/name`.
    pub fn services(&mut self) -> BTreeMap<String, Value> {
        let services = self.collection(Watched::Services);
        (services.objects.iter())
            .map(|(key, text)| (key.clone(), serde_json::from_str(text).expect("an object")))
            .collect()
    }

    /// The addresses in a Service's status, in their order.
    pub fn addresses(&mut self, key: &str) -> Vec<IpAddr> {
        addresses(&self.service(key))
    }

    /// A condition of a Service by its type.
    pub fn condition(&mut self, key: &str, kind: &str) -> Option<Value> {
        let service = self.service(key);
        let conditions = service["status"]["conditions"].as_array()?;
        conditions.iter().find(|it| it["type"] == kind).cloned()
    }

    /// The Services that want an address and have none.
    pub fn pending(&mut self) -> Vec<String> {
        let services = self.services().into_iter();
        let pending = services.filter(|(_, service)| {
            service["spec"]["type"] == "LoadBalancer" && addresses(service).is_empty()
        });
        pending.map(|(key, _)| key).collect()
    }

    /// The data of every `ConfigMap` of a namespace, by name.
    pub fn config_maps(&self, namespace: &str) -> BTreeMap<String, BTreeMap<String, String>> {
        let prefix = format!("{namespace}/");
        let maps = self.store.of("configmaps");
        maps.filter_map(|(key, map)| {
            let name = key.strip_prefix(&prefix)?.to_owned();
            let entries = map["data"].as_object().cloned().unwrap_or_default();
            let data = entries
                .into_iter()
                .map(|(key, value)| (key, value.as_str().expect("text").to_owned()))
                .collect();
            Some((name, data))
        })
        .collect()
    }

    /// The Lease of a namespace and name.
    pub fn lease(&self, key: &str) -> Option<&Value> {
        self.store.get("leases", key)
    }

    /// Every Event that was told.
    pub fn events(&self) -> Vec<Value> {
        self.store.of("events").map(|(_, it)| it.clone()).collect()
    }

    /// The holders that the `ConfigMaps` of a Lease (`namespace`, its `name`) record, by address.
    pub fn claims(&self, namespace: &str, lease: &str) -> BTreeMap<IpAddr, Vec<Claim>> {
        let prefix = format!("{lease}-addresses-");
        let mut claims = BTreeMap::new();
        for (name, data) in self.config_maps(namespace) {
            let Some(nibble) = name.strip_prefix(&prefix) else {
                continue;
            };
            for (key, value) in data {
                // IPv6 addresses are written with '-', for keys may have no ':'.
                let text = key.replace('-', ":");
                let address: IpAddr = text.parse().unwrap_or_else(|_| panic!("{name}: {key}"));
                let last = match address {
                    IpAddr::V4(address) => address.octets()[3],
                    IpAddr::V6(address) => address.octets()[15],
                };
                let wanted = format!("{:x}", last & 0xf);
                assert_eq!(nibble, wanted, "{address} is in the wrong ConfigMap");
                let holders: Vec<Value> = serde_json::from_str(&value)
                    .unwrap_or_else(|error| panic!("{name}: {key}: {error}: {value}"));
                let holders = holders.iter().map(Claim::of).collect();
                let twice = claims.insert(address, holders);
                assert_eq!(twice, None, "{address} is claimed in two places");
            }
        }
        claims
    }

    /// Panics where an address stands in two Services' status that may not share it, or twice in
    /// one; or where one of these is not claimed for its Service in the `ConfigMaps` of the Lease.
    /// Services for which `is_ours` is false are another implementation's.
    pub fn check_addresses(
        &mut self,
        namespace: &str,
        lease: &str,
        is_ours: impl Fn(&Value) -> bool,
        may_share: impl Fn(&Value, &Value) -> bool,
    ) {
        let claims = self.claims(namespace, lease);
        let services = self.services();
        let mut holders: BTreeMap<IpAddr, Vec<(&String, &Value)>> = BTreeMap::new();
        for (key, service) in services.iter().filter(|(_, service)| is_ours(service)) {
            for address in addresses(service) {
                let others = holders.entry(address).or_default();
                for (other, with) in others.iter() {
                    assert!(
                        *other != key && may_share(with, service),
                        "{address} is given to {other} and to {key}"
                    );
                }
                others.push((key, service));
                let claimed = claims.get(&address).into_iter().flatten();
                let claimed: Vec<&str> = claimed.map(|it| it.service.as_str()).collect();
                assert!(
                    claimed.contains(&key.as_str()),
                    "{address} of {key} is claimed by {claimed:?}"
                );
            }
        }
    }
}

/// One holder of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Namespace and name.
    pub service: String,
    pub counter: u64,
    pub position: u64,
    pub node: String,
}

impl Claim {
    fn of(value: &Value) -> Self {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let number = |field: &str| value[field].as_u64();
        Self {
            service: text("service"),
            counter: number("counter").unwrap_or_else(|| panic!("no counter: {value}")),
            position: number("position").unwrap_or_else(|| panic!("no position: {value}")),
            node: text("node"),
        }
    }
}

fn addresses(service: &Value) -> Vec<IpAddr> {
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
    (ingress.into_iter().flatten())
        .filter_map(|entry| entry["ip"].as_str())
        .map(|ip| ip.parse().expect("the server lets nothing else pass"))
        .collect()
}
