//! Pools: their keys, and what their ranges may hold and share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::Config;
use super::super::document::Entry;
use super::super::file;
use super::super::problem::{Located, Location, Refusal, quoted};
use super::{Check, addresses, values};
use crate::model::address_range::AddressRange;
use crate::model::pool::Pool;

/// Addresses that no LAN can be asked to send here (RFC 6890, RFC 4291).
const UNUSABLE: [(&str, &str); 8] = [
    ("0.0.0.0/8", "addresses of \"this network\""),
    ("127.0.0.0/8", "loopback addresses"),
    ("224.0.0.0/4", "multicast addresses"),
    ("255.255.255.255/32", "the broadcast address"),
    ("::/127", "the unspecified and the loopback address"),
    ("::ffff:0:0/96", "IPv4-mapped addresses"),
    ("fe80::/10", "link-local addresses"),
    ("ff00::/8", "multicast addresses"),
];

/// A range of a pool, and where it stands.
pub(super) struct PoolRange {
    /// `pool "NAME"`, or its place where it has no name.
    pub(super) pool: String,
    index: usize,
    pub(super) range: Located<AddressRange>,
    /// Position in the file, to name the later one of two.
    position: usize,
}

impl Check<'_> {
    /// Gives back every valid range, for the rules between pools and networks.
    pub(super) fn pools(
        &mut self,
        config: &mut Config,
        pools: Option<Vec<file::Pool>>,
    ) -> Vec<PoolRange> {
        if pools.as_ref().is_some_and(Vec::is_empty) {
            let refusal = Refusal::new("no pool: no LoadBalancer Service can get an address");
            self.warn(
                &Location::of_key("pool"),
                &refusal.write("[[pool]] with name and addresses"),
            );
        }
        let mut ranges = Vec::new();
        let mut names: BTreeMap<String, Location> = BTreeMap::new();
        for (index, pool) in pools.unwrap_or_default().into_iter().enumerate() {
            let name_at = match &pool.name {
                Entry::Given(name) => name.at.clone(),
                _ => pool.at.clone(),
            };
            let (pool, found) = self.pool(pool);
            if pool.name.is_empty() {
                // Its name is a problem already; its ranges still are compared, by their place.
            } else if let Some(first) = names.get(&pool.name) {
                let line = first
                    .line
                    .map(|line| format!(" in line {line}"))
                    .unwrap_or_default();
                let message = format!("there is a pool {} already{line}", quoted(&pool.name));
                self.error(
                    &name_at,
                    &Refusal::new(message).write(quoted(&format!("{}-2", pool.name))),
                );
            } else {
                names.insert(pool.name.clone(), name_at.clone());
            }
            let shown = if pool.name.is_empty() {
                pool_key(&name_at.key)
            } else {
                format!("pool {}", quoted(&pool.name))
            };
            for range in found {
                ranges.push(PoolRange {
                    pool: shown.clone(),
                    index,
                    range,
                    position: ranges.len(),
                });
            }
            config.pools.push(pool);
        }
        self.overlaps(&ranges);
        ranges
    }

    fn pool(&mut self, file: file::Pool) -> (Pool, Vec<Located<AddressRange>>) {
        let mut pool = Pool::new("", Vec::new());
        let key = |name: &str| file.at.with_key(format!("{}.{name}", file.at.key));
        if matches!(file.name, Entry::Absent) {
            self.error(
                &key("name"),
                &Refusal::new("a pool needs a name").write("name = \"NAME\""),
            );
        }
        self.set(&mut pool.name, file.name, values::pool_name);
        let missing = match &file.addresses {
            Entry::Absent => Some(key("addresses")),
            Entry::Given(list) if list.value.is_empty() => Some(list.at.clone()),
            _ => None,
        };
        if let Some(at) = missing {
            let refusal = Refusal::new("a pool needs addresses");
            self.error(&at, &refusal.write("addresses = [\"192.0.2.0/24\"]"));
        }
        let ranges = self.set_list(&mut pool.ranges, file.addresses, addresses::range);
        for range in &ranges {
            self.usable(range);
        }
        self.flag(&mut pool.auto_assign, file.auto_assign);
        self.set_value(&mut pool.priority, file.priority, values::priority);
        self.flag(&mut pool.avoid_buggy_ips, file.avoid_buggy_ips);
        self.set_list(&mut pool.namespaces, file.namespaces, values::namespace);
        self.set_list(
            &mut pool.namespace_selector,
            file.namespace_selector,
            values::selector,
        );
        self.set_list(
            &mut pool.service_selector,
            file.service_selector,
            values::selector,
        );
        self.flag(
            &mut pool.share_across_namespaces,
            file.share_across_namespaces,
        );
        self.set_list(
            &mut pool.forwarding_methods,
            file.forwarding_methods,
            values::forwarding_method,
        );
        let interfaces = self.set_list(&mut pool.interfaces, file.interfaces, values::pattern);
        self.matching_interfaces(&interfaces);
        self.set_list(&mut pool.prefer, file.prefer, values::selector);
        (pool, ranges)
    }

    fn usable(&mut self, range: &Located<AddressRange>) {
        let overlapping = |network: &str| {
            network
                .parse::<AddressRange>()
                .is_ok_and(|network| network.overlaps(&range.value))
        };
        let held = UNUSABLE.iter().filter(|(network, _)| overlapping(network));
        let held: Vec<String> = held
            .map(|(network, what)| format!("{what} ({network})"))
            .collect();
        if !held.is_empty() {
            let message = format!(
                "{} holds {}, which cannot be VIPs",
                range.value,
                held.join(", ")
            );
            self.error(
                &range.at,
                &Refusal::new(message).write_maybe(unmapped(&range.value)),
            );
        }
    }

    /// Each range that shares addresses with one that begins before it.
    fn overlaps(&mut self, ranges: &[PoolRange]) {
        let mut sorted: Vec<&PoolRange> = ranges.iter().collect();
        sorted.sort_by_key(|range| (range.range.value.first(), range.position));
        let mut reaching: Option<&PoolRange> = None;
        for range in sorted {
            match reaching {
                Some(before) if before.range.value.overlaps(&range.range.value) => {
                    let (earlier, later) = if before.position < range.position {
                        (before, range)
                    } else {
                        (range, before)
                    };
                    self.overlap(earlier, later);
                }
                _ => {}
            }
            if reaching.is_none_or(|before| before.range.value.last() < range.range.value.last()) {
                reaching = Some(range);
            }
        }
    }

    fn overlap(&mut self, earlier: &PoolRange, later: &PoolRange) {
        let (one, other) = (later.range.value, earlier.range.value);
        let message = if earlier.index == later.index {
            format!("{one} overlaps {other} of the same {}", later.pool)
        } else {
            format!(
                "{one} of {} overlaps {other} of {}",
                later.pool, earlier.pool
            )
        };
        let rest = remainder(&one, &other).map(|rest| quoted(&rest.to_string()));
        self.error(&later.range.at, &Refusal::new(message).write_maybe(rest));
    }
}

/// `pool[3]` of `pool[3].name`.
fn pool_key(key: &str) -> String {
    key.split_once('.').map_or(key, |(pool, _)| pool).to_owned()
}

/// What is left of a range without another one, where it is one range.
fn remainder(range: &AddressRange, without: &AddressRange) -> Option<AddressRange> {
    let before = predecessor(without.first()).filter(|_| range.first() < without.first());
    let after = successor(without.last()).filter(|_| without.last() < range.last());
    match (before, after) {
        (Some(last), None) => AddressRange::new(range.first(), last).ok(),
        (None, Some(first)) => AddressRange::new(first, range.last()).ok(),
        _ => None,
    }
}

fn predecessor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address
            .to_bits()
            .checked_sub(1)
            .map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(address) => address
            .to_bits()
            .checked_sub(1)
            .map(|bits| IpAddr::V6(bits.into())),
    }
}

fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address
            .to_bits()
            .checked_add(1)
            .map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(address) => address
            .to_bits()
            .checked_add(1)
            .map(|bits| IpAddr::V6(bits.into())),
    }
}

/// The IPv4 range that a range of IPv4-mapped addresses stands for.
fn unmapped(range: &AddressRange) -> Option<String> {
    match (range.first(), range.last()) {
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let range = AddressRange::new(
                first.to_ipv4_mapped()?.into(),
                last.to_ipv4_mapped()?.into(),
            )
            .ok()?;
            Some(quoted(&range.to_string()))
        }
        _ => None,
    }
}
