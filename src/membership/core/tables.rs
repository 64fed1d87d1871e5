//! What nodes tell of themselves, as versioned tables with one writer each: this node's own with the
//! log of its changes, those of others with the pieces that are on their way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use serde::{Deserialize, Serialize};

use crate::membership::datagram::{BODY_BUDGET, MOST_PARTS, Part, Table, Versions};
use crate::model::peer::{Claims, MemberState};
use crate::model::text::Text;

/// Changes of claims in one delta: 40 of 28 octets at most would be more than a frame holds.
const DELTA_CHANGES: usize = 36;
/// Deltas that are kept for those who missed one.
const LOG: usize = 512;
/// A version is served for so long although there are newer ones, so that whoever fetches it gets to
/// its end; the deltas follow.
const SNAPSHOT_KEPT: Duration = Duration::from_secs(2);
/// Pieces that are asked for at once: they must fit into the receive buffer of the asker.
pub const PARTS_AT_ONCE: usize = 32;

/// A VIP and its claim; absent: given up.
pub type Change = (IpAddr, Option<u64>);

/// The state of a node as it goes over the wire. JSON, so that nodes of different versions understand
/// one another: what is unknown is passed over, what is missing has its default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// The version of the program.
    pub program: String,
    pub state: MemberState,
}

/// The pieces of one version of a table.
#[derive(Debug, Clone)]
pub struct Pieces {
    pub epoch: u64,
    pub version: u64,
    pub pieces: Vec<Arc<[u8]>>,
    made: Duration,
}

impl Pieces {
    fn new(now: Duration, epoch: u64, version: u64, octets: &[u8]) -> Self {
        let mut pieces: Vec<Arc<[u8]>> = octets.chunks(BODY_BUDGET).map(Arc::from).collect();
        if pieces.is_empty() {
            pieces.push(Arc::from([]));
        }
        Self {
            epoch,
            version,
            pieces,
            made: now,
        }
    }

    /// Some of the pieces, to be sent.
    pub fn parts(&self, of: &Text, table: Table, indices: impl Iterator<Item = u16>) -> Vec<Part> {
        let Some(total) = self.total() else {
            return Vec::new();
        };
        let part = |index: u16| {
            Some(Part {
                of: of.clone(),
                table,
                epoch: self.epoch,
                version: self.version,
                index,
                total,
                octets: Arc::clone(self.pieces.get(usize::from(index))?),
            })
        };
        indices.filter_map(part).collect()
    }

    pub fn total(&self) -> Option<u16> {
        let total = u16::try_from(self.pieces.len()).ok()?;
        (total <= MOST_PARTS).then_some(total)
    }
}

/// Tables of one node: this node's own, or what is held of another one.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// The run and the version of `told`; version 0: nothing yet.
    pub told_version: (u64, u64),
    pub told: Arc<Told>,
    /// The run and the version of `claims`.
    pub claims_version: (u64, u64),
    pub claims: Claims,
    pieces: BTreeMap<Table, Pieces>,
}

impl Tables {
    /// The versions, where both tables are of one run.
    pub fn versions(&self) -> Option<Versions> {
        (self.claims_version.0 == self.told_version.0).then_some(Versions {
            epoch: self.told_version.0,
            state: self.told_version.1,
            claims: self.claims_version.1,
        })
    }

    pub fn version(&self, table: Table) -> (u64, u64) {
        match table {
            Table::State => self.told_version,
            Table::Claims => self.claims_version,
        }
    }

    /// The pieces of the table: of the newest version, or of an older one that is still being served.
    pub fn pieces(&mut self, now: Duration, table: Table, wanted: (u64, u64)) -> &Pieces {
        let version = self.version(table);
        let usable = self.pieces.get(&table).is_some_and(|pieces| {
            let made = (pieces.epoch, pieces.version);
            made == version || (made == wanted && now.saturating_sub(pieces.made) < SNAPSHOT_KEPT)
        });
        if !usable {
            let octets = match table {
                Table::State => serde_json::to_vec(&*self.told).unwrap_or_default(),
                Table::Claims => {
                    let claims: Vec<(&IpAddr, &u64)> = self.claims.iter().collect();
                    postcard::to_stdvec(&claims).unwrap_or_default()
                }
            };
            let pieces = Pieces::new(now, version.0, version.1, &octets);
            self.pieces.insert(table, pieces);
        }
        // Inserted above where it was missing.
        self.pieces
            .entry(table)
            .or_insert_with(|| Pieces::new(now, version.0, version.1, &[]))
    }

    /// Takes in a whole table; `false`: it cannot be read.
    pub fn install(&mut self, table: Table, version: (u64, u64), octets: &[u8]) -> bool {
        match table {
            Table::State => {
                let Ok(told) = serde_json::from_slice(octets) else {
                    return false;
                };
                self.told = Arc::new(told);
                self.told_version = version;
            }
            Table::Claims => {
                let Ok(claims) = postcard::from_bytes::<Vec<(IpAddr, u64)>>(octets) else {
                    return false;
                };
                self.claims = claims.into_iter().collect();
                self.claims_version = version;
            }
        }
        true
    }

    pub fn apply(&mut self, changes: &[Change]) {
        for (vip, claim) in changes {
            match claim {
                Some(number) => self.claims.insert(*vip, *number),
                None => self.claims.remove(vip),
            };
        }
        self.claims_version.1 += 1;
    }
}

/// This node's own tables and the last changes of its claims.
#[derive(Debug, Default)]
pub struct Own {
    pub tables: Tables,
    /// The last one makes the present version.
    log: VecDeque<Arc<[Change]>>,
}

impl Own {
    /// Begins a run. Versions go on counting.
    pub fn begin(&mut self, epoch: u64) {
        self.tables.told_version.0 = epoch;
        self.tables.claims_version.0 = epoch;
        self.tables.pieces.clear();
        self.log.clear();
    }

    /// `true`: it is another one than before.
    pub fn tell(&mut self, told: Told) -> bool {
        let changed = self.tables.told_version.1 == 0 || *self.tables.told != told;
        if changed {
            self.tables.told = Arc::new(told);
            self.tables.told_version.1 += 1;
        }
        changed
    }

    /// Takes in the claims; the versions that this makes, the first one first.
    pub fn claim(&mut self, claims: &Claims) -> Vec<(u64, Arc<[Change]>)> {
        let changes: Vec<Change> = self
            .tables
            .claims
            .diff(claims)
            .map(|item| match item {
                DiffItem::Add(vip, number) => (*vip, Some(*number)),
                DiffItem::Update { new, .. } => (*new.0, Some(*new.1)),
                DiffItem::Remove(vip, _) => (*vip, None),
            })
            .collect();
        let mut made = Vec::new();
        for changes in changes.chunks(DELTA_CHANGES) {
            let changes: Arc<[Change]> = Arc::from(changes);
            self.tables.apply(&changes);
            made.push((self.tables.claims_version.1, Arc::clone(&changes)));
            self.log.push_back(changes);
        }
        while self.log.len() > LOG {
            self.log.pop_front();
        }
        made
    }

    /// The changes after this version, at most so many; `None` where it is too old for the log.
    pub fn changes_since(
        &self,
        version: (u64, u64),
        most: usize,
    ) -> Option<Vec<(u64, Arc<[Change]>)>> {
        let (epoch, newest) = self.tables.claims_version;
        let missing = usize::try_from(newest.checked_sub(version.1)?).ok()?;
        if version.0 != epoch || missing > self.log.len() {
            return None;
        }
        let changes = self.log.iter().skip(self.log.len() - missing).cloned();
        Some((version.1 + 1..).zip(changes).take(most).collect())
    }
}

/// A table on its way.
#[derive(Debug, Clone)]
pub struct Assembly {
    pub version: (u64, u64),
    total: u16,
    pieces: BTreeMap<u16, Arc<[u8]>>,
    outstanding: BTreeSet<u16>,
}

impl Assembly {
    pub fn new(part: &Part) -> Self {
        Self {
            version: (part.epoch, part.version),
            total: part.total,
            pieces: BTreeMap::new(),
            // Whoever was asked for whatever is newer sends that many on its own.
            outstanding: (0..part.total).take(PARTS_AT_ONCE).collect(),
        }
    }

    /// Takes a piece in; the whole table, when it was the last one.
    pub fn add(&mut self, part: &Part) -> Option<Vec<u8>> {
        if part.total != self.total {
            return None;
        }
        self.outstanding.remove(&part.index);
        self.pieces.insert(part.index, Arc::clone(&part.octets));
        if self.pieces.len() < usize::from(self.total) {
            return None;
        }
        Some(
            self.pieces
                .values()
                .flat_map(|piece| piece.iter().copied())
                .collect(),
        )
    }

    /// Everything that was asked for has come.
    pub fn is_due(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// The next pieces to ask for.
    pub fn ask(&mut self) -> Vec<u16> {
        let missing = (0..self.total).filter(|index| !self.pieces.contains_key(index));
        let missing: Vec<u16> = missing.take(PARTS_AT_ONCE).collect();
        self.outstanding = missing.iter().copied().collect();
        missing
    }
}
