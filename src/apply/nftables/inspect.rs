//! Reads of our table what a few frontends need, and says where it is not as planned. Costs as much as
//! these frontends have endpoints, whatever else is in the table. Changes nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::describe::element_words;
use super::element::{self, ElementKey, Elements, Key, Value};
use super::encode::{Request, message};
use super::expression::Verdict;
use super::frontend::{affinity_of, key_of_frontend, of_frontend};
use super::layout::Layout;
use super::observe::{self, Attributes};
use super::requests::data;
use super::sets::Table;
use super::{Error, TABLE, schema};
use crate::apply::forwarder::Forwarder;
use crate::apply::netlink::{self, NetlinkSocket};
use crate::model::family::Family;
use crate::model::frontend::{Frontend, FrontendAddress, FrontendPort, SourceClass};
use crate::model::node_state::NodeState;
use crate::model::observation::{Difference, Stuck, Way};

/// The sets with an element under a frontend of an address itself, or under a node port: where the plan
/// has none, there must be none.
const BY_ADDRESS: [Table; 9] = [
    Table::Restricted,
    Table::Closed,
    Table::OutsideClosed,
    Table::Masquerade,
    Table::Connections,
    Table::Scopes,
    Table::Frontends,
    Table::Outside,
    Table::Inside,
];
const BY_NODE_PORT: [Table; 8] = [
    Table::NodePortsClosed,
    Table::NodePortsOutsideClosed,
    Table::NodePortMasquerade,
    Table::NodePortConnections,
    Table::NodePortScopes,
    Table::NodePorts,
    Table::NodePortsOutside,
    Table::NodePortsInside,
];
/// Sets that hold something of the node as a whole and not of Services.
const OF_NODE: [Table; 4] = [
    Table::PodRanges,
    Table::PodInterfaces,
    Table::ServiceRanges,
    Table::NodeAddresses,
];
/// `NFTA_SET_ELEM_EXPIRATION`
const EXPIRATION: u16 = 5;
/// Differences of the whole table that are told one by one.
const MOST_TOLD: usize = 8;

/// Looks at our table in this thread's network namespace.
pub struct Inspector {
    socket: NetlinkSocket,
    datapath: Forwarder,
}

impl Inspector {
    /// Opens a socket. `datapath` forwards all that it can.
    pub fn open(datapath: Forwarder) -> Result<Self, Error> {
        let socket = NetlinkSocket::open(NETLINK_NETFILTER).map_err(Error::NotAvailable)?;
        Ok(Self { socket, datapath })
    }

    /// Whether chains, rules, sets and what is the node's own are as planned.
    pub fn table(&mut self, state: &NodeState) -> Result<Vec<Difference>, Error> {
        let Some(observed) = observe::observe(&mut self.socket)? else {
            let gone = Difference::of_ours(format!("table inet {TABLE}"), "is missing");
            return Ok(vec![gone]);
        };
        // What the node forwards besides is decided where the table is made.
        let restrictions = [
            Vec::new(),
            vec![Family::V4],
            vec![Family::V6],
            Family::BOTH.to_vec(),
        ];
        let mut differences: Option<Vec<Difference>> = None;
        for families in restrictions {
            let layout = Layout::new(self.datapath).restrict_forwarding(&families);
            let misfits = schema::misfits(&observed, layout);
            let fits = misfits.is_empty();
            if differences
                .as_ref()
                .is_none_or(|least| misfits.len() < least.len())
            {
                differences = Some(misfits);
            }
            if fits {
                break;
            }
        }
        let mut differences = differences.unwrap_or_default();
        let mut wanted = Elements::new();
        element::of_node(state, &mut wanted);
        for table in OF_NODE {
            for family in Family::BOTH {
                if !observed.sets.contains_key(table.name(family)) {
                    continue;
                }
                let present: Elements = observe::set_elements(&mut self.socket, table, family)?;
                let ours = |key: &ElementKey| (key.table, key.family) == (table, family);
                let missing = wanted
                    .keys()
                    .any(|key| ours(key) && !present.contains_key(key));
                let strange = present.keys().any(|key| !wanted.contains_key(key));
                if missing || strange {
                    let set = format!("set inet {TABLE} {}", table.name(family));
                    let problem = match (missing, strange) {
                        (true, true) => "holds other elements than planned",
                        (true, false) => "lacks elements",
                        _ => "holds elements that are not planned",
                    };
                    differences.push(Difference::of_ours(set, problem));
                }
            }
        }
        differences.truncate(MOST_TOLD);
        Ok(differences)
    }

    /// Where the elements of one frontend are not as planned; of a node port those of its family. A
    /// restriction is also tried with the source `from`.
    pub fn frontend(
        &mut self,
        port: FrontendPort,
        frontend: &Frontend,
        state: &NodeState,
        from: Option<IpAddr>,
    ) -> Result<Vec<Difference>, Error> {
        let mut wanted = Elements::new();
        of_frontend(port, frontend, self.datapath, &mut wanted);
        if let FrontendAddress::Address(address) = port.address {
            wanted.insert(element::of_address(Table::Held, address), Value::Nothing);
            if state.answering.contains(&address) {
                let answering = element::of_address(Table::Answering, address);
                wanted.insert(answering, Value::Nothing);
            }
        }
        let endpoints = SourceClass::ALL
            .into_iter()
            .flat_map(|class| frontend.real_servers(class));
        let local = endpoints.filter(|endpoint| state.hairpin.contains(&endpoint.address));
        wanted.extend(local.map(|here| (element::of_hairpin(here.address), Value::Nothing)));

        let mut differences = Vec::new();
        for (key, value) in &wanted {
            let problem = match self.get(key)? {
                Some((_, present)) if present == *value => continue,
                Some(_) => "leads elsewhere",
                None => "is missing",
            };
            differences.push(Difference::of_ours(element_words(key, value), problem));
        }
        for key in unwanted(port, &wanted) {
            if let Some((found, value)) = self.get(&key)? {
                let object = element_words(&found, &value);
                differences.push(Difference::of_ours(object, "is there and not planned"));
            }
        }
        differences.extend(self.let_in(port, frontend, from)?);
        Ok(differences)
    }

    /// A range that is not planned and lets a source in that may not ask. That a planned one is missing
    /// is known by then.
    fn let_in(
        &mut self,
        port: FrontendPort,
        frontend: &Frontend,
        from: Option<IpAddr>,
    ) -> Result<Option<Difference>, Error> {
        let (Some(from), Some(ranges)) = (from, frontend.allowed_sources.as_deref()) else {
            return Ok(None);
        };
        if ranges.iter().any(|range| range.contains(&from)) {
            return Ok(None);
        }
        let key = ElementKey {
            table: Table::Allowed,
            family: port.address.family(),
            key: key_of_frontend(Key::empty(), port).address(from),
            end: false,
        };
        let found = self.get(&key)?;
        Ok(found.map(|(found, value)| {
            Difference::of_ours(element_words(&found, &value), "is there and not planned")
        }))
    }

    /// Where a client is kept by session affinity; none where it is not remembered.
    pub fn stuck(&mut self, frontend: &Frontend, client: IpAddr) -> Result<Option<Stuck>, Error> {
        let Some(affinity) = frontend.session_affinity else {
            return Ok(None);
        };
        let (key, numbers) = affinity_of(frontend, affinity, client);
        let Some(element) = self.get_raw(&key)? else {
            return Ok(None);
        };
        let attributes = Attributes::nest(&element);
        let number = attributes
            .nested(2)
            .and_then(|data| data.get(1))
            .and_then(|bytes| bytes.last_chunk::<4>().copied());
        let milliseconds = attributes
            .get(EXPIRATION)
            .and_then(|bytes| <[u8; 8]>::try_from(bytes).ok())
            .map(u64::from_be_bytes);
        Ok(Some(Stuck {
            real_server: number.and_then(|number| numbers.get(&number).copied()),
            expires: milliseconds.map(Duration::from_millis),
        }))
    }

    /// The element under a key of a set that we fill.
    fn get(&mut self, key: &ElementKey) -> Result<Option<(ElementKey, Value)>, Error> {
        let Some(payload) = self.ask(key)? else {
            return Ok(None);
        };
        let mut found = Elements::new();
        observe::message_elements(key.table, key.family, &payload, &mut found)?;
        Ok(found.pop_first())
    }

    /// The attributes of the element under a key.
    fn get_raw(&mut self, key: &ElementKey) -> Result<Option<Vec<u8>>, Error> {
        let Some(payload) = self.ask(key)? else {
            return Ok(None);
        };
        let list = Attributes::of(&payload)?.nested(3);
        let element = list.and_then(|list| list.get(1).map(<[u8]>::to_vec));
        Ok(element)
    }

    fn ask(&mut self, key: &ElementKey) -> Result<Option<Vec<u8>>, Error> {
        let mut request = Request::new(message::GET_ELEMENT, 0);
        request.string(1, TABLE);
        request.string(2, key.table.name(key.family));
        let list = request.open(3);
        let element = request.open(1);
        data(&mut request, 1, key.key.as_slice());
        request.close(element);
        request.close(list);
        match self.socket.request(request.as_ref()) {
            Ok(replies) => Ok(replies.into_iter().next().map(|reply| reply.payload)),
            // Neither the element nor, where somebody took it away, its set or table.
            Err(netlink::Error::Refused(error)) if error.errno == Errno::ENOENT as i32 => Ok(None),
            Err(error) => Err(Error::Observe(error)),
        }
    }
}

/// The keys under which the plan has nothing of a frontend.
fn unwanted(port: FrontendPort, wanted: &Elements) -> Vec<ElementKey> {
    let tables = match port.address {
        FrontendAddress::Address(_) => &BY_ADDRESS[..],
        FrontendAddress::NodePort(_) => &BY_NODE_PORT[..],
    };
    let key = |table: &Table| ElementKey {
        table: *table,
        family: port.address.family(),
        key: key_of_frontend(Key::empty(), port),
        end: false,
    };
    let keys = tables.iter().map(key);
    keys.filter(|key| !wanted.contains_key(key)).collect()
}

/// Which map and chain choose the endpoint for each source class, as planned, where nftables does.
pub fn ways(
    port: FrontendPort,
    frontend: &Frontend,
    datapath: Forwarder,
) -> BTreeMap<SourceClass, Way> {
    let mut elements = Elements::new();
    of_frontend(port, frontend, datapath, &mut elements);
    let (first, outside, inside) = match port.address {
        FrontendAddress::Address(_) => (Table::Frontends, Table::Outside, Table::Inside),
        FrontendAddress::NodePort(_) => (
            Table::NodePorts,
            Table::NodePortsOutside,
            Table::NodePortsInside,
        ),
    };
    let family = port.address.family();
    let way = |table: Table| {
        let key = ElementKey {
            table,
            family,
            key: key_of_frontend(Key::empty(), port),
            end: false,
        };
        match elements.get(&key) {
            Some(Value::Verdict(Verdict::Goto(chain))) => Some(Way::Chain {
                map: table.name(family).to_owned(),
                chain: chain.to_string(),
            }),
            _ => None,
        }
    };
    let of_class = |class| {
        let own = match class {
            SourceClass::Outside | SourceClass::Peer => outside,
            SourceClass::Pod | SourceClass::Node => inside,
        };
        let forwarded = !frontend.real_servers(class).is_empty();
        way(own).or_else(|| way(first)).filter(|_| forwarded)
    };
    let ways = SourceClass::ALL.into_iter();
    ways.filter_map(|class| Some((class, of_class(class)?)))
        .collect()
}
