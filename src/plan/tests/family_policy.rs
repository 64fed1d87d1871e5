//! `ipFamilyPolicy` (cases 20 to 22 of the announcing specification), and age: the oldest waiting
//! Service comes first (case 28).

use super::{annotated, config, held, inputs, labels, load_balancer, pool, with_status};
use crate::config::Config;
use crate::model::cluster::ClusterChange;
use crate::model::family::Family;
use crate::model::service::{FamilyPolicy, Service};
use crate::plan::Plan;
use crate::plan::tests::key;

fn with(policy: FamilyPolicy, families: &[Family]) -> Service {
    Service {
        family_policy: Some(policy),
        families: families.to_vec(),
        ..load_balancer("web")
    }
}

fn planned(config: &Config, service: Service) -> Plan {
    inputs().put(service).planned(config)
}

const BOTH: [Family; 2] = [Family::V4, Family::V6];
const SIX_FIRST: [Family; 2] = [Family::V6, Family::V4];

#[test]
fn how_many_families_a_service_gets() {
    use FamilyPolicy::{PreferDualStack, RequireDualStack, SingleStack};
    let v4 = || pool("four", "192.0.2.200/30");
    let v6 = || pool("a-six", "2001:db8::200/126");
    let dual = || pool("z-both", "198.51.100.8/30 2001:db8:1::/126");
    let in_dual = "198.51.100.8 2001:db8:1::";
    for (case, pools, service, given, missing) in [
        (
            "20: prefers the dual pool",
            vec![v4(), dual()],
            with(PreferDualStack, &BOTH),
            in_dual,
            "",
        ),
        (
            "21: v4 by default",
            vec![v4(), v6()],
            with(PreferDualStack, &BOTH),
            "192.0.2.200",
            "family_missing",
        ),
        (
            "21: v6 named first",
            vec![v4(), v6()],
            with(PreferDualStack, &SIX_FIRST),
            "2001:db8::200",
            "family_missing",
        ),
        (
            "prefer, nothing named",
            vec![dual()],
            with(PreferDualStack, &[]),
            in_dual,
            "",
        ),
        (
            "prefer in a v4 cluster",
            vec![dual()],
            with(PreferDualStack, &[Family::V4]),
            "198.51.100.8",
            "",
        ),
        (
            "require: one pool with both",
            vec![v4(), v6(), dual()],
            with(RequireDualStack, &BOTH),
            in_dual,
            "",
        ),
        (
            "require: in the order named",
            vec![dual()],
            with(RequireDualStack, &SIX_FIRST),
            "2001:db8:1:: 198.51.100.8",
            "",
        ),
        (
            "require, nothing named",
            vec![dual()],
            with(RequireDualStack, &[]),
            in_dual,
            "",
        ),
        (
            "require: both or nothing",
            vec![v4(), v6()],
            with(RequireDualStack, &BOTH),
            "",
            "dual_stack_unmet",
        ),
        (
            "require: one address asked for",
            vec![dual()],
            annotated(
                with(RequireDualStack, &BOTH),
                &[("edgelb.io/ips", "198.51.100.9")],
            ),
            "",
            "dual_stack_unmet",
        ),
        (
            "require: two addresses asked for",
            vec![dual()],
            annotated(
                with(RequireDualStack, &BOTH),
                &[("edgelb.io/ips", "198.51.100.9,2001:db8:1::2")],
            ),
            "198.51.100.9 2001:db8:1::2",
            "",
        ),
        (
            "single",
            vec![dual()],
            with(SingleStack, &[Family::V6]),
            "2001:db8:1::",
            "",
        ),
        (
            "single, nothing named",
            vec![dual()],
            with(SingleStack, &[]),
            "198.51.100.8",
            "",
        ),
        (
            "single, nothing named: what it had",
            vec![dual()],
            with_status(with(SingleStack, &[]), "2001:db8:1::3 198.51.100.9"),
            "2001:db8:1::3",
            "",
        ),
    ] {
        let plan = planned(&config(pools), service);
        assert_eq!(held(&plan, "web"), given, "case {case}");
        assert_eq!(labels(&plan, "web"), missing, "case {case}");
    }
}

#[test]
fn the_second_family_comes_when_the_pool_grows_and_the_first_stays() {
    // Case 22
    for policy in [
        FamilyPolicy::PreferDualStack,
        FamilyPolicy::RequireDualStack,
    ] {
        let mut config = config(vec![
            pool("a", "192.0.2.200/30"),
            pool("b", "198.51.100.8/30 2001:db8:1::/126"),
        ]);
        config.pools[1].auto_assign = false;
        let mut inputs = inputs();
        inputs.put(with(FamilyPolicy::SingleStack, &[Family::V4]));
        inputs.planned(&config);
        inputs.put(with(policy, &BOTH));
        config.pools[1].auto_assign = true;
        let plan = inputs.planned(&config);
        assert_eq!(
            held(&plan, "web"),
            "192.0.2.200",
            "{policy:?}: never jumps pool"
        );
        assert_eq!(labels(&plan, "web"), "family_missing", "{policy:?}");
        config.pools[0]
            .ranges
            .push("2001:db8::200/126".parse().unwrap());
        let plan = inputs.planned(&config);
        assert_eq!(
            held(&plan, "web"),
            "192.0.2.200 2001:db8::200",
            "{policy:?}"
        );
        inputs.put(with(FamilyPolicy::SingleStack, &[Family::V4]));
        assert_eq!(
            held(&inputs.planned(&config), "web"),
            "192.0.2.200",
            "{policy:?}"
        );
    }
}

#[test]
fn the_oldest_waiting_service_gets_what_comes_free() {
    // Case 28; what has no age comes last, by key.
    let config = config(vec![pool("one", "192.0.2.200-192.0.2.200")]);
    let aged = |name: &str, created: Option<i64>| Service {
        created,
        ..load_balancer(name)
    };
    let mut inputs = inputs();
    inputs.put(load_balancer("holder"));
    inputs.planned(&config);
    for (name, created) in [
        ("a", None),
        ("b", None),
        ("c", Some(300)),
        ("d", Some(100)),
        ("e", Some(100)),
    ] {
        inputs.put(aged(name, created));
    }
    let mut order = Vec::new();
    let mut holder = "holder".to_owned();
    for _ in 0..5 {
        inputs
            .cluster
            .apply(ClusterChange::ServiceGone(key(&holder)));
        let plan = inputs.planned(&config);
        let holders = plan
            .addresses
            .allocations
            .holders_of(super::ip("192.0.2.200"));
        assert_eq!(holders.len(), 1);
        holder = holders[0].name.to_string();
        order.push(holder.clone());
    }
    assert_eq!(order, ["d", "e", "c", "a", "b"]);
}
