//! A breaker that many tasks and threads ask at once.
//!
//! Nearly every answer of a breaker is known beforehand: while it is closed everyone is admitted, and most successes change nothing that
//! has to be known at once; while it is open everyone is refused until a tick. These answers are given from one word, the [`Gate`], with
//! one load. Successes that a window counts are taken from another word, the [`SlackWord`], with one exchange, and told to the breaker by
//! whoever asks it next. All else goes through a mutex, held for nanoseconds and never during a call.
//!
//! Guarantees, each run through every interleaving in `tests/interleavings.rs`, those of the slack in `tests/slack.rs`:
//! - It answers like some [`Breaker`] that is asked one question after the other. The gate is written under the mutex, before it is
//!   let go, and is one word. Whoever reads it finds what some holder of the mutex published, and answers as the breaker did then;
//!   that moment is the answer's place in the order of all answers.
//! - No answer is out of date by more than what runs at the same time. Relaxed loads of the gate are enough: on one word they are
//!   coherent, so what a thread published, or heard of from the thread that did, it will not read an older value of. Taking slack needs more,
//!   and says so where it is done.
//! - No failure is lost: neither word takes one, it goes to the breaker. A success that the gate takes was owed nothing: its
//!   permit's life is the one that was published, and the policy was at rest.
//! - No success of a window is lost, counted twice, or counted in another life: the holder of the mutex takes the slack away before it changes
//!   anything, and offers it anew, under another stamp, after the gate. So a thread whose exchange succeeds has read the gate that goes
//!   with it. The policy said that it decides the same if it hears of those successes then, before what the holder has to say.
//! - A permit given from an old word is of an old life, and its verdict is late: at the gate because the lives differ, at the
//!   breaker by the breaker's own rule.
//! - A panic of a caller's closure leaves the breaker usable: the words are published on the way out, and the mutex's poison is not
//!   passed on. The breaker changes its state in single assignments; a half-made change is at worst a trip counted and not made.

use std::sync::Arc;
use std::time::Duration;

use super::gate::Gate;
use super::slack::SlackWord;
use super::sync::{AtomicU64, Mutex, MutexGuard, Ordering, PoisonError};
use super::{Breaker, Permit, Refusal, Settings, Settled, StateName, Transition, Verdict};
use crate::machine::time::Tick;

/// A [`Breaker`] shared between threads. Time and chance are arguments, as they are there.
#[derive(Debug)]
pub struct SharedBreaker {
    gate: AtomicU64,
    slack: AtomicU64,
    /// A success that took longer is not quick, nanoseconds. Goes with the slack.
    quick: AtomicU64,
    held: Mutex<Held>,
}

/// What the mutex guards.
#[derive(Debug)]
struct Held {
    breaker: Breaker,
    /// The slack that was offered last, before anything was taken from it.
    offered: u32,
    stamp: u32,
}

impl SharedBreaker {
    /// A closed breaker of generation 0.
    pub fn new(settings: impl Into<Arc<Settings>>, now: Tick) -> Self {
        let breaker = Breaker::new(settings, now);
        let shared = Self {
            gate: AtomicU64::new(Gate::ASK.word()),
            slack: AtomicU64::new(SlackWord::NONE.word()),
            quick: AtomicU64::new(0),
            held: Mutex::new(Held { breaker, offered: 0, stamp: 0 }),
        };
        drop(shared.hold());
        shared
    }

    /// Asks whether a call may go; see [`Breaker::admit`].
    #[inline]
    pub fn admit(&self, now: Tick, roll: impl FnMut() -> f64) -> (Result<Permit, Refusal>, Option<Box<Transition>>) {
        self.admit_and(now, roll, |_, _| {})
    }

    /// The same. `then` sees the transition, if there is one, and the breaker after it, before anybody else changes it again; it is
    /// bound by what [`SharedBreaker::with`] says of its closure.
    #[inline]
    pub fn admit_and(
        &self,
        now: Tick,
        roll: impl FnMut() -> f64,
        then: impl FnOnce(&Breaker, &Transition),
    ) -> (Result<Permit, Refusal>, Option<Box<Transition>>) {
        let gate = self.gate();
        if let Some(permit) = gate.admits(now) {
            return (Ok(permit), None);
        }
        if let Some(refusal) = gate.refuses(now) {
            return (Err(refusal), None);
        }
        self.ask(now, roll, then)
    }

    /// The refusal that a call would get at `now`, as far as is known without asking; nothing changes.
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
        if self.gate().makes_nothing_of(&permit, verdict) || self.takes(&permit, verdict, took, now) {
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
    pub fn abandon(&self, permit: Permit, now: Tick) {
        if permit.is_probe() || self.gate() == Gate::ASK {
            self.with(|breaker| breaker.abandon(permit, now));
        }
    }

    /// Everything rarer: locks, snapshots, figures. What `f` does shows to the others when it returns, or panics. It holds them up
    /// meanwhile, and must not ask this same breaker.
    pub fn with<R>(&self, f: impl FnOnce(&mut Breaker) -> R) -> R {
        f(&mut self.hold().held.breaker)
    }

    /// The state's name.
    pub fn state_name(&self) -> StateName {
        self.gate().state_name().unwrap_or_else(|| self.hold().held.breaker.state_name())
    }

    #[inline]
    fn gate(&self) -> Gate {
        Gate::from_word(self.gate.load(Ordering::Relaxed))
    }

    /// Takes a success that its policy need not hear of now. False if the breaker must be asked.
    #[inline]
    fn takes(&self, permit: &Permit, verdict: Verdict, took: Duration, now: Tick) -> bool {
        if verdict != Verdict::Success || permit.is_probe() {
            return false;
        }
        // Acquired: what is read from here on is as new as the word, which was offered after the gate was published.
        let mut word = self.slack.load(Ordering::Acquire);
        loop {
            let Some(less) = SlackWord::from_word(word).less_one(now) else { return false };
            // Acquired, as `quick` is: what was published after the slack was taken away makes the exchange fail.
            let gate = Gate::from_word(self.gate.load(Ordering::Acquire));
            if took.as_nanos() > u128::from(self.quick.load(Ordering::Acquire)) || !gate.is_open_house_of(permit.life) {
                return false;
            }
            match self.slack.compare_exchange_weak(word, less.word(), Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return true,
                Err(other) => word = other,
            }
        }
    }

    #[cold]
    fn ask(
        &self,
        now: Tick,
        roll: impl FnMut() -> f64,
        then: impl FnOnce(&Breaker, &Transition),
    ) -> (Result<Permit, Refusal>, Option<Box<Transition>>) {
        self.with(|breaker| {
            let answer = breaker.admit(now, roll);
            if let Some(transition) = &answer.1 {
                then(breaker, transition);
            }
            answer
        })
    }

    fn hold(&self) -> Hold<'_> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Only the mutex's holder offers, so where nothing was offered nothing can have been taken. The word does not tell: with all of an offer
        // taken, it may look as if there had been none.
        if held.offered > 0 {
            let left = SlackWord::from_word(self.slack.swap(SlackWord::NONE.word(), Ordering::AcqRel)).left();
            let taken = held.offered - left;
            held.breaker.absorb(taken);
        }
        held.offered = 0;
        Hold { shared: self, held }
    }
}

/// The breaker, held. Let go, by whatever way, it publishes the gate first, offers the slack then, and unlocks the mutex last.
struct Hold<'a> {
    shared: &'a SharedBreaker,
    held: MutexGuard<'a, Held>,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let Self { shared, held } = self;
        let word = Gate::of(&held.breaker).word();
        // Only the mutex's holder writes, so the comparison is not a race. It saves the other cores' copies of the word during a streak.
        if word != shared.gate.load(Ordering::Relaxed) {
            shared.gate.store(word, Ordering::Release);
        }
        let slack = SlackWord::of(held.breaker.slack(), u64::from(held.stamp));
        if slack != SlackWord::NONE {
            let quick = u64::try_from(held.breaker.quick().as_nanos()).unwrap_or(u64::MAX);
            if quick != shared.quick.load(Ordering::Relaxed) {
                shared.quick.store(quick, Ordering::Release);
            }
            held.offered = slack.left();
            held.stamp = held.stamp.wrapping_add(1);
            shared.slack.store(slack.word(), Ordering::Release);
        }
    }
}
