//! Counts the connections of one frontend by endpoint. The kernel looks through its table and tells
//! only those; nothing is kept of them but the numbers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::message::{self, Counted};
use super::{Conntrack, Error, unavailable};
use crate::model::family::{Family, Protocol};
use crate::model::frontend::RealServer;
use crate::model::observation::Connections;

impl Conntrack {
    /// The connections that netfilter's NAT sends on from this address and port, by where they went.
    pub fn connections(
        &mut self,
        protocol: Protocol,
        address: IpAddr,
        port: u16,
    ) -> Result<BTreeMap<RealServer, Connections>, Error> {
        let request = message::dump_to(Family::of(address), protocol.number(), address, port);
        let counted = self
            .socket
            .dump_into(&request, BTreeMap::new, |counted, reply| {
                // A kernel that cannot filter (before Linux 5.8) tells of all.
                let ours = message::counted(&reply.payload).filter(|flow| {
                    flow.destination_nat
                        && flow.protocol == protocol.number()
                        && flow.original_destination == (address, port)
                });
                if let Some(Counted {
                    reply_source: (address, port),
                    active,
                    ..
                }) = ours
                {
                    let real_server = RealServer { address, port };
                    let connections: &mut Connections = counted.entry(real_server).or_default();
                    if active {
                        connections.active += 1;
                    } else {
                        connections.inactive += 1;
                    }
                }
            });
        counted.map_err(unavailable)
    }
}
