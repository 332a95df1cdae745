//! One service's circuit breaker: who may call, what their answers mean, when it opens and how it comes back.
//!
//! ```text
//!            policy says trip                 timer
//!   closed ────────────────────▶ open ─────────────────▶ half_open
//!     ▲                            ▲                      │     │
//!     │                            └── a probe failed ────┘     │
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
//! - While half-open at most `permits` probes are in flight. One that never comes back is given up at its lease's end; a
//!   refused call extends nothing.
//! - No timer runs: time is an argument, and a state that has run out is left by the next [`Breaker::admit`] or [`Breaker::advance`].
//! - Whatever its settings are, a breaker whose service works closes again: no setting, zero and the largest included, can hold
//!   it half-open for good.
//!
//! What it leaves to others: sharing between threads ([`SharedBreaker`]), the fleet, metrics and logs. It says what happened
//! ([`Transition`]); its caller acts on it.

mod gate;
mod lock;
mod policy;
mod settings;
mod shared;
mod snapshot;
mod sync;
mod transition;

mod consecutive;

pub use lock::{Lock, LockKind};
pub use policy::{Counts, Policy};
pub use settings::{PolicySettings, Settings};
pub use shared::SharedBreaker;
pub use snapshot::{Held, Snapshot};
pub use transition::{Cause, StateName, Transition};

use std::time::Duration;

use super::time::Tick;

/// The life a breaker is in, and what decides between two instances' states: the higher one stands.
///
/// A decision is an operator's order (a lock, its release, a reset), a lock's end, or else the breaker's own. Each order begins a new
/// hundred million of generations, and the breaker's own decisions count up within it. So a state that knows of more orders is above one that
/// knows of fewer, however much the other one has done since. A lock takes the last generation of its hundred million: above all that
/// the others do or are reset to before they hear of it, and below its own release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// Room for a change a second in three years without an order, and, in the 15 digits that a store may keep, for ten million orders.
    const PER_ORDER: u64 = 100_000_000;

    /// The breaker's own next decision.
    fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The next order.
    fn next_order(self) -> Self {
        Self((self.0 / Self::PER_ORDER + 1).saturating_mul(Self::PER_ORDER))
    }

    /// The next order, if it is a lock.
    fn next_lock(self) -> Self {
        Self(self.next_order().0.saturating_add(Self::PER_ORDER - 1))
    }
}

/// The right to make one call. It must come back, by [`Breaker::settle`] or [`Breaker::abandon`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit that does not come back holds a probe's place until its lease ends"]
pub struct Permit {
    life: Life,
    probe: Option<u64>,
}

/// One stay in one state. A generation alone does not tell two of them apart: [`Breaker::yield_to`] leaves a state for another one of
/// the same generation, and a probe that fails after it would otherwise be counted by a breaker that never sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    generation: Generation,
    /// Rises when a life begins in the generation of the one before.
    branch: u32,
}

impl Life {
    fn followed_by(self, generation: Generation) -> Self {
        Self { generation, branch: if generation == self.generation { self.branch.wrapping_add(1) } else { self.branch } }
    }
}

impl Permit {
    /// The generation that admitted the call.
    pub fn generation(&self) -> Generation {
        self.life.generation
    }

    /// Whether the call is a probe.
    pub fn is_probe(&self) -> bool {
        self.probe.is_some()
    }
}

/// A breaker's no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The state that refused.
    pub state: StateName,
    /// When asking again makes sense: the end of the open time, of the lock, or of the first lease among the probes under way (a place
    /// may be free earlier). `None` when no time is known: forced open without an expiry.
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
    /// The change of state that it brought about.
    pub transition: Option<Transition>,
}

/// A circuit breaker.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    policy: Box<dyn Policy>,
    state: State,
    life: Life,
    /// Trips since it was last closed: the exponent of the open time's back-off.
    trips: u32,
    since: Tick,
    next_probe: u64,
}

#[derive(Debug)]
enum State {
    Closed,
    Open { until: Tick },
    HalfOpen { probes: Vec<Probe>, successes: u32 },
    Locked(Lock),
}

#[derive(Debug)]
struct Probe {
    id: u64,
    lease_ends: Tick,
}

impl Breaker {
    /// A closed breaker of generation 0.
    pub fn new(settings: Settings, now: Tick) -> Self {
        let policy = policy::build(&settings.policy);
        Self {
            settings,
            policy,
            state: State::Closed,
            life: Life { generation: Generation(0), branch: 0 },
            trips: 0,
            since: now,
            next_probe: 0,
        }
    }

    /// Asks whether a call may go.
    ///
    /// A state that has run out is left first, so the answer comes with the transition, if there was one.
    pub fn admit(&mut self, now: Tick) -> (Result<Permit, Refusal>, Option<Transition>) {
        let transition = self.advance(now);
        let life = self.life;
        let answer = match &mut self.state {
            State::Closed => Ok(Permit { life, probe: None }),
            State::Open { until } => Err(Refusal { state: StateName::Open, until: Some(*until) }),
            State::HalfOpen { probes, successes } => {
                probes.retain(|probe| probe.lease_ends > now);
                if probes.len() < self.settings.places(*successes) {
                    let id = self.next_probe;
                    self.next_probe += 1;
                    probes.push(Probe { id, lease_ends: self.settings.lease_from(now) });
                    Ok(Permit { life, probe: Some(id) })
                } else {
                    Err(Refusal { state: StateName::HalfOpen, until: first_lease_end(probes) })
                }
            }
            State::Locked(lock) => match lock.kind {
                LockKind::ForcedOpen => Err(Refusal { state: StateName::ForcedOpen, until: lock.expires_at }),
                LockKind::ForcedClosed | LockKind::MetricsOnly => Ok(Permit { life, probe: None }),
            },
        };
        (answer, transition)
    }

    /// Reports an admitted call's verdict. `took` is the call's duration, `roll` a number in `[0, 1)`, drawn only for a trip's jitter.
    pub fn settle(&mut self, permit: Permit, verdict: Verdict, took: Duration, now: Tick, roll: impl FnOnce() -> f64) -> Settled {
        if permit.life != self.life {
            return Settled { late: true, transition: None };
        }
        let transition = match &mut self.state {
            State::Closed => {
                if self.policy.record(verdict, took, now) {
                    Some(self.trip(Cause::Policy, retry_after(verdict), now, roll))
                } else {
                    None
                }
            }
            State::Open { .. } => return Settled { late: true, transition: None },
            State::HalfOpen { probes, successes } => {
                let Some(place) = probes.iter().position(|probe| Some(probe.id) == permit.probe && probe.lease_ends > now) else {
                    return Settled { late: true, transition: None };
                };
                probes.swap_remove(place);
                match verdict {
                    Verdict::Success | Verdict::Slow => {
                        *successes += 1;
                        if *successes >= self.settings.success_threshold { Some(self.recover(Cause::Recovered, now)) } else { None }
                    }
                    Verdict::Failure { retry_after } => Some(self.trip(Cause::ProbeFailed, retry_after, now, roll)),
                    Verdict::Ignored => None,
                }
            }
            State::Locked(lock) => {
                if lock.kind == LockKind::MetricsOnly {
                    self.policy.record(verdict, took, now);
                }
                None
            }
        };
        Settled { late: false, transition }
    }

    /// Gives a permit back without a verdict: the call was never made, or was cancelled by its caller.
    pub fn abandon(&mut self, permit: Permit) {
        if let (State::HalfOpen { probes, .. }, true) = (&mut self.state, permit.life == self.life) {
            probes.retain(|probe| Some(probe.id) != permit.probe);
        }
    }

    /// Leaves a state that has run out: an open circuit whose time is over, a lock that has expired.
    pub fn advance(&mut self, now: Tick) -> Option<Transition> {
        match &self.state {
            State::Open { until } if *until <= now => Some(self.enter(half_open(), Cause::Timer, now)),
            State::Locked(lock) if lock.expires_at.is_some_and(|at| at <= now) => Some(self.unlock(Cause::LockExpired, now)),
            _ => None,
        }
    }

    /// Gives up the probes whose leases have ended; whether there were any, so that a refused call may be worth asking again.
    pub fn give_up(&mut self, now: Tick) -> bool {
        let State::HalfOpen { probes, .. } = &mut self.state else { return false };
        let before = probes.len();
        probes.retain(|probe| probe.lease_ends > now);
        probes.len() < before
    }

    /// When [`Breaker::advance`] or [`Breaker::give_up`] will have something to do, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Tick> {
        match &self.state {
            State::Open { until } => Some(*until),
            State::HalfOpen { probes, .. } => first_lease_end(probes),
            State::Locked(lock) => lock.expires_at,
            State::Closed => None,
        }
    }

    /// The earliest tick at which a call could be admitted as far as the state alone says: [`Tick`] zero when the breaker must be asked.
    /// Until that tick every [`Breaker::admit`] is a refusal that changes nothing, so it may be answered without asking.
    pub fn refuses_until(&self) -> Tick {
        match &self.state {
            State::Open { until } => *until,
            State::Locked(Lock { kind: LockKind::ForcedOpen, expires_at, .. }) => expires_at.unwrap_or(Tick::NEVER),
            State::HalfOpen { probes, successes } if probes.len() >= self.settings.places(*successes) => {
                first_lease_end(probes).unwrap_or_default()
            }
            State::Closed | State::HalfOpen { .. } | State::Locked(_) => Tick(0),
        }
    }

    /// Puts a lock on, over whatever state there is.
    pub fn lock(&mut self, lock: Lock, now: Tick) -> Transition {
        let (actor, reason) = (lock.actor.clone(), lock.reason.clone());
        self.enter(State::Locked(lock), Cause::Forced, now).by(actor, reason)
    }

    /// Takes a lock off; `None` if there is none. A breaker forced open goes on from `half_open`, any other from `closed`.
    pub fn release(&mut self, actor: &str, reason: &str, now: Tick) -> Option<Transition> {
        match self.state {
            State::Locked(_) => Some(self.unlock(Cause::Released, now).by(actor.to_owned(), reason.to_owned())),
            State::Closed | State::Open { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// Puts the breaker into an automatic state by hand; a lock is taken off by it. From there it goes on by itself: opened by
    /// hand, it is half-open after `recovery_timeout`.
    pub fn reset_to(&mut self, state: Automatic, actor: &str, reason: &str, now: Tick, roll: impl FnOnce() -> f64) -> Transition {
        let transition = match state {
            Automatic::Closed => self.recover(Cause::Forced, now),
            Automatic::Open => self.trip(Cause::Forced, None, now, roll),
            Automatic::HalfOpen => self.enter(half_open(), Cause::Forced, now),
        };
        transition.by(actor.to_owned(), reason.to_owned())
    }

    /// Takes over what another instance, or an earlier life of this one, knew; `None` if what is known here is as new or newer.
    pub fn adopt(&mut self, snapshot: &Snapshot, cause: Cause, now: Tick) -> Option<Transition> {
        if snapshot.generation <= self.life.generation {
            return None;
        }
        Some(self.take_over(snapshot, cause, now))
    }

    /// Takes over a state that was stored before this breaker's own of the same generation: two instances decided at once, and the
    /// other one's decision was stored first. `None` if the snapshot is older, or is what is known here already.
    ///
    /// It can be one automatic decision or another, one reset or another, one lock or another; a lock and anything else are never
    /// of one generation.
    pub fn yield_to(&mut self, snapshot: &Snapshot, now: Tick) -> Option<Transition> {
        if snapshot.generation < self.life.generation {
            return None;
        }
        if snapshot.generation == self.life.generation {
            let same = match (&self.state, &snapshot.held) {
                (State::Locked(ours), Held::Locked(theirs)) => ours.is_same_decision(theirs),
                _ => snapshot.held.name() == self.state_name(),
            };
            if same {
                return None;
            }
        }
        Some(self.take_over(snapshot, Cause::Adopted, now))
    }

    /// As [`Breaker::yield_to`], for a state that was to be stored and found `stored` there. A lock that nobody else has heard of is not
    /// given up for a state that other orders led to, which this instance had not heard of: it is put on again above that
    /// state, and its transition is to be shared like the first one.
    pub fn stand_by(&mut self, stored: &Snapshot, now: Tick) -> Option<Transition> {
        match (&self.state, &stored.held) {
            (State::Locked(ours), Held::Closed | Held::Open { .. } | Held::HalfOpen) if ours.expires_at.is_none_or(|at| at > now) => {
                let ours = ours.clone();
                let (actor, reason) = (ours.actor.clone(), ours.reason.clone());
                let above = self.life.generation.max(stored.generation).next_lock();
                Some(self.begin(State::Locked(ours), above, Cause::Forced, now).by(actor, reason))
            }
            _ => self.yield_to(stored, now),
        }
    }

    /// What is to be shared and stored.
    pub fn snapshot(&self) -> Snapshot {
        let held = match &self.state {
            State::Closed => Held::Closed,
            State::Open { until } => Held::Open { until: *until },
            State::HalfOpen { .. } => Held::HalfOpen,
            State::Locked(lock) => Held::Locked(lock.clone()),
        };
        Snapshot { generation: self.life.generation, held, trips: self.trips, since: self.since }
    }

    /// The state's name.
    pub fn state_name(&self) -> StateName {
        match &self.state {
            State::Closed => StateName::Closed,
            State::Open { .. } => StateName::Open,
            State::HalfOpen { .. } => StateName::HalfOpen,
            State::Locked(lock) => lock.kind.state_name(),
        }
    }

    /// The figures that its policy weighs.
    pub fn counts(&self, now: Tick) -> Counts {
        self.policy.counts(now)
    }

    /// Probes in flight whose leases have not ended.
    pub fn probes_in_flight(&self, now: Tick) -> usize {
        match &self.state {
            State::HalfOpen { probes, .. } => probes.iter().filter(|probe| probe.lease_ends > now).count(),
            State::Closed | State::Open { .. } | State::Locked(_) => 0,
        }
    }

    /// The generation it is in.
    pub fn generation(&self) -> Generation {
        self.life.generation
    }

    /// What it was told to do.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn trip(&mut self, cause: Cause, retry_after: Option<Duration>, now: Tick, roll: impl FnOnce() -> f64) -> Transition {
        self.trips = self.trips.saturating_add(1);
        let open_for = self.settings.open_time(self.trips, retry_after, roll());
        let counts = self.policy.counts(now);
        self.enter(State::Open { until: now.plus(open_for) }, cause, now).with(counts)
    }

    fn recover(&mut self, cause: Cause, now: Tick) -> Transition {
        self.trips = 0;
        self.enter(State::Closed, cause, now)
    }

    fn unlock(&mut self, cause: Cause, now: Tick) -> Transition {
        match &self.state {
            State::Locked(Lock { kind: LockKind::ForcedOpen, .. }) => self.enter(half_open(), cause, now),
            _ => self.recover(cause, now),
        }
    }

    fn take_over(&mut self, snapshot: &Snapshot, cause: Cause, now: Tick) -> Transition {
        let state = match &snapshot.held {
            Held::Closed => State::Closed,
            Held::Open { until } => State::Open { until: *until },
            Held::HalfOpen => half_open(),
            Held::Locked(lock) => State::Locked(lock.clone()),
        };
        self.trips = snapshot.trips;
        let transition = self.begin(state, snapshot.generation, cause, now);
        self.since = snapshot.since;
        transition
    }

    fn enter(&mut self, state: State, cause: Cause, now: Tick) -> Transition {
        let before = self.life.generation;
        let generation = match state {
            State::Locked(_) => before.next_lock(),
            _ if cause.is_order() => before.next_order(),
            _ => before.next(),
        };
        self.begin(state, generation, cause, now)
    }

    fn begin(&mut self, state: State, generation: Generation, cause: Cause, now: Tick) -> Transition {
        let from = self.state_name();
        // A life begins without the verdicts of the one before, by whichever way it began.
        self.policy.reset();
        self.state = state;
        self.life = self.life.followed_by(generation);
        self.since = now;
        Transition::new(from, self.state_name(), cause, generation, now)
    }
}

/// The states that a breaker moves between by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Automatic {
    /// Calls go.
    Closed,
    /// Calls are refused until a time.
    Open,
    /// A few calls go, to see.
    HalfOpen,
}

fn half_open() -> State {
    State::HalfOpen { probes: Vec::new(), successes: 0 }
}

fn first_lease_end(probes: &[Probe]) -> Option<Tick> {
    probes.iter().map(|probe| probe.lease_ends).min()
}

fn retry_after(verdict: Verdict) -> Option<Duration> {
    match verdict {
        Verdict::Failure { retry_after } => retry_after,
        Verdict::Success | Verdict::Slow | Verdict::Ignored => None,
    }
}

#[cfg(test)]
mod tests;
