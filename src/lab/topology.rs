//! Puts the lab together: bridge, cables, addresses, routes, forwarding.

use std::net::IpAddr;

use ipnet::IpNet;

use super::address_plan::{
    DualStack, MAXIMUM_CLIENTS, MAXIMUM_NODES, MAXIMUM_WORKLOADS_OF_NODE, REMOTE_CLIENT, ROUTER,
    ROUTER_FAR, client_address, cluster_ip_ranges, default_routes, management_address,
    node_address, node_name, pod_address, pod_gateway, pod_ranges,
};
use super::directory::LabDirectory;
use super::server::Server;
use super::{Host, Lab, LabError, LabOptions, Namespace, Node, Route, Router, Workload};

/// The bridge in the switch's namespace.
const BRIDGE: &str = "lan0";
/// The bridge of the nodes' second network.
const MANAGEMENT_BRIDGE: &str = "mgmt0";
/// The link of every host and pod.
pub(super) const UPLINK: &str = "eth0";
/// The link of a node to the second network.
const MANAGEMENT_LINK: &str = "eth1";

impl Lab {
    pub(super) fn build_in(options: LabOptions, directory: LabDirectory) -> Result<Self, LabError> {
        check_size("nodes", options.nodes, MAXIMUM_NODES)?;
        check_size("clients", options.clients, MAXIMUM_CLIENTS)?;
        let workloads = options.workloads;
        let switch = Namespace::create("switch")?;
        let bridges = [
            Some(BRIDGE),
            options.management.then_some(MANAGEMENT_BRIDGE),
        ];
        for bridge in bridges.into_iter().flatten() {
            switch.create_bridge(bridge)?;
            switch.set_up(bridge)?;
        }
        let mut lab = Self {
            workloads: Vec::new(),
            nodes: Vec::new(),
            clients: Vec::new(),
            router: None,
            switch,
            options,
            workloads_made: 0,
            directory,
        };
        if lab.options.router {
            lab.router = Some(lab.build_router()?);
        }
        for index in 0..lab.options.nodes {
            let node = lab.build_node(index)?;
            lab.nodes.push(node);
        }
        lab.route_pods_between_nodes()?;
        for index in 0..lab.options.clients {
            let client = lab.build_client(index)?;
            lab.clients.push(client);
        }
        for index in 0..workloads {
            lab.add_workload(index % lab.nodes.len())?;
        }
        Ok(lab)
    }

    /// Adds a workload to the node at that index and starts its server.
    pub fn add_workload(&mut self, node: usize) -> Result<&Workload, LabError> {
        let slot = self.node(node)?.pods;
        check_size("workloads of one node", slot + 1, MAXIMUM_WORKLOADS_OF_NODE)?;
        let number = self.workloads_made + 1;
        let name = format!("web-{number}");
        let node_link = format!("pod-{number}");
        let address = pod_address(node, slot);
        let gateway = pod_gateway(node);
        let namespace = Namespace::create(&name)?;

        // A cable of its own for each pod, as most pod networks have it: the pod reaches everything
        // through the node, which has one route for each pod.
        let outside = &self.node(node)?.namespace;
        outside.create_veth(&node_link, &namespace, UPLINK)?;
        add_addresses(outside, &node_link, gateway.hosts())?;
        add_addresses(&namespace, UPLINK, address.hosts())?;
        outside.set_up(&node_link)?;
        namespace.set_up(UPLINK)?;
        for destination in address.hosts() {
            outside.add_route(&Route {
                destination,
                gateway: None,
                link: &node_link,
            })?;
        }
        for ((destination, default), via) in gateway
            .hosts()
            .into_iter()
            .zip(default_routes())
            .zip(gateway.both())
        {
            namespace.add_route(&Route {
                destination,
                gateway: None,
                link: UPLINK,
            })?;
            namespace.add_route(&Route {
                destination: default,
                gateway: Some(via),
                link: UPLINK,
            })?;
        }
        let server = Server::start(&namespace, &name, &self.options.listen)?;
        if let Some(node) = self.nodes.get_mut(node) {
            node.pods += 1;
        }
        self.workloads_made = number;
        self.workloads.push(Workload {
            name: name.clone(),
            node,
            namespace,
            address,
            server,
            node_link,
        });
        self.workload(&name)
    }

    /// Takes a workload away: its server, its cable and its namespace.
    pub fn remove_workload(&mut self, name: &str) -> Result<(), LabError> {
        let workload = self.workload(name)?;
        self.node(workload.node)?
            .namespace
            .remove_link(&workload.node_link)?;
        self.workloads.retain(|workload| workload.name != name);
        Ok(())
    }

    /// Gives the clients routes to the `ClusterIP` ranges by way of a node.
    pub fn route_cluster_ips(&self, node: usize) -> Result<(), LabError> {
        let via = self.node(node)?.address.both();
        self.clients
            .iter()
            .try_for_each(|client| add_routes(&client.namespace, cluster_ip_ranges(), via))
    }

    /// Connects a new namespace to the bridge by a cable whose end there is `eth0` and whose end on
    /// the bridge has the host's name.
    fn attach(&self, name: &str, address: DualStack) -> Result<Namespace, LabError> {
        let namespace = Namespace::create(name)?;
        self.connect(&namespace, UPLINK, BRIDGE, name)?;
        add_addresses(&namespace, UPLINK, address.in_lan())?;
        namespace.set_up(UPLINK)?;
        Ok(namespace)
    }

    /// A cable from a new link of the namespace, still down and without an address, to a bridge.
    fn connect(
        &self,
        namespace: &Namespace,
        link: &str,
        bridge: &str,
        port: &str,
    ) -> Result<(), LabError> {
        self.switch.create_veth(port, namespace, link)?;
        self.switch.set_bridge(port, bridge)?;
        self.switch.set_up(port)
    }

    /// Gives a node one more link to the LAN, which is up and has no address of its own. Its port on
    /// the bridge has the name of node and link, for [`Lab::unplug`].
    pub fn add_uplink(&self, node: usize, link: &str) -> Result<(), LabError> {
        let node = self.node(node)?;
        let port = format!("{}-{link}", node.name);
        self.connect(&node.namespace, link, BRIDGE, &port)?;
        node.namespace.set_up(link)
    }

    /// Adds a host to the LAN, which is none of the lab's clients.
    pub fn add_host(&self, name: &str, address: DualStack) -> Result<Host, LabError> {
        Ok(Host {
            name: name.to_owned(),
            namespace: self.attach(name, address)?,
            address,
        })
    }

    fn build_node(&self, index: usize) -> Result<Node, LabError> {
        let name = node_name(index);
        let address = node_address(index);
        let namespace = self.attach(&name, address)?;
        set_forwarding(&namespace)?;
        if self.options.router {
            add_routes(&namespace, default_routes(), ROUTER.both())?;
        }
        if self.options.management {
            let port = management_port(&name);
            self.connect(&namespace, MANAGEMENT_LINK, MANAGEMENT_BRIDGE, &port)?;
            let addresses = management_address(index).in_lan();
            add_addresses(&namespace, MANAGEMENT_LINK, addresses)?;
            namespace.set_up(MANAGEMENT_LINK)?;
        }
        Ok(Node {
            name,
            namespace,
            address,
            pod_ranges: pod_ranges(index),
            pods: 0,
        })
    }

    fn build_client(&self, index: usize) -> Result<Host, LabError> {
        let name = format!("client-{}", index + 1);
        let address = client_address(index);
        let namespace = self.attach(&name, address)?;
        if self.options.router {
            add_routes(&namespace, default_routes(), ROUTER.both())?;
        }
        if self.options.client_pod_routes {
            for node in &self.nodes {
                add_routes(&namespace, node.pod_ranges, node.address.both())?;
            }
        }
        Ok(Host {
            name,
            namespace,
            address,
        })
    }

    fn build_router(&self) -> Result<Router, LabError> {
        let namespace = self.attach("router", ROUTER)?;
        set_forwarding(&namespace)?;
        let remote = Namespace::create("remote-client")?;
        namespace.create_veth("eth1", &remote, UPLINK)?;
        add_addresses(&namespace, "eth1", ROUTER_FAR.in_lan())?;
        add_addresses(&remote, UPLINK, REMOTE_CLIENT.in_lan())?;
        namespace.set_up("eth1")?;
        remote.set_up(UPLINK)?;
        add_routes(&remote, default_routes(), ROUTER_FAR.both())?;
        let remote_client = Host {
            name: "remote-client".to_owned(),
            namespace: remote,
            address: REMOTE_CLIENT,
        };
        Ok(Router {
            namespace,
            remote_client,
        })
    }

    fn route_pods_between_nodes(&self) -> Result<(), LabError> {
        for here in &self.nodes {
            for there in self.nodes.iter().filter(|there| there.name != here.name) {
                add_routes(&here.namespace, there.pod_ranges, there.address.both())?;
            }
        }
        Ok(())
    }
}

fn check_size(what: &str, number: usize, maximum: usize) -> Result<(), LabError> {
    if (1..=maximum).contains(&number) {
        Ok(())
    } else {
        Err(LabError::Shape(format!(
            "a lab has 1 to {maximum} {what}, not {number}"
        )))
    }
}

/// A node's port on the bridge of the second network.
pub(super) fn management_port(node: &str) -> String {
    format!("{node}-mgmt")
}

fn set_forwarding(namespace: &Namespace) -> Result<(), LabError> {
    namespace.set_sysctl("net/ipv4/ip_forward", "1")?;
    namespace.set_sysctl("net/ipv6/conf/all/forwarding", "1")
}

fn add_addresses(namespace: &Namespace, link: &str, addresses: [IpNet; 2]) -> Result<(), LabError> {
    addresses
        .into_iter()
        .try_for_each(|address| namespace.add_address(link, address))
}

fn add_routes(
    namespace: &Namespace,
    destinations: [IpNet; 2],
    gateways: [IpAddr; 2],
) -> Result<(), LabError> {
    destinations
        .into_iter()
        .zip(gateways)
        .try_for_each(|(destination, gateway)| {
            namespace.add_route(&Route {
                destination,
                gateway: Some(gateway),
                link: UPLINK,
            })
        })
}
