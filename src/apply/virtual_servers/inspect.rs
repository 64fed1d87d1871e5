//! Reads the virtual servers of one frontend, and says where they are not as planned. A request for
//! each and one for its real servers, however many others there are. Changes nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::desired::{SERVING, keys, method, of_frontend};
use crate::apply::forwarder::{Forwarder, forwarder};
use crate::apply::ipvs::types::{ObservedVirtualServer, RealServerKey, VirtualServerKey};
use crate::apply::ipvs::{Error, Ipvs};
use crate::model::frontend::{Frontend, FrontendPort, RealServer, SourceClass};
use crate::model::node_state::NodeState;
use crate::model::observation::{Connections, Difference, ObservedRealServer, Way};

/// What IPVS holds for a frontend.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspected {
    /// What is there of each real server, over all virtual servers of the frontend.
    pub real_servers: BTreeMap<RealServer, ObservedRealServer>,
    pub differences: Vec<Difference>,
}

/// Which virtual server forwards for each source class, as planned; of a node port the first one, or
/// that at `address`.
pub fn ways(
    port: FrontendPort,
    frontend: &Frontend,
    state: &NodeState,
    address: Option<IpAddr>,
) -> BTreeMap<SourceClass, Way> {
    let (attributes, real_servers) = of_frontend(port, frontend);
    let mut keys = keys(port, state).filter(|key| is_at(key, address));
    let Some(key) = keys.next().filter(|_| !real_servers.is_empty()) else {
        return BTreeMap::new();
    };
    let way = Way::VirtualServer {
        name: key.to_string(),
        scheduler: attributes.scheduler,
    };
    let classes = SourceClass::ALL.into_iter().filter(|class| {
        forwarder(frontend, *class, Forwarder::Ipvs) == Forwarder::Ipvs
            && !frontend.real_servers(*class).is_empty()
    });
    classes.map(|class| (class, way.clone())).collect()
}

/// Reads the virtual servers of a frontend; of a node port those of all node addresses, or that at
/// `address`.
pub fn inspect(
    ipvs: &mut Ipvs,
    port: FrontendPort,
    frontend: &Frontend,
    state: &NodeState,
    address: Option<IpAddr>,
) -> Result<Inspected, Error> {
    let mut inspected = Inspected::default();
    for key in keys(port, state).filter(|key| is_at(key, address)) {
        inspect_one(ipvs, &key, port, frontend, &mut inspected)?;
    }
    Ok(inspected)
}

fn is_at(key: &VirtualServerKey, address: Option<IpAddr>) -> bool {
    let here =
        |wanted| matches!(key, VirtualServerKey::Address { address, .. } if *address == wanted);
    address.is_none_or(here)
}

fn inspect_one(
    ipvs: &mut Ipvs,
    key: &VirtualServerKey,
    port: FrontendPort,
    frontend: &Frontend,
    inspected: &mut Inspected,
) -> Result<(), Error> {
    let (attributes, wanted) = of_frontend(port, frontend);
    let name = format!("virtual server {key}");
    let differences = &mut inspected.differences;
    let Some(ObservedVirtualServer { virtual_server, .. }) = ipvs.virtual_server(key)? else {
        if !wanted.is_empty() {
            differences.push(Difference::of_ours(name, "is missing"));
        }
        return Ok(());
    };
    if virtual_server != attributes && !wanted.is_empty() {
        let problem = if virtual_server.scheduler == attributes.scheduler {
            "has other flags or another persistence than planned".to_owned()
        } else {
            format!(
                "has the scheduler {} and not {}",
                virtual_server.scheduler, attributes.scheduler
            )
        };
        differences.push(Difference::of_ours(name.clone(), problem));
    }
    let mut present: BTreeMap<RealServerKey, u32> = BTreeMap::new();
    for observed in ipvs.real_servers(key)? {
        let weight = observed.real_server.weight;
        present.insert(observed.key, weight);
        if weight > 0 && observed.real_server.forwarding_method != method(port, frontend) {
            let object = format!("{name} real server {}", observed.key);
            let problem = "is reached by another forwarding method than planned";
            differences.push(Difference::of_ours(object, problem));
        }
        let real_server = RealServer {
            address: observed.key.address,
            port: observed.key.port,
        };
        let known = inspected.real_servers.entry(real_server).or_default();
        known.weight = Some(known.weight.unwrap_or(0).max(weight));
        let connections = known.connections.get_or_insert_with(Connections::default);
        connections.active += u64::from(observed.connections.active);
        connections.inactive += u64::from(observed.connections.inactive);
    }
    for real_server in &wanted {
        let problem = match present.get(real_server) {
            None => "is missing".to_owned(),
            Some(weight) if *weight != SERVING => {
                format!("has the weight {weight} and not {SERVING}")
            }
            Some(_) => continue,
        };
        let object = format!("{name} real server {real_server}");
        differences.push(Difference::of_ours(object, problem));
    }
    for (real_server, weight) in present {
        if weight > 0 && !wanted.contains(&real_server) {
            let object = format!("{name} real server {real_server}");
            let problem = format!("takes connections (weight {weight}), and none are planned");
            differences.push(Difference::of_ours(object, problem));
        }
    }
    Ok(())
}
