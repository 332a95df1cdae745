//! `any`: several policies over the same calls; opens when one of them would, and refuses what one of them refuses.

use std::time::Duration;

use super::policy::{self, Counts, Policy, Slack};
use super::{PolicySettings, Verdict};
use crate::machine::time::Tick;

#[derive(Debug)]
pub(super) struct Any(Box<[Box<dyn Policy>]>);

impl Any {
    pub(super) fn new(policies: &[PolicySettings], now: Tick) -> Self {
        Self(policies.iter().map(|settings| policy::build(settings, now)).collect())
    }
}

/// The figures with most calls, the first of several, with the longest streak of all.
fn most(figures: impl Iterator<Item = Counts>) -> Counts {
    figures.fold(Counts::default(), |most, counts| {
        let streak = most.consecutive_failures.max(counts.consecutive_failures);
        Counts { consecutive_failures: streak, ..if counts.calls > most.calls { counts } else { most } }
    })
}

impl Policy for Any {
    fn record(&mut self, verdict: Verdict, took: Duration, now: Tick) -> bool {
        // Counted, so that each is told, whatever the one before says.
        self.0.iter_mut().filter_map(|policy| policy.record(verdict, took, now).then_some(())).count() > 0
    }

    fn weigh(&mut self, now: Tick) -> bool {
        self.0.iter_mut().filter_map(|policy| policy.weigh(now).then_some(())).count() > 0
    }

    fn slack(&self) -> Slack {
        self.0.iter().fold(Slack::Endless, |slack, policy| slack.and(policy.slack()))
    }

    fn quick(&self) -> Duration {
        self.0.iter().map(|policy| policy.quick()).min().unwrap_or(Duration::MAX)
    }

    fn absorb(&mut self, successes: u32) {
        self.0.iter_mut().for_each(|policy| policy.absorb(successes));
    }

    fn reset(&mut self, now: Tick) {
        self.0.iter_mut().for_each(|policy| policy.reset(now));
    }

    /// Those of the policy that knows of most calls, the first of several, with the longest streak that one of them knows.
    fn counts(&self, now: Tick) -> Counts {
        most(self.0.iter().map(|policy| policy.counts(now)))
    }

    fn verdicts(&self, now: Tick) -> Counts {
        most(self.0.iter().map(|policy| policy.verdicts(now)))
    }

    fn figures(&self, now: Tick) -> Vec<Counts> {
        self.0.iter().map(|policy| policy.verdicts(now)).collect()
    }

    /// Each weighs the sum of its own kind.
    fn exceeded_by(&self, fleet: &[Counts]) -> bool {
        self.0.iter().zip(fleet).any(|(policy, counts)| policy.exceeded_by(std::slice::from_ref(counts)))
    }

    /// Each policy goes on as the one of its own kind at its place did; one that is new begins with the figures of all.
    fn retune(&mut self, settings: &PolicySettings, now: Tick) -> bool {
        let PolicySettings::Any(settings) = settings else { return false };
        let verdicts = self.verdicts(now);
        let mut known = std::mem::take(&mut self.0).into_vec().into_iter();
        self.0 = settings
            .iter()
            .map(|settings| {
                if let Some(mut policy) = known.next()
                    && policy.retune(settings, now)
                {
                    return policy;
                }
                let mut policy = policy::build(settings, now);
                policy.inherit(verdicts, now);
                policy
            })
            .collect();
        true
    }

    fn inherit(&mut self, counts: Counts, now: Tick) {
        self.0.iter_mut().for_each(|policy| policy.inherit(counts, now));
    }

    fn weighs_admissions(&self) -> bool {
        self.0.iter().any(|policy| policy.weighs_admissions())
    }

    fn admit(&mut self, now: Tick, roll: &mut dyn FnMut() -> f64) -> bool {
        self.0.iter_mut().filter_map(|policy| (!policy.admit(now, roll)).then_some(())).count() == 0
    }

    fn send(&mut self, now: Tick) {
        self.0.iter_mut().for_each(|policy| policy.send(now));
    }

    fn forget(&mut self, began: Tick, now: Tick) {
        self.0.iter_mut().for_each(|policy| policy.forget(began, now));
    }
}
