//! Rules of others, case by case: what is read exactly is sure, what is not is perhaps so.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::rule::{Load, Match, Verdict};
use super::*;

const DESTINATION_PORT: Load = Load::Payload(2, 2, 2);
const DESTINATION: Load = Load::Payload(1, 16, 4);
const SOURCE: Load = Load::Payload(1, 12, 4);

fn packet() -> Packet {
    Packet {
        family: Family::V4,
        protocol: 6,
        source: None,
        source_port: None,
        destination: Some("192.0.2.200".parse().unwrap()),
        destination_port: Some(80),
        comes_by: Some((2, "eth0".to_owned())),
        leaves_by: None,
        answer: false,
        translated: false,
        tracked: true,
        original: (None, None),
        local: true,
        bridged: false,
        arp: None,
    }
}

fn name(chain: &str) -> ChainName {
    ChainName {
        family: "inet",
        table: "theirs".to_owned(),
        chain: chain.to_owned(),
    }
}

/// Rules of the base chain `in`, and of the chain `more` that hangs on nothing.
fn others(drops: bool, rules: &[&[Step]], more: &[&[Step]]) -> Others {
    let numbered = |rules: &[&[Step]], from: u64| -> Vec<Rule> {
        let rules = rules.iter().zip(from..);
        let rule = |(steps, handle): (&&[Step], u64)| Rule {
            handle,
            steps: steps.to_vec(),
        };
        rules.map(rule).collect()
    };
    Others {
        bases: vec![Base {
            name: name("in"),
            hook: Hook::Input,
            priority: 0,
            drops,
            interfaces: Vec::new(),
        }],
        rules: [
            (name("in"), numbered(rules, 1)),
            (name("more"), numbered(more, 100)),
        ]
        .into(),
        ..Others::default()
    }
}

fn taken(others: &Others, packet: &Packet) -> Vec<(By, bool)> {
    let passage = Passage {
        hook: Hook::Input,
        above: i32::MIN,
        below: i32::MAX,
        packet,
    };
    let found = others.taken(&passage).into_iter();
    found.map(|it| (it.by, it.sure)).collect()
}

fn port(number: u16) -> [Step; 2] {
    let value = number.to_be_bytes().to_vec();
    [Step::Load(0, DESTINATION_PORT), Step::Compare(0, 0, value)]
}

fn then(steps: &[Step], verdict: Verdict) -> Vec<Step> {
    [steps, &[Step::Verdict(verdict)]].concat()
}

fn jump(chain: &str) -> Verdict {
    Verdict::Jump(chain.to_owned())
}

#[test]
fn a_rule_takes_what_it_names() {
    let of = |steps: &[Step]| {
        taken(
            &others(false, &[&then(steps, Verdict::Drop)], &[]),
            &packet(),
        )
    };
    let by_rule = |sure| vec![(By::Rule(name("in"), 1), sure)];
    assert_eq!(of(&port(80)), by_rule(true));
    assert_eq!(of(&port(81)), []);
    // A prefix, of whole octets or of bits.
    let to = |bytes: &[u8]| {
        vec![
            Step::Load(0, DESTINATION),
            Step::Compare(0, 0, bytes.to_vec()),
        ]
    };
    assert_eq!(of(&to(&[192, 0, 2])), by_rule(true));
    assert_eq!(of(&to(&[198, 51, 100])), []);
    let bits = |last| {
        [
            Step::Load(0, DESTINATION),
            Step::Mask(0, 0, vec![255, 255, 255, 0xf0], vec![0; 4]),
            Step::Compare(0, 0, vec![192, 0, 2, last]),
        ]
    };
    assert_eq!(of(&bits(192)), by_rule(true));
    assert_eq!(of(&bits(208)), []);
    // Who sends it is not known: only together with the port something is said, and that is no more
    // than that it may be.
    let from = [
        Step::Load(0, SOURCE),
        Step::Compare(0, 0, vec![203, 0, 113, 9]),
    ];
    assert_eq!(of(&from), []);
    assert_eq!(of(&[&from[..], &port(80)].concat()), by_rule(false));
    let limit = [Step::Perhaps("limit".to_owned())];
    assert_eq!(of(&[&port(80)[..], &limit].concat()), by_rule(false));
    // Another interface, and what comes by none of the wire.
    let by = |name: &str| {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(16, 0);
        [Step::Load(0, Load::Meta(6)), Step::Compare(0, 0, bytes)]
    };
    assert_eq!(of(&[&by("eth1")[..], &port(80)].concat()), []);
    assert_eq!(of(&[&by("eth0")[..], &port(80)].concat()), by_rule(true));
}

#[test]
fn matches_of_iptables_are_read_with_their_flags_and_inversions() {
    let of = |asked: Match| {
        let steps = [Step::Match(asked)];
        taken(
            &others(false, &[&then(&steps, Verdict::Drop)], &[]),
            &packet(),
        )
    };
    let ports = |destination, flags, inverted| Match::Ports {
        protocol: 6,
        source: (0, u16::MAX),
        destination,
        flags,
        inverted: (false, inverted, false),
    };
    let sure = vec![(By::Rule(name("in"), 1), true)];
    assert_eq!(of(ports((80, 80), (0, 0), false)), sure);
    assert_eq!(of(ports((80, 80), (0, 0), true)), []);
    assert_eq!(of(ports((22, 22), (0, 0), true)), sure);
    // FIN and SYN together: no packet that begins a connection.
    assert_eq!(of(ports((0, u16::MAX), (0x03, 0x03), false)), []);
    let several = |inverted| Match::Multiport {
        source: false,
        destination: true,
        ranges: vec![(22, 22), (8000, 8100), (80, 80)],
        inverted,
    };
    assert_eq!((of(several(false)), of(several(true))), (sure, vec![]));
    assert_eq!(of(Match::Unknown("recent".to_owned())), []);
}

#[test]
fn only_what_a_packet_reaches_counts() {
    let drop_all: &[Step] = &[Step::Verdict(Verdict::Drop)];
    let drop_port = then(&port(80), Verdict::Drop);
    // Nothing leads to the chain.
    assert_eq!(taken(&others(false, &[], &[&drop_port]), &packet()), []);
    // What is accepted before is not dropped, by its policy neither.
    let accept = then(&port(80), Verdict::Accept);
    assert_eq!(
        taken(&others(true, &[&accept, drop_all], &[]), &packet()),
        []
    );
    assert_eq!(
        taken(&others(true, &[], &[]), &packet()),
        [(By::Policy, true)]
    );
    let state = [
        Step::Load(0, Load::Conntrack(0, None)),
        Step::Mask(0, 0, 6_u32.to_ne_bytes().to_vec(), vec![0; 4]),
        Step::Compare(0, 1, vec![0; 4]),
    ];
    // A new connection is not established.
    let established = then(&state, Verdict::Accept);
    let found = taken(&others(true, &[&established], &[]), &packet());
    assert_eq!(found, [(By::Policy, true)]);
    let answer = Packet {
        answer: true,
        ..packet()
    };
    assert_eq!(taken(&others(true, &[&established], &[]), &answer), []);
    // Perhaps accepted.
    let perhaps = then(&[Step::Perhaps("limit".to_owned())], Verdict::Accept);
    let found = taken(&others(true, &[&perhaps], &[]), &packet());
    assert_eq!(found, [(By::Policy, false)]);
    // By way of another chain: the rule that names the port is told.
    let leads = then(&port(80), jump("more"));
    let found = taken(&others(false, &[&leads], &[drop_all]), &packet());
    assert_eq!(found, [(By::Rule(name("in"), 1), true)]);
    let leads: &[Step] = &[Step::Verdict(jump("more"))];
    let found = taken(&others(false, &[leads], &[drop_all]), &packet());
    assert_eq!(found, [(By::Rest, true)]);
    // And back from it.
    let back: &[Step] = &[Step::Verdict(Verdict::Return)];
    assert_eq!(
        taken(&others(false, &[leads], &[back, drop_all]), &packet()),
        []
    );
    // A chain that leads to itself ends.
    let circle: &[Step] = &[Step::Verdict(jump("more"))];
    assert_eq!(taken(&others(false, &[circle], &[circle]), &packet()), []);
}

#[test]
fn rules_of_the_old_ip_tables_are_read_as_they_are_saved() {
    let of = |lines: &str| {
        let mut others = Others::default();
        others.add_legacy(
            Family::V4,
            &format!("*filter\n:INPUT ACCEPT [0:0]\n:lost - [0:0]\n{lines}\nCOMMIT\n"),
        );
        taken(&others, &packet())
    };
    for rule in [
        "-A INPUT -p tcp -m tcp --dport 80 -j DROP",
        "-A INPUT -d 192.0.2.0/24 -i eth+ -j REJECT --reject-with icmp-port-unreachable",
        "-A INPUT -p tcp -m multiport --dports 22,79:81 -m comment --comment \"no -j ACCEPT\" -j DROP",
        "-A INPUT ! -d 198.51.100.0/24 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
        "-A lost -j LOG --log-prefix \"lost \"\n-A lost -j DROP\n-A INPUT -p tcp -m tcp --dport 80 -j lost",
    ] {
        let found = of(rule);
        assert!(
            matches!(found.as_slice(), [(By::Rule(..), true)]),
            "{rule}: {found:?}"
        );
    }
    let limited = "-A INPUT -p tcp -m tcp --dport 80 -m limit --limit 5/min -j DROP";
    assert!(matches!(of(limited).as_slice(), [(By::Rule(..), false)]));
    for rule in [
        "-A INPUT -p tcp -m tcp --dport 81 -j DROP",
        "-A INPUT ! -i eth0 -p tcp -m tcp --dport 80 -j DROP",
        "-A INPUT -s 127.0.0.0/8 -j DROP",
        "-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT\n-A INPUT -j DROP",
        "-A lost -j DROP",
        "-A INPUT -m \"unfinished",
    ] {
        assert_eq!(of(rule), [], "{rule}");
    }
}

#[test]
fn a_rule_is_told_in_words() {
    let rule = |steps: Vec<Step>| text::of(&Rule { handle: 1, steps });
    let steps = [
        vec![
            Step::Load(0, Load::Meta(16)),
            Step::Compare(0, 0, vec![6]),
            Step::Load(0, DESTINATION),
            Step::Compare(0, 1, vec![10, 0]),
        ],
        port(80).to_vec(),
    ];
    assert_eq!(
        rule(then(&steps.concat(), Verdict::Drop)),
        "meta l4proto tcp ip daddr != 10.0.0.0/16 th dport 80 drop"
    );
    let step = Step::Match(Match::Unknown("recent".to_owned()));
    assert_eq!(rule(vec![step]), "-m recent");
}
