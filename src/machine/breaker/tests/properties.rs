//! Random lives of a breaker beside the model's, and what must hold in every one of them whatever the model says.

use proptest::prelude::*;
use proptest::sample::Index;

use super::model::{CallId, Change, Model};
use super::*;

#[derive(Debug, Clone)]
pub(super) enum Op {
    Admit,
    Settle(Index, Verdict, Duration),
    Abandon(Index),
    Advance,
    Lock(Lock),
    Release,
    Reset(Automatic),
    /// Generations from the breaker's own, and whether it is to yield or to adopt.
    Hear(i8, Held, u32, bool),
}

/// A breaker, or a shared one: they must not differ.
trait Subject {
    fn build(settings: Settings) -> Self;
    fn admit(&mut self, now: Tick) -> (Result<Permit, Refusal>, Option<Box<Transition>>);
    fn settle(&mut self, permit: Permit, verdict: Verdict, took: Duration, now: Tick) -> Settled;
    fn abandon(&mut self, permit: Permit);
    fn with<R>(&mut self, f: impl FnOnce(&mut Breaker) -> R) -> R;
    fn shown_state(&self) -> StateName;
}

const ROLL: f64 = 0.5;

impl Subject for Breaker {
    fn build(settings: Settings) -> Self {
        Self::new(settings, Tick(0))
    }
    fn admit(&mut self, now: Tick) -> (Result<Permit, Refusal>, Option<Box<Transition>>) {
        self.admit(now, || ROLL)
    }
    fn settle(&mut self, permit: Permit, verdict: Verdict, took: Duration, now: Tick) -> Settled {
        self.settle(permit, verdict, took, now, || ROLL)
    }
    fn abandon(&mut self, permit: Permit) {
        self.abandon(permit, Tick(0));
    }
    fn with<R>(&mut self, f: impl FnOnce(&mut Breaker) -> R) -> R {
        f(self)
    }
    fn shown_state(&self) -> StateName {
        self.state_name()
    }
}

impl Subject for SharedBreaker {
    fn build(settings: Settings) -> Self {
        Self::new(settings, Tick(0))
    }
    fn admit(&mut self, now: Tick) -> (Result<Permit, Refusal>, Option<Box<Transition>>) {
        SharedBreaker::admit(self, now, || ROLL)
    }
    fn settle(&mut self, permit: Permit, verdict: Verdict, took: Duration, now: Tick) -> Settled {
        SharedBreaker::settle(self, permit, verdict, took, now, || ROLL)
    }
    fn abandon(&mut self, permit: Permit) {
        SharedBreaker::abandon(self, permit, Tick(0));
    }
    fn with<R>(&mut self, f: impl FnOnce(&mut Breaker) -> R) -> R {
        SharedBreaker::with(self, f)
    }
    fn shown_state(&self) -> StateName {
        self.state_name()
    }
}

/// What is slow in these worlds.
const SLOW: Duration = Duration::from_millis(10);

fn any_rates() -> impl Strategy<Value = Rates> {
    let share = || prop::sample::select(vec![0.01, 0.07, 0.3, 0.5, 0.67, 1.0]);
    (1u32..6, share(), share()).prop_map(|(minimum_calls, failure_rate, slow_call_rate)| Rates {
        minimum_calls,
        failure_rate,
        slow_call_rate,
        slow_call_duration: SLOW,
    })
}

pub(super) fn any_policy() -> impl Strategy<Value = PolicySettings> {
    let fail_max = prop_oneof![4 => 1u32..4, 1 => Just(u32::MAX)];
    let size = || prop_oneof![4 => 1u32..8, 1 => Just(70)];
    let window = || (1u64..4).prop_map(Duration::from_secs);
    let trip = Trip::compile("failure_rate > 0.3 && calls >= 4 || consecutive >= 3").expect("is CEL");
    let over = prop_oneof![size().prop_map(Over::Calls), window().prop_map(Over::Time)];
    let one = prop_oneof![
        3 => fail_max.prop_map(consecutive),
        3 => (size(), any_rates()).prop_map(|(size, rates)| PolicySettings::Count { size, rates }),
        3 => (window(), any_rates()).prop_map(|(window, rates)| PolicySettings::Time { window, rates }),
        1 => over.prop_map(move |over| PolicySettings::Expression { trip: trip.clone(), over, slow: SLOW }),
    ]
    .boxed();
    prop_oneof![6 => one.clone(), 1 => prop::collection::vec(one, 1..4).prop_map(PolicySettings::Any)]
}

pub(super) fn any_settings() -> impl Strategy<Value = Settings> {
    let millis = || prop_oneof![Just(0), Just(1), 1u64..200, Just(u64::MAX)].prop_map(Duration::from_millis);
    let count = || prop_oneof![4 => 0u32..4, 1 => Just(u32::MAX)];
    let rate = proptest::option::of(prop::sample::select(vec![0.01, 0.5, 1.0]));
    let open = (millis(), millis(), 0u8..3, prop::sample::select(vec![0.0, 1.0]));
    let half_open = (millis(), count(), count(), rate, proptest::option::weighted(0.3, millis()));
    let closed = (prop_oneof![2 => Just(0), 1 => 1u64..300].prop_map(Duration::from_millis), prop_oneof![3 => Just(0), 1 => 1u32..5]);
    (any_policy(), open, half_open, closed).prop_map(
        |(
            policy,
            (recovery_timeout, recovery_timeout_max, multiplier, jitter),
            (lease, permits, success_threshold, half_open_failure_rate, half_open_timeout),
            (ramp, ignore_first),
        )| {
            let backoff_multiplier = f64::from(multiplier.max(1));
            Settings {
                policy,
                recovery_timeout,
                backoff_multiplier,
                recovery_timeout_max,
                jitter,
                permits,
                success_threshold,
                half_open_failure_rate,
                half_open_timeout,
                ramp,
                ignore_first,
                evidence: Scope::Instance,
                quorum: 1,
                lease,
            }
        },
    )
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    let retry_after = proptest::option::of(prop_oneof![0u64..400, Just(u64::MAX)].prop_map(Duration::from_millis));
    prop_oneof![
        2 => Just(Verdict::Success),
        1 => Just(Verdict::Slow),
        1 => Just(Verdict::Ignored),
        4 => retry_after.prop_map(|retry_after| Verdict::Failure { retry_after }),
    ]
}

fn any_tick() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0u64..1_000, 1 => Just(u64::MAX)]
}

fn any_lock() -> impl Strategy<Value = Lock> {
    (prop::sample::select(LOCKS.to_vec()), proptest::option::of(any_tick()), prop::sample::select(vec!["ann", "bob"]))
        .prop_map(|(kind, expires_at, actor)| Lock { actor: actor.to_owned(), ..lock(kind, expires_at) })
}

fn any_held() -> impl Strategy<Value = Held> {
    prop_oneof![
        Just(Held::Closed),
        any_tick().prop_map(|until| Held::Open { until: Tick(until) }),
        Just(Held::HalfOpen),
        any_lock().prop_map(Held::Locked),
    ]
}

pub(super) fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => Just(Op::Admit),
        12 => (any::<Index>(), any_verdict(), prop::sample::select(vec![0, 10, 11])).prop_map(|(call, verdict, took)| {
            Op::Settle(call, verdict, Duration::from_millis(took))
        }),
        2 => any::<Index>().prop_map(Op::Abandon),
        2 => Just(Op::Advance),
        1 => any_lock().prop_map(Op::Lock),
        1 => Just(Op::Release),
        1 => prop::sample::select(vec![Automatic::Closed, Automatic::Open, Automatic::HalfOpen]).prop_map(Op::Reset),
        2 => (-1i8..3, any_held(), 0u32..3, any::<bool>()).prop_map(|(ahead, held, trips, yields)| Op::Hear(ahead, held, trips, yields)),
    ]
}

/// Time goes on by nothing mostly, by a lease or an open time often, and sometimes by fifty days or half of all there is.
pub(super) fn any_steps() -> impl Strategy<Value = Vec<(u64, Op)>> {
    let step = prop_oneof![12 => Just(0), 4 => 1u64..20, 2 => 90u64..210, 2 => prop::sample::select(vec![999, 1_000, 1_001, 2_500]), 1 => Just(50 * 24 * 3_600_000), 1 => Just(u64::MAX / 2)];
    prop::collection::vec((step, any_op()), 0..120)
}

/// Everything of a breaker that can be seen.
fn view(breaker: &Breaker, now: Tick) -> (Snapshot, Counts, usize, Option<Tick>) {
    // Of leases the model knows no more than which have not ended.
    let deadline = if breaker.state_name() == StateName::HalfOpen { None } else { breaker.next_deadline() };
    (breaker.snapshot(), breaker.counts(now), breaker.probes_in_flight(now), deadline)
}

fn change(transition: Option<&Transition>) -> Option<Change> {
    transition.map(|t| (t.from, t.to, t.cause, t.generation.0))
}

fn live<S: Subject>(settings: &Settings, steps: Vec<(u64, Op)>) -> Result<(), TestCaseError> {
    let mut subject = S::build(settings.clone());
    let mut model = Model::new(settings.clone());
    let mut out: Vec<(Permit, CallId)> = Vec::new();
    let mut now = 0u64;
    for (step, op) in steps {
        // The last tick of all is "never", which never comes.
        now = now.saturating_add(step).min(u64::MAX - 1);
        let tick = Tick(now);
        let (before, leases_before) = subject.with(|breaker| (view(breaker, tick), breaker.refuses_until()));
        let mut untouched = false;
        let by_hand = matches!(op, Op::Lock(_) | Op::Release | Op::Reset(_));
        let (seen, expected) = match op {
            Op::Admit => {
                let (answer, transition) = subject.admit(tick);
                let (expected, changed) = model.admit(ROLL, now);
                prop_assert_eq!(answer.as_ref().err(), expected.as_ref().err());
                prop_assert_eq!(answer.is_ok(), expected.is_ok());
                if let (Ok(permit), Ok(call)) = (answer, expected) {
                    prop_assert!(tick >= leases_before, "a gate that refuses until {leases_before:?} stood before an open door");
                    prop_assert_eq!(permit.generation(), model.snapshot().generation);
                    prop_assert_eq!(permit.is_probe(), model.snapshot().held == Held::HalfOpen);
                    out.push((permit, call));
                } else if transition.is_none() {
                    untouched = true;
                    prop_assert!(
                        leases_before == Tick(0)
                            || subject.with(|breaker| breaker.refuses_until()) == leases_before
                            || tick >= leases_before
                    );
                }
                (transition.map(|transition| *transition), changed)
            }
            Op::Settle(index, verdict, took) if !out.is_empty() => {
                let (permit, call) = out.swap_remove(index.index(out.len()));
                let settled = subject.settle(permit, verdict, took, tick);
                let (late, changed) = model.settle(call, verdict, took, ROLL, now);
                prop_assert_eq!(settled.late, late);
                untouched = late;
                (settled.transition.map(|transition| *transition), changed)
            }
            Op::Abandon(index) if !out.is_empty() => {
                let (permit, call) = out.swap_remove(index.index(out.len()));
                subject.abandon(permit);
                model.abandon(call);
                (None, None)
            }
            Op::Settle(..) | Op::Abandon(_) => (None, None),
            Op::Advance => {
                let (transition, expected) = (subject.with(|breaker| breaker.advance(tick)), model.advance(now));
                subject.with(|breaker| breaker.give_up(tick));
                let deadline = subject.with(|breaker| breaker.next_deadline());
                prop_assert_eq!(deadline, model.first_lease_end(now).into_iter().chain(model.deadline()).min());
                (transition, expected)
            }
            Op::Lock(lock) => (Some(subject.with(|breaker| breaker.lock(lock.clone(), tick))), Some(model.lock(lock, now))),
            Op::Release => (subject.with(|breaker| breaker.release("ann", "drill", tick)), model.release(now)),
            Op::Reset(state) => (
                Some(subject.with(|breaker| breaker.reset_to(state, "ann", "drill", tick, || ROLL))),
                Some(model.reset_to(state, ROLL, now)),
            ),
            Op::Hear(ahead, held, trips, yields) => {
                let generation = Generation(before.0.generation.0.saturating_add_signed(ahead.into()));
                let heard = Snapshot { generation, held, trips, since: Tick(now / 2) };
                if yields {
                    (subject.with(|breaker| breaker.yield_to(&heard, tick)), model.yield_to(&heard))
                } else {
                    (subject.with(|breaker| breaker.adopt(&heard, Cause::Adopted, tick)), model.adopt(&heard))
                }
            }
        };
        let after = subject.with(|breaker| view(breaker, tick));

        // As the model says.
        prop_assert_eq!(change(seen.as_ref()), expected);
        let deadline = model.deadline().filter(|_| model.snapshot().held != Held::HalfOpen);
        prop_assert_eq!(&after, &(model.snapshot(), model.counts(now), model.probes(now), deadline));
        prop_assert_eq!(subject.shown_state(), after.0.held.name());

        // And whatever it says: a generation for a change, and none without; of a change, that it can be.
        match &seen {
            None => prop_assert_eq!(&after.0, &before.0),
            Some(transition) => {
                let taken_within = transition.cause == Cause::Adopted && after.0.generation == before.0.generation;
                prop_assert!(after.0.generation > before.0.generation || taken_within);
                prop_assert!(transition.cause.joins(transition.from, transition.to), "{transition:?}");
            }
        }
        if untouched {
            prop_assert_eq!(&after, &before, "late verdicts and refused calls change nothing");
        }
        prop_assert!(after.2 <= settings.permits.max(1) as usize, "more probes than permits");
        if let (Held::Locked(lock), Some(transition)) = (&before.0.held, &seen) {
            let expired = transition.cause == Cause::LockExpired && lock.expires_at.is_some_and(|at| at <= tick);
            let told = by_hand || transition.cause == Cause::Adopted || transition.cause == Cause::Forced;
            prop_assert!(expired || told, "a lock was undone by {transition:?}");
        }
        if matches!(after.0.held, Held::Closed | Held::HalfOpen) {
            prop_assert_eq!(after.3, None, "nothing is armed where nothing can run out");
        }

        // What is shared is enough to go on from.
        let mut heir = Breaker::new(settings.clone(), tick);
        if heir.adopt(&after.0, Cause::Restored, tick).is_some() {
            let deadline = if after.0.held == Held::HalfOpen { model.deadline() } else { after.3 };
            prop_assert_eq!(heir.snapshot(), after.0);
            prop_assert_eq!(heir.next_deadline(), deadline);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16_384, ..ProptestConfig::default() })]

    #[test]
    fn lives_as_the_model_does(settings in any_settings(), steps in any_steps()) {
        live::<Breaker>(&settings, steps)?;
    }

    #[test]
    fn shared_it_lives_the_same(settings in any_settings(), steps in any_steps()) {
        live::<SharedBreaker>(&settings, steps)?;
    }
}
