//! What only a kernel with both datapaths can show: a node that changes from one to the other.

use std::time::Duration;

use edgelb::lab::client::{Protocol, open_stream};
use edgelb::lab::daemon::{Daemon, DaemonOptions};
use edgelb::lab::tool;

use super::rig::{PATIENCE, Rig, START, eventually, socket, spread, web};

const TCP: Protocol = Protocol::Tcp;

/// From IPVS to nftables and back: nothing of the other datapath stays, foreign virtual servers do,
/// and `cleanup` finds sysctls and timeouts as they were.
#[test]
fn a_node_changes_its_datapath() {
    let mut configuration = toml::Table::new();
    configuration.insert(
        "proxy".to_owned(),
        toml::toml! { tcp_timeout = "20m" }.into(),
    );
    let mut rig = Rig::with(1, 2, configuration.clone());
    let options = |rig: &Rig, datapath: &str| DaemonOptions {
        datapath: datapath.to_owned(),
        ..rig.options(configuration.clone())
    };
    let vs = |rig: &Rig| tool(rig.node(0), "ipvsadm", &["-Sn"]).unwrap();
    let settings = |rig: &Rig| {
        tool(rig.node(0), "sysctl", &["-a", "--pattern", "net.ipv4.vs"]).unwrap()
            + &tool(rig.node(0), "ipvsadm", &["-l", "--timeout"]).unwrap()
    };
    rig.daemons[0].terminate(Duration::from_secs(5)).unwrap();
    let output = rig.daemons[0].ask(&["cleanup"]).unwrap();
    assert!(output.status.success());
    let found = settings(&rig);
    assert!(found.contains("900 120 300"), "{found}");
    let foreign = ["-A", "-t", "198.51.100.77:80", "-s", "wrr"];
    tool(rig.node(0), "ipvsadm", &foreign).unwrap();
    let alone = vs(&rig);

    let service = web("web", 40);
    rig.serve(&service, &rig.workloads());
    let mut stream = None;
    for datapath in ["ipvs", "nftables", "ipvs"] {
        rig.daemons[0] = Daemon::start(&rig.lab, 0, &options(&rig, datapath)).unwrap();
        rig.daemons[0].wait_ready(START).unwrap();
        let (vip, _) = rig.vip("web");
        assert_eq!(rig.ask(0, "status")["datapath"], datapath);
        rig.wait_served(rig.client(), socket(vip, 80), TCP);
        assert_eq!(spread(rig.client(), socket(vip, 80), TCP, 20).0.len(), 2);
        eventually(PATIENCE, || {
            let ours = vs(&rig).contains(&format!("{vip}:80"));
            (ours == (datapath == "ipvs")).then_some(())
        });
        assert!(vs(&rig).contains("198.51.100.77:80"));
        assert!(settings(&rig).contains("1200 120 300"));
        stream = Some(open_stream(rig.client(), socket(vip, 80)).unwrap());
        rig.daemons[0].terminate(Duration::from_secs(5)).unwrap();
    }
    drop(stream);
    let output = rig.daemons[0].ask(&["cleanup"]).unwrap();
    assert!(output.status.success());
    assert_eq!(vs(&rig), alone);
    assert_eq!(settings(&rig), found);
}
