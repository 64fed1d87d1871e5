//! A node without power.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::lab::address_plan::pod_gateway;
use crate::lab::daemon::Daemon;
use crate::lab::topology::management_port;
use crate::lab::{DualStack, Lab, LabError, Namespace, Route};

/// A node that lost its power. It stays so when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct PowerFailure {
    switch: Namespace,
    /// Its ports on the switch.
    ports: Vec<String>,
    node: Namespace,
    /// The node's links to its pods, with their addresses.
    pods: Vec<(String, DualStack)>,
    gateway: DualStack,
}

impl PowerFailure {
    pub(super) fn strike(
        lab: &Lab,
        index: usize,
        daemon: Option<&mut Daemon>,
    ) -> Result<Self, LabError> {
        let node = lab.node(index)?;
        let mut ports = vec![node.name.clone()];
        if lab.options.management {
            ports.push(management_port(&node.name));
        }
        let failure = Self {
            switch: lab.switch.clone(),
            ports,
            node: node.namespace.clone(),
            pods: lab
                .workloads
                .iter()
                .filter(|workload| workload.node == index)
                .map(|workload| (workload.node_link.clone(), workload.address))
                .collect(),
            gateway: pod_gateway(index),
        };
        // The cables first: from here on nobody hears the node.
        for port in &failure.ports {
            failure.switch.set_down(port)?;
        }
        if let Some(daemon) = daemon {
            daemon.kill()?;
        }
        for (link, _) in &failure.pods {
            failure.node.set_down(link)?;
        }
        Ok(failure)
    }

    /// The power comes back. Its daemon must be started by whoever wants one.
    pub fn restore(self) -> Result<(), LabError> {
        for (link, address) in &self.pods {
            self.node.set_up(link)?;
            // A link that goes down loses its routes, and its IPv6 addresses as well.
            let gateway = IpNet::from(IpAddr::V6(self.gateway.ipv6));
            self.node.add_address(link, gateway)?;
            for destination in address.hosts() {
                self.node.add_route(&Route {
                    destination,
                    gateway: None,
                    link,
                })?;
            }
        }
        for port in &self.ports {
            self.switch.set_up(port)?;
        }
        Ok(())
    }
}
