//! Tables on their way: changes are pushed to all at once, what somebody lacks is fetched in pieces
//! from the node itself or, when it cannot be heard, from one that has it.

use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::records;
use super::tables::{Assembly, PARTS_AT_ONCE};
use crate::membership::Told;
use crate::membership::datagram::{Body, Delta, Fetch, Part, Table};
use crate::model::peer::{MemberState, Publication};
use crate::model::text::Text;

/// An unanswered request is made again after that.
const ASK_EVERY: Duration = Duration::from_millis(40);
/// Deltas that answer one request.
const DELTAS_AT_ONCE: usize = 64;
/// Deltas that came too early and are kept.
const EARLY: usize = 512;
/// How often records are compared with one node, and how often it is answered with some.
const COMPARE_EVERY: Duration = Duration::from_millis(250);
const SUPPLY_EVERY: Duration = Duration::from_millis(50);

impl Core {
    /// Takes in what this node tells and sends what is new of it to all who are there.
    pub fn publish(&mut self, now: Duration, publication: &Publication) {
        let told = self.told(&publication.state);
        if self.own.tell(told) {
            self.push_state(now);
        }
        let epoch = self.versions().epoch;
        for (version, changes) in self.own.claim(&publication.claims) {
            self.send_all(&Body::Delta(Delta {
                epoch,
                version,
                changes,
            }));
        }
        let edits = publication.allocations.changed_since(&self.published);
        let records = edits.filter_map(|(_, record)| record);
        let news: Vec<_> = records
            .filter(|record| self.records.own(record))
            .cloned()
            .collect();
        for list in records::lists(&news) {
            self.send_all(&Body::Records(list));
        }
        self.published = publication.allocations.clone();
    }

    /// From now on this node says that it restarts, and says it to all at once. To be called again a
    /// few times: a lost one is not repeated by somebody who is gone. `None`: everybody who is known is
    /// silent, and nobody is told.
    pub fn announce_restart(&mut self, now: Duration) -> Option<Told> {
        self.restarting = true;
        let state: MemberState = self.own.tables.told.state.clone();
        let told = self.told(&state);
        self.own.tell(told);
        self.push_state(now);
        let met = self.members.values().any(|member| member.session.is_some());
        match (met, self.present().is_empty()) {
            (_, false) => Some(Told::Others),
            (false, true) => Some(Told::Nobody),
            (true, true) => None,
        }
    }

    /// Begins another run, greater than any that others know of this node.
    pub(super) fn begin_run(&mut self, now: Duration, epoch: u64) {
        tracing::info!(
            epoch,
            "other nodes know a later start of this node; the clock was set back"
        );
        self.own.begin(epoch);
        self.swim.begin(now, epoch);
        self.follow_swim();
        self.beat(now);
    }

    fn push_state(&mut self, now: Duration) {
        for part in self.parts_of_own(now, Table::State) {
            self.send_all(&Body::Part(part));
        }
    }

    fn parts_of_own(&mut self, now: Duration, table: Table) -> Vec<Part> {
        let pieces = self.own.tables.pieces(now, table, (0, 0));
        let name = &self.settings.name;
        pieces.parts(name, table, 0..pieces.total().unwrap_or(0))
    }

    /// A heartbeat to one that was just met, so that it need not wait for the next one.
    pub(super) fn beat_to(&mut self, now: Duration, name: &Text) {
        let heartbeat = self.heartbeat(now);
        self.send(name, Body::Heartbeat(heartbeat));
    }

    pub(super) fn fetch_all(&mut self, now: Duration) {
        let lacking = self.members.iter().filter(|(_, member)| {
            member.alive_or_met()
                && [Table::State, Table::Claims]
                    .iter()
                    .any(|table| member.lacks(*table))
        });
        let lacking: Vec<Text> = lacking.map(|(name, _)| name.clone()).collect();
        for name in lacking {
            self.fetch(now, &name);
        }
    }

    /// Asks for the tables of a node that are older here than elsewhere.
    pub(super) fn fetch(&mut self, now: Duration, of: &Text) {
        for table in [Table::State, Table::Claims] {
            let Some(member) = self.members.get_mut(of) else {
                return;
            };
            let asked = member.asked.get(&table);
            if !member.lacks(table) || asked.is_some_and(|at| now.saturating_sub(*at) < ASK_EVERY) {
                continue;
            }
            self.ask(now, of, table);
        }
    }

    fn ask(&mut self, now: Duration, of: &Text, table: Table) {
        let silence = self.timing.silence;
        let Some(member) = self.members.get_mut(of) else {
            return;
        };
        let held = member.tables.version(table);
        let (version, parts) = match member.assemblies.get_mut(&table) {
            Some(assembly) if assembly.version > held => (assembly.version, assembly.ask()),
            _ => (held, Vec::new()),
        };
        member.asked.insert(table, now);
        let from = match &member.advertised_by {
            Some(other) if !member.is_direct(now, silence) => other.clone(),
            _ => of.clone(),
        };
        let fetch = Fetch {
            of: of.clone(),
            table,
            epoch: version.0,
            version: version.1,
            parts,
        };
        self.send(&from, Body::Fetch(fetch));
    }

    pub(super) fn handle_fetch(&mut self, now: Duration, from: &Text, fetch: &Fetch) {
        let wanted = (fetch.epoch, fetch.version);
        let own = fetch.of == self.settings.name;
        if own && fetch.table == Table::Claims && fetch.parts.is_empty() {
            let epoch = self.versions().epoch;
            if let Some(changes) = self.own.changes_since(wanted, DELTAS_AT_ONCE) {
                for (version, changes) in changes {
                    self.send(
                        from,
                        Body::Delta(Delta {
                            epoch,
                            version,
                            changes,
                        }),
                    );
                }
                return;
            }
        }
        let tables = if own {
            &mut self.own.tables
        } else {
            match self.members.get_mut(&fetch.of) {
                Some(member) => &mut member.tables,
                None => return,
            }
        };
        let version = tables.version(fetch.table);
        if version.1 == 0 || version < wanted {
            return;
        }
        let pieces = tables.pieces(now, fetch.table, wanted);
        let total = pieces.total().unwrap_or(0);
        let parts = if (pieces.epoch, pieces.version) == wanted && !fetch.parts.is_empty() {
            let asked = fetch.parts.iter().copied().filter(|index| *index < total);
            pieces.parts(&fetch.of, fetch.table, asked.take(PARTS_AT_ONCE))
        } else {
            pieces.parts(&fetch.of, fetch.table, (0..total).take(PARTS_AT_ONCE))
        };
        for part in parts {
            self.send(from, Body::Part(part));
        }
    }

    pub(super) fn handle_part(&mut self, now: Duration, sender: &Text, part: &Part) {
        if part.of == self.settings.name {
            return;
        }
        let version = (part.epoch, part.version);
        let Some(member) = self.members.get_mut(&part.of) else {
            return;
        };
        let table = part.table;
        if version <= member.tables.version(table) {
            return;
        }
        if *sender == part.of {
            let advertised = &mut member.advertised;
            match table {
                Table::State if part.epoch == advertised.epoch => {
                    advertised.state = advertised.state.max(part.version);
                }
                Table::Claims if part.epoch == advertised.epoch => {
                    advertised.claims = advertised.claims.max(part.version);
                }
                _ => {}
            }
        }
        let assembly = member
            .assemblies
            .entry(table)
            .or_insert_with(|| Assembly::new(part));
        if assembly.version < version {
            *assembly = Assembly::new(part);
        }
        if assembly.version != version {
            return;
        }
        let Some(octets) = assembly.add(part) else {
            if assembly.is_due() {
                self.ask(now, &part.of, table);
            }
            return;
        };
        member.assemblies.remove(&table);
        if !member.tables.install(table, version, &octets) {
            tracing::warn!(node = %part.of, ?table, "a table of another node cannot be read; is its version of edgelb much newer?");
            return;
        }
        if table == Table::Claims {
            member.follow_early();
        }
        member.asked.remove(&table);
        self.fetch(now, &part.of);
    }

    pub(super) fn handle_delta(&mut self, sender: &Text, delta: &Delta) {
        let Some(member) = self.members.get_mut(sender) else {
            return;
        };
        let (epoch, held) = member.tables.claims_version;
        if delta.epoch == member.advertised.epoch {
            member.advertised.claims = member.advertised.claims.max(delta.version);
        }
        if delta.epoch < epoch || (delta.epoch == epoch && delta.version <= held) {
            return;
        }
        if delta.epoch == epoch && delta.version == held + 1 {
            member.tables.apply(&delta.changes);
            member.follow_early();
            // A request that is under way may have been answered by this.
            if !member.lacks(Table::Claims) {
                member.assemblies.remove(&Table::Claims);
            }
        } else if delta.epoch == member.advertised.epoch {
            if member.early.len() >= EARLY {
                member.early.pop_first();
            }
            member
                .early
                .insert((delta.epoch, delta.version), Arc::clone(&delta.changes));
        }
    }

    /// Records are compared with a node whose digest is another one.
    pub(super) fn compare(&mut self, now: Duration, with: &Text, digest: u64) {
        if digest == self.records.digest() {
            return;
        }
        let Some(member) = self.members.get_mut(with) else {
            return;
        };
        // What was pushed is on its way: a first difference says nothing yet.
        match member.compared {
            Some(at) if now.saturating_sub(at) < COMPARE_EVERY => {}
            _ => {
                member.compared = Some(now);
                let digests = self.records.digests();
                self.send(with, Body::Buckets(digests));
            }
        }
    }

    pub(super) fn handle_buckets(&mut self, now: Duration, from: &Text, digests: &[u64]) {
        let Some(member) = self.members.get_mut(from) else {
            return;
        };
        if member
            .supplied
            .is_some_and(|at| now.saturating_sub(at) < SUPPLY_EVERY)
        {
            return;
        }
        member.supplied = Some(now);
        for list in self.records.differing(digests) {
            self.send(from, Body::Records(list));
        }
    }
}
