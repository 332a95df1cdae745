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

/// A call that waits for its end: an index into the model's list.
pub(super) type CallId = usize;

#[derive(Debug)]
pub(super) struct Model {
    settings: Settings,
    lives: Vec<Stay>,
    calls: Vec<Call>,
    /// Verdicts in the order of their coming that were not late.
    ends: Vec<(CallId, Verdict)>,
}

/// What a transition must say.
pub(super) type Change = (StateName, StateName, Cause, u64);

impl Model {
    pub(super) fn new(settings: Settings) -> Self {
        let first = Stay { held: Held::Closed, generation: 0, since: 0, trips: Trips::None };
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

    fn verdicts(&self) -> Vec<Verdict> {
        self.ends.iter().filter(|(call, _)| self.calls[*call].life == self.life()).map(|(_, verdict)| *verdict).collect()
    }

    fn successes(&self) -> u32 {
        self.verdicts().iter().filter(|verdict| matches!(verdict, Verdict::Success | Verdict::Slow)).count() as u32
    }

    pub(super) fn streak(&self) -> u64 {
        match &self.stay().held {
            Held::Closed | Held::Locked(Lock { kind: LockKind::MetricsOnly, .. }) => {}
            _ => return 0,
        }
        let telling: Vec<_> = self.verdicts().into_iter().filter(|verdict| *verdict != Verdict::Ignored).collect();
        telling.iter().rev().take_while(|verdict| matches!(verdict, Verdict::Failure { .. })).count() as u64
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
            Held::Closed | Held::HalfOpen => None,
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
        self.enter_as(Stay { held, generation, since: now, trips }, cause)
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
        let time = time + (time as f64 * self.settings.jitter * roll) as u128;
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
            _ => Some(self.unlock(Cause::LockExpired, now)),
        }
    }

    pub(super) fn admit(&mut self, now: u64) -> (Result<CallId, Refusal>, Option<Change>) {
        let change = self.advance(now);
        let probe = self.stay().held == Held::HalfOpen;
        let refusal = match &self.stay().held {
            Held::Closed => None,
            Held::Open { until } => Some(Refusal { state: StateName::Open, until: Some(*until) }),
            Held::HalfOpen => {
                let leases = self.leases(now);
                // Never more probes than successes are wanting; and one at the least, whatever the settings say.
                let wanting = self.settings.success_threshold.saturating_sub(self.successes());
                let room = leases.len() < (self.settings.permits.min(wanting) as usize).max(1);
                let until = leases.iter().min().map(|ends| Tick(*ends));
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
    pub(super) fn settle(&mut self, id: CallId, verdict: Verdict, roll: f64, now: u64) -> (bool, Option<Change>) {
        self.calls[id].over = true;
        let call = &self.calls[id];
        if call.life != self.life() || (call.probe && call.lease_ends <= now) {
            return (true, None);
        }
        self.ends.push((id, verdict));
        let retry_after = if let Verdict::Failure { retry_after } = verdict { retry_after } else { None };
        let change = match (&self.stay().held, verdict) {
            (Held::Closed, _) => {
                let PolicySettings::Consecutive { fail_max } = self.settings.policy;
                (self.streak() >= u64::from(fail_max.get())).then(|| self.open(Cause::Policy, retry_after, roll, now))
            }
            (Held::HalfOpen, Verdict::Failure { .. }) => Some(self.open(Cause::ProbeFailed, retry_after, roll, now)),
            (Held::HalfOpen, Verdict::Success | Verdict::Slow) => {
                (self.successes() >= self.settings.success_threshold).then(|| self.enter(Held::Closed, Cause::Recovered, Trips::None, now))
            }
            _ => None,
        };
        (false, change)
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
        self.enter_as(Stay { held, generation: generation.0, since: since.0, trips: Trips::Told(trips) }, Cause::Adopted)
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
