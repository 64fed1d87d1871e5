//! What a Service's status is to say.

use super::{config, ip, ips, load_balancer, pool, with_status};
use crate::model::family::Family;
use crate::model::service::{AddressCondition, IpMode, Service};
use crate::plan::reason::Reason;
use crate::plan::status::{StatusWrite, status};

fn service(ingress: &str, condition: Option<(bool, &str, &str)>) -> Service {
    let mut service = with_status(load_balancer("web"), ingress);
    service.condition = condition.map(|(allocated, reason, message)| {
        Box::new(AddressCondition {
            allocated,
            reason: reason.to_owned(),
            message: message.to_owned(),
        })
    });
    service
}

fn set(addresses: &str, allocated: bool, reason: &str, message: &str) -> StatusWrite {
    StatusWrite::Set {
        addresses: ips(addresses),
        condition: AddressCondition {
            allocated,
            reason: reason.to_owned(),
            message: message.to_owned(),
        },
    }
}

#[test]
fn a_status_says_what_is_held_and_why() {
    let config = config(vec![pool("lan", "192.0.2.200-192.0.2.219 2001:db8::/120")]);
    let from_lan = "192.0.2.200 is from the pool lan";
    let exhausted = Reason::PoolExhausted {
        pools: vec!["lan".to_owned()],
    };
    let full = exhausted.to_string();
    let ours = |service: &Service, held: &str, reasons: &[Reason]| {
        status(&config, service, false, &ips(held), reasons)
    };

    let new = service("", None);
    let given = Some(set("192.0.2.200", true, "IPAllocated", from_lan));
    assert_eq!(ours(&new, "192.0.2.200", &[]), given);
    let written = service("192.0.2.200", Some((true, "IPAllocated", from_lan)));
    assert_eq!(ours(&written, "192.0.2.200", &[]), None, "it says so");
    // What is only a note about how it asked does not hide why it has nothing.
    let note = Reason::RequestsDisagree {
        used: "edgelb.io/ips".to_owned(),
        ignored: "spec.loadBalancerIP".to_owned(),
    };
    let told = format!("{note}; {full}");
    let both = [note, exhausted.clone()];
    let refused = Some(set("", false, "PoolExhausted", &told));
    assert_eq!(ours(&new, "", &both), refused);
    // A manual edit is put right, and so is a mode that is not ours.
    let edited = service("192.0.2.201", Some((true, "IPAllocated", from_lan)));
    assert_eq!(ours(&edited, "192.0.2.200", &[]), given, "case 25");
    let mut proxied = written.clone();
    proxied.ingress[0].mode = IpMode::Proxy;
    assert_eq!(ours(&proxied, "192.0.2.200", &[]), given);
    // Taken over from another implementation: the address stays, our condition comes.
    let adopted = service("192.0.2.200", None);
    assert_eq!(ours(&adopted, "192.0.2.200", &[]), given);

    assert_eq!(
        ours(&new, "", std::slice::from_ref(&exhausted)),
        Some(set("", false, "PoolExhausted", &full)),
        "case 28"
    );
    let pending = service("", Some((false, "PoolExhausted", &full)));
    assert_eq!(ours(&pending, "", std::slice::from_ref(&exhausted)), None);
    // What it holds no more does not stay.
    assert_eq!(
        ours(&written, "", std::slice::from_ref(&exhausted)),
        Some(set("", false, "PoolExhausted", &full))
    );

    let missing = Reason::FamilyMissing { family: Family::V6 };
    assert_eq!(
        ours(&new, "192.0.2.200", std::slice::from_ref(&missing)),
        Some(set(
            "192.0.2.200",
            true,
            "FamilyMissing",
            &format!("{from_lan}; {missing}")
        ))
    );
    let gone = Reason::PoolGone {
        address: ip("198.51.100.7"),
    };
    let kept = service("198.51.100.7", Some((true, "IPAllocated", "")));
    assert_eq!(
        ours(&kept, "198.51.100.7", std::slice::from_ref(&gone)),
        Some(set(
            "198.51.100.7",
            true,
            "PoolGone",
            &format!("198.51.100.7 is kept; {gone}")
        )),
        "case 11"
    );
}

#[test]
fn what_is_not_ours_loses_what_is_from_us_and_nothing_else() {
    let config = config(vec![pool("lan", "192.0.2.200-192.0.2.219")]);
    let foreign = |service: &Service| status(&config, service, true, &[], &[]);
    let (yes, no) = (Some((true, "IPAllocated", "")), Some((false, "NoPool", "")));
    for (name, ingress, condition, wanted) in [
        ("never ours", "192.0.2.200", None, None),
        ("never ours, without", "", None, None),
        ("ours before", "192.0.2.200", yes, Some(StatusWrite::Clear)),
        (
            "the API server took the address",
            "",
            yes,
            Some(StatusWrite::Clear),
        ),
        (
            "another implementation has it now",
            "203.0.113.9",
            yes,
            Some(StatusWrite::ClearCondition),
        ),
        (
            "never had an address from us",
            "192.0.2.200",
            no,
            Some(StatusWrite::ClearCondition),
        ),
    ] {
        assert_eq!(foreign(&service(ingress, condition)), wanted, "{name}");
    }
}
