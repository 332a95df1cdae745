//! `adaptive`: refuses a share of the calls instead of opening: as many as the service would not have answered. Client-side throttling as
//! Google's "Site Reliability Engineering" describes it (chapter 21, "Handling Overload"): a call is refused with the probability
//! `max(0, (requests - multiplier × accepts) / (requests + 1))`, where requests are the calls that wanted to go, refused ones included,
//! and accepts those that the service answered.
//!
//! A call counts from when it begins, so a service that hangs is spared before the first timeout: one that is out for `patience` counts as
//! not answered until it is. Until then it counts for nothing, or a burst of calls to a service that works would refuse itself. A call a
//! `trickle` is let through whatever the figures say: without one nobody would know that the service is back.

use std::time::Duration;

use super::policy::{Counts, Policy, Slack};
use super::sliding::{Sliding, Total, second_of, whole_seconds};
use super::{PolicySettings, Verdict, began};
use crate::machine::time::Tick;

/// What `adaptive` is told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaptiveSettings {
    /// What its figures are over: whole seconds, from 1.
    pub window: Duration,
    /// How many calls are sent for each that is answered before any is refused; from 1.
    pub multiplier: f64,
    /// The longest without a call that is let through.
    pub trickle: Duration,
    /// How long a call may be out before it counts as not answered: whole seconds, up to the window, give or take one; zero: at once.
    pub patience: Duration,
    /// What took longer than this was slow: for people, no call is refused for it.
    pub slow_call_duration: Duration,
}

#[derive(Debug)]
pub(super) struct Adaptive {
    settings: AdaptiveSettings,
    window: Sliding<Bucket>,
    streak: u64,
    last_sent: Option<Tick>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    requests: u64,
    accepts: u64,
    failures: u64,
    slow: u64,
    /// Calls that began in this second and are out. Not in the total.
    out: u64,
}

impl Total for Bucket {
    type Bucket = Self;

    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.accepts += other.accepts;
        self.failures += other.failures;
        self.slow += other.slow;
    }

    fn take(&mut self, other: Self) {
        self.requests -= other.requests;
        self.accepts -= other.accepts;
        self.failures -= other.failures;
        self.slow -= other.slow;
    }
}

impl Adaptive {
    pub(super) fn new(settings: AdaptiveSettings, now: Tick) -> Self {
        Self { settings, window: Sliding::new(whole_seconds(settings.window), now), streak: 0, last_sent: None }
    }

    /// Adds to the present second's figures, and to the window's.
    fn note(&mut self, now: Tick, more: Bucket) {
        self.window.move_to(second_of(now));
        self.window.present().add(more);
        self.window.total_mut().add(more);
    }

    /// Calls that have been out for less than `patience`, of which nothing can be said yet.
    fn young(&self) -> u64 {
        self.window.back(self.settings.patience.as_secs()).map(|bucket| bucket.out).sum()
    }

    /// Notes that a call is no longer out that began at `began`.
    fn back(&mut self, began: Tick, now: Tick) {
        self.window.move_to(second_of(now));
        if let Some(bucket) = self.window.bucket(second_of(began)) {
            bucket.out = bucket.out.saturating_sub(1);
        }
    }

    /// The probability of a refusal.
    #[expect(clippy::cast_precision_loss, reason = "of figures beyond 2^53 the ratio is as good")]
    fn refusal_share(&self) -> f64 {
        let total = self.window.total();
        let (requests, accepts) = (total.requests as f64, total.accepts as f64);
        let unanswered = total.requests.saturating_sub(self.young()) as f64 - self.settings.multiplier.max(1.0) * accepts;
        (unanswered / (requests + 1.0)).max(0.0)
    }
}

impl Policy for Adaptive {
    fn record(&mut self, verdict: Verdict, took: Duration, now: Tick) -> bool {
        let slow = u64::from(took > self.settings.slow_call_duration || verdict == Verdict::Slow);
        let began = began(took, now);
        if verdict == Verdict::Ignored {
            self.forget(began, now);
            return false;
        }
        self.back(began, now);
        if matches!(verdict, Verdict::Failure { .. }) {
            self.streak = self.streak.saturating_add(1);
            self.note(now, Bucket { failures: 1, slow, ..Bucket::default() });
        } else {
            self.streak = 0;
            self.note(now, Bucket { accepts: 1, slow, ..Bucket::default() });
        }
        false
    }

    fn weigh(&mut self, _now: Tick) -> bool {
        false
    }

    fn slack(&self) -> Slack {
        Slack::None
    }

    fn absorb(&mut self, successes: u32) {
        let second = Tick(self.window.latest().saturating_mul(1_000));
        self.note(second, Bucket { accepts: successes.into(), ..Bucket::default() });
    }

    fn reset(&mut self, now: Tick) {
        *self = Self::new(self.settings, now);
    }

    /// Calls are those that wanted to go, refused ones included.
    fn counts(&self, now: Tick) -> Counts {
        let total = self.window.total_at(now);
        Counts { calls: total.requests, failures: total.failures, slow: total.slow, consecutive_failures: self.streak }
    }

    /// Calls are those that ended: of a refused one nobody knows how it would have.
    fn verdicts(&self, now: Tick) -> Counts {
        let total = self.window.total_at(now);
        Counts { calls: total.accepts + total.failures, failures: total.failures, slow: total.slow, consecutive_failures: self.streak }
    }

    fn retune(&mut self, settings: &PolicySettings, now: Tick) -> bool {
        let PolicySettings::Adaptive(settings) = settings else { return false };
        self.window.resize(whole_seconds(settings.window), now);
        self.settings = *settings;
        true
    }

    fn inherit(&mut self, counts: Counts, now: Tick) {
        self.reset(now);
        self.streak = counts.consecutive_failures;
        // More than so many say nothing more, and might be too many to count on from.
        let Counts { calls, failures, slow, .. } = counts.cut_to(u32::MAX.into());
        self.note(now, Bucket { requests: calls, accepts: calls - failures, failures, slow, out: 0 });
    }

    fn weighs_admissions(&self) -> bool {
        true
    }

    fn admit(&mut self, now: Tick, roll: &mut dyn FnMut() -> f64) -> bool {
        self.window.move_to(second_of(now));
        let share = self.refusal_share();
        let trickles = self.last_sent.is_none_or(|last| now.since(last) >= self.settings.trickle);
        self.note(now, Bucket { requests: 1, ..Bucket::default() });
        share <= 0.0 || roll() >= share || trickles
    }

    /// Only now: a call that another policy refuses is nobody's trickle.
    fn send(&mut self, now: Tick) {
        self.last_sent = Some(now);
        self.window.move_to(second_of(now));
        self.window.present().out += 1;
    }

    fn forget(&mut self, began: Tick, now: Tick) {
        self.back(began, now);
        // Out of the window it is forgotten already.
        if let Some(bucket) = self.window.bucket(second_of(began)) {
            let known = bucket.requests.min(1);
            bucket.requests -= known;
            self.window.total_mut().requests -= known;
        }
    }
}
