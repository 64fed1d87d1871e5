//! What large pools and many waiting Services cost.

use std::time::Instant;

use super::{config, held, inputs, labels, load_balancer, pool};
use crate::config::Config;
use crate::model::service::Service;
use crate::plan::Plan;
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
    let numbers = usage(&huge, &plan.allocations);
    assert_eq!((numbers[0].total, numbers[0].allocated), (1 << 80, 500));
    // 2^16 addresses, all of them refused, asked for by 500 Services: searched once, not 500 times.
    let plan = planned(&config(vec![pool("none", "169.254.0.0/16")]), &services);
    assert_eq!(labels(&plan, "s499"), "pool_exhausted");
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}
