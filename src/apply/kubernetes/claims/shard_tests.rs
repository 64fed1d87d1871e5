//! Claims to data and back: nothing is lost, whatever stands there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use proptest::prelude::*;

use super::*;

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn data(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    entries.iter().map(owned).collect()
}

/// All shards of a table, by the edits from nothing.
fn written(allocations: &Allocations) -> Vec<Shard> {
    let mut shards = vec![Shard::default(); SHARDS];
    apply(&mut shards, &Allocations::default(), allocations);
    shards
}

fn apply(shards: &mut [Shard], before: &Allocations, wanted: &Allocations) {
    for (address, holders) in edits(before, wanted) {
        shards[shard_of(address)].set(address, holders);
    }
}

fn read_back(shards: &[Shard]) -> Vec<Shard> {
    let read = |(index, shard): (usize, &Shard)| Shard::read(index, shard.write().unwrap());
    shards.iter().enumerate().map(read).collect()
}

/// What a table has that is stored.
fn stored(allocations: &Allocations) -> Vec<Allocation> {
    let held = |record: &&Allocation| !record.addresses.is_empty();
    allocations.records().filter(held).cloned().collect()
}

fn any_addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    let address = prop_oneof![
        (0_u8..40).prop_map(|last| IpAddr::from([192, 0, 2, last])),
        (0_u16..40).prop_map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])),
    ];
    prop::collection::vec(address, 0..3).prop_map(|mut addresses| {
        let mut known = BTreeSet::new();
        addresses.retain(|address| known.insert(*address));
        addresses
    })
}

fn any_table() -> impl Strategy<Value = Vec<(String, Vec<IpAddr>, bool)>> {
    prop::collection::vec(("[a-f]", any_addresses(), any::<bool>()), 0..20)
}

fn edit(allocations: &mut Allocations, edits: Vec<(String, Vec<IpAddr>, bool)>) {
    for (name, addresses, gives) in edits {
        if gives {
            allocations.set(&key(&name), addresses, "edge-a");
        } else {
            allocations.release(&key(&name), "edge-b");
        }
    }
}

proptest! {
    #[test]
    fn a_table_survives_being_written(first in any_table(), second in any_table()) {
        let mut before = Allocations::default();
        edit(&mut before, first);
        let mut shards = written(&before);
        prop_assert_eq!(stored(&assemble(&read_back(&shards))), stored(&before));
        let mut after = before.clone();
        edit(&mut after, second);
        apply(&mut shards, &before, &after);
        prop_assert_eq!(&shards, &written(&after), "edits end where a fresh start does");
        let read = read_back(&shards);
        prop_assert_eq!(&read, &shards);
        let assembled = assemble(&read);
        prop_assert_eq!(stored(&assembled), stored(&after));
        prop_assert_eq!(
            assembled.holders().collect::<Vec<_>>(),
            after.holders().collect::<Vec<_>>()
        );
        prop_assert!(edits(&after, &assembled).is_empty(), "nothing is left to write");
    }

    #[test]
    fn whatever_stands_there_is_kept(
        index in 0..SHARDS,
        data in prop::collection::btree_map("[-._a-z0-9]{1,20}", ".{0,60}", 0..12),
    ) {
        let shard = Shard::read(index, data.clone());
        let again = shard.write().unwrap();
        for (key, value) in &data {
            match shard.kept().get(key) {
                Some(_) => prop_assert_eq!(again.get(key), Some(value)),
                None => prop_assert!(address_of(key).is_some_and(|it| shard_of(it) == index)),
            }
        }
        assemble([&shard]);
    }
}

#[test]
fn an_entry_is_written_so_that_people_can_read_it() {
    let mut allocations = Allocations::default();
    allocations.set(
        &key("web"),
        vec![ip("2001:db8::1f"), ip("192.0.2.10")],
        "edge-a",
    );
    let shards = written(&allocations);
    assert_eq!(
        shards[15].write().unwrap(),
        data(&[(
            "2001-db8--1f",
            r#"[{"service":"shop/web","counter":1,"position":0,"node":"edge-a"}]"#
        )])
    );
    assert_eq!(
        shards[10].write().unwrap(),
        data(&[(
            "192.0.2.10",
            r#"[{"service":"shop/web","counter":1,"position":1,"node":"edge-a"}]"#
        )])
    );
}

#[test]
fn entries_that_cannot_be_read_say_why_and_keep_their_address() {
    let good = r#"[{"service":"shop/web","counter":1,"position":0,"node":"a","later":true}]"#;
    for (key, value, reason, address) in [
        ("README", "hands off", "no address", None),
        ("192.0.2.11", good, "another ConfigMap", None),
        ("2001-DB8--a", good, "no address", Some("2001:db8::a")),
        ("192.0.2.10", "", "no list of holders", Some("192.0.2.10")),
        ("192.0.2.10", "{}", "no list of holders", Some("192.0.2.10")),
        (
            "192.0.2.10",
            r#"[{"service":"web","counter":1,"position":0,"node":"a"}]"#,
            "\"web\" is not namespace/name",
            Some("192.0.2.10"),
        ),
        (
            "192.0.2.10",
            r#"[{"service":"a/b","counter":-1,"position":0,"node":"a"}]"#,
            "no list of holders",
            Some("192.0.2.10"),
        ),
    ] {
        let shard = Shard::read(10, data(&[(key, value), ("192.0.2.26", good)]));
        let kept = &shard.kept()[key];
        assert!(kept.reason.to_string().contains(reason), "{}", kept.reason);
        assert_eq!(kept.address, address.map(ip), "{key}");
        if let Some(address) = kept.address {
            assert_eq!(shard.kept_of(address), Some(kept));
            assert!(shard.holders_of(address).is_empty());
        }
        assert_eq!(shard.write().unwrap()[key], value);
        assert_eq!(
            shard.holders_of(ip("192.0.2.26")).len(),
            1,
            "the others count"
        );
    }
}

#[test]
fn a_record_that_was_written_in_part_holds_all_that_is_held() {
    let mut before = Allocations::default();
    before.set(
        &key("web"),
        vec![ip("192.0.2.1"), ip("2001:db8::2")],
        "edge-a",
    );
    let mut after = before.clone();
    after.set(
        &key("web"),
        vec![ip("192.0.2.3"), ip("2001:db8::2")],
        "edge-b",
    );
    let mut shards = written(&before);
    // Only the new address' ConfigMap was written.
    shards[3] = written(&after).swap_remove(3);
    let assembled = assemble(&shards);
    let record = assembled.record(&key("web")).unwrap();
    assert_eq!(
        record.addresses,
        [ip("192.0.2.3"), ip("192.0.2.1"), ip("2001:db8::2")]
    );
    assert_eq!((record.counter, record.node.as_str()), (2, "edge-b"));
    // The next edit of the Service puts everything right.
    let mut repaired = assembled.clone();
    repaired.set(
        &key("web"),
        vec![ip("192.0.2.3"), ip("2001:db8::2")],
        "edge-b",
    );
    apply(&mut shards, &assembled, &repaired);
    assert_eq!(stored(&assemble(&shards)), stored(&repaired));
}
