//! What the status of a Service is to say: its addresses, and our condition beside them. Decides; who
//! writes it, and when, is not its business.

use std::net::IpAddr;

use super::pending::principal;
use super::reason::Reason;
use crate::config::Config;
use crate::model::service::{AddressCondition, IpMode, Service};

/// The reason in the condition of a Service that has what it asked for.
pub const ALLOCATED: &str = "IPAllocated";

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
        let of_us = |address: &IpAddr| config.pools.iter().any(|pool| pool.contains(*address));
        let foreign = (service.ingress.iter()).any(|ingress| !of_us(&ingress.address));
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
    service.ingress.len() == addresses.len()
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
                Some(pool) => format!("{address} is from the pool {}", pool.name),
                None => format!("{address} is kept"),
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
        message: sentences.join("; "),
    }
}
