//! Who holds which address, kept in 16 `ConfigMaps` of the API server. Each is replaced whole, from the
//! version that is known: of two that believe they lead, one gets the address. How they are written
//! is in `shard`. Decides nothing about who gets what, and never writes over what it has not seen.

mod error;
pub mod shard;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::task::JoinSet;

pub use self::error::{CommitError, ReadError};
use self::shard::{Kept, SHARDS, Shard, assemble, edits, shard_of};
use crate::api_server::server::{Call, CallError, Server, body, encoded};
use crate::model::allocation::Allocations;

const RESOURCE: &str = "configmaps";
/// The API server refuses a `ConfigMap` whose data is larger.
const LARGEST: usize = 1 << 20;

/// Whose claims: the Lease's namespace and name, of which theirs are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The namespace.
    pub namespace: String,
    /// The Lease's name.
    pub lease: String,
}

impl Place {
    /// The name of one of the `ConfigMaps`, `edgelb-addresses-a`.
    pub fn config_map(&self, index: usize) -> String {
        format!("{}-addresses-{index:x}", self.lease)
    }

    fn path(&self, index: Option<usize>) -> String {
        let path = format!("/api/v1/namespaces/{}/configmaps", encoded(&self.namespace));
        match index {
            Some(index) => format!("{path}/{}", encoded(&self.config_map(index))),
            None => path,
        }
    }
}

/// One `ConfigMap` as the server is known to have it.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Without its data; `None`: it is not there.
    object: Option<ConfigMap>,
    shard: Shard,
    /// A write may have changed it: read it again before the next one.
    stale: bool,
}

/// An entry that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableClaim<'a> {
    /// In which `ConfigMap`.
    pub config_map: String,
    /// Under which key.
    pub key: &'a str,
    /// Why, and whose address nobody else gets.
    pub kept: &'a Kept,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// How many `ConfigMaps`.
    pub written: usize,
}

/// All claims as the server is known to have them.
#[derive(Debug, Clone)]
pub struct Claims {
    place: Place,
    known: Vec<Known>,
    /// What `known` says, put together.
    allocations: Allocations,
}

impl Claims {
    /// Reads them all. One that is not there is empty.
    pub async fn load(place: Place, server: &Arc<Server>) -> Result<Self, ReadError> {
        let stale = Known {
            stale: true,
            ..Known::default()
        };
        let mut claims = Self {
            place,
            known: vec![stale; SHARDS],
            allocations: Allocations::default(),
        };
        claims.refresh(server).await?;
        Ok(claims)
    }

    /// Who holds what, as far as the server is known to agree.
    pub fn allocations(&self) -> &Allocations {
        &self.allocations
    }

    /// The entries that cannot be read. Their addresses are to be given to nobody.
    pub fn unreadable(&self) -> impl Iterator<Item = UnreadableClaim<'_>> {
        (self.known.iter().enumerate()).flat_map(move |(index, known)| {
            let kept = known.shard.kept().iter();
            kept.map(move |(key, kept)| UnreadableClaim {
                config_map: self.place.config_map(index),
                key,
                kept,
            })
        })
    }

    /// The addresses of the entries that cannot be read.
    pub fn reserved(&self) -> impl Iterator<Item = IpAddr> {
        let shards = self.known.iter();
        shards.flat_map(|known| known.shard.kept().values().filter_map(|kept| kept.address))
    }

    /// Whether a write left it open what the server has; the next commit begins by reading that.
    pub fn is_stale(&self) -> bool {
        self.known.iter().any(|known| known.stale)
    }

    /// Somebody else may have written them: the next refresh or commit reads them all again.
    pub fn doubt(&mut self) {
        for known in &mut self.known {
            known.stale = true;
        }
    }

    /// Reads again what may have changed. The names of those that say something else than before.
    pub async fn refresh(&mut self, server: &Arc<Server>) -> Result<Vec<String>, ReadError> {
        let mut reads = JoinSet::new();
        for (index, known) in self.known.iter().enumerate() {
            if known.stale {
                let (server, place) = (Arc::clone(server), self.place.clone());
                reads.spawn(async move { (index, read(&server, &place, index).await) });
            }
        }
        let mut changed = Vec::new();
        let mut failed = None;
        // A task that did not end in order leaves its shard stale.
        while let Some(joined) = reads.join_next().await {
            match joined {
                Ok((index, Ok(known))) => {
                    if self.put(index, known) {
                        changed.push(self.place.config_map(index));
                    }
                }
                Ok((index, Err(source))) => failed = Some((self.place.config_map(index), source)),
                Err(error) => tracing::error!(%error, "reading claims was cut short"),
            }
        }
        if !changed.is_empty() {
            self.assemble();
            changed.sort_unstable();
        }
        match failed {
            Some((config_map, source)) => Err(ReadError { config_map, source }),
            None => self.cut_short().map_or(Ok(changed), Err),
        }
    }

    /// Makes the server hold these, and nothing else that is readable: writes each `ConfigMap` that
    /// is to say something else than it does. On success [`Claims::allocations`] is `wanted`; on any
    /// failure it is what the server is known to hold, some of `wanted` included, and the caller
    /// plans again from there.
    pub async fn commit(
        &mut self,
        server: &Arc<Server>,
        wanted: &Allocations,
    ) -> Result<Committed, CommitError> {
        if self.is_stale() {
            let config_maps = self.refresh(server).await.map_err(CommitError::Read)?;
            if !config_maps.is_empty() {
                return Err(CommitError::Conflict { config_maps });
            }
        }
        let next = self.next(wanted)?;
        let mut findings = Findings::default();
        let mut writes = JoinSet::new();
        for (index, shard) in next {
            match self.write_call(index, &shard) {
                Ok(call) => {
                    // Whatever ends this before the answer came: it may have been written.
                    self.at(index, |known| known.stale = true);
                    let (server, place) = (Arc::clone(server), self.place.clone());
                    writes.spawn(async move {
                        (index, write(&server, &place, index, &call, shard).await)
                    });
                }
                Err(error) => findings.fail(error),
            }
        }
        let written = writes.len();
        while let Some(joined) = writes.join_next().await {
            match joined {
                Ok((index, wrote)) => self.take_in(index, wrote, &mut findings),
                Err(error) => tracing::error!(%error, "writing claims was cut short"),
            }
        }
        if findings.error.is_none()
            && let Some(error) = self.cut_short()
        {
            findings.fail(CommitError::Read(error));
        }
        match findings.into_error() {
            None => {
                self.allocations = wanted.clone();
                Ok(Committed { written })
            }
            Some(error) => {
                self.assemble();
                Err(error)
            }
        }
    }

    /// What is left where a task did not end in order.
    fn cut_short(&self) -> Option<ReadError> {
        let index = self.known.iter().position(|known| known.stale)?;
        Some(ReadError {
            config_map: self.place.config_map(index),
            source: CallError::Connection("the request was cut short".to_owned()),
        })
    }

    /// The shards that are to say something else than they do.
    fn next(&self, wanted: &Allocations) -> Result<BTreeMap<usize, Shard>, CommitError> {
        let mut next: BTreeMap<usize, Shard> = BTreeMap::new();
        for (address, holders) in edits(&self.allocations, wanted) {
            let index = shard_of(address);
            let Some(known) = self.known.get(index) else {
                continue;
            };
            if known.shard.holders_of(address) == holders {
                continue;
            }
            if let Some(kept) = known.shard.kept_of(address) {
                return Err(CommitError::Unreadable {
                    config_map: self.place.config_map(index),
                    address,
                    reason: kept.reason.clone(),
                });
            }
            let shard = next.entry(index).or_insert_with(|| known.shard.clone());
            shard.set(address, holders);
        }
        Ok(next)
    }

    fn write_call(&self, index: usize, shard: &Shard) -> Result<Call, CommitError> {
        let config_map = self.place.config_map(index);
        let failed = |source| CommitError::Write {
            config_map: config_map.clone(),
            source,
        };
        let data = shard.write().map_err(|error| {
            failed(CallError::Malformed {
                resource: RESOURCE,
                message: error.to_string(),
            })
        })?;
        let bytes = (data.iter())
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if bytes > LARGEST {
            return Err(CommitError::TooLarge { config_map, bytes });
        }
        let present = self.known.get(index).and_then(|known| known.object.clone());
        let exists = present.is_some();
        let mut object = present.unwrap_or_else(|| self.fresh(index));
        object.data = Some(data);
        let body = body(RESOURCE, &object).map_err(failed)?;
        Ok(if exists {
            Call::update(RESOURCE, self.place.path(Some(index)), body)
        } else {
            Call::create(RESOURCE, self.place.path(None), body)
        })
    }

    fn fresh(&self, index: usize) -> ConfigMap {
        let managed_by = ("app.kubernetes.io/managed-by", "edgelb");
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(self.place.config_map(index)),
                namespace: Some(self.place.namespace.clone()),
                labels: Some([managed_by].map(|(a, b)| (a.into(), b.into())).into()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    fn take_in(&mut self, index: usize, wrote: Wrote, findings: &mut Findings) {
        let config_map = self.place.config_map(index);
        match wrote {
            Wrote::Done(known) => {
                self.put(index, known);
            }
            Wrote::Changed(known) => {
                self.put(index, known);
                findings.conflicts.push(config_map);
            }
            Wrote::Unread(source) => {
                findings.conflicts.push(config_map.clone());
                let error = ReadError { config_map, source };
                findings.fail(CommitError::Read(error));
            }
            Wrote::Failed(source) => {
                if !source.leaves_outcome_unknown() {
                    self.at(index, |known| known.stale = false);
                }
                findings.fail(CommitError::Write { config_map, source });
            }
        }
    }

    fn at(&mut self, index: usize, edit: impl FnOnce(&mut Known)) {
        if let Some(known) = self.known.get_mut(index) {
            edit(known);
        }
    }

    /// Whether it says something else than before.
    fn put(&mut self, index: usize, known: Known) -> bool {
        let Some(place) = self.known.get_mut(index) else {
            return false;
        };
        let changed = place.shard != known.shard;
        *place = known;
        changed
    }

    fn assemble(&mut self) {
        self.allocations = assemble(self.known.iter().map(|known| &known.shard));
    }
}

/// What went wrong in a commit.
#[derive(Default)]
struct Findings {
    conflicts: Vec<String>,
    error: Option<CommitError>,
}

impl Findings {
    fn fail(&mut self, error: CommitError) {
        if let Some(first) = &self.error {
            tracing::debug!(%first, %error, "more claims could not be written");
            return;
        }
        self.error = Some(error);
    }

    /// A failure asks for more patience than a conflict, so it goes first.
    fn into_error(mut self) -> Option<CommitError> {
        if self.error.is_some() || self.conflicts.is_empty() {
            return self.error;
        }
        self.conflicts.sort_unstable();
        Some(CommitError::Conflict {
            config_maps: self.conflicts,
        })
    }
}

/// What became of a write.
enum Wrote {
    Done(Known),
    /// Somebody else wrote it; this is what it says now.
    Changed(Known),
    /// Somebody else wrote it, and it cannot be read.
    Unread(CallError),
    Failed(CallError),
}

async fn write(server: &Server, place: &Place, index: usize, call: &Call, sent: Shard) -> Wrote {
    match server.call::<ConfigMap>(call).await {
        Ok(object) => {
            let known = Known::new(index, object);
            if known.shard == sent {
                Wrote::Done(known)
            } else {
                // Something on the way edits what is written.
                Wrote::Changed(known)
            }
        }
        // Not there any more, or there by now.
        Err(CallError::Conflict { .. }) => match read(server, place, index).await {
            Ok(known) => Wrote::Changed(known),
            Err(error) => Wrote::Unread(error),
        },
        // A namespace that is not there says the same of a creation.
        Err(gone @ CallError::NotFound { .. }) => match read(server, place, index).await {
            Ok(known) if known.object.is_none() && call.creates() => Wrote::Failed(gone),
            Ok(known) => Wrote::Changed(known),
            Err(error) => Wrote::Unread(error),
        },
        Err(error) => Wrote::Failed(error),
    }
}

async fn read(server: &Server, place: &Place, index: usize) -> Result<Known, CallError> {
    let call = Call::get(RESOURCE, place.path(Some(index)));
    match server.call::<ConfigMap>(&call).await {
        Ok(object) => Ok(Known::new(index, object)),
        Err(CallError::NotFound { .. }) => Ok(Known::default()),
        Err(error) => Err(error),
    }
}

impl Known {
    fn new(index: usize, mut object: ConfigMap) -> Self {
        let shard = Shard::read(index, object.data.take().unwrap_or_default());
        // Left out of an update, it stays as it is.
        object.metadata.managed_fields = None;
        Self {
            object: Some(object),
            shard,
            stale: false,
        }
    }
}
