//! Random lives whose settings change: to the same ones, which nobody must notice, and to others, which must lose nothing.

use proptest::prelude::*;
use proptest::sample::Index;

use super::properties::{Op, any_policy, any_settings, any_steps};
use super::*;

/// Those of the other properties, and throttles.
fn settings_with_throttles() -> impl Strategy<Value = Settings> {
    let throttle = || (1u64..4, prop::sample::select(vec![1.0, 2.0, f64::INFINITY]), 0u64..900).prop_map(|(s, k, ms)| adaptive(s, k, ms));
    let beside = (any_policy(), throttle()).prop_map(|(policy, throttle)| PolicySettings::Any(vec![policy, throttle]));
    let policy = prop_oneof![6 => Just(None), 2 => throttle().prop_map(Some), 1 => beside.prop_map(Some)];
    (any_settings(), policy).prop_map(|(settings, policy)| match policy {
        Some(policy) => Settings { policy, ..settings },
        None => settings,
    })
}

struct Subject {
    breaker: Breaker,
    out: Vec<Permit>,
}

impl Subject {
    fn new(settings: &Settings) -> Self {
        Self { breaker: Breaker::new(settings.clone(), Tick(0)), out: Vec::new() }
    }

    /// Does it, and tells what came of it.
    fn take(&mut self, op: &Op, now: Tick) -> String {
        let roll = || 0.5;
        let pick = |out: &mut Vec<Permit>, index: &Index| (!out.is_empty()).then(|| out.swap_remove(index.index(out.len())));
        match op {
            Op::Admit => {
                let (answer, transition) = self.breaker.admit(now, roll);
                let told = format!("{answer:?} {transition:?}");
                self.out.extend(answer);
                told
            }
            Op::Settle(index, verdict, took) => {
                let Some(permit) = pick(&mut self.out, index) else { return String::new() };
                format!("{:?}", self.breaker.settle(permit, *verdict, *took, now, roll))
            }
            Op::Abandon(index) => {
                pick(&mut self.out, index).into_iter().for_each(|permit| self.breaker.abandon(permit, now));
                String::new()
            }
            Op::Advance => format!("{:?} {}", self.breaker.advance(now), self.breaker.give_up(now)),
            Op::Lock(lock) => format!("{:?}", self.breaker.lock(lock.clone(), now)),
            Op::Release => format!("{:?}", self.breaker.release("ann", "drill", now)),
            Op::Reset(state) => format!("{:?}", self.breaker.reset_to(*state, "ann", "drill", now, roll)),
            Op::Hear(ahead, held, trips, yields) => {
                let generation = Generation(self.breaker.generation().0.saturating_add_signed((*ahead).into()));
                let heard = Snapshot { generation, held: held.clone(), trips: *trips, since: Tick(now.0 / 2) };
                let change = if *yields { self.breaker.yield_to(&heard, now) } else { self.breaker.adopt(&heard, Cause::Adopted, now) };
                format!("{change:?}")
            }
        }
    }

    /// Everything of it that can be seen.
    fn view(&self, now: Tick) -> impl PartialEq + std::fmt::Debug {
        let Self { breaker, .. } = self;
        let ends = (breaker.next_deadline(), breaker.refuses_until());
        (
            breaker.snapshot(),
            breaker.counts(now),
            breaker.probes_in_flight(now),
            ends,
            breaker.slack(),
            breaker.quick(),
            breaker.admits_all(),
        )
    }
}

fn any_marks() -> impl Strategy<Value = Vec<(u64, bool, bool, Option<u32>)>> {
    let step = prop_oneof![6 => Just(0), 3 => 1u64..1_500, 1 => 1_000u64..9_000];
    let size =
        prop_oneof![12 => Just(None), 1 => (0u32..10).prop_map(Some), 1 => prop::sample::select(vec![63, 64, 65, 130]).prop_map(Some)];
    prop::collection::vec((step, any::<bool>(), any::<bool>(), size), 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_024, ..ProptestConfig::default() })]

    #[test]
    fn the_same_settings_change_nothing(settings in settings_with_throttles(), steps in any_steps()) {
        let (mut one, mut other) = (Subject::new(&settings), Subject::new(&settings));
        let mut now = Tick(0);
        for (step, op) in steps {
            now = Tick(now.0.saturating_add(step).min(u64::MAX - 1));
            // Before what happens at a tick, and after it: time alone must not be taken for a change either.
            prop_assert_eq!(other.breaker.retune(settings.clone(), now, || 0.9), None);
            prop_assert_eq!(one.take(&op, now), other.take(&op, now));
            prop_assert_eq!(other.breaker.retune(settings.clone(), now, || 0.9), None);
            prop_assert_eq!(one.view(now), other.view(now));
        }
    }

    #[test]
    fn other_settings_decide_or_leave_all_as_it_is(
        settings in settings_with_throttles(), others in prop::collection::vec(settings_with_throttles(), 1..4), steps in any_steps(),
    ) {
        let mut subject = Subject::new(&settings);
        let (mut now, mut current) = (Tick(0), settings);
        let turns = others.len();
        for (number, (step, op)) in steps.into_iter().enumerate() {
            now = Tick(now.0.saturating_add(step).min(u64::MAX - 1));
            subject.take(&op, now);
            if number % 7 != 6 {
                continue;
            }
            let other = others[number / 7 % turns].clone();
            let breaker = &mut subject.breaker;
            let (before, life, probes) = (breaker.snapshot(), breaker.life, breaker.probes_in_flight(now));
            let before_until = breaker.next_deadline();
            let transition = breaker.retune(other.clone(), now, || 0.9);
            let after = breaker.snapshot();
            prop_assert_eq!(&**breaker.settings(), &other);
            match &transition {
                None => {
                    prop_assert_eq!((after.held.name(), after.generation, after.since, after.trips), (before.held.name(), before.generation, before.since, before.trips));
                    prop_assert_eq!((breaker.life, breaker.probes_in_flight(now)), (life, probes));
                    if before.held == Held::Closed && other.policy != current.policy {
                        prop_assert!(!breaker.policy.weigh(now), "weighed at once");
                    }
                }
                Some(transition) => {
                    prop_assert_eq!(transition.generation, Generation(before.generation.0.saturating_add(1)));
                    prop_assert_eq!(after.generation, transition.generation);
                    let expected = match (before.held, transition.to) {
                        (Held::Closed, StateName::Open) => Some(Cause::Policy),
                        (Held::HalfOpen, StateName::Open) => Some(Cause::ProbeFailed),
                        (Held::HalfOpen, StateName::Closed) => Some(Cause::Recovered),
                        (Held::Open { .. }, StateName::Open) => {
                            prop_assert_eq!((after.since, after.trips), (before.since, before.trips));
                            Some(Cause::Tuned)
                        }
                        _ => None,
                    };
                    prop_assert_eq!(Some(transition.cause), expected);
                }
            }
            if let State::Open { until, not_before, .. } = &breaker.state {
                prop_assert!(until >= not_before || before_until == Some(*until), "earlier than its service has asked for");
            }
            current = other;
        }
    }

    /// The calls of both kinds of windows in a list, of which a smaller size drops the oldest for good.
    #[test]
    fn windows_keep_what_they_have_room_for(steps in any_marks(), first in 1u32..70) {
        let never = rates(1, f64::INFINITY);
        let mut breakers = [Breaker::new(by(count(first, never)), Tick(0)), Breaker::new(by(time(first.into(), never)), Tick(0))];
        let mut calls: Vec<(bool, bool)> = Vec::new();
        let mut seconds: Vec<(u64, bool, bool)> = Vec::new();
        let (mut now, mut size, mut streak) = (0, first as usize, 0);
        for (step, failed, slow, other) in steps {
            now += step;
            if let Some(other) = other {
                // What had left the window before does not come back. A size of none is taken for one.
                seconds.retain(|(second, ..)| second + size as u64 > now / 1_000);
                size = (other as usize).max(1);
                breakers[0].retune(by(count(other, never)), Tick(now), || 0.0);
                breakers[1].retune(by(time(other.into(), never)), Tick(now), || 0.0);
            } else {
                for breaker in &mut breakers {
                    let permit = admitted(breaker, now);
                    let took = Duration::from_millis(if slow { 11 } else { 10 });
                    breaker.settle(permit, if failed { FAILURE } else { Verdict::Success }, took, Tick(now), || 0.0);
                }
                calls.push((failed, slow));
                seconds.push((now / 1_000, failed, slow));
                streak = if failed { streak + 1 } else { 0 };
            }
            calls.drain(..calls.len().saturating_sub(size));
            seconds.retain(|(second, ..)| second + size as u64 > now / 1_000);
            let figures = |failed: usize, slow: usize, of: usize| Counts { calls: of as u64, failures: failed as u64, slow: slow as u64, consecutive_failures: streak };
            let of_calls = figures(calls.iter().filter(|call| call.0).count(), calls.iter().filter(|call| call.1).count(), calls.len());
            let of_seconds = figures(seconds.iter().filter(|call| call.1).count(), seconds.iter().filter(|call| call.2).count(), seconds.len());
            prop_assert_eq!(breakers[0].counts(Tick(now)), of_calls);
            prop_assert_eq!(breakers[1].counts(Tick(now)), of_seconds);
        }
    }
}
