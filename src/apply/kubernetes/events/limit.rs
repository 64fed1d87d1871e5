//! Which events are worth a request: not the same again, not more of one Service than anybody reads,
//! and all of them at a pace that no API server notices. Pure: the time is given.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::Notice;
use crate::model::service::ServiceKey;

/// The same is not told again within this time.
const REPEATED_WITHIN: Duration = Duration::from_secs(600);
/// What one Service may have at once, and how fast that comes back: as client-go's spam filter.
const SERVICE_BURST: f64 = 25.0;
const SERVICE_REFILL: Duration = Duration::from_secs(300);
/// What all may have at once, and how fast that comes back.
const BURST: f64 = 100.0;
const REFILL: Duration = Duration::from_millis(50);
/// How many are remembered: all Services of a large cluster, with a few reasons each.
const REMEMBERED: usize = 65_536;

/// What to do with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Send,
    /// It was told a while ago.
    Repeated,
    /// Its Service has had its share.
    TooMany,
}

/// A number of tokens that come back with time.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(size: f64, now: Instant) -> Self {
        Self {
            tokens: size,
            at: now,
        }
    }

    fn fill(&mut self, size: f64, refill: Duration, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.tokens = (self.tokens + passed.as_secs_f64() / refill.as_secs_f64()).min(size);
        self.at = now;
    }
}

/// What was told.
#[derive(Debug)]
pub(super) struct Limiter {
    /// By what they say, as a hash: when.
    told: HashMap<u64, Instant>,
    services: HashMap<ServiceKey, Bucket>,
    all: Bucket,
}

impl Limiter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            told: HashMap::new(),
            services: HashMap::new(),
            all: Bucket::full(BURST, now),
        }
    }

    /// Whether an event is worth a request; one that is counts as told.
    pub(super) fn judge(&mut self, notice: &Notice, now: Instant) -> Verdict {
        let mut hasher = DefaultHasher::new();
        (
            &notice.service,
            &notice.object.uid,
            notice.reason,
            &notice.note,
        )
            .hash(&mut hasher);
        let hash = hasher.finish();
        let recent = |told: &Instant| now.saturating_duration_since(*told) < REPEATED_WITHIN;
        if self.told.get(&hash).is_some_and(recent) {
            return Verdict::Repeated;
        }
        self.forget(now);
        let bucket = self
            .services
            .entry(notice.service.clone())
            .or_insert_with(|| Bucket::full(SERVICE_BURST, now));
        bucket.fill(SERVICE_BURST, SERVICE_REFILL, now);
        if bucket.tokens < 1.0 {
            return Verdict::TooMany;
        }
        bucket.tokens -= 1.0;
        self.told.insert(hash, now);
        Verdict::Send
    }

    /// Takes one of the requests that all share; how long to wait before it.
    pub(super) fn pace(&mut self, now: Instant) -> Duration {
        self.all.fill(BURST, REFILL, now);
        self.all.tokens -= 1.0;
        if self.all.tokens >= 0.0 {
            Duration::ZERO
        } else {
            REFILL.mul_f64(-self.all.tokens)
        }
    }

    /// What is too old goes when there is much of it; where that is not enough, all of it: better
    /// something twice than without end.
    fn forget(&mut self, now: Instant) {
        if self.told.len() >= REMEMBERED {
            self.told
                .retain(|_, told| now.saturating_duration_since(*told) < REPEATED_WITHIN);
            if self.told.len() >= REMEMBERED {
                self.told.clear();
            }
        }
        if self.services.len() >= REMEMBERED {
            self.services.retain(|_, bucket| {
                bucket.fill(SERVICE_BURST, SERVICE_REFILL, now);
                bucket.tokens < SERVICE_BURST
            });
            if self.services.len() >= REMEMBERED {
                self.services.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::EventReason;
    use super::*;
    use crate::model::service::ObjectIdentity;

    fn notice(name: &str, reason: EventReason, note: &str) -> Notice {
        let object = ObjectIdentity {
            uid: "u".to_owned(),
            version: "1".to_owned(),
        };
        Notice::new(&ServiceKey::new("shop", name), &object, reason, note)
    }

    #[test]
    fn the_same_is_told_once_in_ten_minutes() {
        use EventReason::{AllocationFailed, IPAllocated};
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        for (seconds, name, reason, note, expected) in [
            (0, "web", IPAllocated, "a", Verdict::Send),
            (1, "web", IPAllocated, "a", Verdict::Repeated),
            (2, "web", IPAllocated, "b", Verdict::Send),
            (3, "web", AllocationFailed, "a", Verdict::Send),
            (4, "mail", IPAllocated, "a", Verdict::Send),
            (599, "web", IPAllocated, "a", Verdict::Repeated),
            (600, "web", IPAllocated, "a", Verdict::Send),
            (601, "web", IPAllocated, "a", Verdict::Repeated),
        ] {
            let verdict = limiter.judge(
                &notice(name, reason, note),
                start + Duration::from_secs(seconds),
            );
            assert_eq!(verdict, expected, "{seconds} {name} {reason} {note}");
        }
        let mut recreated = notice("web", IPAllocated, "b");
        recreated.object.uid = "another".to_owned();
        let at = start + Duration::from_secs(5);
        assert_eq!(limiter.judge(&recreated, at), Verdict::Send);
    }

    #[test]
    fn one_service_has_its_share_and_the_others_theirs() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let mut tell = |name: &str, number: u32, seconds: u64| {
            let note = number.to_string();
            let at = start + Duration::from_secs(seconds);
            limiter.judge(&notice(name, EventReason::IPConflict, &note), at)
        };
        let sent = (0..30).filter(|number| tell("web", *number, 0) == Verdict::Send);
        assert_eq!(sent.count(), 25);
        assert_eq!(tell("web", 40, 1), Verdict::TooMany);
        assert_eq!(tell("mail", 40, 1), Verdict::Send);
        assert_eq!(tell("web", 40, 299), Verdict::TooMany);
        assert_eq!(
            tell("web", 40, 301),
            Verdict::Send,
            "it was not told before"
        );
        assert_eq!(tell("web", 41, 302), Verdict::TooMany);
    }

    #[test]
    fn all_together_keep_a_pace() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let waits: Vec<Duration> = (0..103).map(|_| limiter.pace(start)).collect();
        assert!(waits.iter().take(100).all(Duration::is_zero));
        let late: Vec<u128> = waits.iter().skip(100).map(Duration::as_millis).collect();
        assert_eq!(late, [50, 100, 150]);
        // After a while in silence the whole burst is there again, and no more.
        let later = start + Duration::from_secs(3600);
        let waits = (0..101).filter(|_| limiter.pace(later).is_zero());
        assert_eq!(waits.count(), 100);
    }

    #[test]
    fn memory_has_an_end() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        for number in 0..REMEMBERED + 10 {
            limiter.judge(
                &notice(&number.to_string(), EventReason::IPAllocated, ""),
                start,
            );
        }
        assert!(limiter.told.len() <= REMEMBERED && limiter.services.len() <= REMEMBERED);
        let first = notice("1", EventReason::IPAllocated, "");
        assert_eq!(limiter.judge(&first, start), Verdict::Send, "twice");
    }
}
