//! Plans who gets which address, and claims what was planned. Until the claims are known to stand,
//! nothing of a plan is true.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::barrier::Barrier;
use super::lead::Leader;
use super::tell;
use crate::api_server::server::CallError;
use crate::apply::kubernetes::claims::{Claims, CommitError, ReadError};
use crate::model::service::ServiceKey;
use crate::plan::Scope;
use crate::plan::addresses::{AddressInputs, manage};

/// Plans that may be overtaken by another instance's claims in one turn.
const MOST_ROUNDS: usize = 5;
/// How often the claims are read again: another instance that believed it leads may have written
/// where this one had nothing to write.
const REREAD: Duration = Duration::from_secs(60);

/// Why a turn did not end with everything claimed.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkError {
    #[error("cannot list the Services")]
    Catalogue(#[from] CallError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("somebody else changed the claims {MOST_ROUNDS} times in a row")]
    Overtaken,
}

impl WorkError {
    fn call(&self) -> Option<&CallError> {
        match self {
            Self::Catalogue(error) => Some(error),
            Self::Read(error) => Some(&error.source),
            Self::Commit(error) => error.call(),
            Self::Overtaken => None,
        }
    }

    /// How long the server wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.call().and_then(CallError::retry_after)
    }

    /// The verb that the role lacks, if it is that.
    pub(super) fn missing_verb(&self) -> Option<String> {
        match self.call()? {
            CallError::Forbidden { verb, resource, .. } => {
                Some(format!("its role lacks the verb {verb} on {resource}"))
            }
            _ => None,
        }
    }
}

impl Leader {
    /// Plans, and claims what was planned.
    pub(super) async fn work(&mut self) -> Result<(), WorkError> {
        let server = std::sync::Arc::clone(&self.settings.server);
        if self.claims.is_none() {
            let place = self.settings.claims.clone();
            let claims = Claims::load(place, &server).await?;
            self.barrier = Some(Barrier::raise(&server).await?);
            for entry in claims.unreadable() {
                tracing::warn!(
                    config_map = entry.config_map,
                    key = entry.key,
                    error = %entry.kept.reason,
                    "claim cannot be read, its address is given to nobody"
                );
            }
            let addresses = claims.allocations().held();
            tracing::info!(addresses, "allocates from now on");
            self.claims = Some(claims);
            self.reread = Instant::now() + REREAD;
            self.scope = Scope::Everything;
        }
        if let Some(barrier) = &mut self.barrier {
            let behind = barrier.behind(&self.view.cluster);
            if behind > 0 {
                self.trouble(format!("the source is behind with {behind} Services"));
                return Ok(());
            }
            self.barrier = None;
            self.succeeded();
        }
        if Instant::now() >= self.reread
            && let Some(claims) = &mut self.claims
        {
            claims.doubt();
            claims.refresh(&server).await?;
            self.reread = Instant::now() + REREAD;
        }
        for _ in 0..MOST_ROUNDS {
            if self.round().await? {
                return Ok(());
            }
        }
        Err(WorkError::Overtaken)
    }

    /// One plan and its claims; `false` where somebody else claimed something meanwhile.
    async fn round(&mut self) -> Result<bool, WorkError> {
        let Some(mut before) = self.claims.as_ref().map(|it| it.allocations().clone()) else {
            return Ok(true);
        };
        self.scope.add_all(self.plan.concerned(&self.view.foreign));
        self.scope
            .add_all(self.plan.allocations.changed(&before).cloned());
        if self.scope.is_empty() {
            return Ok(true);
        }
        let reserved: BTreeSet<IpAddr> = (self.claims.iter().flat_map(Claims::reserved)).collect();
        if reserved != self.reserved {
            self.reserved = reserved;
            self.scope = Scope::Everything;
        }
        // What is in no pool any more is kept by the Service that had it, not by its successor.
        for key in &self.recreated {
            let pools = &self.view.config.pools;
            let kept = |address: &IpAddr| pools.iter().any(|pool| pool.contains(*address));
            if !before.addresses(key).iter().all(kept) {
                before.release(key, &self.settings.node);
            }
        }
        let services = &self.view.cluster.services;
        let mut look = |key: &ServiceKey| {
            if before.addresses(key).is_empty() || services.contains_key(key) {
                self.examiner.settled(key);
            } else {
                self.examiner.missing(key);
            }
        };
        match &self.scope {
            Scope::Everything => before.records().for_each(|record| look(&record.service)),
            Scope::Services(dirty) => dirty.iter().for_each(look),
        }
        let standing = self.standing();
        let inputs = AddressInputs {
            node: &self.settings.node,
            cluster: &self.view.cluster,
            host: &self.view.host,
            foreign: &self.view.foreign,
            reserved: &self.reserved,
            unconfirmed: self.examiner.kept(),
            deferred: &BTreeSet::new(),
            standing: &standing,
            allocations: &before,
        };
        let managed = manage(&self.view.config, &inputs, &self.plan, &self.scope);
        let Some(claims) = &mut self.claims else {
            return Ok(true);
        };
        let committed = claims
            .commit(&self.settings.server, &managed.plan.allocations)
            .await;
        match committed {
            Ok(_) => {}
            Err(CommitError::Conflict { config_maps }) => {
                let config_maps = config_maps.join(" ");
                tracing::info!(config_maps, "claims were changed by somebody else");
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        self.scope = Scope::nothing();
        self.recreated.clear();
        self.succeeded();
        self.statuses.look_at(managed.dirty);
        tell::plan(&self.recorder, &self.view, &self.plan, &managed.plan);
        self.plan = managed.plan;
        Ok(true)
    }
}
