//! One service's circuit breaker: who may call, what their answers mean, when it opens and how it comes back.
//!
//! ```text
//!            policy says trip                 timer
//!   closed ────────────────────▶ open ─────────────────▶ half_open
//!     ▲                            ▲                      │     │
//!     │                            └─ failed, too long ───┘     │
//!     └───────────────── enough probes succeeded ───────────────┘
//! ```
//!
//! Above these stand the locks ([`LockKind`]): a locked breaker stays as it is until the lock is released or expires.
//!
//! Guarantees:
//! - Every change of state that is decided here is a new [`Generation`], which rises by it. A verdict on a call that was admitted in an
//!   earlier life is late: it changes nothing.
//! - Of two states the one of the higher generation stands, everywhere. What a breaker does by itself never reaches the generation of an
//!   operator's word that it has not heard ([`Generation`] says how), so no instance's timer undoes another one's lock.
//! - While half-open at most `permits` probes are in flight; where leases are asked for ([`Lease`]), none without one. One that never comes back
//!   is given up at its lease's end; a refused call extends nothing.
//! - No timer runs: time is an argument, and a state that has run out is left by the next [`Breaker::admit`] or [`Breaker::advance`].
//! - Whatever its settings are, a breaker whose service works closes again: no setting, zero and the largest included, can hold
//!   it half-open for good. Only `half_open_timeout` asks something of the service: that it answers the probes within the stay.
//!
//! What it leaves to others: sharing between threads ([`SharedBreaker`]), the fleet, metrics and logs. It says what happened
//! ([`Transition`]); its caller acts on it.

mod fleet;
mod gate;
mod half_open;
mod leases;
mod life;
mod lock;
mod orders;
mod policy;
mod settings;
mod shared;
mod slack;
mod snapshot;
mod sync;
mod transition;

mod rates;
mod ring;
mod seconds;
mod sliding;

mod adaptive;
mod any;
mod consecutive;
mod count;
mod expression;
mod timed;

pub use adaptive::AdaptiveSettings;
pub use expression::{Over, Trip};
pub use fleet::{FleetCounts, Scope, Testimony, Told};
pub use leases::{Lease, PATIENCE, RESERVE, Tenure, Terms};
pub use life::{Generation, Permit};
pub use lock::{Lock, LockKind};
pub use orders::Automatic;
pub use policy::{Counts, Policy, Slack};
pub use rates::Rates;
pub use settings::{PolicySettings, Settings};
pub use shared::SharedBreaker;
pub use snapshot::{Held, Snapshot};
pub use transition::{Cause, StateName, Transition};

use std::sync::Arc;
use std::time::Duration;

use fleet::Membership;
use half_open::{Decision, HalfOpen};
use leases::Leases;
use life::Life;

use super::time::Tick;

/// When a call makes sense again that was refused by chance, while the breaker is closed.
const BY_CHANCE: Duration = Duration::from_millis(100);

/// By how much two instances may differ on when a state began: it takes so long on its way. An open time that changed settings move by no more is each
/// instance's own, or one after the other would tell all others of its own reckoning.
const ON_THE_WAY: Duration = Duration::from_secs(1);

/// A breaker's no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The state that refused; `closed` where `ramp` or `adaptive` did.
    pub state: StateName,
    /// When asking again makes sense: the end of the open time, of the lock, or of the first lease among the probes under way (a place
    /// may be free earlier), or of the stay; where chance refused, a little later. `None` when no time is known: forced open without an expiry.
    pub until: Option<Tick>,
}

/// What a call's answer says of its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The service works.
    Success,
    /// The service works, but took longer than it should.
    Slow,
    /// The service does not work; it may have said when it will.
    Failure {
        /// The answer's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The answer says nothing of the service.
    Ignored,
}

/// What a settled call did to the breaker.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// The verdict belonged to an earlier life, or to a probe given up, and was dropped.
    pub late: bool,
    /// The change of state that it brought about. Boxed, for it is rare, and every answer would have to make room for it.
    pub transition: Option<Box<Transition>>,
}

impl Settled {
    const LATE: Self = Self { late: true, transition: None };
}

/// A circuit breaker.
#[derive(Debug)]
pub struct Breaker {
    settings: Arc<Settings>,
    policy: Box<dyn Policy>,
    state: State,
    life: Life,
    /// Trips since it was last closed: the exponent of the open time's back-off.
    trips: u32,
    /// Verdicts that are still to be ignored.
    ignored_first: u32,
    since: Tick,
    next_probe: u64,
    /// `None` until probes are shared: boxed, for most breakers never are half-open.
    leases: Option<Box<Leases>>,
    /// `None`: there is no fleet.
    membership: Option<Box<Membership>>,
}

#[derive(Debug)]
enum State {
    /// `ramping`: it has recovered by itself, and the share of calls that go may still rise.
    Closed {
        ramping: bool,
    },
    /// `not_before`: until when its service has asked to be left alone. `probed`: what the probes said that opened it again.
    Open {
        until: Tick,
        not_before: Tick,
        probed: Option<Box<Counts>>,
    },
    HalfOpen(Box<HalfOpen>),
    Locked(Box<Lock>),
}

impl Breaker {
    /// A closed breaker of generation 0.
    pub fn new(settings: impl Into<Arc<Settings>>, now: Tick) -> Self {
        let settings = settings.into();
        Self {
            policy: policy::build(&settings.policy, now),
            state: State::Closed { ramping: false },
            life: Life::default(),
            trips: 0,
            ignored_first: settings.ignore_first,
            since: now,
            next_probe: 0,
            leases: None,
            membership: None,
            settings,
        }
    }

    /// Asks whether a call may go. `roll` gives numbers in `[0, 1)`; it is asked for one only where chance decides, by `ramp` or
    /// `adaptive`.
    ///
    /// A state that has run out is left first, so the answer comes with the transition, if there was one.
    pub fn admit(&mut self, now: Tick, mut roll: impl FnMut() -> f64) -> (Result<Permit, Refusal>, Option<Box<Transition>>) {
        let transition = self.advance(now).map(Box::new);
        let life = self.life;
        let alone = self.is_alone();
        let answer = match &mut self.state {
            State::Closed { ramping } => {
                let by_chance = Refusal { state: StateName::Closed, until: Some(now.plus(BY_CHANCE)) };
                let share = if *ramping { self.settings.ramp_share(now.since(self.since)) } else { None };
                *ramping = share.is_some();
                if share.is_some_and(|share| roll() >= share) || !self.policy.admit(now, &mut roll) {
                    Err(by_chance)
                } else {
                    self.policy.send(now);
                    Ok(Permit { life, probe: None, began: now })
                }
            }
            State::Open { until, .. } => Err(Refusal { state: StateName::Open, until: Some(*until) }),
            State::HalfOpen(half_open) => {
                half_open.give_up(now);
                let full = half_open.full_until(&self.settings);
                let (probe, ends) = (self.next_probe, self.settings.lease_from(now));
                if full.is_none() && (alone || self.leases.as_mut().is_none_or(|leases| leases.let_go(probe, ends, now))) {
                    half_open.send(probe, ends);
                    self.next_probe += 1;
                    Ok(Permit { life, probe: Some(probe), began: now })
                } else {
                    let wanting = self.leases.as_ref().filter(|_| !alone).and_then(|leases| leases.wanting_until());
                    let ends = [full.or(wanting), stay_ends(&self.settings, self.since)];
                    Err(Refusal { state: StateName::HalfOpen, until: ends.into_iter().flatten().min() })
                }
            }
            State::Locked(lock) => match lock.kind {
                LockKind::ForcedOpen => Err(Refusal { state: StateName::ForcedOpen, until: lock.expires_at }),
                LockKind::ForcedClosed => Ok(Permit { life, probe: None, began: now }),
                LockKind::MetricsOnly => {
                    // Counted like any other, and with this roll never refused.
                    self.policy.admit(now, &mut || 1.0);
                    self.policy.send(now);
                    Ok(Permit { life, probe: None, began: now })
                }
            },
        };
        (answer, transition)
    }

    /// Reports an admitted call's verdict. `took` is the call's duration, `roll` a number in `[0, 1)`, drawn only for a trip's jitter.
    pub fn settle(&mut self, permit: Permit, verdict: Verdict, took: Duration, now: Tick, roll: impl FnOnce() -> f64) -> Settled {
        self.give_back_lease(&permit, now);
        if permit.life != self.life {
            return Settled::LATE;
        }
        let transition = match &mut self.state {
            State::Closed { .. } => {
                if self.record(verdict, took, now) {
                    Some(self.trip(Cause::Policy, retry_after(verdict), now, roll))
                } else {
                    None
                }
            }
            State::Open { .. } => return Settled::LATE,
            State::HalfOpen(half_open) => {
                // A stay that has run out is over, though nobody has asked since.
                let over = stay_ends(&self.settings, self.since).is_some_and(|end| end <= now);
                if over || !half_open.take_back(permit.probe, now) {
                    return Settled::LATE;
                }
                let decision = half_open.note(verdict, took, &self.settings);
                self.act_on(decision, now, roll)
            }
            State::Locked(lock) => {
                if lock.kind == LockKind::MetricsOnly {
                    self.record(verdict, took, now);
                }
                None
            }
        };
        Settled { late: false, transition: transition.map(Box::new) }
    }

    /// Gives a permit back without a verdict: the call was never made, or was cancelled by its caller.
    pub fn abandon(&mut self, permit: Permit, now: Tick) {
        self.give_back_lease(&permit, now);
        if permit.life != self.life {
            return;
        }
        match &mut self.state {
            State::HalfOpen(half_open) => half_open.drop_probe(permit.probe),
            State::Closed { .. } => self.policy.forget(permit.began, now),
            State::Locked(lock) if lock.kind == LockKind::MetricsOnly => self.policy.forget(permit.began, now),
            State::Open { .. } | State::Locked(_) => {}
        }
    }

    /// Leaves a state that has run out: an open circuit whose time is over, a stay in half-open that has become too long, a lock that has
    /// expired.
    ///
    /// Opened again because a stay became too long, it stays open without jitter: no chance is at hand here.
    pub fn advance(&mut self, now: Tick) -> Option<Transition> {
        match &self.state {
            State::Open { until, .. } if *until <= now => Some(self.enter(half_open(), Cause::Timer, now)),
            State::HalfOpen(_) if stay_ends(&self.settings, self.since).is_some_and(|end| end <= now) => {
                Some(self.trip(Cause::ProbesTooLong, None, now, || 0.0))
            }
            State::Locked(lock) if lock.expires_at.is_some_and(|at| at <= now) => Some(self.unlock(Cause::LockExpired, now)),
            State::Closed { .. } | State::Open { .. } | State::HalfOpen(_) | State::Locked(_) => None,
        }
    }

    /// Gives up the probes whose leases have ended, and leases of the fleet that nothing was heard of; whether there were any, so that a
    /// refused call may be worth asking again.
    pub fn give_up(&mut self, now: Tick) -> bool {
        let State::HalfOpen(half_open) = &mut self.state else { return false };
        let fell_back = self.leases.as_mut().is_some_and(|leases| leases.fall_back(now));
        half_open.give_up(now) || fell_back
    }

    /// When [`Breaker::advance`] or [`Breaker::give_up`] will have something to do, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Tick> {
        match &self.state {
            State::Open { until, .. } => Some(*until),
            State::HalfOpen(half_open) => {
                let waits = self.fleets_leases().and_then(Leases::waits);
                [half_open.first_lease_end(), stay_ends(&self.settings, self.since), waits].into_iter().flatten().min()
            }
            State::Locked(lock) => lock.expires_at,
            State::Closed { .. } => None,
        }
    }

    /// The earliest tick at which a call could be admitted as far as the state alone says: [`Tick`] zero when the breaker must be asked.
    /// Until that tick every [`Breaker::admit`] is a refusal that changes nothing, so it may be answered without asking, unless a lease comes.
    pub fn refuses_until(&self) -> Tick {
        match &self.state {
            State::Open { until, .. } => *until,
            State::Locked(lock) if lock.kind == LockKind::ForcedOpen => lock.expires_at.unwrap_or(Tick::NEVER),
            State::HalfOpen(half_open) => {
                let wanting = self.fleets_leases().and_then(Leases::wanting_until);
                let full = half_open.full_until(&self.settings).or(wanting);
                full.map_or(Tick(0), |end| stay_ends(&self.settings, self.since).map_or(end, |stay| stay.min(end)))
            }
            State::Closed { .. } | State::Locked(_) => Tick(0),
        }
    }

    /// Takes other settings, all of them. State, probes and locks stay, and the window as far as the new policy has room for it. What
    /// there is is weighed at once: a closed breaker may open, a half-open one close or open, an open one's time be over earlier or later, which is
    /// a change for the fleet to know of if it is by more than [`ON_THE_WAY`].
    /// Settings that say the same of any of this leave it as it is.
    pub fn retune(&mut self, settings: impl Into<Arc<Settings>>, now: Tick, roll: impl FnOnce() -> f64) -> Option<Transition> {
        let settings = settings.into();
        let before = std::mem::replace(&mut self.settings, Arc::clone(&settings));
        let other_policy = settings.policy != before.policy;
        if other_policy && !self.policy.retune(&settings.policy, now) {
            let verdicts = self.policy.verdicts(now);
            self.policy = policy::build(&settings.policy, now);
            self.policy.inherit(verdicts, now);
        }
        self.ignored_first = self.ignored_first.min(settings.ignore_first);
        match &mut self.state {
            State::Closed { .. } => {
                if other_policy && self.policy.weigh(now) {
                    return Some(self.trip(Cause::Policy, None, now, roll));
                }
            }
            State::Open { not_before, .. } => {
                if !settings.opens_as_long_as(&before) {
                    // Without chance, for whoever takes the settings up comes to the same.
                    let end = self.since.plus(settings.open_time(self.trips, None, 0.0)).max(*not_before);
                    return self.stay_open_until(end, now);
                }
            }
            State::HalfOpen(half_open) => {
                let decision = half_open.decide(&settings);
                return self.act_on(decision, now, roll);
            }
            State::Locked(_) => {}
        }
        None
    }

    /// Open until another time than was decided; since when it is stays.
    fn stay_open_until(&mut self, end: Tick, now: Tick) -> Option<Transition> {
        let alone = self.is_alone();
        let State::Open { until, not_before, .. } = &mut self.state else { return None };
        let moved = end.since(*until).max(until.since(end));
        *until = end;
        // What is over by now is told by what follows it.
        if alone || moved <= ON_THE_WAY || end <= now {
            return None;
        }
        let (since, not_before, counts) = (self.since, *not_before, self.counts(now));
        let state = State::Open { until: end, not_before, probed: self.probed() };
        let transition = self.enter(state, Cause::Tuned, now).with(counts);
        self.since = since;
        Some(transition)
    }

    /// Hears of so many quick successes of this life at once, which its policy had said it need not hear of one by one ([`Policy::slack`]).
    fn absorb(&mut self, successes: u32) {
        self.policy.absorb(successes);
    }

    /// Which successes it need not hear of at once.
    fn slack(&self) -> Slack {
        match self.state {
            State::Closed { .. } if self.ignored_first == 0 => self.policy.slack(),
            State::Closed { .. } | State::Open { .. } | State::HalfOpen(_) | State::Locked(_) => Slack::None,
        }
    }

    /// The longest that a success may take to be one of its [`Breaker::slack`].
    fn quick(&self) -> Duration {
        self.policy.quick()
    }

    /// Whether every call goes, until something else happens.
    fn admits_all(&self) -> bool {
        matches!(self.state, State::Closed { ramping: false }) && !self.policy.weighs_admissions()
    }

    /// The state's name.
    pub fn state_name(&self) -> StateName {
        match &self.state {
            State::Closed { .. } => StateName::Closed,
            State::Open { .. } => StateName::Open,
            State::HalfOpen(_) => StateName::HalfOpen,
            State::Locked(lock) => lock.kind.state_name(),
        }
    }

    /// The figures that its policy weighs: while open those that opened it, while half-open those of the probes.
    pub fn counts(&self, now: Tick) -> Counts {
        match &self.state {
            State::HalfOpen(half_open) => half_open.results(),
            State::Open { probed: Some(counts), .. } => **counts,
            State::Closed { .. } | State::Open { .. } | State::Locked(_) => self.policy.counts(now),
        }
    }

    /// Probes in flight whose leases have not ended.
    pub fn probes_in_flight(&self, now: Tick) -> usize {
        if let State::HalfOpen(half_open) = &self.state { half_open.in_flight(now) } else { 0 }
    }

    /// The generation it is in.
    pub fn generation(&self) -> Generation {
        self.life.generation
    }

    /// What it was told to do.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    fn give_back_lease(&mut self, permit: &Permit, now: Tick) {
        if let (Some(probe), Some(leases)) = (permit.probe, &mut self.leases) {
            leases.returned(probe, now);
        }
    }

    fn record(&mut self, verdict: Verdict, took: Duration, now: Tick) -> bool {
        if self.ignored_first > 0 && verdict != Verdict::Ignored {
            self.ignored_first -= 1;
            self.policy.forget(began(took, now), now);
            return false;
        }
        self.policy.record(verdict, took, now)
    }

    fn act_on(&mut self, decision: Decision, now: Tick, roll: impl FnOnce() -> f64) -> Option<Transition> {
        match decision {
            Decision::Wait => None,
            Decision::Recover => Some(self.recover(Cause::Recovered, now)),
            Decision::Reopen(retry_after) => Some(self.trip(Cause::ProbeFailed, retry_after, now, roll)),
        }
    }

    fn trip(&mut self, cause: Cause, retry_after: Option<Duration>, now: Tick, roll: impl FnOnce() -> f64) -> Transition {
        self.trips = self.trips.saturating_add(1);
        let open_for = self.settings.open_time(self.trips, retry_after, roll());
        let asked_for = now.plus(self.settings.bounded(retry_after));
        let not_before = match self.state {
            // Open already, alone: what the service has asked for then still stands.
            State::Open { not_before, .. } if cause == Cause::Fleet => not_before.max(asked_for),
            _ => asked_for,
        };
        let counts = self.counts(now);
        let state = State::Open { until: now.plus(open_for).max(not_before), not_before, probed: self.probed() };
        self.enter(state, cause, now).with(counts)
    }

    /// What probes have said, for an open life that follows.
    fn probed(&mut self) -> Option<Box<Counts>> {
        match &mut self.state {
            State::HalfOpen(half_open) => Some(Box::new(half_open.results())),
            State::Open { probed, .. } => probed.take(),
            State::Closed { .. } | State::Locked(_) => None,
        }
    }

    fn recover(&mut self, cause: Cause, now: Tick) -> Transition {
        self.trips = 0;
        let state = self.closed(cause == Cause::Recovered);
        self.enter(state, cause, now)
    }

    fn closed(&self, recovered: bool) -> State {
        State::Closed { ramping: recovered && !self.settings.ramp.is_zero() }
    }

    fn unlock(&mut self, cause: Cause, now: Tick) -> Transition {
        match &self.state {
            State::Locked(lock) if lock.kind == LockKind::ForcedOpen => self.enter(half_open(), cause, now),
            State::Closed { .. } | State::Open { .. } | State::HalfOpen(_) | State::Locked(_) => self.recover(cause, now),
        }
    }

    fn enter(&mut self, state: State, cause: Cause, now: Tick) -> Transition {
        let before = self.life.generation;
        let alone = self.goes_alone(cause);
        let generation = match state {
            State::Locked(_) => before.next_lock(),
            _ if cause.is_order() => before.next_order(),
            _ if alone => before,
            _ => before.next(),
        };
        // For the fleet it has been closed since it was here; closed again, it is one with the fleet.
        let since = self.closed_since().filter(|_| alone && !matches!(state, State::Closed { .. }));
        let transition = self.begin(state, generation, cause, now);
        if let Some(membership) = &mut self.membership {
            membership.alone = since;
        }
        Transition { alone, ..transition }
    }

    fn begin(&mut self, state: State, generation: Generation, cause: Cause, now: Tick) -> Transition {
        let from = self.state_name();
        // A life begins without the verdicts of the one before. An open one records none, and shows those that opened it.
        if !matches!(state, State::Open { .. }) {
            self.policy.reset(now);
        }
        if let Some(leases) = &mut self.leases {
            leases.begin(now);
        }
        if let Some(membership) = &mut self.membership {
            membership.begin();
        }
        self.state = state;
        self.life = self.life.followed_by(generation);
        self.since = now;
        Transition::new(from, self.state_name(), cause, generation, now)
    }
}

fn half_open() -> State {
    State::HalfOpen(Box::default())
}

/// When a stay in half-open that began at `since` becomes too long. Not at once, for no probe could be sent in it.
fn stay_ends(settings: &Settings, since: Tick) -> Option<Tick> {
    settings.half_open_timeout.map(|timeout| since.plus(timeout.max(Duration::from_millis(1))))
}

/// When a call began that took so long, give or take a millisecond.
fn began(took: Duration, now: Tick) -> Tick {
    Tick(now.0.saturating_sub(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)))
}

fn retry_after(verdict: Verdict) -> Option<Duration> {
    match verdict {
        Verdict::Failure { retry_after } => retry_after,
        Verdict::Success | Verdict::Slow | Verdict::Ignored => None,
    }
}

#[cfg(test)]
mod tests;
