//! Settings, ticks and rolls that no config gives: no panic, no overflow (these builds check), no breaker that is stuck, and the shared one lives as
//! the unshared one does.

use super::*;

/// Chance: xorshift.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % most
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).expect("is small")].clone()
    }

    fn number(&mut self) -> u32 {
        self.of(&[0, 1, 1, 2, 3, 5, 64, 65, 1_000_000, u32::MAX])
    }

    fn float(&mut self) -> f64 {
        let wild = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, -0.0, f64::MAX, f64::MIN_POSITIVE, 1e-50];
        if self.below(3) == 0 { self.of(&wild) } else { self.of(&[0.01, 0.5, 0.67, 1.0, 2.0]) }
    }

    fn duration(&mut self) -> Duration {
        let usual = [0, 1, 2, 10, 100, 999, 1_000, 1_001, 5_000].map(Duration::from_millis);
        let wild = [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_nanos(1), Duration::from_millis(u64::MAX)];
        if self.below(8) == 0 { self.of(&wild) } else { self.of(&usual) }
    }

    fn rates(&mut self) -> Rates {
        Rates {
            minimum_calls: self.number(),
            failure_rate: self.float(),
            slow_call_rate: self.float(),
            slow_call_duration: self.duration(),
        }
    }

    /// Of a day's length there are few, for the time that they take to be emptied.
    fn window(&mut self) -> Duration {
        if self.below(40) == 0 { Duration::from_secs(u64::MAX) } else { Duration::from_secs(self.below(5)) }
    }

    fn policy(&mut self, depth: u64) -> PolicySettings {
        match self.below(8 + depth) {
            0 => consecutive(self.number().max(1)),
            1 | 2 => count(self.number(), self.rates()),
            3 | 4 => time(self.window().as_secs(), self.rates()),
            5 | 6 => PolicySettings::Adaptive(AdaptiveSettings {
                window: self.window(),
                multiplier: self.float(),
                trickle: self.duration(),
                patience: self.duration(),
                slow_call_duration: self.duration(),
            }),
            7 => {
                let over = if self.below(2) == 0 { Over::Calls(self.number()) } else { Over::Time(self.window()) };
                let trip = self.of(&["failures / (calls - 3) > 1", "failure_rate > 0.3", "consecutive > 2", "successes >= 0 && slow < 0"]);
                PolicySettings::Expression {
                    trip: Trip::compile(trip).unwrap_or_else(|error| panic!("{trip}: {error:?}")),
                    over,
                    slow: self.duration(),
                }
            }
            _ => PolicySettings::Any((0..self.below(4)).map(|_| self.policy(0)).collect()),
        }
    }

    fn settings(&mut self) -> Settings {
        Settings {
            policy: self.policy(2),
            recovery_timeout: self.duration(),
            backoff_multiplier: self.float(),
            recovery_timeout_max: self.duration(),
            jitter: self.float(),
            permits: self.number(),
            success_threshold: self.of(&[0, 1, 2, 3, 5]),
            half_open_failure_rate: if self.below(2) == 0 { Some(self.float()) } else { None },
            half_open_timeout: if self.below(3) == 0 { Some(self.duration()) } else { None },
            ramp: if self.below(3) == 0 { self.duration() } else { Duration::ZERO },
            ignore_first: if self.below(3) == 0 { self.number() } else { 0 },
            evidence: if self.below(2) == 0 { Scope::Fleet } else { Scope::Instance },
            quorum: self.number(),
            lease: self.duration(),
        }
    }

    /// Time mostly goes on, by a little or a lot; threads also come with ticks that are behind.
    fn tick(&mut self, now: u64) -> u64 {
        match self.below(16) {
            0..6 => now,
            6..10 => now.saturating_add(self.below(300)),
            10..12 => now.saturating_add(self.of(&[999, 1_000, 1_001, 3_000])),
            12 => now.saturating_sub(self.below(3_000)),
            13 => now.saturating_add(50 * 24 * 3_600_000),
            14 => now,
            _ => {
                if self.below(20) == 0 {
                    self.of(&[u64::MAX, u64::MAX - 1, u64::MAX / 2, 0])
                } else {
                    now
                }
            }
        }
    }

    fn held(&mut self, now: u64) -> Held {
        let until = Tick(self.of(&[0, now, now.saturating_add(50), u64::MAX]));
        match self.below(4) {
            0 => Held::Closed,
            1 => Held::Open { until },
            2 => Held::HalfOpen,
            _ => Held::Locked(lock(self.of(&LOCKS), self.of(&[None, Some(until.0)]))),
        }
    }
}

/// A breaker and a shared one, that are told the same.
struct Twins {
    alone: Breaker,
    shared: SharedBreaker,
    out: Vec<[Permit; 2]>,
}

impl Twins {
    fn new(settings: &Settings, now: Tick) -> Self {
        Self { alone: Breaker::new(settings.clone(), now), shared: SharedBreaker::new(settings.clone(), now), out: Vec::new() }
    }

    fn same<T: PartialEq + std::fmt::Debug>(&mut self, f: impl Fn(&mut Breaker) -> T) -> T {
        let alone = f(&mut self.alone);
        assert_eq!(alone, self.shared.with(f));
        alone
    }

    fn admit(&mut self, now: Tick, roll: f64) {
        let (alone, shared) = (self.alone.admit(now, || roll), self.shared.admit(now, || roll));
        assert_eq!(alone, shared);
        if let (Ok(alone), Ok(shared)) = (alone.0, shared.0) {
            self.out.push([alone, shared]);
        }
    }

    fn settle(&mut self, place: u64, verdict: Verdict, took: Duration, now: Tick, roll: f64) {
        let [alone, shared] = self.out.swap_remove(usize::try_from(place).expect("is small"));
        let settled = self.alone.settle(alone, verdict, took, now, || roll);
        assert_eq!(settled, self.shared.settle(shared, verdict, took, now, || roll));
    }

    fn take(&mut self, dice: &mut Dice, now: u64) {
        let (tick, roll) = (Tick(now), dice.float());
        let out = self.out.len() as u64;
        match dice.below(40) {
            0..14 => self.admit(tick, roll),
            14..30 if out > 0 => {
                let retry_after = if dice.below(3) == 0 { Some(dice.duration()) } else { None };
                let verdict =
                    dice.of(&[Verdict::Success, Verdict::Success, Verdict::Slow, Verdict::Failure { retry_after }, Verdict::Ignored]);
                self.settle(dice.below(out), verdict, dice.duration(), tick, roll);
            }
            30 | 31 if out > 0 => {
                let [alone, shared] = self.out.swap_remove(usize::try_from(dice.below(out)).expect("is small"));
                self.alone.abandon(alone, tick);
                self.shared.abandon(shared, tick);
            }
            32 => {
                self.same(|breaker| (breaker.advance(tick), breaker.give_up(tick)));
            }
            33 => {
                let (kind, expires_at) = (dice.of(&LOCKS), dice.of(&[None, Some(now), Some(now.saturating_add(40)), Some(u64::MAX)]));
                self.same(|breaker| breaker.lock(lock(kind, expires_at), tick));
            }
            34 => drop(self.same(|breaker| breaker.release("ann", "drill", tick))),
            35 => {
                let state = dice.of(&[Automatic::Closed, Automatic::Open, Automatic::HalfOpen]);
                self.same(|breaker| breaker.reset_to(state, "ann", "drill", tick, || roll));
            }
            36 => {
                let ahead = if dice.below(50) == 0 { u64::MAX } else { dice.below(3) };
                let generation = Generation(self.alone.generation().0.saturating_add(ahead));
                let heard =
                    Snapshot { generation, held: dice.held(now), trips: dice.number(), since: Tick(dice.of(&[0, now, now / 2, u64::MAX])) };
                let how = dice.below(3);
                self.same(|breaker| match how {
                    0 => breaker.adopt(&heard, Cause::Adopted, tick),
                    1 => breaker.yield_to(&heard, tick),
                    _ => breaker.stand_by(&heard, tick),
                });
            }
            37 | 38 => {
                let settings = Arc::new(dice.settings());
                self.same(|breaker| breaker.retune(Arc::clone(&settings), tick, || roll));
            }
            // Many quick successes, as many as a word of slack has room for and more.
            39 if dice.below(30) == 0 => {
                for _ in 0..dice.of(&[70, 5_000]) {
                    self.admit(tick, roll);
                    let out = self.out.len() as u64;
                    if out > 0 {
                        self.settle(out - 1, Verdict::Success, Duration::ZERO, tick, roll);
                    }
                }
            }
            _ => drop(self.same(|breaker| view(breaker, tick))),
        }
    }
}

fn view(breaker: &Breaker, now: Tick) -> impl PartialEq + std::fmt::Debug + use<> {
    let ends = (breaker.next_deadline(), breaker.refuses_until());
    (breaker.snapshot(), breaker.counts(now), breaker.probes_in_flight(now), ends, breaker.slack(), breaker.quick())
}

/// From here on the service works, and closes the breaker as soon as its settings let it; unless they say never.
fn heal(breaker: &mut Breaker, mut now: u64) {
    // A probe each of a round, and before it a lost one whose lease must end.
    for _ in 0..300 {
        match breaker.admit(Tick(now), || 0.0).0 {
            Ok(permit) => drop(settle(breaker, permit, Verdict::Success, now)),
            Err(Refusal { until: Some(until), .. }) if until < Tick::NEVER => now = now.max(until.0),
            // Told to stay so until the end of time.
            Err(_) => drop(breaker.reset_to(Automatic::HalfOpen, "ann", "drill", Tick(now), || 0.0)),
        }
        let state = breaker.state_name();
        let many = breaker.settings.round().is_some_and(|round| round.size > 100);
        if matches!(state, StateName::Closed | StateName::ForcedClosed | StateName::MetricsOnly) || many {
            return;
        }
    }
    panic!("stuck: {breaker:?}");
}

fn worlds(seeds: std::ops::Range<u64>, operations: u64) {
    for seed in seeds {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        // The first few of neighbouring seeds are alike.
        for _ in 0..8 {
            dice.below(2);
        }
        let mut now = dice.of(&[0, 0, 5_000, u64::MAX / 3]);
        let settings = dice.settings();
        let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut twins = Twins::new(&settings, Tick(now));
            for _ in 0..operations {
                now = dice.tick(now);
                twins.take(&mut dice, now);
            }
            twins.same(|breaker| view(breaker, Tick(now)));
            // The last tick of all is "never", which never comes.
            heal(&mut twins.alone, now.min(u64::MAX - 1));
        }));
        if let Err(panic) = lived {
            eprintln!("seed {seed}, {settings:?}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn nothing_is_too_much() {
    worlds(0..1_500, 200);
}

/// Six minutes: `cargo test --lib extremes -- --ignored`.
#[test]
#[ignore = "millions of operations"]
fn nothing_is_too_much_for_long() {
    worlds(1_000_000..1_020_000, 1_000);
}

/// Windows as large as they can be told to be take no more room than a day of seconds, or a million calls.
#[test]
fn no_window_takes_gigabytes() {
    for policy in [count(u32::MAX, rates(1, 0.5)), time(u64::MAX, rates(1, 0.5)), adaptive(u64::MAX, 2.0, 0)] {
        let breakers: Vec<_> = (0..64).map(|_| Breaker::new(by(policy.clone()), Tick(0))).collect();
        for mut breaker in breakers {
            trip(&mut Breaker::new(by(consecutive(1)), Tick(0)), 0);
            call(&mut breaker, Verdict::Success, 0);
            breaker.reset_to(Automatic::Closed, "ann", "drill", Tick(0), || 0.0);
        }
    }
}

/// Figures larger than any that a policy has gathered: they are made to fit, and their shares stay.
#[test]
fn figures_of_any_size_are_inherited() {
    const MOST: u64 = u64::MAX;
    let figures = |calls, failures, slow, consecutive_failures| Counts { calls, failures, slow, consecutive_failures };
    for policy in [count(100, rates(1, 0.5)), time(5, rates(1, 0.5)), adaptive(5, 2.0, 0), consecutive(3)] {
        for counts in [
            figures(MOST, MOST, MOST, MOST),
            figures(MOST, 0, 0, 0),
            figures(MOST, MOST / 2, MOST / 4, 0),
            figures(0, MOST, MOST, MOST),
            figures(1, MOST, MOST, MOST),
            figures(MOST, 1, 0, MOST),
            figures(0, 0, 0, MOST),
        ] {
            let mut built = super::super::policy::build(&policy, Tick(0));
            built.inherit(counts, Tick(0));
            let seen = built.counts(Tick(0));
            assert!(seen.failures <= seen.calls && seen.slow <= seen.calls, "{seen:?} of {counts:?}");
            if seen.calls > 0 && counts.calls == MOST && counts.consecutive_failures == 0 {
                let share = |part: u64, whole: u64| part as f64 / whole as f64;
                assert!((share(seen.failures, seen.calls) - share(counts.failures, counts.calls)).abs() < 0.02, "{seen:?} of {counts:?}");
                assert!((share(seen.slow, seen.calls) - share(counts.slow, counts.calls)).abs() < 0.02, "{seen:?} of {counts:?}");
            }
            for verdict in [FAILURE, FAILURE, Verdict::Success, FAILURE] {
                built.admit(Tick(1), &mut || 1.0);
                built.record(verdict, Duration::ZERO, Tick(1));
            }
            built.counts(Tick(u64::MAX));
            built.absorb(u32::MAX);
            built.weigh(Tick(u64::MAX));
        }
    }
}
