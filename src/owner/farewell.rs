//! What one run of this node leaves to the next one: that all others were told that it restarts, and for
//! how long they wait. Only who finds that may answer for VIPs before it heard the others; so a run that
//! is not sure of it leaves nothing.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use imbl::OrdSet;

use super::pause::boot_time;
use super::record::ClaimsRecord;
use crate::apply::state_directory::{Error, Farewell, StateDirectory};
use crate::config::Membership;
use crate::membership::Told;
use crate::model::peer::{Claims, IN_COMPANY};

/// The others wait for this node, which told them that it restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// Until then, certainly.
    pub until: Instant,
    /// What they wait for.
    pub vips: OrdSet<IpAddr>,
}

/// Takes what the last run left; it counts once.
pub fn take(
    membership: &Membership,
    state: &StateDirectory,
    claims: &Claims,
) -> Result<Option<Awaited>, Error> {
    let (farewell, warning) = state.take_farewell()?;
    if let Some(warning) = warning {
        tracing::warn!(error = %warning, "how the last run ended is not known, the others are heard first");
    }
    let awaited = farewell.and_then(|farewell| {
        let left = left(&farewell, membership.restart_grace, boot_time())?;
        Some(Awaited {
            until: Instant::now() + left,
            vips: resumed(&farewell, membership, claims),
        })
    });
    Ok(awaited.filter(|awaited| !awaited.vips.is_empty()))
}

/// Leaves what these, who were told that this node restarts, know of it.
pub fn leave(
    membership: &Membership,
    state: &StateDirectory,
    record: &ClaimsRecord,
    told: Told,
) -> Result<(), Error> {
    let alone = told == Told::Nobody;
    if alone && !membership.peers.is_empty() {
        // Those that should be there were never heard: they may own what this node claimed.
        return Ok(());
    }
    let at = boot_time();
    // What is claimed is on disk before anybody relies on it.
    if record.write()?.is_empty() {
        return Ok(());
    }
    state.write_farewell(&Farewell {
        at,
        until: at + certain(membership.restart_grace),
        alone,
    })
}

/// For how long the others certainly wait: clocks and messages may take the rest.
fn certain(restart_grace: Duration) -> Duration {
    restart_grace * 2 / 3
}

/// For how long they wait from now on. Which of two values of `membership.restart_grace` they have is not
/// known: the smaller one counts.
fn left(farewell: &Farewell, restart_grace: Duration, now: Duration) -> Option<Duration> {
    // A time that is yet to come was not written by this machine.
    (farewell.at <= now)
        .then(|| farewell.until.min(farewell.at + certain(restart_grace)))?
        .checked_sub(now)
        .filter(|left| !left.is_zero())
}

/// What goes on at once: what was claimed together with those who wait, or everything where there never
/// was anybody and nobody is expected.
fn resumed(farewell: &Farewell, membership: &Membership, claims: &Claims) -> OrdSet<IpAddr> {
    let expects = !membership.peers.is_empty();
    let goes_on = |number: u64| {
        if farewell.alone {
            !expects
        } else {
            number & IN_COMPANY != 0
        }
    };
    let resumed = claims.iter().filter(|(_, number)| goes_on(**number));
    resumed.map(|(vip, _)| *vip).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use tokio::sync::watch;

    use super::*;
    use crate::config::{Config, PeerAddress};

    const SECOND: Duration = Duration::from_secs(1);

    fn membership() -> Membership {
        Config::defaults("unused").membership
    }

    fn claims(company: u64) -> Claims {
        let vip = |text: &str| -> IpAddr { text.parse().unwrap() };
        Claims::from_iter([(vip("192.0.2.200"), 7 | company), (vip("192.0.2.201"), 7)])
    }

    /// A state directory, and what keeps these claims in it.
    fn record(claims: &Claims) -> (tempfile::TempDir, Arc<StateDirectory>, ClaimsRecord) {
        let directory = tempfile::tempdir().unwrap();
        let (state, _) = StateDirectory::open(&directory.path().join("state")).unwrap();
        let state = Arc::new(state);
        let (sender, receiver) = watch::channel(Claims::new());
        sender.send_replace(claims.clone());
        let record = ClaimsRecord::new(receiver, Arc::clone(&state));
        (directory, state, record)
    }

    #[test]
    fn the_next_run_finds_what_was_claimed_last() {
        let claims = claims(IN_COMPANY);
        let (_directory, state, record) = record(&claims);
        leave(&membership(), &state, &record, Told::Others).unwrap();
        assert_eq!(state.read_claims().unwrap(), (claims.clone(), None));
        let awaited = take(&membership(), &state, &claims).unwrap().unwrap();
        assert_eq!(
            awaited.vips.into_iter().collect::<Vec<_>>(),
            ["192.0.2.200".parse::<IpAddr>().unwrap()],
            "the other one was claimed alone"
        );
        let left = awaited.until - Instant::now();
        assert!(left <= SECOND * 2 && left > SECOND, "{left:?}");
        assert_eq!(take(&membership(), &state, &claims).unwrap(), None);
    }

    #[test]
    fn without_a_claim_on_disk_nothing_is_left() {
        let (directory, state, record) = record(&claims(IN_COMPANY));
        // Nothing can take its place.
        std::fs::create_dir_all(directory.path().join("state/claims.json/full")).unwrap();
        assert!(leave(&membership(), &state, &record, Told::Others).is_err());
        assert_eq!(state.take_farewell().unwrap(), (None, None));

        let (_directory, state, record) = self::record(&Claims::new());
        leave(&membership(), &state, &record, Told::Others).unwrap();
        assert_eq!(state.take_farewell().unwrap(), (None, None));
    }

    #[test]
    fn who_is_alone_goes_on_alone_and_who_lost_the_others_does_not() {
        let all = claims(0);
        let mut expecting = membership();
        expecting.peers = vec![PeerAddress {
            host: "192.0.2.12".to_owned(),
            port: 9751.try_into().unwrap(),
        }];
        let (_directory, state, record) = record(&all);
        leave(&expecting, &state, &record, Told::Nobody).unwrap();
        assert_eq!(state.take_farewell().unwrap(), (None, None));

        leave(&membership(), &state, &record, Told::Nobody).unwrap();
        let awaited = take(&membership(), &state, &all).unwrap().unwrap();
        assert_eq!(awaited.vips.len(), 2);
        // Peers that are configured meanwhile are heard first.
        leave(&membership(), &state, &record, Told::Nobody).unwrap();
        assert_eq!(take(&expecting, &state, &all).unwrap(), None);
        // What was claimed alone is nobody's to wait for.
        leave(&membership(), &state, &record, Told::Others).unwrap();
        assert_eq!(take(&membership(), &state, &all).unwrap(), None);
    }

    #[test]
    fn the_shorter_of_two_graces_counts() {
        let farewell = |grace: Duration| Farewell {
            at: SECOND * 100,
            until: SECOND * 100 + certain(grace),
            alone: false,
        };
        let now = SECOND * 101;
        for (before, after, expected) in [
            (3, 3, Some(SECOND)),
            (30, 3, Some(SECOND)),
            (3, 30, Some(SECOND)),
            (30, 30, Some(SECOND * 19)),
            (1, 30, None),
            (30, 1, None),
        ] {
            let left = left(&farewell(SECOND * before), SECOND * after, now);
            assert_eq!(left, expected, "{before} {after}");
        }
        assert_eq!(left(&farewell(SECOND * 3), SECOND * 3, SECOND * 99), None);
    }
}
