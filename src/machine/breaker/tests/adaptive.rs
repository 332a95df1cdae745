//! `adaptive`: the share of refusals against the book's formula, what counts as a request and for how long, a naive model, and a service
//! that goes away and comes back.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// Never a call for the sake of the trickle, but the very first.
const NEVER: u64 = u64::MAX;
/// The roll that admits wherever chance decides.
const LUCK: f64 = 1.0 - f64::EPSILON;

fn throttle(multiplier: f64, trickle: u64) -> Breaker {
    Breaker::new(by(adaptive(10, multiplier, trickle)), Tick(0))
}

fn ask(breaker: &mut Breaker, roll: f64, now: u64) -> Option<Permit> {
    let (answer, transition) = breaker.admit(Tick(now), || roll);
    assert_eq!((transition, breaker.state_name()), (None, StateName::Closed), "it never opens");
    if let Err(refusal) = &answer {
        assert_eq!(*refusal, Refusal { state: StateName::Closed, until: Some(Tick(now.saturating_add(100))) });
    }
    answer.ok()
}

/// A breaker after so many requests, all admitted, of which so many were answered.
fn after(multiplier: f64, requests: u64, accepts: u64) -> Breaker {
    let mut breaker = throttle(multiplier, NEVER);
    let permits: Vec<_> = (0..requests).map(|_| ask(&mut breaker, LUCK, 0).expect("luck admits")).collect();
    for (number, permit) in (0..).zip(permits) {
        settle(&mut breaker, permit, if number < accepts { Verdict::Success } else { FAILURE }, 0);
    }
    breaker
}

/// The formula of the book's chapter 21: `max(0, (requests - K × accepts) / (requests + 1))`.
#[test]
fn the_share_of_refusals_is_the_books() {
    for (multiplier, requests, accepts, share) in [
        (2.0, 1, 0, 0.5),
        (2.0, 2, 0, 2.0 / 3.0),
        (2.0, 100, 0, 100.0 / 101.0),
        (2.0, 10, 10, 0.0),
        (2.0, 10, 5, 0.0),
        (2.0, 10, 4, 2.0 / 11.0),
        (2.0, 10, 1, 8.0 / 11.0),
        (1.0, 10, 10, 0.0),
        (1.0, 10, 9, 1.0 / 11.0),
        (1.1, 100, 90, 1.0 / 101.0),
        (2.5, 9, 2, 0.4),
        (100.0, 100, 1, 0.0),
        (100.0, 99, 0, 0.99),
        // Outside the range: less than one call for each that is answered is one; what is no number is one too.
        (0.5, 10, 9, 1.0 / 11.0),
        (-3.0, 10, 9, 1.0 / 11.0),
        (f64::NAN, 10, 9, 1.0 / 11.0),
        (f64::INFINITY, 10, 1, 0.0),
        (f64::INFINITY, 10, 0, 0.0),
    ] {
        let case = format!("K {multiplier}, {requests} requests, {accepts} accepts");
        assert!(ask(&mut after(multiplier, requests, accepts), share + 1e-9, 0).is_some(), "{case}: more than {share} is refused");
        if share > 0.0 {
            assert!(ask(&mut after(multiplier, requests, accepts), share - 1e-9, 0).is_none(), "{case}: less than {share} is refused");
        }
    }
}

#[test]
fn a_call_counts_from_its_beginning_and_a_refused_one_too() {
    let mut breaker = throttle(2.0, NEVER);
    let requests = |breaker: &Breaker| breaker.counts(Tick(0)).calls;
    let _out = ask(&mut breaker, 0.0, 0).expect("nothing is known");
    assert_eq!(requests(&breaker), 1);
    assert!(ask(&mut breaker, 0.0, 0).is_none());
    assert_eq!(requests(&breaker), 2);
    // With the refused one among the requests it is 2/3 now, no longer 1/2.
    assert!(ask(&mut breaker, 0.6, 0).is_none());
}

#[test]
fn a_service_that_hangs_is_spared_before_the_first_timeout() {
    let mut breaker = throttle(2.0, 1_000);
    let mut roll = Rolls(7);
    let sent = (0..500).filter(|number| ask(&mut breaker, roll.next(), number * 2).is_some()).count();
    assert!((1..20).contains(&sent), "{sent} of 500 calls were sent within the first second");
}

fn patient(seconds: u64) -> Breaker {
    let PolicySettings::Adaptive(settings) = adaptive(10, 2.0, NEVER) else { panic!("is adaptive") };
    let patience = Duration::from_secs(seconds);
    Breaker::new(by(PolicySettings::Adaptive(AdaptiveSettings { patience, ..settings })), Tick(0))
}

/// Of many calls at once none is answered yet, however well the service is.
#[test]
fn a_burst_is_not_refused_for_being_one_and_a_hang_is_found_once_patience_is_out() {
    let mut breaker = patient(2);
    let burst: Vec<_> = (0..200).map(|_| ask(&mut breaker, 0.0, 100).expect("nothing speaks against it")).collect();
    // A second later they are still young; in the second after that they are not.
    assert!(ask(&mut breaker, 0.0, 1_999).is_some());
    assert!(ask(&mut breaker, 0.0, 2_000).is_none(), "200 calls have been out for two seconds");
    for permit in burst {
        breaker.settle(permit, Verdict::Success, Duration::from_millis(1_950), Tick(2_050), || 0.0);
    }
    assert!(ask(&mut breaker, 0.0, 2_050).is_some(), "they were slow, and answered");
}

#[test]
fn a_call_that_failed_young_counts_at_once_and_one_given_back_never() {
    let mut breaker = patient(2);
    for _ in 0..10 {
        let permit = ask(&mut breaker, 0.0, 0).expect("nothing has failed for good");
        breaker.abandon(permit, Tick(500));
    }
    // Also in a later second, and where the answer says nothing.
    let (long, ignored) = (ask(&mut breaker, 0.0, 0).expect("nothing is known"), ask(&mut breaker, 0.0, 0).expect("nothing is known"));
    breaker.abandon(long, Tick(3_500));
    breaker.settle(ignored, Verdict::Ignored, Duration::from_millis(3_500), Tick(3_500), || 0.0);
    assert_eq!(breaker.counts(Tick(3_500)).calls, 0);
    let mut breaker = patient(2);
    assert_eq!(breaker.counts(Tick(500)).calls, 0);
    let permit = ask(&mut breaker, 0.0, 600).expect("nothing is known");
    breaker.settle(permit, FAILURE, Duration::from_millis(10), Tick(610), || 0.0);
    assert!(ask(&mut breaker, 0.49, 620).is_none(), "one of one has failed");
}

#[test]
fn a_trickle_goes_whatever_the_figures_say() {
    for trickle in [1, 100, 1_000] {
        let mut breaker = throttle(1.0, trickle);
        let sent: Vec<u64> = (0..3_000).filter(|now| ask(&mut breaker, 0.0, *now).is_some()).collect();
        let expected: Vec<u64> = (0..3_000).step_by(usize::try_from(trickle).expect("is small")).collect();
        assert_eq!(sent, expected, "one each {trickle} ms and, with this roll, none besides");
    }
}

/// Two of them together let a call through when both have let none through for as long: neither takes one that the other refused for its own.
#[test]
fn a_trickle_goes_through_two_at_once() {
    let two = PolicySettings::Any(vec![adaptive(10, 2.0, 1_000), adaptive(60, 2.0, 1_500)]);
    let mut breaker = Breaker::new(by(two), Tick(0));
    let sent: Vec<u64> = (0..10).map(|number| number * 500).filter(|now| ask(&mut breaker, 0.0, *now).is_some()).collect();
    assert_eq!(sent, [0, 1_500, 3_000, 4_500]);
}

#[test]
fn what_ends_without_a_verdict_takes_its_request_back() {
    let mut breaker = Breaker::new(Settings { ignore_first: 1, ..by(adaptive(10, 2.0, NEVER)) }, Tick(0));
    let [given_back, ignored, first] = [(); 3].map(|()| ask(&mut breaker, LUCK, 0).expect("luck admits"));
    assert_eq!(breaker.counts(Tick(0)).calls, 3);
    breaker.abandon(given_back, Tick(0));
    assert_eq!(breaker.counts(Tick(0)).calls, 2);
    settle(&mut breaker, ignored, Verdict::Ignored, 0);
    assert_eq!(breaker.counts(Tick(0)).calls, 1);
    settle(&mut breaker, first, FAILURE, 0);
    assert_eq!(breaker.counts(Tick(0)), Counts::default(), "the first verdict is not weighed");
    // Given back after its second has left the window, it takes nobody else's.
    let long = ask(&mut breaker, LUCK, 0).expect("luck admits");
    breaker.abandon(long, Tick(50_000));
    assert_eq!(breaker.counts(Tick(50_000)), Counts::default());
}

#[test]
fn metrics_only_counts_its_calls_too() {
    let mut breaker = throttle(2.0, NEVER);
    breaker.lock(lock(LockKind::MetricsOnly, None), Tick(0));
    for _ in 0..4 {
        call(&mut breaker, FAILURE, 0);
    }
    let given_back = admitted(&mut breaker, 0);
    assert_eq!(breaker.counts(Tick(0)).calls, 5);
    breaker.abandon(given_back, Tick(0));
    call(&mut breaker, Verdict::Ignored, 0);
    assert_eq!(breaker.counts(Tick(0)), Counts { calls: 4, failures: 4, slow: 0, consecutive_failures: 4 });
}

#[test]
fn the_window_slides_by_seconds_and_a_gap_of_fifty_days_is_one_step() {
    let mut breaker = after(2.0, 5, 0);
    let _out = [1_000, 2_000].map(|now| ask(&mut breaker, LUCK, now).expect("luck admits"));
    for (now, calls) in [(2_000, 7), (9_999, 7), (10_000, 2), (10_999, 2), (11_000, 1), (12_000, 0)] {
        assert_eq!(breaker.counts(Tick(now)).calls, calls, "at {now}");
    }
    assert!(ask(&mut breaker, 0.0, 50 * 24 * 3_600_000).is_some());
    assert_eq!(breaker.counts(Tick(50 * 24 * 3_600_000)).calls, 1);
    assert!(ask(&mut breaker, 0.0, u64::MAX).is_some());
    assert_eq!(breaker.counts(Tick(u64::MAX)).calls, 1);
}

/// Chance for the worlds below: xorshift.
struct Rolls(u64);

impl Rolls {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A minute of health, a minute of outage, then health for good; a hundred calls a second, answered after 50 ms. Refusals in each minute.
fn world(seed: u64, multiplier: f64) -> Vec<usize> {
    let mut breaker = throttle(multiplier, 1_000);
    let mut rolls = Rolls(seed);
    let mut out: std::collections::VecDeque<(u64, Permit)> = std::collections::VecDeque::new();
    let mut refused = vec![0; 6];
    for now in (0..360_000).step_by(10) {
        while out.front().is_some_and(|(began, _)| began + 50 <= now) {
            let (_, permit) = out.pop_front().expect("there is one");
            let verdict = if (60_000..120_000).contains(&now) { FAILURE } else { Verdict::Success };
            settle(&mut breaker, permit, verdict, now);
        }
        match ask(&mut breaker, rolls.next(), now) {
            Some(permit) => out.push_back((now, permit)),
            None => refused[(now / 60_000) as usize] += 1,
        }
    }
    refused
}

#[test]
fn an_outage_is_throttled_and_a_recovery_ends_it() {
    for seed in 1..=8 {
        for multiplier in [1.5, 2.0, 4.0] {
            let refused = world(seed, multiplier);
            let case = format!("seed {seed}, K {multiplier}: {refused:?} of 6,000 a minute");
            // At its very beginning, before the first answer, nobody knows that it works.
            assert!(refused[0] < 600, "{case}");
            assert!(refused[1] > 4_000, "{case}");
            assert_eq!(refused[4..], [0, 0], "{case}");
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Ask(f64),
    End(Index, Verdict, u64),
    Abandon(Index),
}

/// What happened in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    Request,
    Accept,
    Failure,
    Slow,
}

/// Everything in a list, and every figure counted out of it anew.
#[derive(Debug, Default)]
struct Naive {
    events: Vec<(u64, Event)>,
    streak: u64,
    last: Option<u64>,
}

impl Naive {
    fn count(&self, event: Event, now: u64) -> u64 {
        self.events.iter().filter(|(second, seen)| *seen == event && second + 3 > now / 1_000).count() as u64
    }

    fn ask(&mut self, roll: f64, now: u64) -> bool {
        let (requests, accepts) = (self.count(Event::Request, now) as f64, self.count(Event::Accept, now) as f64);
        let refuses = roll < (requests - 2.0 * accepts) / (requests + 1.0);
        let goes = !refuses || self.last.is_none_or(|last| now - last >= 700);
        self.events.push((now / 1_000, Event::Request));
        if goes {
            self.last = Some(now);
        }
        goes
    }

    fn forget(&mut self, began: u64) {
        if let Some(place) = self.events.iter().rposition(|event| *event == (began / 1_000, Event::Request)) {
            self.events.remove(place);
        }
    }

    fn end(&mut self, verdict: Verdict, took: u64, now: u64) {
        let event = match verdict {
            Verdict::Ignored => return self.forget(now.saturating_sub(took)),
            Verdict::Failure { .. } => Event::Failure,
            Verdict::Success | Verdict::Slow => Event::Accept,
        };
        self.streak = if event == Event::Failure { self.streak + 1 } else { 0 };
        self.events.push((now / 1_000, event));
        if took > 10 || verdict == Verdict::Slow {
            self.events.push((now / 1_000, Event::Slow));
        }
    }

    fn counts(&self, now: u64) -> Counts {
        let [calls, failures, slow] = [Event::Request, Event::Failure, Event::Slow].map(|event| self.count(event, now));
        Counts { calls, failures, slow, consecutive_failures: self.streak }
    }
}

fn any_steps() -> impl Strategy<Value = Vec<(u64, Op)>> {
    let verdict = prop::sample::select(vec![Verdict::Success, Verdict::Success, Verdict::Slow, FAILURE, FAILURE, Verdict::Ignored]);
    let op = prop_oneof![
        4 => (0.0..1.0).prop_map(Op::Ask),
        3 => (any::<Index>(), verdict, prop::sample::select(vec![0, 10, 11])).prop_map(|(call, verdict, took)| Op::End(call, verdict, took)),
        1 => any::<Index>().prop_map(Op::Abandon),
    ];
    let step = prop_oneof![8 => Just(0), 4 => 1u64..400, 2 => prop::sample::select(vec![699, 700, 999, 1_000, 1_001, 2_999, 3_000]), 1 => Just(50 * 24 * 3_600_000)];
    prop::collection::vec((step, op), 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_048, ..ProptestConfig::default() })]

    #[test]
    fn throttles_as_the_naive_model_does(steps in any_steps()) {
        let mut breaker = Breaker::new(by(adaptive(3, 2.0, 700)), Tick(0));
        let (mut naive, mut out, mut now) = (Naive::default(), Vec::new(), 0);
        for (step, op) in steps {
            now += step;
            match op {
                Op::Ask(roll) => {
                    let permit = ask(&mut breaker, roll, now);
                    prop_assert_eq!(permit.is_some(), naive.ask(roll, now));
                    out.extend(permit.map(|permit| (permit, now)));
                }
                Op::End(call, verdict, took) if !out.is_empty() => {
                    let (permit, _) = out.swap_remove(call.index(out.len()));
                    breaker.settle(permit, verdict, Duration::from_millis(took), Tick(now), || 0.0);
                    naive.end(verdict, took, now);
                }
                Op::Abandon(call) if !out.is_empty() => {
                    let (permit, began) = out.swap_remove(call.index(out.len()));
                    breaker.abandon(permit, Tick(now));
                    naive.forget(began);
                }
                Op::End(..) | Op::Abandon(_) => {}
            }
            prop_assert_eq!(breaker.counts(Tick(now)), naive.counts(now));
        }
    }
}
