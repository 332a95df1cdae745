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
use super::seconds::{second_of, whole_seconds};
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
    buckets: Box<[Bucket]>,
    latest: u64,
    total: Bucket,
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

impl Bucket {
    fn take(&mut self, other: Self) {
        self.requests -= other.requests;
        self.accepts -= other.accepts;
        self.failures -= other.failures;
        self.slow -= other.slow;
    }
}

impl Adaptive {
    pub(super) fn new(settings: AdaptiveSettings, now: Tick) -> Self {
        let buckets = vec![Bucket::default(); whole_seconds(settings.window) as usize].into_boxed_slice();
        Self { settings, buckets, latest: second_of(now), total: Bucket::default(), streak: 0, last_sent: None }
    }

    #[expect(clippy::cast_possible_truncation, reason = "less than the number of buckets, which is a usize")]
    fn place(&self, second: u64) -> usize {
        (second % self.buckets.len() as u64) as usize
    }

    fn move_to(&mut self, second: u64) {
        let gone = second.saturating_sub(self.latest);
        for step in 1..=gone.min(self.buckets.len() as u64) {
            let place = self.place(self.latest.saturating_add(step));
            let bucket = std::mem::take(&mut self.buckets[place]);
            self.total.take(bucket);
        }
        self.latest = self.latest.max(second);
    }

    fn total_at(&self, now: Tick) -> Bucket {
        let mut total = self.total;
        let gone = second_of(now).saturating_sub(self.latest);
        for step in 1..=gone.min(self.buckets.len() as u64) {
            total.take(self.buckets[self.place(self.latest.saturating_add(step))]);
        }
        total
    }

    /// Changes the present second's figures, and the window's with them.
    fn note(&mut self, now: Tick, change: impl Fn(&mut Bucket)) {
        self.move_to(second_of(now));
        let place = self.place(self.latest);
        change(&mut self.buckets[place]);
        change(&mut self.total);
    }

    /// The seconds, latest first, in which a call that is out has been so for less than `patience`.
    fn young_seconds(&self) -> impl Iterator<Item = u64> + use<> {
        let patience = self.settings.patience.as_secs().min(self.buckets.len() as u64).min(self.latest.saturating_add(1));
        let latest = self.latest;
        (0..patience).map(move |back| latest - back)
    }

    /// Calls that are out and of which nothing can be said yet.
    fn young(&self) -> u64 {
        self.young_seconds().map(|second| self.buckets[self.place(second)].out).sum()
    }

    /// Notes that a call is no longer out that began at `began`.
    fn back(&mut self, began: Tick) {
        let second = second_of(began);
        if self.latest.saturating_sub(second) < self.buckets.len() as u64 {
            let place = self.place(second);
            self.buckets[place].out = self.buckets[place].out.saturating_sub(1);
        }
    }

    /// The probability of a refusal.
    #[expect(clippy::cast_precision_loss, reason = "of figures beyond 2^53 the ratio is as good")]
    fn refusal_share(&self) -> f64 {
        let (requests, accepts) = (self.total.requests as f64, self.total.accepts as f64);
        let unanswered = self.total.requests.saturating_sub(self.young()) as f64 - self.settings.multiplier.max(1.0) * accepts;
        (unanswered / (requests + 1.0)).max(0.0)
    }
}

impl Policy for Adaptive {
    fn record(&mut self, verdict: Verdict, took: Duration, now: Tick) -> bool {
        let slow = u64::from(took > self.settings.slow_call_duration || verdict == Verdict::Slow);
        if verdict != Verdict::Ignored {
            self.move_to(second_of(now));
            self.back(began(took, now));
        }
        match verdict {
            Verdict::Success | Verdict::Slow => {
                self.streak = 0;
                self.note(now, |bucket| {
                    bucket.accepts += 1;
                    bucket.slow += slow;
                });
            }
            Verdict::Failure { .. } => {
                self.streak = self.streak.saturating_add(1);
                self.note(now, |bucket| {
                    bucket.failures += 1;
                    bucket.slow += slow;
                });
            }
            Verdict::Ignored => self.forget(began(took, now), now),
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
        let second = Tick(self.latest.saturating_mul(1_000));
        self.note(second, |bucket| bucket.accepts += u64::from(successes));
    }

    fn reset(&mut self, now: Tick) {
        *self = Self::new(self.settings, now);
    }

    /// Calls are those that wanted to go, refused ones included.
    fn counts(&self, now: Tick) -> Counts {
        let total = self.total_at(now);
        Counts { calls: total.requests, failures: total.failures, slow: total.slow, consecutive_failures: self.streak }
    }

    /// Calls are those that ended: of a refused one nobody knows how it would have.
    fn verdicts(&self, now: Tick) -> Counts {
        let total = self.total_at(now);
        Counts { calls: total.accepts + total.failures, failures: total.failures, slow: total.slow, consecutive_failures: self.streak }
    }

    fn retune(&mut self, settings: &PolicySettings, now: Tick) -> bool {
        let PolicySettings::Adaptive(settings) = settings else { return false };
        self.move_to(second_of(now));
        let mut other = Self::new(*settings, now);
        other.latest = self.latest;
        let kept = (self.buckets.len().min(other.buckets.len()) as u64).min(self.latest.saturating_add(1));
        for second in (0..kept).map(|back| self.latest - back) {
            let bucket = self.buckets[self.place(second)];
            let place = other.place(second);
            other.buckets[place] = bucket;
            other.total.requests += bucket.requests;
            other.total.accepts += bucket.accepts;
            other.total.failures += bucket.failures;
            other.total.slow += bucket.slow;
        }
        (other.streak, other.last_sent) = (self.streak, self.last_sent);
        *self = other;
        true
    }

    fn inherit(&mut self, counts: Counts, now: Tick) {
        self.reset(now);
        self.streak = counts.consecutive_failures;
        // More than so many say nothing more, and might be too many to count on from.
        let Counts { calls, failures, slow, .. } = counts.cut_to(u32::MAX.into());
        self.note(now, |bucket| *bucket = Bucket { requests: calls, accepts: calls - failures, failures, slow, out: 0 });
    }

    fn weighs_admissions(&self) -> bool {
        true
    }

    fn admit(&mut self, now: Tick, roll: &mut dyn FnMut() -> f64) -> bool {
        self.move_to(second_of(now));
        let share = self.refusal_share();
        let trickles = self.last_sent.is_none_or(|last| now.since(last) >= self.settings.trickle);
        self.note(now, |bucket| bucket.requests += 1);
        share <= 0.0 || roll() >= share || trickles
    }

    /// Only now: a call that another policy refuses is nobody's trickle.
    fn send(&mut self, now: Tick) {
        self.last_sent = Some(now);
        self.move_to(second_of(now));
        let place = self.place(self.latest);
        self.buckets[place].out += 1;
    }

    fn forget(&mut self, began: Tick, now: Tick) {
        self.move_to(second_of(now));
        self.back(began);
        let second = second_of(began);
        // Out of the window it is forgotten already.
        if self.latest.saturating_sub(second) < self.buckets.len() as u64 {
            let place = self.place(second);
            let known = self.buckets[place].requests.min(1);
            self.buckets[place].requests -= known;
            self.total.requests -= known;
        }
    }
}
