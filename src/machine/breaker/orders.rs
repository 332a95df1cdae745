//! What comes to a breaker from outside: an operator's orders, and what other instances or an earlier life have decided.

use super::{Breaker, Cause, Generation, Held, Lock, ON_THE_WAY, Snapshot, State, Transition};
use crate::machine::time::Tick;

/// The states that a breaker moves between by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Automatic {
    /// Calls go.
    Closed,
    /// Calls are refused until a time.
    Open,
    /// A few calls go, to see.
    HalfOpen,
}

impl Breaker {
    /// Puts a lock on, over whatever state there is.
    pub fn lock(&mut self, lock: Lock, now: Tick) -> Transition {
        let (actor, reason) = (lock.actor.clone(), lock.reason.clone());
        self.forget_own_trips();
        self.enter(State::Locked(Box::new(lock)), Cause::Forced, now).by(actor, reason)
    }

    /// Takes a lock off; `None` if there is none. A breaker forced open goes on from `half_open`, any other from `closed`.
    pub fn release(&mut self, actor: &str, reason: &str, now: Tick) -> Option<Transition> {
        match self.state {
            State::Locked(_) => Some(self.unlock(Cause::Released, now).by(actor.to_owned(), reason.to_owned())),
            State::Closed { .. } | State::Open { .. } | State::HalfOpen(_) => None,
        }
    }

    /// Puts the breaker into an automatic state by hand; a lock is taken off by it. From there it goes on by itself: opened by
    /// hand, it is half-open after `recovery_timeout`.
    pub fn reset_to(&mut self, state: Automatic, actor: &str, reason: &str, now: Tick, roll: impl FnOnce() -> f64) -> Transition {
        self.forget_own_trips();
        let transition = match state {
            Automatic::Closed => self.recover(Cause::Forced, now),
            Automatic::Open => self.trip(Cause::Forced, None, now, roll),
            Automatic::HalfOpen => self.enter(State::HalfOpen(Box::default()), Cause::Forced, now),
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
                _ if self.is_alone() => snapshot.held == Held::Closed,
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

    /// What is to be shared and stored. Of a breaker that is open alone: that it is closed.
    pub fn snapshot(&self) -> Snapshot {
        match self.closed_since().filter(|_| self.is_alone()) {
            Some(since) => Snapshot { generation: self.life.generation, held: Held::Closed, trips: 0, since },
            None => self.standing(),
        }
    }

    /// How it stands here, for people.
    pub fn standing(&self) -> Snapshot {
        let held = match &self.state {
            State::Closed { .. } => Held::Closed,
            State::Open { until, .. } => Held::Open { until: *until },
            State::HalfOpen(_) => Held::HalfOpen,
            State::Locked(lock) => Held::Locked((**lock).clone()),
        };
        Snapshot { generation: self.life.generation, held, trips: self.trips, since: self.since }
    }

    fn take_over(&mut self, snapshot: &Snapshot, cause: Cause, now: Tick) -> Transition {
        let state = match &snapshot.held {
            // A recovery that another instance saw is one here too, and its ramp began when it did there.
            Held::Closed => self.closed(snapshot.generation.is_own_decision()),
            Held::Open { until } => {
                State::Open { until: *until, not_before: self.not_before(snapshot, *until).unwrap_or(*until), probed: self.probed() }
            }
            Held::HalfOpen => State::HalfOpen(Box::default()),
            Held::Locked(lock) => State::Locked(Box::new(lock.clone())),
        };
        self.trips = snapshot.trips;
        let transition = self.begin(state, snapshot.generation, cause, now);
        self.since = snapshot.since;
        transition
    }

    /// Until when its service has asked to be left alone, as far as is known here, where the open state is the one there is, with another end: who
    /// tripped knows; whoever else does not, and goes by the earliest end of it that was heard of.
    fn not_before(&self, snapshot: &Snapshot, until: Tick) -> Option<Tick> {
        let State::Open { not_before, .. } = self.state else { return None };
        let apart = self.since.since(snapshot.since).max(snapshot.since.since(self.since));
        (self.trips == snapshot.trips && apart <= ON_THE_WAY).then_some(not_before.min(until))
    }
}

impl Generation {
    /// Whether it began with a breaker's own decision, and not with an order.
    fn is_own_decision(self) -> bool {
        !self.0.is_multiple_of(Self::PER_ORDER)
    }
}
