//! The wire: what was written can be read, and nothing that can be received panics or is mistaken.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::membership::datagram::{
    Body, Datagram, Delta, Fetch, Heartbeat, Known, LONGEST, MalformedReason, Part, Table, Versions,
};
use crate::membership::keys::SharedKey;
use crate::membership::seal::{LONGEST_SEALED, OpenError, Sealer};
use crate::model::allocation::Allocation;
use crate::model::service::ServiceKey;
use crate::model::text::Text;

fn sealer(keys: &[u8]) -> Sealer {
    let keys = keys
        .iter()
        .map(|octet| SharedKey::new([*octet; 32]))
        .collect();
    Sealer::new(keys, StdRng::from_seed([7; 32]))
}

fn any_name() -> impl Strategy<Value = Text> {
    "[a-z][a-z0-9.-]{0,40}".prop_map(Text::from)
}

fn any_versions() -> impl Strategy<Value = Versions> {
    any::<(u64, u64, u64)>().prop_map(|(epoch, state, claims)| Versions {
        epoch,
        state,
        claims,
    })
}

fn any_octets(most: usize) -> impl Strategy<Value = Arc<[u8]>> {
    prop::collection::vec(any::<u8>(), 0..most).prop_map(Arc::from)
}

fn any_body() -> impl Strategy<Value = Body> {
    let known =
        (any_name(), any::<Option<u16>>(), any_versions()).prop_map(|(name, age, versions)| {
            Known {
                name,
                age,
                versions,
            }
        });
    let known = prop::collection::vec(known, 0..8).prop_map(Arc::from);
    let table = prop::sample::select(vec![Table::State, Table::Claims]);
    let record = (
        any_name(),
        any_name(),
        prop::collection::vec(any::<IpAddr>(), 0..3),
        any::<u64>(),
    )
        .prop_map(|(name, node, addresses, counter)| Allocation {
            service: ServiceKey::new("shop", name),
            addresses,
            counter,
            node: node.to_string(),
        });
    let heartbeat = (any_versions(), any::<u16>(), any::<u64>(), known).prop_map(
        |(versions, renewed, records, known)| Heartbeat {
            versions,
            renewed,
            records,
            known,
        },
    );
    let part = (
        any_name(),
        table.clone(),
        any::<u64>(),
        1_u64..,
        0_u16..100,
        1_u16..100,
        any_octets(880),
    )
        .prop_map(|(of, table, epoch, version, index, more, octets)| Part {
            of,
            table,
            epoch,
            version,
            index,
            total: index + more,
            octets,
        });
    let changes = prop::collection::vec(any::<(IpAddr, Option<u64>)>(), 0..36);
    let delta = (any::<u64>(), 1_u64.., changes).prop_map(|(epoch, version, changes)| Delta {
        epoch,
        version,
        changes: changes.into(),
    });
    let fetch = (
        any_name(),
        table,
        any::<u64>(),
        any::<u64>(),
        prop::collection::vec(any::<u16>(), 0..32),
    )
        .prop_map(|(of, table, epoch, version, parts)| Fetch {
            of,
            table,
            epoch,
            version,
            parts,
        });
    let address = any::<(IpAddr, u16)>().prop_map(|(address, port)| SocketAddr::new(address, port));
    let addresses = prop::collection::vec(address, 0..3);
    prop_oneof![
        any::<(u64, u64)>().prop_map(|(challenge, answer)| Body::Hello { challenge, answer }),
        heartbeat.prop_map(Body::Heartbeat),
        any_octets(900).prop_map(Body::Swim),
        part.prop_map(Body::Part),
        delta.prop_map(Body::Delta),
        fetch.prop_map(Body::Fetch),
        prop::collection::vec(record, 0..4).prop_map(Body::Records),
        prop::collection::vec(any::<u64>(), 0..64).prop_map(Body::Buckets),
        prop::collection::vec((any_name(), addresses), 0..8).prop_map(Body::Roster),
    ]
}

prop_compose! {
    fn any_datagram()(
        sender in any_name(),
        session in 1_u64..,
        receiver_session in any::<u64>(),
        sequence in any::<u64>(),
        body in any_body(),
    ) -> Datagram {
        Datagram { sender, session, receiver_session, sequence, body }
    }
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened(datagram in any_datagram()) {
        let mut sealed = Vec::new();
        prop_assert!(sealer(&[1]).seal(&datagram, &mut sealed));
        prop_assert!(sealed.len() <= LONGEST_SEALED);
        prop_assert_eq!(sealer(&[1]).open(&sealed), Ok(datagram.clone()));
        prop_assert_eq!(sealer(&[2, 1]).open(&sealed), Ok(datagram));
        prop_assert_eq!(sealer(&[2, 3]).open(&sealed), Err(OpenError::UnknownKey));
    }

    #[test]
    fn a_changed_octet_is_noticed(datagram in any_datagram(), at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let mut sealed = Vec::new();
        prop_assert!(sealer(&[1]).seal(&datagram, &mut sealed));
        let at = at.index(sealed.len());
        sealed[at] ^= flip;
        let expected = match at {
            0..3 => OpenError::Foreign,
            3..7 => OpenError::UnknownKey,
            _ => OpenError::Forged,
        };
        prop_assert_eq!(sealer(&[1]).open(&sealed), Err(expected));
        sealed[at] ^= flip;
        sealed.truncate(at);
        prop_assert!(sealer(&[1]).open(&sealed).is_err());
    }

    #[test]
    fn arbitrary_octets_never_panic(octets in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = Datagram::decode(&octets);
        prop_assert!(sealer(&[1]).open(&octets).is_err());
        let mut meant = octets;
        let mut head = Vec::new();
        prop_assert!(sealer(&[1]).seal(&hello(), &mut head));
        for (octet, from) in meant.iter_mut().zip(&head[..7]) {
            *octet = *from;
        }
        prop_assert!(sealer(&[1]).open(&meant).is_err());
    }

    /// A program with the key may be mistaken: whatever still decodes is taken in by a machine.
    #[test]
    fn mutated_datagrams_never_panic(
        datagram in any_datagram(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut octets = Vec::new();
        prop_assert!(datagram.encode(&mut octets));
        for (at, octet) in changes {
            let at = at.index(octets.len());
            octets[at] = octet;
        }
        if let Some(cut) = cut {
            octets.truncate(cut.index(octets.len()));
        }
        take_in(&octets);
    }
}

fn hello() -> Datagram {
    Datagram {
        sender: "edge-1".into(),
        session: 1,
        receiver_session: 0,
        sequence: 0,
        body: Body::Hello {
            challenge: 0,
            answer: 0,
        },
    }
}

/// Gives whatever decodes to a machine, as a datagram of a known run.
fn take_in(octets: &[u8]) {
    let Ok(datagram) = Datagram::decode(octets) else {
        return;
    };
    let mut network = super::together(2, 1);
    network.captured = Some(Vec::new());
    network.run_for(super::ms(100));
    let captured = network.captured.take().unwrap();
    let model = captured.iter().rfind(|one| one.to == 0).unwrap();
    let datagram = Datagram {
        sender: model.datagram.sender.clone(),
        session: model.datagram.session,
        receiver_session: model.datagram.receiver_session,
        sequence: model.datagram.sequence + 100,
        body: datagram.body,
    };
    network.deliver(0, model.from, datagram);
    network.run_for(super::ms(200));
}

/// Octets that once were trouble, or are of a kind that must stay readable, are read at each run.
#[test]
fn the_corpus_is_read() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/membership");
    let mut read = 0;
    for entry in std::fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        let octets = std::fs::read(&path).unwrap();
        take_in(&octets);
        let _ = sealer(&[1]).open(&octets);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let decoded = Datagram::decode(&octets).is_ok();
        assert_eq!(decoded, name.starts_with("good-"), "{name}");
        read += 1;
    }
    assert!(read >= 12, "{read}");
}

/// The kinds as the first version writes them: a later one must read these.
#[test]
fn the_format_stays() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/membership");
    for (name, body) in examples() {
        let datagram = Datagram { body, ..hello() };
        let mut octets = Vec::new();
        assert!(datagram.encode(&mut octets));
        let path = corpus.join(format!("good-{name}"));
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::create_dir_all(&corpus).unwrap();
            std::fs::write(&path, &octets).unwrap();
        }
        let kept = std::fs::read(&path).unwrap();
        assert_eq!(kept, octets, "{name}");
        assert_eq!(Datagram::decode(&kept).as_ref(), Ok(&datagram), "{name}");
    }
}

fn examples() -> Vec<(&'static str, Body)> {
    let versions = Versions {
        epoch: 1_700_000_000_000,
        state: 2,
        claims: 3,
    };
    let known = Known {
        name: "edge-2".into(),
        age: Some(17),
        versions,
    };
    let part = Part {
        of: "edge-1".into(),
        table: Table::Claims,
        epoch: 1_700_000_000_000,
        version: 3,
        index: 1,
        total: 2,
        octets: Arc::from([1, 2, 3]),
    };
    let changes = [
        ("192.0.2.1".parse().unwrap(), Some(7)),
        ("2001:db8::1".parse().unwrap(), None),
    ];
    let fetch = Fetch {
        of: "edge-2".into(),
        table: Table::State,
        epoch: 1_700_000_000_000,
        version: 2,
        parts: vec![1],
    };
    let record = Allocation {
        service: ServiceKey::new("shop", "web"),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        counter: 4,
        node: "edge-1".to_owned(),
    };
    let heartbeat = Heartbeat {
        versions,
        renewed: 1,
        records: 99,
        known: Arc::from([known]),
    };
    vec![
        (
            "hello",
            Body::Hello {
                challenge: 5,
                answer: 6,
            },
        ),
        ("heartbeat", Body::Heartbeat(heartbeat)),
        ("swim", Body::Swim(Arc::from([1, 2, 3]))),
        ("part", Body::Part(part)),
        (
            "delta",
            Body::Delta(Delta {
                epoch: 1,
                version: 2,
                changes: Arc::from(changes),
            }),
        ),
        ("fetch", Body::Fetch(fetch)),
        ("records", Body::Records(vec![record])),
        ("buckets", Body::Buckets(vec![1, 2, 3])),
        (
            "roster",
            Body::Roster(vec![(
                "edge-2".into(),
                vec!["192.0.2.2:9751".parse().unwrap()],
            )]),
        ),
    ]
}

#[test]
fn each_refusal_has_its_reason() {
    let encoded = |datagram: &Datagram| {
        let mut octets = Vec::new();
        assert!(datagram.encode(&mut octets));
        octets
    };
    let reason = |datagram: &Datagram| Datagram::decode(&encoded(datagram)).unwrap_err();
    assert_eq!(
        Datagram::decode(&vec![0; LONGEST + 1]),
        Err(MalformedReason::TooLong)
    );
    assert_eq!(Datagram::decode(&[]), Err(MalformedReason::Undecodable));
    let mut trailing = encoded(&hello());
    trailing.push(0);
    assert_eq!(Datagram::decode(&trailing), Err(MalformedReason::Trailing));
    for name in ["", "edge 1", "edge\n1", "\u{e9}dge", &"a".repeat(254)] {
        let datagram = Datagram {
            sender: name.into(),
            ..hello()
        };
        assert_eq!(reason(&datagram), MalformedReason::BadName, "{name:?}");
    }
    assert_eq!(
        reason(&Datagram {
            session: 0,
            ..hello()
        }),
        MalformedReason::BadNumbers
    );
    let part = Part {
        of: "edge-1".into(),
        table: Table::State,
        epoch: 1,
        version: 1,
        index: 2,
        total: 2,
        octets: Arc::from([]),
    };
    let datagram = Datagram {
        body: Body::Part(part),
        ..hello()
    };
    assert_eq!(reason(&datagram), MalformedReason::BadNumbers);
    let too_long = Datagram {
        body: Body::Swim(Arc::from(vec![0; LONGEST])),
        ..hello()
    };
    let mut octets = vec![1, 2, 3];
    assert!(!too_long.encode(&mut octets));
    assert_eq!(octets, [1, 2, 3]);
}

/// A change of keys: at no time are there two nodes that do not understand one another.
#[test]
fn keys_change_without_a_gap() {
    let steps: [&[u8]; 4] = [&[1], &[1, 2], &[2, 1], &[2]];
    for pair in steps.windows(2) {
        for (from, to) in [(pair[0], pair[1]), (pair[1], pair[0])] {
            let mut sealed = Vec::new();
            assert!(sealer(from).seal(&hello(), &mut sealed));
            assert_eq!(sealer(to).open(&sealed), Ok(hello()), "{from:?} to {to:?}");
        }
    }
    let mut sealed = Vec::new();
    assert!(sealer(&[1]).seal(&hello(), &mut sealed));
    assert_eq!(sealer(&[2]).open(&sealed), Err(OpenError::UnknownKey));
    assert!(!sealer(&[]).seal(&hello(), &mut sealed));
}

#[test]
fn nonces_do_not_repeat() {
    let mut sealer = sealer(&[1]);
    let mut nonces = std::collections::BTreeSet::new();
    let mut sealed = Vec::new();
    for _ in 0..1000 {
        assert!(sealer.seal(&hello(), &mut sealed));
        assert!(nonces.insert(sealed[7..31].to_vec()));
    }
}
