//! The naive model: every life and every call in a list, everything else counted out of them anew at each question. Written from the
//! design's words, to be too simple to be wrong.

use super::*;

/// One stay in one state.
#[derive(Debug, Clone)]
struct Stay {
    held: Held,
    generation: u64,
    since: u64,
    trips: Trips,
    /// Whether the breaker has come to it because its probes succeeded.
    recovered: bool,
}

/// What a life's beginning means for the number of trips in a row.
#[derive(Debug, Clone, Copy)]
enum Trips {
    Unchanged,
    OneMore,
    None,
    Told(u32),
}

#[derive(Debug, Clone)]
struct Call {
    life: usize,
    probe: bool,
    lease_ends: u64,
    over: bool,
}

/// A verdict that was not late.
#[derive(Debug, Clone, Copy)]
struct End {
    call: CallId,
    verdict: Verdict,
    took: Duration,
    at: u64,
}

/// What a window keeps of a verdict: failed, slow, when.
type Kept = (bool, bool, u64);

/// A call that waits for its end: an index into the model's list.
pub(super) type CallId = usize;

#[derive(Debug)]
pub(super) struct Model {
    settings: Settings,
    lives: Vec<Stay>,
    calls: Vec<Call>,
    /// Verdicts in the order of their coming that were not late.
    ends: Vec<End>,
}

/// What a transition must say.
pub(super) type Change = (StateName, StateName, Cause, u64);

impl Model {
    pub(super) fn new(settings: Settings) -> Self {
        let first = Stay { held: Held::Closed, generation: 0, since: 0, trips: Trips::None, recovered: false };
        Self { settings, lives: vec![first], calls: Vec::new(), ends: Vec::new() }
    }

    fn life(&self) -> usize {
        self.lives.len() - 1
    }

    fn stay(&self) -> &Stay {
        &self.lives[self.life()]
    }

    pub(super) fn trips(&self) -> u32 {
        self.lives.iter().fold(0, |trips: u32, life| match life.trips {
            Trips::Unchanged => trips,
            Trips::OneMore => trips.saturating_add(1),
            Trips::None => 0,
            Trips::Told(told) => told,
        })
    }

    /// The verdicts of a life that say something, oldest first; of all that a window would have taken, the first few are ignored.
    fn telling(&self, life: usize) -> Vec<End> {
        let weighs = |end: &&End| match &self.lives[self.calls[end.call].life].held {
            Held::Closed => true,
            Held::Locked(lock) => lock.kind == LockKind::MetricsOnly,
            Held::Open { .. } | Held::HalfOpen => false,
        };
        let telling = || self.ends.iter().filter(|end| end.verdict != Verdict::Ignored);
        let of_windows = telling().filter(weighs).skip(self.settings.ignore_first as usize);
        let of_probes = telling().filter(|end| self.lives[self.calls[end.call].life].held == Held::HalfOpen);
        of_windows.chain(of_probes).filter(|end| self.calls[end.call].life == life).copied().collect()
    }

    fn kept(&self, life: usize, slow: Duration) -> Vec<Kept> {
        let mark = |end: End| {
            let failed = matches!(end.verdict, Verdict::Failure { .. });
            (failed, end.verdict == Verdict::Slow || end.took > slow, end.at)
        };
        self.telling(life).into_iter().map(mark).collect()
    }

    /// The figures of a life's window at a time.
    fn figures(&self, policy: &PolicySettings, life: usize, now: u64) -> Counts {
        let last = |size: u32, kept: Vec<Kept>| kept[kept.len().saturating_sub(size as usize)..].to_vec();
        let lately = |window: Duration, kept: Vec<Kept>| {
            kept.into_iter().filter(|(_, _, at)| at / 1_000 + window.as_secs() > now / 1_000).collect::<Vec<_>>()
        };
        let window = match policy {
            PolicySettings::Consecutive { .. } => {
                let streak = self.streak(life);
                return Counts { calls: streak, failures: streak, slow: 0, consecutive_failures: streak };
            }
            PolicySettings::Count { size, rates } => last(*size, self.kept(life, rates.slow_call_duration)),
            PolicySettings::Time { window, rates } => lately(*window, self.kept(life, rates.slow_call_duration)),
            PolicySettings::Expression { over: Over::Calls(size), slow, .. } => last(*size, self.kept(life, *slow)),
            PolicySettings::Expression { over: Over::Time(window), slow, .. } => lately(*window, self.kept(life, *slow)),
            PolicySettings::Any(policies) => {
                let all: Vec<Counts> = policies.iter().map(|policy| self.figures(policy, life, now)).collect();
                let most = all.iter().map(|counts| counts.calls).max().expect("there is a policy");
                let first = all.iter().find(|counts| counts.calls == most).expect("one has most");
                return Counts { consecutive_failures: self.streak(life), ..*first };
            }
            PolicySettings::Adaptive(_) => panic!("is not modelled"),
        };
        let count = |of: fn(&Kept) -> bool| window.iter().filter(|kept| of(kept)).count() as u64;
        Counts {
            calls: window.len() as u64,
            failures: count(|kept| kept.0),
            slow: count(|kept| kept.1),
            consecutive_failures: self.streak(life),
        }
    }

    fn streak(&self, life: usize) -> u64 {
        self.telling(life).iter().rev().take_while(|end| matches!(end.verdict, Verdict::Failure { .. })).count() as u64
    }

    /// Whether the present life's window says that the breaker is to open.
    fn is_bad(&self, policy: &PolicySettings, now: u64) -> bool {
        let counts = self.figures(policy, self.life(), now);
        let rates = |rates: &Rates, most: u64| {
            let enough = counts.calls > 0 && counts.calls >= u64::from(rates.minimum_calls).min(most);
            enough
                && (is_share(counts.failures, counts.calls, rates.failure_rate)
                    || is_share(counts.slow, counts.calls, rates.slow_call_rate))
        };
        match policy {
            PolicySettings::Consecutive { fail_max } => counts.consecutive_failures >= u64::from(fail_max.get()),
            PolicySettings::Count { size, rates: of } => rates(of, u64::from(*size)),
            PolicySettings::Time { rates: of, .. } => rates(of, u64::MAX),
            // The one expression of these worlds.
            PolicySettings::Expression { .. } => {
                counts.failures * 10 > counts.calls * 3 && counts.calls >= 4 || counts.consecutive_failures >= 3
            }
            PolicySettings::Any(policies) => policies.iter().any(|policy| self.is_bad(policy, now)),
            PolicySettings::Adaptive(_) => panic!("is not modelled"),
        }
    }

    /// What people see: while open, the figures of the life that was before.
    pub(super) fn counts(&self, now: u64) -> Counts {
        let shown = (0..=self.life()).rev().find(|life| !matches!(self.lives[*life].held, Held::Open { .. }));
        let Some(life) = shown else { return Counts::default() };
        match &self.lives[life].held {
            Held::HalfOpen => self.results(life),
            Held::Closed | Held::Open { .. } | Held::Locked(_) => self.figures(&self.settings.policy, life, now),
        }
    }

    /// What the probes of a life have said.
    fn results(&self, life: usize) -> Counts {
        let slow = self.round().map_or(Duration::MAX, |round| round.2);
        let kept = self.kept(life, slow);
        let count = |of: fn(&Kept) -> bool| kept.iter().filter(|kept| of(kept)).count() as u64;
        Counts {
            calls: kept.len() as u64,
            failures: count(|kept| kept.0),
            slow: count(|kept| kept.1),
            consecutive_failures: self.streak(life),
        }
    }

    /// How probes are weighed together: how many, at what share of slow ones, and what is slow.
    fn round(&self) -> Option<(u32, f64, Duration)> {
        self.settings.half_open_failure_rate?;
        let permits = self.settings.permits.max(1);
        Some(match &self.settings.policy {
            PolicySettings::Count { rates, .. } | PolicySettings::Time { rates, .. } => {
                (permits.min(rates.minimum_calls.max(1)), rates.slow_call_rate, rates.slow_call_duration)
            }
            _ => (permits, f64::INFINITY, Duration::MAX),
        })
    }

    /// When the stay in half-open is too long.
    fn stay_ends(&self) -> Option<u64> {
        let timeout = self.settings.half_open_timeout?.as_millis();
        let ends = u128::from(self.stay().since) + timeout.max(1);
        (self.stay().held == Held::HalfOpen).then_some(u64::try_from(ends).unwrap_or(u64::MAX))
    }

    pub(super) fn first_lease_end(&self, now: u64) -> Option<Tick> {
        if self.stay().held == Held::HalfOpen { self.leases(now).into_iter().min().map(Tick) } else { None }
    }

    fn leases(&self, now: u64) -> Vec<u64> {
        let ours = self.calls.iter().filter(|call| call.life == self.life() && call.probe && !call.over);
        ours.map(|call| call.lease_ends).filter(|ends| *ends > now).collect()
    }

    pub(super) fn probes(&self, now: u64) -> usize {
        if self.stay().held == Held::HalfOpen { self.leases(now).len() } else { 0 }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let stay = self.stay();
        Snapshot { generation: Generation(stay.generation), held: stay.held.clone(), trips: self.trips(), since: Tick(stay.since) }
    }

    pub(super) fn deadline(&self) -> Option<Tick> {
        match &self.stay().held {
            Held::Open { until } => Some(*until),
            Held::Locked(lock) => lock.expires_at,
            Held::HalfOpen => self.stay_ends().map(Tick),
            Held::Closed => None,
        }
    }

    fn enter(&mut self, held: Held, cause: Cause, trips: Trips, now: u64) -> Change {
        // Orders are counted in hundreds of millions; a lock comes last in its own.
        let before = self.stay().generation;
        let order = (before / 100_000_000 + 1) * 100_000_000;
        let generation = match (&held, cause) {
            (Held::Locked(_), _) => order + 99_999_999,
            (_, Cause::Forced | Cause::Released | Cause::LockExpired) => order,
            _ => before + 1,
        };
        self.enter_as(Stay { held, generation, since: now, trips, recovered: cause == Cause::Recovered }, cause)
    }

    fn enter_as(&mut self, stay: Stay, cause: Cause) -> Change {
        let change = (self.stay().held.name(), stay.held.name(), cause, stay.generation);
        self.lives.push(stay);
        change
    }

    fn open(&mut self, cause: Cause, retry_after: Option<Duration>, roll: f64, now: u64) -> Change {
        let Settings { recovery_timeout, recovery_timeout_max, .. } = self.settings;
        let longest = recovery_timeout.max(recovery_timeout_max).as_millis();
        let mut time = recovery_timeout.as_millis();
        for _ in 0..self.trips() {
            time = (time * self.settings.backoff_multiplier as u128).min(longest);
        }
        let time = time.max(retry_after.unwrap_or_default().as_millis().min(longest));
        // As in resilience4j, the time must be past.
        let past = u128::from(matches!(self.settings.policy, PolicySettings::Count { .. } | PolicySettings::Time { .. }));
        let time = time + (time as f64 * self.settings.jitter * roll) as u128 + past;
        let until = u64::try_from(u128::from(now) + time).unwrap_or(u64::MAX);
        self.enter(Held::Open { until: Tick(until) }, cause, Trips::OneMore, now)
    }

    fn unlock(&mut self, cause: Cause, now: u64) -> Change {
        if self.stay().held.name() == StateName::ForcedOpen {
            self.enter(Held::HalfOpen, cause, Trips::Unchanged, now)
        } else {
            self.enter(Held::Closed, cause, Trips::None, now)
        }
    }

    pub(super) fn advance(&mut self, now: u64) -> Option<Change> {
        if self.deadline().is_none_or(|deadline| deadline.0 > now) {
            return None;
        }
        match self.stay().held {
            Held::Open { .. } => Some(self.enter(Held::HalfOpen, Cause::Timer, Trips::Unchanged, now)),
            Held::HalfOpen => Some(self.open(Cause::ProbesTooLong, None, 0.0, now)),
            _ => Some(self.unlock(Cause::LockExpired, now)),
        }
    }

    /// Whether the share of calls that go after a recovery is not yet above the roll.
    fn is_ramping(&self, roll: f64, now: u64) -> bool {
        let (ramp, since) = (self.settings.ramp.as_millis() as f64, (now - self.stay().since.min(now)) as f64);
        self.stay().recovered && since < ramp && roll >= since / ramp
    }

    pub(super) fn admit(&mut self, roll: f64, now: u64) -> (Result<CallId, Refusal>, Option<Change>) {
        let change = self.advance(now);
        let probe = self.stay().held == Held::HalfOpen;
        let refusal = match &self.stay().held {
            Held::Closed => {
                self.is_ramping(roll, now).then_some(Refusal { state: StateName::Closed, until: Some(Tick(now.saturating_add(100))) })
            }
            Held::Open { until } => Some(Refusal { state: StateName::Open, until: Some(*until) }),
            Held::HalfOpen => {
                let leases = self.leases(now);
                // Never more probes than answers are wanting; and one at the least, whatever the settings say.
                let known = u32::try_from(self.results(self.life()).calls).expect("few");
                let wanting = match self.settings.half_open_failure_rate {
                    None => self.settings.permits.min(self.settings.success_threshold.saturating_sub(known)),
                    Some(_) => self.settings.permits.saturating_sub(known),
                };
                let room = leases.len() < (wanting as usize).max(1);
                let until = leases.iter().copied().chain(self.stay_ends()).min().map(Tick);
                (!room).then_some(Refusal { state: StateName::HalfOpen, until })
            }
            Held::Locked(lock) => {
                (lock.kind == LockKind::ForcedOpen).then_some(Refusal { state: StateName::ForcedOpen, until: lock.expires_at })
            }
        };
        if let Some(refusal) = refusal {
            return (Err(refusal), change);
        }
        let lease = (self.settings.lease.as_millis() as u64).max(1);
        self.calls.push(Call { life: self.life(), probe, lease_ends: now.saturating_add(lease), over: false });
        (Ok(self.calls.len() - 1), change)
    }

    /// Late or not, and the change.
    pub(super) fn settle(&mut self, id: CallId, verdict: Verdict, took: Duration, roll: f64, now: u64) -> (bool, Option<Change>) {
        let call = &self.calls[id];
        let late = call.life != self.life() || self.stay_ends().is_some_and(|end| end <= now);
        if late || (call.probe && call.lease_ends <= now) {
            return (true, None);
        }
        self.calls[id].over = true;
        self.ends.push(End { call: id, verdict, took, at: now });
        let retry_after = if let Verdict::Failure { retry_after } = verdict { retry_after } else { None };
        let change = match self.stay().held.clone() {
            Held::Closed => {
                // What says nothing of the service is not weighed, though the window may have moved on.
                let policy = self.settings.policy.clone();
                (verdict != Verdict::Ignored && self.is_bad(&policy, now)).then(|| self.open(Cause::Policy, retry_after, roll, now))
            }
            Held::HalfOpen => self.decide(roll, now),
            Held::Open { .. } | Held::Locked(_) => None,
        };
        (false, change)
    }

    fn decide(&mut self, roll: f64, now: u64) -> Option<Change> {
        let Counts { calls, failures, slow, .. } = self.results(self.life());
        let asked_for = |end: End| if let Verdict::Failure { retry_after } = end.verdict { retry_after } else { None };
        let retry_after = self.telling(self.life()).into_iter().filter_map(asked_for).max();
        let good = match self.round() {
            None if failures > 0 => false,
            None if calls > 0 && calls >= u64::from(self.settings.success_threshold) => true,
            Some((size, slow_rate, _)) if calls > 0 && calls >= u64::from(size) => {
                let rate = self.settings.half_open_failure_rate.expect("there is a round");
                !(is_share(failures, calls, rate) || slow_rate.is_finite() && is_share(slow, calls, slow_rate))
            }
            None | Some(_) => return None,
        };
        Some(if good {
            self.enter(Held::Closed, Cause::Recovered, Trips::None, now)
        } else {
            self.open(Cause::ProbeFailed, retry_after, roll, now)
        })
    }

    pub(super) fn abandon(&mut self, id: CallId) {
        self.calls[id].over = true;
    }

    pub(super) fn lock(&mut self, lock: Lock, now: u64) -> Change {
        self.enter(Held::Locked(lock), Cause::Forced, Trips::Unchanged, now)
    }

    pub(super) fn release(&mut self, now: u64) -> Option<Change> {
        matches!(self.stay().held, Held::Locked(_)).then(|| self.unlock(Cause::Released, now))
    }

    pub(super) fn reset_to(&mut self, state: Automatic, roll: f64, now: u64) -> Change {
        match state {
            Automatic::Closed => self.enter(Held::Closed, Cause::Forced, Trips::None, now),
            Automatic::HalfOpen => self.enter(Held::HalfOpen, Cause::Forced, Trips::Unchanged, now),
            Automatic::Open => self.open(Cause::Forced, None, roll, now),
        }
    }

    fn take(&mut self, snapshot: &Snapshot) -> Change {
        let Snapshot { generation, held, trips, since } = snapshot.clone();
        // What a breaker decides by itself is no round number; a lock's end and a reset are.
        let recovered = generation.0 % 100_000_000 != 0;
        self.enter_as(Stay { held, generation: generation.0, since: since.0, trips: Trips::Told(trips), recovered }, Cause::Adopted)
    }

    pub(super) fn adopt(&mut self, snapshot: &Snapshot) -> Option<Change> {
        (snapshot.generation.0 > self.stay().generation).then(|| self.take(snapshot))
    }

    pub(super) fn yield_to(&mut self, snapshot: &Snapshot) -> Option<Change> {
        let ours = self.stay();
        if snapshot.generation.0 != ours.generation {
            return self.adopt(snapshot);
        }
        match (ours.held.clone(), &snapshot.held) {
            (Held::Locked(ours), Held::Locked(theirs)) => {
                let terms = |lock: &Lock| (lock.kind, lock.actor.clone(), lock.reason.clone(), lock.expires_at.is_some());
                (terms(&ours) != terms(theirs)).then(|| self.take(snapshot))
            }
            (ours, theirs) => (ours.name() != theirs.name()).then(|| self.take(snapshot)),
        }
    }
}

/// Whether `part` of `whole` is at least a share that is whole per cents, in whole numbers.
fn is_share(part: u64, whole: u64, share: f64) -> bool {
    part * 100 >= (share * 100.0).round() as u64 * whole
}
