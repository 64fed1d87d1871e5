//! A pass costs what changed: the kernel hears of one endpoint, however many Services there are.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use edgelb::apply::kernel::Kernel;
use edgelb::apply::state_directory::StateDirectory;
use edgelb::config::{Config, Datapath};
use edgelb::lab::Namespace;
use edgelb::model::cluster::ClusterChange;
use edgelb::model::endpoint::{Conditions, Endpoint, EndpointSlice, Hints, SliceKey, SlicePort};
use edgelb::model::family::{Family, Protocol};
use edgelb::model::service::{Service, ServiceKey, ServicePort, ServiceType};
use edgelb::plan::{Inputs, Scope, plan, replan};

use super::rig::ipvs;

fn slice(number: u32, endpoints: u8) -> ClusterChange {
    let endpoint = |index: u8| Endpoint {
        address: IpAddr::from([10, 244, 0, 2 + index]),
        conditions: Conditions::default(),
        node: Some("edge-b".into()),
        zone_hints: Hints::default(),
        node_hints: Hints::default(),
    };
    ClusterChange::Slice(Arc::new(EndpointSlice {
        key: SliceKey::new("default", format!("web-{number}")),
        service: ServiceKey::new("default", format!("web-{number}")),
        family: Family::V4,
        ports: vec![SlicePort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: (0..endpoints).map(endpoint).collect(),
    }))
}

fn service(number: u32) -> ClusterChange {
    let key = ServiceKey::new("default", format!("web-{number}"));
    let mut service = Service::new(key, ServiceType::ClusterIP);
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 1).to_bits() + number);
    service.cluster_ips = vec![address.into()];
    service.ports = vec![ServicePort {
        name: "http".to_owned(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: None,
    }];
    ClusterChange::Service(Arc::new(service))
}

/// Messages to the kernel for an endpoint that comes, one that goes, and for nothing at all.
fn messages(services: u32) -> [u64; 3] {
    let directory = tempfile::tempdir().unwrap();
    let (state, _) = StateDirectory::open(&directory.path().join("state")).unwrap();
    let datapath = if ipvs() {
        Datapath::Ipvs
    } else {
        Datapath::Nftables
    };
    let mut kernel = Kernel::open(datapath, Arc::new(state)).unwrap();
    let mut config = Config::defaults("edge-a");
    config.proxy.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
    let mut inputs = Inputs {
        node: "edge-a".to_owned(),
        ..Inputs::default()
    };
    for number in 0..services {
        inputs.cluster.apply(service(number));
        inputs.cluster.apply(slice(number, 3));
    }
    let mut current = plan(&config, &inputs);
    let report = kernel.repair(&current.state, Instant::now());
    assert!(report.failures.is_empty(), "{:?}", report.failures.first());
    // One that comes, one that goes again; then a slice that says the same as before.
    [4, 3, 3].map(|endpoints| {
        let mut scope = Scope::nothing();
        for dirty in inputs.cluster.apply(slice(services / 2, endpoints)) {
            scope.add(dirty);
        }
        let next = replan(&config, &inputs, &current, &scope);
        let before = kernel.messages();
        let report = kernel.apply(&current.state, &next.state, Instant::now());
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        current = next;
        kernel.messages() - before
    })
}

#[test]
fn a_pass_sends_what_changed_and_nothing_else() {
    let counted = |services| {
        Namespace::create("node")
            .unwrap()
            .run(move || messages(services))
            .unwrap()
    };
    let few = counted(10);
    let many = counted(1_000);
    assert_eq!(
        few, many,
        "what is sent does not grow with the number of Services"
    );
    let [comes, goes, same] = many;
    // IPVS: one real server. nftables: a transaction with the new choice among four, emptied first, its element taken
    // out and put in, and the endpoint; on the way back the chain is there.
    assert_eq!(if ipvs() { [1, 1] } else { [8, 5] }, [comes, goes]);
    assert_eq!(same, 0);
}
