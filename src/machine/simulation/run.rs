//! Recorded calls through a breaker that was not there, and how well it would have done.
//!
//! A call that the breaker admits ends as it was recorded to; one that it refuses is not made, and says nothing. So the service is taken to be
//! as it was whether it was called or not.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use super::run_out;
use super::truth::{Call, Period};
use crate::machine::breaker::{Breaker, Permit, Settings, StateName};
use crate::machine::time::Tick;

/// What a breaker would have done.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The states it would have been in, each from a time on; the first is `closed`.
    pub states: Vec<(Tick, StateName)>,
    /// When it would have refused.
    pub refusals: Vec<Tick>,
    /// How well that is.
    pub score: Score,
}

/// How well a breaker would have done.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Score {
    /// Calls in the trace.
    pub calls: u64,
    /// Of these, admitted.
    pub admitted: u64,
    /// Of the admitted, probes.
    pub probes: u64,
    /// Calls refused while the service was well.
    pub refused_while_healthy: u64,
    /// Calls refused while it was bad.
    pub refused_while_bad: u64,
    /// Calls admitted that failed.
    pub bad_admitted: u64,
    /// Times it opened.
    pub trips: u64,
    /// Bad periods.
    pub bad_periods: u64,
    /// Of these, those in which it refused nothing.
    pub missed: u64,
    /// From the beginning of a bad period to the first refusal in it, the mean over those not missed; seconds.
    pub mean_time_to_detect: Option<f64>,
    /// The longest of these; seconds.
    pub longest_time_to_detect: Option<f64>,
    /// From the end of a bad period that was not missed to the last refusal before calls came for a while, or until the next one, and none
    /// was refused, the mean; seconds.
    pub mean_time_to_recover: Option<f64>,
    /// The longest of these; seconds.
    pub longest_time_to_recover: Option<f64>,
}

/// What each thing that a breaker does wrong costs, for one figure to compare by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// A call refused while the service was well.
    pub refused_while_healthy: f64,
    /// A call admitted that failed.
    pub bad_admitted: f64,
    /// A second of the mean time to detect.
    pub detect_second: f64,
    /// A second of the mean time to recover.
    pub recover_second: f64,
}

impl Default for Cost {
    fn default() -> Self {
        Self { refused_while_healthy: 1.0, bad_admitted: 1.0, detect_second: 0.0, recover_second: 0.0 }
    }
}

impl Cost {
    /// The cost of what a breaker would have done.
    #[expect(clippy::cast_precision_loss, reason = "a figure to compare by")]
    pub fn of(&self, score: &Score) -> f64 {
        self.refused_while_healthy * score.refused_while_healthy as f64
            + self.bad_admitted * score.bad_admitted as f64
            + self.detect_second * score.mean_time_to_detect.unwrap_or(0.0)
            + self.recover_second * score.mean_time_to_recover.unwrap_or(0.0)
    }
}

/// A call that is out, by when it ends and in which order it began.
struct Out<'c> {
    call: &'c Call,
    permit: Permit,
    number: usize,
}

impl Out<'_> {
    fn key(&self) -> (Tick, usize) {
        (self.call.ended(), self.number)
    }
}

impl PartialEq for Out<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Out<'_> {}

impl PartialOrd for Out<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Out<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// A breaker on its way through a trace.
struct Course<'c, R> {
    breaker: Breaker,
    out: BinaryHeap<Reverse<Out<'c>>>,
    states: Vec<(Tick, StateName)>,
    roll: R,
}

impl<'c, R: FnMut() -> f64> Course<'c, R> {
    /// Asks for a call, after whatever ended or ran out before it; whether it goes, and then whether as a probe.
    fn ask(&mut self, number: usize, call: &'c Call) -> Option<bool> {
        self.end(call.at);
        self.run_out(call.at);
        let (answer, _) = self.breaker.admit(call.at, &mut self.roll);
        note(&mut self.states, call.at, self.breaker.state_name());
        let permit = answer.ok()?;
        let probe = permit.is_probe();
        self.out.push(Reverse(Out { call, permit, number }));
        Some(probe)
    }

    /// Ends the calls that ended by `now`.
    fn end(&mut self, now: Tick) {
        while self.out.peek().is_some_and(|next| next.0.call.ended() <= now)
            && let Some(Reverse(Out { call, permit, .. })) = self.out.pop()
        {
            self.run_out(call.ended());
            self.breaker.settle(permit, call.verdict, call.took, call.ended(), &mut self.roll);
            note(&mut self.states, call.ended(), self.breaker.state_name());
        }
    }

    /// Leaves at their times the states that run out by `now`.
    fn run_out(&mut self, now: Tick) {
        run_out(&mut self.breaker, now, |_| true, |at, state| note(&mut self.states, at, state));
    }
}

/// Notes the state that a breaker is in from then on, if it is another one.
fn note(states: &mut Vec<(Tick, StateName)>, at: Tick, state: StateName) {
    if states.last().is_none_or(|(_, last)| *last != state) {
        states.push((at, state));
    }
}

/// Runs these calls, sorted by when they began, through a new breaker; `bad` are the periods in which the service was really bad, in order. It
/// has recovered from one when calls come for as long as `calm` and none is refused. `roll` gives numbers in `[0, 1)`.
pub fn run(settings: &Arc<Settings>, calls: &[Call], bad: &[Period], calm: Duration, roll: impl FnMut() -> f64) -> Run {
    let begin = calls.first().map(|call| call.at).unwrap_or_default();
    let breaker = Breaker::new(Arc::clone(settings), begin);
    let mut course = Course { breaker, out: BinaryHeap::new(), states: vec![(begin, StateName::Closed)], roll };
    let mut refusals = Vec::new();
    let mut score = Score { calls: calls.len() as u64, bad_periods: bad.len() as u64, ..Score::default() };
    let mut ahead = bad;
    for (number, call) in calls.iter().enumerate() {
        while ahead.first().is_some_and(|period| period.to <= call.at) {
            ahead = &ahead[1..];
        }
        match course.ask(number, call) {
            Some(probe) => {
                score.admitted += 1;
                score.probes += u64::from(probe);
                score.bad_admitted += u64::from(call.failed());
            }
            None => {
                refusals.push(call.at);
                if ahead.first().is_some_and(|period| period.from <= call.at) {
                    score.refused_while_bad += 1;
                } else {
                    score.refused_while_healthy += 1;
                }
            }
        }
    }
    course.end(Tick::NEVER);
    let states = course.states;
    score.trips = states.windows(2).filter(|pair| pair[1].1 == StateName::Open).count() as u64;
    times(&mut score, calls, &refusals, bad, calm);
    Run { states, refusals, score }
}

/// How soon the bad periods were noticed, and how soon it was noticed that they were over.
fn times(score: &mut Score, calls: &[Call], refusals: &[Tick], bad: &[Period], calm: Duration) {
    let (mut detect, mut recover) = (Vec::new(), Vec::new());
    for (place, period) in bad.iter().enumerate() {
        let next = bad.get(place + 1).map_or(Tick::NEVER, |next| next.from);
        let first = refusals.partition_point(|at| *at < period.from);
        match refusals.get(first) {
            Some(at) if *at < period.to => {
                detect.push(at.since(period.from));
                let from = first + refusals[first..].partition_point(|at| *at < period.to);
                let to = from + refusals[from..].partition_point(|at| *at < next);
                recover.push(last_before_calm(period.to, calls, &refusals[from..to], calm).since(period.to));
            }
            _ => score.missed += 1,
        }
    }
    (score.mean_time_to_detect, score.longest_time_to_detect) = mean_and_longest(&detect);
    (score.mean_time_to_recover, score.longest_time_to_recover) = mean_and_longest(&recover);
}

/// The last of these refusals, all from `end` on, before calls came for as long as `calm` and none was refused; `end` if there is none.
fn last_before_calm(end: Tick, calls: &[Call], refusals: &[Tick], calm: Duration) -> Tick {
    let mut last = end;
    let mut next = calls.partition_point(|call| call.at < end);
    for at in refusals {
        // Counted from the first call that was admitted: before it, that nothing is refused says nothing.
        if calls.get(next).is_some_and(|call| at.since(call.at) >= calm) {
            break;
        }
        last = *at;
        next = calls.partition_point(|call| call.at <= last);
    }
    last
}

#[expect(clippy::cast_precision_loss, reason = "a mean of seconds")]
fn mean_and_longest(times: &[Duration]) -> (Option<f64>, Option<f64>) {
    let longest = times.iter().max().map(Duration::as_secs_f64);
    (longest.map(|_| times.iter().sum::<Duration>().as_secs_f64() / times.len() as f64), longest)
}

#[cfg(test)]
mod tests {
    use super::super::truth::{Rule, bad_periods};
    use super::*;
    use crate::machine::breaker::{PolicySettings, Verdict};
    use proptest::prelude::*;

    const RULE: Rule = Rule { slot: Duration::from_secs(5), share: 0.5 };

    fn settings(fail_max: u32, recovery: u64) -> Arc<Settings> {
        let policy = PolicySettings::Consecutive { fail_max: fail_max.try_into().expect("is not zero") };
        Arc::new(Settings::new(policy, Duration::from_secs(recovery), Duration::from_secs(31)))
    }

    /// Ten calls a second, 50 ms each; they fail from `from` until `to`, milliseconds.
    fn outage(from: u64, to: u64, end: u64) -> Vec<Call> {
        let call = |at: u64| {
            let verdict = if (from..to).contains(&at) { Verdict::Failure { retry_after: None } } else { Verdict::Success };
            Call { at: Tick(at), took: Duration::from_millis(50), verdict }
        };
        (0..end / 100).map(|number| call(number * 100)).collect()
    }

    #[test]
    fn an_outage_as_it_would_have_gone() {
        let calls = outage(10_000, 40_000, 60_000);
        let bad = bad_periods(&calls, RULE);
        assert_eq!(bad, [Period { from: Tick(10_050), to: Tick(40_000) }]);
        let run = run(&settings(5, 8), &calls, &bad, RULE.slot, || 0.0);
        // Five failures, the last at 10.45 s; probes at 18.45, 26.5 and 34.6 s fail, and the one after that succeeds.
        let opened: Vec<u64> = run.states.iter().filter(|(_, state)| *state == StateName::Open).map(|(at, _)| at.0).collect();
        assert_eq!(opened, [10_450, 18_550, 26_650, 34_750]);
        assert_eq!(run.states.last(), Some(&(Tick(42_850), StateName::Closed)));
        let score = &run.score;
        assert_eq!((score.calls, score.trips, score.probes, score.bad_admitted), (600, 4, 4, 8));
        assert_eq!((score.refused_while_healthy, score.refused_while_bad), (28, 292));
        assert_eq!(score.admitted + score.refused_while_bad + score.refused_while_healthy, score.calls);
        assert_eq!((score.mean_time_to_detect, score.mean_time_to_recover), (Some(0.45), Some(2.7)));
        assert!((Cost::default().of(score) - 36.0).abs() < 1e-9);
    }

    #[test]
    fn it_has_recovered_when_calls_come_and_none_is_refused() {
        let blip = |at: u64| Call { at: Tick(at), took: Duration::from_millis(50), verdict: Verdict::Failure { retry_after: None } };
        let cases: [(&str, Vec<Call>, f64); 3] = [
            // It trips again an hour later, over five failing calls that make no slot bad.
            (
                "another trip",
                outage(10_000, 40_000, 4_000_000)
                    .into_iter()
                    .map(|call| if (3_600_000..3_600_500).contains(&call.at.0) { blip(call.at.0) } else { call })
                    .collect(),
                2.7,
            ),
            // The first one after the end is admitted, fails, and for all that it is not over.
            (
                "a pause of less than a slot",
                outage(10_000, 40_000, 60_000)
                    .into_iter()
                    .map(|call| if (42_900..43_400).contains(&call.at.0) { blip(call.at.0) } else { call })
                    .collect(),
                11.3,
            ),
            // Nobody calls for a while, so nothing is refused, and it is open all the same.
            ("a silence", outage(10_000, 40_000, 60_000).into_iter().filter(|call| !(34_800..42_000).contains(&call.at.0)).collect(), 0.7),
        ];
        for (what, calls, expected) in cases {
            let bad = bad_periods(&calls, RULE);
            let score = run(&settings(5, 8), &calls, &bad, RULE.slot, || 0.0).score;
            assert_eq!((score.bad_periods, score.longest_time_to_recover), (1, Some(expected)), "{what}");
        }
    }

    #[test]
    fn a_breaker_that_never_opens_misses_all() {
        let calls = outage(10_000, 20_000, 30_000);
        let bad = bad_periods(&calls, RULE);
        let score = run(&settings(u32::MAX, 8), &calls, &bad, RULE.slot, || 0.0).score;
        assert_eq!((score.missed, score.bad_admitted, score.trips, score.admitted), (1, 100, 0, 300));
        assert_eq!((score.mean_time_to_detect, score.mean_time_to_recover), (None, None));
    }

    proptest! {
        #[test]
        fn figures_add_up(steps in prop::collection::vec((0u64..400, 0u64..20_000, 0u8..4), 0..300), fail_max in 1u32..5) {
            let mut now = 1_000_000;
            let calls: Vec<Call> = steps.into_iter().map(|(step, took, verdict)| {
                now += step;
                let verdict = match verdict { 0 => Verdict::Success, 1 => Verdict::Ignored, _ => Verdict::Failure { retry_after: None } };
                Call { at: Tick(now), took: Duration::from_millis(took), verdict }
            }).collect();
            let bad = bad_periods(&calls, RULE);
            let once = run(&settings(fail_max, 2), &calls, &bad, RULE.slot, || 0.0);
            let score = &once.score;
            prop_assert_eq!(score.admitted + score.refused_while_bad + score.refused_while_healthy, score.calls);
            prop_assert_eq!(once.refusals.len() as u64, score.calls - score.admitted);
            let within = once.refusals.iter().filter(|at| bad.iter().any(|period| period.from <= **at && **at < period.to)).count();
            prop_assert_eq!(score.refused_while_bad, within as u64);
            prop_assert!(score.missed <= score.bad_periods);
            prop_assert!(once.states.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 != pair[1].1));
            prop_assert!(bad.windows(2).all(|pair| pair[0].to <= pair[1].from));
            prop_assert_eq!(&run(&settings(fail_max, 2), &calls, &bad, RULE.slot, || 0.0), &once);
        }
    }
}
