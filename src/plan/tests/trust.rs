//! What is believed of a Service: which of its status is from us, what it may go on holding, and how
//! much of what others wrote is repeated.

use super::{annotated, config, inputs, ip, ips, key, load_balancer, pool, with_status};
use crate::config::Config;
use crate::model::service::{AddressCondition, Service};
use crate::plan::addresses::AddressSource;
use crate::plan::ipam::not_ours;
use crate::plan::reason::Reason;
use crate::plan::status::{StatusWrite, status, vouches};

fn conditioned(mut service: Service, allocated: bool, message: &str) -> Service {
    let condition = AddressCondition {
        allocated,
        reason: "IPAllocated".to_owned(),
        message: message.to_owned(),
    };
    service.condition = Some(Box::new(condition));
    service
}

/// What it holds in the end, and why not more.
fn settled(config: &Config, service: &Service, held: &str) -> (String, Vec<Reason>) {
    let mut inputs = inputs();
    inputs.put(service.clone());
    if !held.is_empty() {
        inputs.allocations.set(&service.key, ips(held), "edge-a");
    }
    let plan = inputs.planned(config);
    (super::held(&plan, "web"), super::pending(&plan, "web"))
}

#[test]
fn our_condition_vouches_for_the_addresses_that_it_names_as_given() {
    let kept =
        "198.51.100.7 is kept; 198.51.100.7 is in no pool any more; it is kept until released";
    for (message, address, allocated, expected) in [
        (
            "198.51.100.7 is from the pool lan",
            "198.51.100.7",
            true,
            true,
        ),
        (kept, "198.51.100.7", true, true),
        (
            "192.0.2.1 is from the pool a b; 2001:db8::7 is kept",
            "2001:db8::7",
            true,
            true,
        ),
        (
            "198.51.100.7 is from the pool lan",
            "198.51.100.7",
            false,
            false,
        ),
        ("198.51.100.70 is kept", "198.51.100.7", true, false),
        ("198.51.100.7 is kept back", "198.51.100.7", true, false),
        (
            "it may not share 198.51.100.7 with shop/b",
            "198.51.100.7",
            true,
            false,
        ),
        // What a reason repeats is somebody else's.
        (
            "192.0.2.1 is kept; it names the pool x; 198.51.100.7 is kept",
            "198.51.100.7",
            true,
            false,
        ),
        ("", "198.51.100.7", true, false),
    ] {
        let service = conditioned(load_balancer("web"), allocated, message);
        let says = vouches(&service.condition.unwrap(), ip(address));
        assert_eq!(says, expected, "{message} {allocated}");
    }
    // What we write is what we read.
    let config = config(vec![pool("lan", "192.0.2.200/31")]);
    let held = ips("192.0.2.200 198.51.100.7");
    let gone = Reason::PoolGone { address: held[1] };
    let Some(StatusWrite::Set { condition, .. }) =
        status(&config, &load_balancer("web"), false, &held, &[gone])
    else {
        panic!("it is written");
    };
    assert!(
        held.iter().all(|address| vouches(&condition, *address)),
        "{condition:?}"
    );
}

#[test]
fn a_foreign_address_beside_our_old_condition_is_anothers_where_no_record_tells_otherwise() {
    let config = config(vec![pool("lan", "192.0.2.200/31")]);
    let ours = "192.0.2.200 is from the pool lan";
    let taken_over = conditioned(with_status(load_balancer("web"), "203.0.113.9"), true, ours);
    let address = ip("203.0.113.9");
    let told = vec![Reason::ServedByAnother { address }];
    assert_eq!(settled(&config, &taken_over, ""), (String::new(), told));
    assert_eq!(
        status(&config, &taken_over, true, &[], &[]),
        Some(StatusWrite::ClearCondition),
        "its address stays"
    );
    // With a record it is an edit by hand, which is put right.
    let held = "192.0.2.200";
    assert_eq!(
        settled(&config, &taken_over, held),
        (held.to_owned(), vec![])
    );
    let again = status(&config, &taken_over, false, &ips(held), &[]);
    assert!(matches!(again, Some(StatusWrite::Set { .. })), "{again:?}");
}

#[test]
fn an_entry_that_is_no_address_is_anothers_unless_our_condition_stands() {
    let config = config(vec![pool("lan", "192.0.2.200/31")]);
    let mut named = load_balancer("web");
    named.other_ingress = true;
    let foreign = (String::new(), vec![Reason::ServedElsewhere]);
    assert_eq!(settled(&config, &named, ""), foreign);
    assert_eq!(
        status(&config, &named, true, &[], &[]),
        None,
        "nothing is written"
    );
    let refused = conditioned(named.clone(), false, "no free address in lan");
    assert_eq!(settled(&config, &refused, ""), foreign);
    assert_eq!(
        status(&config, &refused, true, &[], &[]),
        Some(StatusWrite::ClearCondition)
    );
    let ours = "192.0.2.200 is from the pool lan";
    let edited = conditioned(with_status(named.clone(), "192.0.2.200"), true, ours);
    assert_eq!(
        settled(&config, &edited, "192.0.2.200"),
        ("192.0.2.200".to_owned(), vec![])
    );
    let again = status(&config, &edited, false, &ips("192.0.2.200"), &[]);
    assert!(
        matches!(again, Some(StatusWrite::Set { .. })),
        "it is put right: {again:?}"
    );
    let mut explicit = named.clone();
    explicit.load_balancer_class = Some(config.load_balancer.class.clone());
    assert_eq!(
        settled(&config, &explicit, "").0,
        "192.0.2.200",
        "its class is ours"
    );
    assert!(
        not_ours(
            &config,
            &crate::model::allocation::Allocations::default(),
            &named
        )
        .is_some()
    );
    // The nodes see it as the allocator does.
    let mut reader = inputs();
    reader.address_source = AddressSource::Status;
    reader.put(with_status(named, "192.0.2.200"));
    let plan = crate::plan::plan(&config, &reader);
    assert_eq!(super::held(&plan, "web"), "");
}

#[test]
fn a_service_that_is_being_deleted_keeps_what_it_has_and_gets_nothing_new() {
    let config = config(vec![pool("lan", "192.0.2.200/30 2001:db8::200/126")]);
    let mut web = load_balancer("web");
    web.deleting = true;
    assert_eq!(
        settled(&config, &web, ""),
        (String::new(), vec![Reason::BeingDeleted])
    );
    let asks = annotated(web.clone(), &[("edgelb.io/ips", "192.0.2.201")]);
    assert_eq!(
        settled(&config, &asks, ""),
        (String::new(), vec![Reason::BeingDeleted])
    );
    assert_eq!(
        settled(&config, &web, "192.0.2.201"),
        ("192.0.2.201".to_owned(), vec![])
    );
    let named = with_status(web.clone(), "192.0.2.202");
    assert_eq!(
        settled(&config, &named, ""),
        ("192.0.2.202".to_owned(), vec![])
    );
    let mut second = web;
    second.families = crate::model::family::Family::BOTH.to_vec();
    assert_eq!(
        settled(&config, &second, "192.0.2.201"),
        ("192.0.2.201".to_owned(), vec![])
    );
}

#[test]
fn of_what_nobody_asked_for_one_address_per_family_stays() {
    let config = config(vec![pool("lan", "192.0.2.200/29 2001:db8::200/125")]);
    let (first, second) = ("192.0.2.201", "192.0.2.202");
    let both = "192.0.2.201 192.0.2.202";
    let families = "192.0.2.201 2001:db8::201 192.0.2.202 2001:db8::202";
    for (case, status, request, held, kept) in [
        ("the first", "", "", both, first),
        ("the one that is named", second, "", both, second),
        ("named first", "192.0.2.202 192.0.2.201", "", both, second),
        ("another is named", "192.0.2.203", "", both, first),
        (
            "both are asked for",
            second,
            "192.0.2.201,192.0.2.202",
            both,
            both,
        ),
        (
            "each family for itself",
            "2001:db8::202",
            "",
            families,
            "192.0.2.201 2001:db8::202",
        ),
        (
            "one of each",
            "",
            "",
            "2001:db8::201 192.0.2.202",
            "2001:db8::201 192.0.2.202",
        ),
        ("taken over", "192.0.2.202 192.0.2.201", "", "", second),
    ] {
        let service = with_status(load_balancer("web"), status);
        let service = annotated(service, &[("edgelb.io/ips", request)]);
        assert_eq!(settled(&config, &service, held).0, kept, "{case}");
    }
}

#[test]
fn a_request_names_eight_addresses_at_most() {
    let config = config(vec![pool("lan", "192.0.2.200-192.0.2.219")]);
    let list = |count: u8| {
        let addresses: Vec<String> = (0..count).map(|n| format!("192.0.2.{}", 200 + n)).collect();
        addresses.join(",")
    };
    let asks = |text: &str| annotated(load_balancer("web"), &[("edgelb.io/ips", text)]);
    let (held, reasons) = settled(&config, &asks(&list(8)), "");
    assert_eq!((held.split(' ').count(), reasons), (8, vec![]));
    let twice = format!("{0},{0}", list(8));
    assert_eq!(
        settled(&config, &asks(&twice), "").1,
        [],
        "named twice is named once"
    );
    let too_long = Reason::RequestTooLong { most: 8 };
    assert_eq!(
        settled(&config, &asks(&list(9)), ""),
        (String::new(), vec![too_long.clone()])
    );
    assert_eq!(too_long.to_string(), "it asks for more than 8 addresses");
}

#[test]
fn what_others_wrote_is_repeated_in_part() {
    let config = config(vec![pool("lan", "192.0.2.200/31")]);
    let long = "ä".repeat(70_000);
    let short = format!("{}…", "ä".repeat(63));
    let text = short.clone();
    let mut classed = load_balancer("web");
    classed.load_balancer_class = Some(long.clone());
    for (service, reason) in [
        (
            annotated(load_balancer("web"), &[("edgelb.io/ips", &long)]),
            Reason::RequestMalformed { text },
        ),
        (
            annotated(load_balancer("web"), &[("edgelb.io/pool", &long)]),
            Reason::UnknownPool {
                pool: short.clone(),
            },
        ),
        (
            classed,
            Reason::OtherClass {
                class: short.clone(),
            },
        ),
    ] {
        assert_eq!(settled(&config, &service, "").1, [reason]);
    }
    let exact = "x".repeat(64);
    let service = annotated(load_balancer("web"), &[("edgelb.io/pool", &exact)]);
    assert_eq!(
        settled(&config, &service, "").1,
        [Reason::UnknownPool { pool: exact }]
    );
    // What stands in the condition of a Service that got nothing.
    let mut reader = inputs();
    reader.address_source = AddressSource::Status;
    let mut refused = conditioned(load_balancer("web"), false, &long);
    refused.condition.as_mut().unwrap().reason.clone_from(&long);
    reader.put(refused);
    let told = super::pending(&crate::plan::plan(&config, &reader), "web");
    let (cause, message) = (short, "ä".repeat(500));
    assert_eq!(told, [Reason::NotAllocated { cause, message }]);
}

#[test]
fn a_condition_says_a_thousand_bytes_at_most_and_every_address() {
    let name = "p".repeat(63);
    let config = config(vec![pool(&name, "2001:db8:aaaa:bbbb:cccc:dddd:eeee:0/112")]);
    let held: Vec<_> = (0..8)
        .map(|n| ip(&format!("2001:db8:aaaa:bbbb:cccc:dddd:eeee:fff{n}")))
        .collect();
    let holder = key(&"é".repeat(253));
    let reasons: Vec<Reason> = (held.iter())
        .map(|address| Reason::RequestTaken {
            address: *address,
            holder: holder.clone(),
        })
        .collect();
    let written = status(&config, &load_balancer("web"), false, &held, &reasons);
    let Some(StatusWrite::Set { condition, .. }) = written else {
        panic!("it is written");
    };
    assert!(
        (998..=1000).contains(&condition.message.len()),
        "{}",
        condition.message.len()
    );
    assert!(held.iter().all(|address| vouches(&condition, *address)));
    assert!(condition.reason.len() <= 64);
}
