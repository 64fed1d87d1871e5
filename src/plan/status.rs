//! What the status of a Service is to say: its addresses, and our condition beside them. Decides; who
//! writes it, and when, is not its business.

use std::net::IpAddr;

use super::ipam::given_by_us;
use super::pending::principal;
use super::reason::{Reason, cut};
use crate::config::Config;
use crate::model::service::{AddressCondition, IpMode, Service};

/// The reason in the condition of a Service that has what it asked for.
pub const ALLOCATED: &str = "IPAllocated";

/// The longest message of our condition in bytes; the API allows 32 KiB, and nobody reads that. The
/// addresses come first, and those of any Service fit.
pub(super) const LONGEST_MESSAGE: usize = 1000;
/// What follows an address in the message, and a pool's name follows that.
const FROM_POOL: &str = "is from the pool";
/// The same for an address that is in no pool.
const KEPT: &str = "is kept";

/// What a Service's status is to say, where it says something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusWrite {
    /// These addresses, none included, in this order, and this condition.
    Set {
        addresses: Vec<IpAddr>,
        condition: AddressCondition,
    },
    /// Neither address nor condition of ours.
    Clear,
    /// No condition of ours; the addresses, if any, are another implementation's and stay.
    ClearCondition,
}

/// Stands between the sentences of a message.
const SEPARATOR: &str = "; ";

/// Whether our condition says that an address is from us. Only the sentences before any reason count:
/// a reason repeats what others wrote.
pub(super) fn vouches(condition: &AddressCondition, address: IpAddr) -> bool {
    let given = |sentence: &str| {
        let (first, rest) = sentence.split_once(' ')?;
        let says = rest.starts_with(FROM_POOL) || rest == KEPT;
        says.then_some(())?;
        first.parse::<IpAddr>().ok()
    };
    let mut named = condition.message.split(SEPARATOR).map_while(given);
    condition.allocated && named.any(|named| named == address)
}

/// What is to be written for a Service that holds `addresses`, about which address management has
/// these reasons. `None` where its status says that already.
///
/// `not_ours` tells that edgelb does not serve it; its addresses are empty then.
pub fn status(
    config: &Config,
    service: &Service,
    not_ours: bool,
    addresses: &[IpAddr],
    reasons: &[Reason],
) -> Option<StatusWrite> {
    if not_ours {
        // Without our condition nothing of its status is from us.
        let condition = service.condition.as_ref()?;
        let of_us = |address: IpAddr| given_by_us(config, service, address);
        let foreign = service.other_ingress
            || (service.ingress.iter()).any(|ingress| !of_us(ingress.address));
        return Some(if foreign || !condition.allocated {
            StatusWrite::ClearCondition
        } else {
            StatusWrite::Clear
        });
    }
    let condition = condition(config, addresses, reasons);
    if says(service, addresses) && service.condition.as_deref() == Some(&condition) {
        return None;
    }
    Some(StatusWrite::Set {
        addresses: addresses.to_vec(),
        condition,
    })
}

/// Whether a Service's status names these addresses as VIPs, in this order, and nothing else.
pub fn says(service: &Service, addresses: &[IpAddr]) -> bool {
    !service.other_ingress
        && service.ingress.len() == addresses.len()
        && (service.ingress.iter().zip(addresses))
            .all(|(ingress, address)| ingress.address == *address && ingress.mode == IpMode::Vip)
}

/// Our condition for a Service that edgelb serves.
fn condition(config: &Config, addresses: &[IpAddr], reasons: &[Reason]) -> AddressCondition {
    let first = principal(reasons);
    let mut sentences: Vec<String> = addresses
        .iter()
        .map(|address| {
            let pool = config.pools.iter().find(|pool| pool.contains(*address));
            match pool {
                Some(pool) => format!("{address} {FROM_POOL} {}", pool.name),
                None => format!("{address} {KEPT}"),
            }
        })
        .collect();
    sentences.extend(reasons.iter().map(Reason::to_string));
    let allocated = !addresses.is_empty();
    let reason = match first {
        Some(reason) => reason.condition_reason(),
        None if allocated => ALLOCATED,
        // Address management always says why.
        None => "Pending",
    };
    AddressCondition {
        allocated,
        reason: reason.to_owned(),
        message: cut(&sentences.join(SEPARATOR), LONGEST_MESSAGE).to_owned(),
    }
}
