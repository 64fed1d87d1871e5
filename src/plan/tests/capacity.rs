//! What large pools and many waiting Services cost.

use std::time::Instant;

use super::{annotated, config, held, inputs, labels, load_balancer, pool};
use crate::config::Config;
use crate::model::service::Service;
use crate::plan::Plan;
use crate::plan::address::AddressBook;
use crate::plan::ipam::usage;

fn planned(config: &Config, services: &[Service]) -> Plan {
    let mut inputs = inputs();
    for service in services {
        inputs.put(service.clone());
    }
    inputs.planned(config)
}

#[test]
fn a_huge_pool_costs_what_is_held_and_an_empty_one_nothing() {
    let started = Instant::now();
    let huge = config(vec![pool("huge", "2001:db8:ffff::/48")]);
    let services: Vec<Service> = (0..500)
        .map(|number| load_balancer(&format!("s{number:03}")))
        .collect();
    let plan = planned(&huge, &services);
    assert_eq!(held(&plan, "s499"), "2001:db8:ffff::1f3");
    let numbers = usage(&huge, &AddressBook::default(), &plan.addresses.allocations);
    assert_eq!((numbers[0].total, numbers[0].allocated), (1 << 80, 500));
    assert_eq!(numbers[0].free, (1 << 80) - 500);
    // 2^16 addresses, all of them refused, asked for by 500 Services: searched once, not 500 times.
    let plan = planned(&config(vec![pool("none", "169.254.0.0/16")]), &services);
    assert_eq!(labels(&plan, "s499"), "pool_exhausted");
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

#[test]
fn the_numbers_of_a_pool_are_what_can_be_given_out() {
    // Case 25: free counts exactly the Services that would still get an address, whatever is held.
    for (ranges, buggy, asked, total, expected) in [
        ("192.0.2.0/24", true, "", 256, 252),
        ("192.0.2.0/24", false, "", 256, 252),
        ("198.51.100.0/24", true, "", 256, 254),
        (
            "198.51.100.0/24",
            true,
            "198.51.100.0,198.51.100.7",
            256,
            253,
        ),
        ("198.51.100.1-198.51.100.254", true, "", 254, 254),
        (
            "198.51.100.254-198.51.102.1",
            true,
            "198.51.101.255",
            260,
            256,
        ),
        ("198.51.100.255-198.51.101.0", true, "", 2, 0),
        ("192.0.2.1-192.0.2.1 192.0.2.11-192.0.2.12", false, "", 3, 1),
    ] {
        let mut lan = pool("lan", ranges);
        lan.avoid_buggy_ips = buggy;
        let config = config(vec![lan]);
        let mut inputs = inputs();
        for (number, address) in asked.split_terminator(',').enumerate() {
            let name = format!("asks{number}");
            inputs.put(annotated(
                load_balancer(&name),
                &[("edgelb.io/ips", address)],
            ));
        }
        let plan = inputs.planned(&config);
        let book = AddressBook::new(&inputs.cluster, &inputs.host);
        let before = usage(&config, &book, &plan.addresses.allocations);
        let asked = asked.split_terminator(',').count();
        assert_eq!(
            (before[0].total, before[0].allocated),
            (total, asked),
            "{ranges}"
        );
        for number in 0..total {
            inputs.put(load_balancer(&format!("s{number}")));
        }
        let plan = inputs.planned(&config);
        let given = plan.addresses.allocations.held() - asked;
        assert_eq!(before[0].free, given as u128, "{ranges}: as many get one");
        assert_eq!(given, expected, "{ranges}");
        assert_eq!(
            usage(&config, &book, &plan.addresses.allocations)[0].free,
            0,
            "{ranges}: full"
        );
    }
}

#[test]
fn many_services_of_one_sharing_key_cost_little() {
    let config = config(vec![pool("lan", "198.51.0.0/16")]);
    // One port for all, so that nobody may share; then four Services a port.
    for (services, a_port, addresses) in [(2000, 2000, 2000), (400, 4, 4)] {
        let started = Instant::now();
        let mut inputs = inputs();
        for number in 0_u16..services {
            let mut service = load_balancer(&format!("s{number:04}"));
            service.ports[0].port = 1000 + number / a_port;
            inputs.put(annotated(service, &[("edgelb.io/sharing-key", "all")]));
        }
        let plan = inputs.planned(&config);
        assert_eq!(plan.addresses.allocations.held(), addresses);
        assert_eq!(inputs.planned(&config), plan, "nothing left to do");
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    }
}
