//! Hosts that are none of ours and use an address of a pool, and which addresses are looked at to find
//! them. Plain data: who decides what is looked at (plan) and who asks the LAN (apply) meet here only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde::{Deserialize, Serialize};

/// An Ethernet address, written as `02:00:00:00:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, octet) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(f, "{separator}{octet:02x}")?;
        }
        Ok(())
    }
}

/// A text is not six hexadecimal octets with colons between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an Ethernet address such as 02:00:00:00:00:01")]
pub struct MacAddressError(String);

impl FromStr for MacAddress {
    type Err = MacAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let octets: Option<Vec<u8>> = text
            .split(':')
            .map(|octet| {
                let digits =
                    octet.len() == 2 && octet.bytes().all(|digit| digit.is_ascii_hexdigit());
                digits.then(|| u8::from_str_radix(octet, 16).ok()).flatten()
            })
            .collect();
        octets
            .and_then(|octets| octets.try_into().ok())
            .map(Self)
            .ok_or_else(|| MacAddressError(text.to_owned()))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = MacAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

/// The addresses that hosts on the LAN use which are none of ours, and the hardware address of each
/// host, as this node has heard them. Cloning shares.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ForeignHosts(OrdMap<IpAddr, MacAddress>);

impl ForeignHosts {
    /// Who uses the address.
    pub fn get(&self, address: IpAddr) -> Option<MacAddress> {
        self.0.get(&address).copied()
    }

    /// Notes who uses the address; gives who was noted before.
    pub fn insert(&mut self, address: IpAddr, user: MacAddress) -> Option<MacAddress> {
        self.0.insert(address, user)
    }

    /// Forgets who uses the address; gives who was noted.
    pub fn remove(&mut self, address: IpAddr) -> Option<MacAddress> {
        self.0.remove(&address)
    }

    /// Whether nobody was heard.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The addresses with their users, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, MacAddress)> {
        self.0.iter().map(|(address, mac)| (*address, *mac))
    }

    /// The addresses from `first` to `last`, both included.
    pub fn within(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpAddr> {
        // A reversed range is empty, where the map's own would panic.
        let range = (first <= last).then(|| self.0.range(first..=last));
        range.into_iter().flatten().map(|(address, _)| *address)
    }

    /// The addresses that have another user there than here, or none in one of them; ascending.
    pub fn changed<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = IpAddr> {
        self.0.diff(&other.0).map(|difference| match difference {
            DiffItem::Add(address, _) | DiffItem::Remove(address, _) => *address,
            DiffItem::Update { new, .. } => *new.0,
        })
    }
}

impl FromIterator<(IpAddr, MacAddress)> for ForeignHosts {
    fn from_iter<T: IntoIterator<Item = (IpAddr, MacAddress)>>(hosts: T) -> Self {
        Self(hosts.into_iter().collect())
    }
}

/// What is to be asked on the LAN: whether somebody uses these addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wanted {
    /// By the kernel's index; never one without addresses.
    pub interfaces: BTreeMap<u32, WantedInterface>,
    /// Hardware addresses that are not foreign: those of this node's own interfaces.
    pub own: BTreeSet<MacAddress>,
}

/// What is to be asked on one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedInterface {
    /// The interface's name; by it the interface is found again when it was recreated.
    pub name: String,
    /// The hardware address that asks.
    pub mac: MacAddress,
    /// The addresses asked for, of both families.
    pub addresses: BTreeSet<IpAddr>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn hosts(text: &str) -> ForeignHosts {
        text.split_whitespace()
            .map(|host| {
                let (address, last) = host.split_once('=').unwrap();
                let mac = MacAddress([2, 0, 0, 0, 0, last.parse().unwrap()]);
                (address.parse().unwrap(), mac)
            })
            .collect()
    }

    #[test]
    fn an_ethernet_address_is_read_as_it_is_written() {
        let mac = MacAddress([0x02, 0, 0, 0xab, 0, 0x0f]);
        assert_eq!(mac.to_string(), "02:00:00:ab:00:0f");
        assert_eq!("02:00:00:AB:00:0f".parse(), Ok(mac));
        for wrong in [
            "",
            "02",
            "02:00:00:ab:00",
            "02:00:00:ab:00:0f:00",
            "2:0:0:ab:0:f",
            "+2:00:00:ab:00:0f",
            "02:00:00:ab:00:0g",
        ] {
            assert_eq!(
                wrong.parse::<MacAddress>(),
                Err(MacAddressError(wrong.to_owned()))
            );
        }
    }

    #[test]
    fn differences_and_ranges() {
        let before = hosts("192.0.2.1=1 192.0.2.2=2 192.0.2.3=3");
        let after = hosts("192.0.2.2=2 192.0.2.3=9 192.0.2.4=4");
        let changed: Vec<String> = before
            .changed(&after)
            .map(|address| address.to_string())
            .collect();
        assert_eq!(changed, ["192.0.2.1", "192.0.2.3", "192.0.2.4"]);
        assert_eq!(before.changed(&before).count(), 0);
        let (first, last) = ("192.0.2.2".parse().unwrap(), "192.0.2.3".parse().unwrap());
        assert_eq!(before.within(first, last).count(), 2);
        assert_eq!(before.within(last, first).count(), 0);
    }

    #[test]
    fn they_can_be_recorded() {
        let recorded = serde_json::to_string(&hosts("192.0.2.1=1")).unwrap();
        assert_eq!(recorded, r#"{"192.0.2.1":"02:00:00:00:00:01"}"#);
        assert_eq!(
            serde_json::from_str::<ForeignHosts>(&recorded).unwrap(),
            hosts("192.0.2.1=1")
        );
        assert!(serde_json::from_str::<ForeignHosts>(r#"{"192.0.2.1":"me"}"#).is_err());
    }
}
