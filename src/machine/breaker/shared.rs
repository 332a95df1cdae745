//! A breaker that many tasks and threads ask at once.
//!
//! Nearly every answer of a breaker is known beforehand: while it is closed everyone is admitted, and a success after a success changes
//! nothing; while it is open everyone is refused until a tick. These answers are given from one word, the [`Gate`], with one load. All
//! else goes through a mutex, held for nanoseconds and never during a call.
//!
//! Guarantees, each run through every interleaving in `tests/interleavings.rs`:
//! - It answers like some [`Breaker`] that is asked one question after the other. The gate is written under the mutex, before it is
//!   let go, and is one word. Whoever reads it finds what some holder of the mutex published, and answers as the breaker did then;
//!   that moment is the answer's place in the order of all answers.
//! - No answer is out of date by more than what runs at the same time. Relaxed loads and stores are enough: on one word they are
//!   coherent, so what a thread published, or heard of from the thread that did, it will not read an older value of. No other memory
//!   is reached by way of the word, so there is nothing further for it to put in order.
//! - No failure is lost: the gate never takes one, it goes to the breaker. A success that the gate takes was owed nothing: its
//!   permit's life is the one that was published, and the policy was at rest.
//! - A permit given from an old word is of an old life, and its verdict is late: at the gate because the lives differ, at the
//!   breaker by the breaker's own rule.
//! - A panic of a caller's closure leaves the breaker usable: the gate is published on the way out, and the mutex's poison is not
//!   passed on. The breaker changes its state in single assignments; a half-made change is at worst a trip counted and not made.

use std::time::Duration;

use super::gate::Gate;
use super::sync::{AtomicU64, Mutex, MutexGuard, Ordering, PoisonError};
use super::{Breaker, Permit, Refusal, Settings, Settled, StateName, Transition, Verdict};
use crate::machine::time::Tick;

/// A [`Breaker`] shared between threads. Time and chance are arguments, as they are there.
#[derive(Debug)]
pub struct SharedBreaker {
    gate: AtomicU64,
    refused: AtomicU64,
    breaker: Mutex<Breaker>,
}

impl SharedBreaker {
    /// A closed breaker of generation 0.
    pub fn new(settings: Settings, now: Tick) -> Self {
        let breaker = Breaker::new(settings, now);
        Self { gate: AtomicU64::new(Gate::of(&breaker).word()), refused: AtomicU64::new(0), breaker: Mutex::new(breaker) }
    }

    /// Asks whether a call may go; see [`Breaker::admit`].
    #[inline]
    pub fn admit(&self, now: Tick) -> (Result<Permit, Refusal>, Option<Transition>) {
        self.admit_and(now, |_, _| {})
    }

    /// The same. `then` sees the transition, if there is one, and the breaker after it, before anybody else changes it again; it is
    /// bound by what [`SharedBreaker::with`] says of its closure.
    #[inline]
    pub fn admit_and(&self, now: Tick, then: impl FnOnce(&Breaker, &Transition)) -> (Result<Permit, Refusal>, Option<Transition>) {
        let gate = self.gate();
        if let Some(permit) = gate.admits() {
            return (Ok(permit), None);
        }
        if let Some(refusal) = gate.refuses(now) {
            self.count_refusal();
            return (Err(refusal), None);
        }
        self.ask(now, then)
    }

    /// The refusal that a call would get at `now`, as far as is known without asking; it is not counted, and nothing changes.
    #[inline]
    pub fn refusal(&self, now: Tick) -> Option<Refusal> {
        self.gate().refuses(now)
    }

    /// Reports an admitted call's verdict; see [`Breaker::settle`].
    #[inline]
    pub fn settle(&self, permit: Permit, verdict: Verdict, took: Duration, now: Tick, roll: impl FnOnce() -> f64) -> Settled {
        self.settle_and(permit, verdict, took, now, roll, |_, _| {})
    }

    /// The same. `then` is as in [`SharedBreaker::admit_and`].
    #[inline]
    pub fn settle_and(
        &self,
        permit: Permit,
        verdict: Verdict,
        took: Duration,
        now: Tick,
        roll: impl FnOnce() -> f64,
        then: impl FnOnce(&Breaker, &Transition),
    ) -> Settled {
        if self.gate().makes_nothing_of(&permit, verdict) {
            return Settled { late: false, transition: None };
        }
        self.with(|breaker| {
            let settled = breaker.settle(permit, verdict, took, now, roll);
            if let Some(transition) = &settled.transition {
                then(breaker, transition);
            }
            settled
        })
    }

    /// Gives a permit back without a verdict; see [`Breaker::abandon`].
    pub fn abandon(&self, permit: Permit) {
        if permit.is_probe() {
            self.with(|breaker| breaker.abandon(permit));
        }
    }

    /// Calls refused so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Everything rarer: locks, snapshots, figures. What `f` does shows to the others when it returns, or panics. It holds them up
    /// meanwhile, and must not ask this same breaker.
    pub fn with<R>(&self, f: impl FnOnce(&mut Breaker) -> R) -> R {
        f(&mut self.hold().breaker)
    }

    /// The state's name.
    pub fn state_name(&self) -> StateName {
        self.gate().state_name().unwrap_or_else(|| self.hold().breaker.state_name())
    }

    #[inline]
    fn gate(&self) -> Gate {
        Gate::from_word(self.gate.load(Ordering::Relaxed))
    }

    #[inline]
    fn count_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn ask(&self, now: Tick, then: impl FnOnce(&Breaker, &Transition)) -> (Result<Permit, Refusal>, Option<Transition>) {
        let answer = self.with(|breaker| {
            let answer = breaker.admit(now);
            if let Some(transition) = &answer.1 {
                then(breaker, transition);
            }
            answer
        });
        if answer.0.is_err() {
            self.count_refusal();
        }
        answer
    }

    fn hold(&self) -> Hold<'_> {
        Hold { gate: &self.gate, breaker: self.breaker.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// The breaker, held. Let go, by whatever way, it publishes the gate first and unlocks the mutex then.
struct Hold<'a> {
    gate: &'a AtomicU64,
    breaker: MutexGuard<'a, Breaker>,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let word = Gate::of(&self.breaker).word();
        // Only the mutex's holder writes, so the comparison is not a race. It saves the other cores' copies of the word during a streak.
        if word != self.gate.load(Ordering::Relaxed) {
            self.gate.store(word, Ordering::Relaxed);
        }
    }
}
