//! What a pass costs after one endpoint changed, with 1,000 Services loaded: planning and the kernel's
//! part, on each datapath that this kernel has. Needs root; changes nothing outside of a network
//! namespace of its own. `cargo bench --bench pass`; in the virtual machine run the built binary.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use edgelb::apply::kernel::Kernel;
use edgelb::apply::state_directory::StateDirectory;
use edgelb::config::{Config, Datapath};
use edgelb::model::cluster::ClusterChange;
use edgelb::model::endpoint::{Conditions, Endpoint, EndpointSlice, Hints, SliceKey, SlicePort};
use edgelb::model::family::{Family, Protocol};
use edgelb::model::service::{Service, ServiceKey, ServicePort, ServiceType};
use edgelb::plan::{Inputs, Plan, Scope, plan, replan};

const SERVICES: u32 = 1_000;
const ENDPOINTS: u8 = 5;

fn address(base: [u8; 4], number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::from(base).to_bits() + number))
}

fn service(number: u32) -> Service {
    let mut service = Service::new(
        ServiceKey::new("default", format!("web-{number}")),
        ServiceType::ClusterIP,
    );
    service.cluster_ips = vec![address([10, 96, 0, 1], number)];
    service.ports = vec![ServicePort {
        name: "http".to_owned(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: None,
    }];
    service
}

fn slice(number: u32, endpoints: u8) -> ClusterChange {
    let endpoint = |index: u8| Endpoint {
        address: address([10, 244, 0, 2], u32::from(index)),
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

/// One node with everything loaded.
struct Loaded {
    config: Config,
    inputs: Inputs,
    plan: Plan,
    kernel: Kernel,
    _directory: tempfile::TempDir,
}

impl Loaded {
    fn new(datapath: Datapath) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (state, _) = StateDirectory::open(&directory.path().join("state")).unwrap();
        let mut kernel = Kernel::open(datapath, Arc::new(state)).ok()?;
        let mut config = Config::defaults("edge-a");
        config.proxy.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
        let mut inputs = Inputs {
            node: "edge-a".to_owned(),
            ..Inputs::default()
        };
        for number in 0..SERVICES {
            inputs
                .cluster
                .apply(ClusterChange::Service(Arc::new(service(number))));
            inputs.cluster.apply(slice(number, ENDPOINTS));
        }
        let plan = plan(&config, &inputs);
        let report = kernel.repair(&plan.state, Instant::now());
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        Some(Self {
            config,
            inputs,
            plan,
            kernel,
            _directory: directory,
        })
    }

    /// One endpoint of one Service comes or goes.
    fn change(&mut self, endpoints: u8) {
        let mut scope = Scope::nothing();
        for dirty in self.inputs.cluster.apply(slice(500, endpoints)) {
            scope.add(dirty);
        }
        let plan = replan(&self.config, &self.inputs, &self.plan, &scope);
        let report = self
            .kernel
            .apply(&self.plan.state, &plan.state, Instant::now());
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        self.plan = plan;
    }
}

fn one_endpoint(criterion: &mut Criterion) {
    for (name, datapath) in [("nftables", Datapath::Nftables), ("ipvs", Datapath::Ipvs)] {
        // A network namespace of its own for this thread, which ends with the program.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("this needs root");
        let Some(mut loaded) = Loaded::new(datapath) else {
            eprintln!("{name}: this kernel does not have it");
            continue;
        };
        let before = loaded.kernel.messages();
        loaded.change(ENDPOINTS + 1);
        let messages = loaded.kernel.messages() - before;
        eprintln!("{name}: {messages} netlink messages for one new endpoint");
        let mut endpoints = ENDPOINTS + 1;
        criterion.bench_function(
            &format!("{name}: one endpoint among {SERVICES} Services"),
            |bencher| {
                bencher.iter(|| {
                    endpoints = if endpoints == ENDPOINTS {
                        ENDPOINTS + 1
                    } else {
                        ENDPOINTS
                    };
                    loaded.change(endpoints);
                });
            },
        );
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50);
    targets = one_endpoint
}
criterion_main!(benches);
