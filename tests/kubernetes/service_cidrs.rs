//! `ServiceCIDRs` are followed where the configuration names no range of `ClusterIPs`; nothing waits for
//! them (NOEP-7, NFT-9). The objects are made up; see [`crate::script::service_cidr`].

use edgelb::config::{Config, ProxyScope};
use edgelb::source::kubernetes::kind::Watched;

use crate::rig::{Rig, timing};
use crate::script::{Fault, Script, service_cidr};
use crate::server::Server;

fn ranges(rig: &Rig) -> Vec<String> {
    let cidrs = rig.cluster.service_cidrs.values();
    let ranges = cidrs.flat_map(|ranges| ranges.iter());
    ranges.map(ToString::to_string).collect()
}

#[tokio::test]
async fn their_ranges_are_followed() {
    let server = Server::start(Script::recorded()).await;
    let mut rig = Rig::start_with_namespaces(&server, None);
    rig.until(|cluster| !cluster.service_cidrs.is_empty()).await;
    assert_eq!(ranges(&rig), ["10.96.0.0/16", "fd00:10:96::/112"]);
    let edit = |kind: &str, object| {
        server.with(|script| {
            script
                .collection(Watched::ServiceCidrs)
                .change(kind, object);
        });
    };
    edit("ADDED", service_cidr("more", &["10.97.0.0/24"]));
    rig.until(|cluster| cluster.service_cidrs.len() == 2).await;
    assert_eq!(
        ranges(&rig),
        ["10.96.0.0/16", "fd00:10:96::/112", "10.97.0.0/24"]
    );
    edit("DELETED", service_cidr("more", &["10.97.0.0/24"]));
    rig.until(|cluster| cluster.service_cidrs.len() == 1).await;
}

#[tokio::test]
async fn nothing_waits_for_them() {
    // 404: a server before 1.33. 403: a role of an older rbac.yaml.
    for (status, told) in [(404, false), (403, true)] {
        let mut script = Script::recorded();
        for _ in 0..100 {
            script.fault(Watched::ServiceCidrs, Fault::Status(status, None));
        }
        let server = Server::start(script).await;
        let mut rig = Rig::start_with_namespaces(&server, None);
        rig.until_complete().await;
        assert!(rig.cluster.service_cidrs.is_empty());
        let now = rig.until_status(|status| status.connected).await;
        assert_eq!(now.blind_since, None, "{status}");
        if told {
            rig.until_status(|status| {
                let mut problems = status.problems.iter();
                problems.any(|problem| problem.file == "servicecidrs")
            })
            .await;
        } else {
            // Asked for again and again, and no problem.
            let asked = || server.with(|script| script.asked(Watched::ServiceCidrs).count());
            while asked() < 3 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            let status = rig.until_status(|status| status.connected).await;
            assert_eq!(status.problems, []);
        }
    }
}

#[tokio::test]
async fn where_they_are_configured_nobody_asks() {
    let server = Server::start(Script::recorded()).await;
    let mut rig = Rig::start_with(&server, timing(), None);
    rig.until_complete().await;
    server.with(|script| assert_eq!(script.asked(Watched::ServiceCidrs).count(), 0));
    let mut config = Config::defaults("edge-a");
    let follows =
        |config: &Config| edgelb::cluster_record::kinds(config).contains(&Watched::ServiceCidrs);
    assert!(follows(&config));
    config.proxy.scope = ProxyScope::External;
    assert!(!follows(&config));
    config.proxy.scope = ProxyScope::All;
    config.proxy.service_cidrs = vec!["10.96.0.0/16".parse().unwrap()];
    assert!(!follows(&config));
}
