//! A span of addresses of one family, written as a CIDR or as first and last.
//!
//! Whether an address is fit to be a VIP is no question of this file.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::family::Family;

/// First and last address, both included, of one family and in order.
///
/// Ordered by first address, IPv4 before IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// Why a text is not an [`AddressRange`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressRangeError {
    #[error("\"{0}\" is not an address range (first-last) or CIDR")]
    Shape(String),
    #[error("\"{0}\" is not an IP address")]
    Address(String),
    #[error("\"{text}\" is not a CIDR: the prefix length is 0 to {longest}")]
    Prefix { text: String, longest: u8 },
    #[error("{0} is a single address where a range or a CIDR is wanted")]
    Single(IpAddr),
    #[error("{text} has host bits set")]
    HostBits { text: String, network: IpNet },
    #[error("the range mixes families: {0} and {1}")]
    MixedFamilies(IpAddr, IpAddr),
    #[error("the range is reversed: {0} is above {1}")]
    Reversed(IpAddr, IpAddr),
}

impl AddressRange {
    /// Both ends included.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, AddressRangeError> {
        if Family::of(first) != Family::of(last) {
            return Err(AddressRangeError::MixedFamilies(first, last));
        }
        if first > last {
            return Err(AddressRangeError::Reversed(first, last));
        }
        Ok(Self { first, last })
    }

    pub const fn first(&self) -> IpAddr {
        self.first
    }

    pub const fn last(&self) -> IpAddr {
        self.last
    }

    pub fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// False for any address of the other family.
    pub fn contains(&self, address: IpAddr) -> bool {
        // IpAddr orders every IPv4 address before every IPv6 one, so that both ends decide the family.
        self.first <= address && address <= self.last
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// How many addresses; the whole of IPv6 counts one less than it has, the most that fits.
    pub fn count(&self) -> u128 {
        to_bits(self.last)
            .saturating_sub(to_bits(self.first))
            .saturating_add(1)
    }

    /// Every address from first to last, one at a time: a range may hold 2^128 of them.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let family = self.family();
        (to_bits(self.first)..=to_bits(self.last)).map(move |bits| from_bits(family, bits))
    }

    /// The CIDR that holds exactly these addresses, where there is one.
    pub fn network(&self) -> Option<IpNet> {
        let (first, last) = (to_bits(self.first), to_bits(self.last));
        let host_bits = (first ^ last).count_ones();
        let mask = 1_u128
            .checked_shl(host_bits)
            .map_or(u128::MAX, |bit| bit - 1);
        if first ^ last != mask || first & mask != 0 {
            return None;
        }
        let longest: u32 = if self.first.is_ipv4() { 32 } else { 128 };
        let prefix = u8::try_from(longest.checked_sub(host_bits)?).ok()?;
        IpNet::new(self.first, prefix).ok()
    }
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The inverse of [`to_bits`]; bits beyond an IPv4 address cannot come from a range of that family.
fn from_bits(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX))),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

impl From<IpNet> for AddressRange {
    fn from(network: IpNet) -> Self {
        Self {
            first: network.network(),
            last: network.broadcast(),
        }
    }
}

/// A CIDR where the range is one, else `first-last`; parses back to the same range.
impl fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.network() {
            Some(network) => write!(formatter, "{network}"),
            None => write!(formatter, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((first, last)) = text.split_once('-') {
            return Self::new(parse_address(first)?, parse_address(last)?);
        }
        if text.contains('/') {
            return Ok(Self::from(parse_network(text)?));
        }
        Err(text.parse().map_or_else(
            |_| AddressRangeError::Shape(text.to_owned()),
            AddressRangeError::Single,
        ))
    }
}

fn parse_address(text: &str) -> Result<IpAddr, AddressRangeError> {
    let text = text.trim();
    text.parse()
        .map_err(|_| AddressRangeError::Address(text.to_owned()))
}

/// A CIDR without host bits, such as `192.0.2.0/24`.
pub fn parse_network(text: &str) -> Result<IpNet, AddressRangeError> {
    let Some((address, prefix)) = text.split_once('/') else {
        return Err(text.parse().map_or_else(
            |_| AddressRangeError::Shape(text.to_owned()),
            AddressRangeError::Single,
        ));
    };
    let address = parse_address(address)?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let network = prefix
        .parse::<u8>()
        .ok()
        .filter(|_| prefix.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|prefix| IpNet::new(address, prefix).ok())
        .ok_or_else(|| AddressRangeError::Prefix {
            text: text.to_owned(),
            longest,
        })?;
    let canonical = network.trunc();
    if canonical != network {
        return Err(AddressRangeError::HostBits {
            text: text.to_owned(),
            network: canonical,
        });
    }
    Ok(network)
}

impl TryFrom<String> for AddressRange {
    type Error = AddressRangeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn cidr_and_span_hold_both_ends() {
        let span = range("192.0.2.10-192.0.2.20");
        assert_eq!(span.count(), 11);
        assert!(
            span.contains("192.0.2.10".parse().unwrap())
                && span.contains("192.0.2.20".parse().unwrap())
        );
        assert!(
            !span.contains("192.0.2.21".parse().unwrap())
                && !span.contains("::192.0.2.15".parse().unwrap())
        );
        assert_eq!(range("192.0.2.0/30").addresses().count(), 4);
        assert_eq!(
            range("192.0.2.7/32").addresses().collect::<Vec<_>>(),
            ["192.0.2.7".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(range("0.0.0.0/0").count(), 1 << 32);
    }

    #[test]
    fn the_whole_of_ipv6_is_walked_lazily() {
        let all = range("::/0");
        assert_eq!(all.count(), u128::MAX);
        assert_eq!(all.addresses().nth(2), Some("::2".parse().unwrap()));
        let end = range(
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        );
        assert_eq!(end.addresses().count(), 2);
        assert_eq!(
            range("255.255.255.254-255.255.255.255").addresses().count(),
            2
        );
    }

    #[test]
    fn overlap_needs_a_common_address() {
        assert!(range("192.0.2.0/25").overlaps(&range("192.0.2.127-192.0.2.130")));
        assert!(!range("192.0.2.0/25").overlaps(&range("192.0.2.128/25")));
        assert!(!range("0.0.0.0/0").overlaps(&range("::/0")));
    }

    #[test]
    fn refuses_with_the_reason() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for (text, error) in [
            (
                "192.0.2.20-192.0.2.10",
                AddressRangeError::Reversed(address("192.0.2.20"), address("192.0.2.10")),
            ),
            (
                "192.0.2.1-2001:db8::1",
                AddressRangeError::MixedFamilies(address("192.0.2.1"), address("2001:db8::1")),
            ),
            ("192.0.2.1", AddressRangeError::Single(address("192.0.2.1"))),
            ("192.0.2.1-x", AddressRangeError::Address("x".to_owned())),
            (
                "192.0.2.0/33",
                AddressRangeError::Prefix {
                    text: "192.0.2.0/33".to_owned(),
                    longest: 32,
                },
            ),
            (
                "192.0.2.0/+4",
                AddressRangeError::Prefix {
                    text: "192.0.2.0/+4".to_owned(),
                    longest: 32,
                },
            ),
            (
                "2001:db8::/129",
                AddressRangeError::Prefix {
                    text: "2001:db8::/129".to_owned(),
                    longest: 128,
                },
            ),
            ("pool", AddressRangeError::Shape("pool".to_owned())),
            (
                "192.0.2.5/24",
                AddressRangeError::HostBits {
                    text: "192.0.2.5/24".to_owned(),
                    network: "192.0.2.0/24".parse().unwrap(),
                },
            ),
        ] {
            assert_eq!(text.parse::<AddressRange>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn display_parses_back(first: u128, last: u128, four: bool) {
            let address = |bits: u128| {
                let family = if four { Family::V4 } else { Family::V6 };
                from_bits(family, if four { bits & u128::from(u32::MAX) } else { bits })
            };
            let (first, last) = (address(first).min(address(last)), address(first).max(address(last)));
            let range = AddressRange::new(first, last).unwrap();
            prop_assert_eq!(range.to_string().parse::<AddressRange>().unwrap(), range);
        }

        #[test]
        fn a_network_displays_as_itself(bits: u32, prefix in 0_u8..=32) {
            let network = IpNet::new(IpAddr::V4(Ipv4Addr::from_bits(bits)), prefix).unwrap().trunc();
            prop_assert_eq!(AddressRange::from(network).to_string(), network.to_string());
        }
    }
}
