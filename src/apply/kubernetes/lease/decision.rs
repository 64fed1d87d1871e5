//! What to do about a Lease, by the rules of client-go's leader election: the clocks of two nodes are
//! never compared. A holder counts as gone when its record has not changed for as long as it promised
//! to, by the watch of whoever looks. Pure: no clock, no requests.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;

/// A record, and since when it has been seen without a change.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Observed {
    pub(super) spec: LeaseSpec,
    /// When it was first seen like this.
    pub(super) since: Instant,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// There is no Lease: create it.
    Create,
    /// Nobody holds it, or the holder is gone: put ourselves in.
    Take,
    /// We hold it: say so again.
    Renew,
    /// Another one holds it, until this time at least.
    Wait { holder: String, until: Instant },
}

/// How long to wait after so many refusals in a row, the first of them is 1. A server that has just
/// started refuses everybody until it has read the roles: that is over in seconds, and a role that
/// lacks a verb lacks it for longer.
pub(super) fn refused_pause(refusals: u32, first: Duration, longest: Duration) -> Duration {
    let doublings = refusals.saturating_sub(1);
    first
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(longest)
}

impl Observed {
    /// Takes in what was read: the time counts from the last change of the record.
    pub(super) fn next(before: Option<Self>, spec: LeaseSpec, now: Instant) -> Self {
        match before {
            Some(before) if before.spec == spec => before,
            _ => Self { spec, since: now },
        }
    }
}

/// The action for what is known of the Lease; `None`: there is none.
pub(super) fn decide(
    observed: Option<&Observed>,
    identity: &str,
    default: Duration,
    now: Instant,
) -> Action {
    let Some(Observed { spec, since }) = observed else {
        return Action::Create;
    };
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder == identity {
        return Action::Renew;
    }
    if holder.is_empty() {
        return Action::Take;
    }
    let promised = (spec.lease_duration_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(default, Duration::from_secs);
    // A promise that reaches beyond the end of time is none.
    match since.checked_add(promised) {
        Some(until) if until > now => Action::Wait {
            holder: holder.to_owned(),
            until,
        },
        _ => Action::Take,
    }
}

/// The record with which we hold the Lease from now on. Fields that are not the election's stay.
pub(super) fn held(
    before: &LeaseSpec,
    identity: &str,
    lasts: Duration,
    now: Timestamp,
) -> LeaseSpec {
    let held_already = before.holder_identity.as_deref() == Some(identity);
    let transitions = before.lease_transitions.unwrap_or_default();
    // The first holder of all takes over from nobody.
    let first = before.acquire_time.is_none() && before.holder_identity.is_none();
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(whole_seconds(lasts)),
        renew_time: Some(MicroTime(now)),
        acquire_time: match &before.acquire_time {
            Some(acquired) if held_already => Some(acquired.clone()),
            _ => Some(MicroTime(now)),
        },
        lease_transitions: Some(if held_already || first {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        ..before.clone()
    }
}

/// The record with which the Lease is given back: anybody may take it at once.
pub(super) fn released(before: &LeaseSpec, now: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        renew_time: Some(MicroTime(now)),
        acquire_time: Some(MicroTime(now)),
        ..before.clone()
    }
}

/// At least one: the API server refuses less.
fn whole_seconds(lasts: Duration) -> i32 {
    i32::try_from(lasts.as_secs()).unwrap_or(i32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DEFAULT: Duration = Duration::from_secs(10);

    fn spec(holder: Option<&str>, seconds: Option<i32>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn refusals_are_met_with_more_patience_each_time() {
        let pauses = [1, 2, 3, 4, 5, 6, 7, u32::MAX].map(|refusals| {
            let seconds = Duration::from_secs;
            refused_pause(refusals, seconds(2), seconds(60)).as_secs()
        });
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_holder_is_gone_when_its_promise_has_run_out_by_our_own_watch() {
        let start = Instant::now();
        let wait = |seconds| Action::Wait {
            holder: "other_1".to_owned(),
            until: start + Duration::from_secs(seconds),
        };
        let other = Some("other_1");
        for (what, record, elapsed, expected) in [
            ("none", None, 0, Action::Create),
            ("ours", Some(spec(Some("me_1"), Some(10))), 0, Action::Renew),
            (
                "ours, expired",
                Some(spec(Some("me_1"), Some(10))),
                99,
                Action::Renew,
            ),
            ("empty", Some(spec(None, None)), 0, Action::Take),
            ("given back", Some(spec(Some(""), Some(1))), 0, Action::Take),
            ("held", Some(spec(other, Some(15))), 14, wait(15)),
            ("just over", Some(spec(other, Some(15))), 15, Action::Take),
            ("promises nothing", Some(spec(other, None)), 9, wait(10)),
            (
                "promises nothing, gone",
                Some(spec(other, None)),
                10,
                Action::Take,
            ),
            (
                "promises nonsense",
                Some(spec(other, Some(-4))),
                9,
                wait(10),
            ),
            (
                "promises no time",
                Some(spec(other, Some(0))),
                0,
                Action::Take,
            ),
        ] {
            let observed = record.map(|spec| Observed { spec, since: start });
            let now = start + Duration::from_secs(elapsed);
            let action = decide(observed.as_ref(), "me_1", DEFAULT, now);
            assert_eq!(action, expected, "{what}");
        }
    }

    #[test]
    fn only_a_change_of_the_record_counts_as_a_sign_of_life() {
        let start = Instant::now();
        let later = start + Duration::from_secs(5);
        let first = Observed::next(None, spec(Some("other_1"), Some(10)), start);
        let same = Observed::next(Some(first.clone()), first.spec.clone(), later);
        assert_eq!(same.since, start);
        let mut renewed = first.spec.clone();
        renewed.renew_time = Some(MicroTime(Timestamp::from_second(1).unwrap()));
        assert_eq!(Observed::next(Some(first), renewed, later).since, later);
    }

    #[test]
    fn records_tell_who_took_over_when() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let created = held(&LeaseSpec::default(), "a_1", DEFAULT, at(1));
        assert_eq!(created.lease_transitions, Some(0));
        assert_eq!(created.lease_duration_seconds, Some(10));
        let renewed = held(&created, "a_1", DEFAULT, at(3));
        assert_eq!(renewed.acquire_time, Some(MicroTime(at(1))));
        assert_eq!(renewed.renew_time, Some(MicroTime(at(3))));
        assert_eq!(renewed.lease_transitions, Some(0));
        let mut foreign = renewed;
        foreign.strategy = Some("OldestEmulationVersion".to_owned());
        let taken = held(&foreign, "b_1", DEFAULT, at(20));
        assert_eq!(taken.acquire_time, Some(MicroTime(at(20))));
        assert_eq!(taken.lease_transitions, Some(1));
        assert_eq!(taken.strategy, foreign.strategy, "what is not ours stays");
        let given_back = released(&taken, at(30));
        assert_eq!(given_back.holder_identity.as_deref(), Some(""));
        assert_eq!(given_back.lease_duration_seconds, Some(1));
        assert_eq!(given_back.lease_transitions, Some(1));
        assert_eq!(
            held(&given_back, "a_2", DEFAULT, at(31)).lease_transitions,
            Some(2)
        );
        let brief = held(&given_back, "a_2", Duration::from_millis(300), at(31));
        assert_eq!(brief.lease_duration_seconds, Some(1), "no Lease lasts 0 s");
    }
}
