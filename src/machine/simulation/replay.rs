//! A breaker that is led through a list of operations, so that another one can be held against it.
//!
//! Time is the operations' own: a tick is a millisecond of Unix time, so that windows of seconds lie as another breaker's would. As in
//! resilience4j by default, a breaker leaves `open` when it is asked, not by a timer: what is printed after an operation is what that operation
//! made of it. The longest stay in half-open is a timer there too, and goes before what is done in the same millisecond.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::run_out;
use crate::machine::breaker::{Automatic, Breaker, Counts, Lock, LockKind, Permit, Settings, StateName, Verdict};
use crate::machine::time::Tick;

/// What is done with the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// A call asks whether it may go, and is called by this name from then on.
    Ask(&'a str),
    /// The call of this name has ended.
    Settle(&'a str, Verdict),
    /// Somebody forces this state.
    Force(StateName),
    /// Somebody takes a lock off.
    Release,
    /// Nothing.
    Wait,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// Of asking: whether the call was admitted.
    Admitted(bool),
    /// Of a verdict: the call's life was over, or its lease, or it had ended before.
    Late,
    /// Of anything else, and of a verdict on a call that was refused.
    Nothing,
}

/// An operation that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Two calls of one name.
    #[error("a call of this id has asked before")]
    AskedBefore,
    /// A verdict before the call.
    #[error("no call of this id has asked")]
    NeverAsked,
}

/// What a breaker shows after an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Its state.
    pub state: StateName,
    /// The figures of its window.
    pub counts: Counts,
    /// Calls refused so far.
    pub refused: u64,
}

/// A breaker that is led.
#[derive(Debug)]
pub struct Replay<R> {
    breaker: Breaker,
    calls: HashMap<String, Call>,
    refused: u64,
    roll: R,
}

#[derive(Debug)]
struct Call {
    asked_at: Tick,
    fate: Fate,
}

#[derive(Debug)]
enum Fate {
    Out(Permit),
    Refused,
    Over,
}

impl<R: FnMut() -> f64> Replay<R> {
    /// A closed breaker; `roll` gives numbers in `[0, 1)`.
    pub fn new(settings: impl Into<Arc<Settings>>, now: Tick, roll: R) -> Self {
        Self { breaker: Breaker::new(settings, now), calls: HashMap::new(), refused: 0, roll }
    }

    /// Does one operation at `now`, which must not be before that of the last one.
    ///
    /// # Errors
    /// The operation cannot be; nothing has changed.
    pub fn apply(&mut self, operation: Operation<'_>, now: Tick) -> Result<Came, Wrong> {
        run_out(&mut self.breaker, now, |state| state == StateName::HalfOpen, |_, _| {});
        match operation {
            Operation::Ask(name) => {
                if self.calls.contains_key(name) {
                    return Err(Wrong::AskedBefore);
                }
                let (answer, _) = self.breaker.admit(now, &mut self.roll);
                let admitted = answer.is_ok();
                self.refused += u64::from(!admitted);
                self.calls.insert(name.to_owned(), Call { asked_at: now, fate: answer.map_or(Fate::Refused, Fate::Out) });
                Ok(Came::Admitted(admitted))
            }
            Operation::Settle(name, verdict) => {
                let call = self.calls.get_mut(name).ok_or(Wrong::NeverAsked)?;
                let permit = match std::mem::replace(&mut call.fate, Fate::Over) {
                    Fate::Out(permit) => permit,
                    Fate::Over => return Ok(Came::Late),
                    Fate::Refused => {
                        call.fate = Fate::Refused;
                        return Ok(Came::Nothing);
                    }
                };
                let settled = self.breaker.settle(permit, verdict, now.since(call.asked_at), now, &mut self.roll);
                Ok(if settled.late { Came::Late } else { Came::Nothing })
            }
            Operation::Force(state) => {
                self.force(state, now);
                Ok(Came::Nothing)
            }
            Operation::Release => {
                self.breaker.release(ACTOR, "", now);
                Ok(Came::Nothing)
            }
            Operation::Wait => Ok(Came::Nothing),
        }
    }

    /// What the breaker shows at `now`.
    pub fn shown(&self, now: Tick) -> Shown {
        Shown { state: self.breaker.state_name(), counts: self.breaker.counts(now), refused: self.refused }
    }

    fn force(&mut self, state: StateName, now: Tick) {
        let lock = |kind| Lock { kind, actor: ACTOR.to_owned(), reason: String::new(), expires_at: None };
        match state {
            StateName::ForcedOpen => self.breaker.lock(lock(LockKind::ForcedOpen), now),
            StateName::ForcedClosed => self.breaker.lock(lock(LockKind::ForcedClosed), now),
            StateName::MetricsOnly => self.breaker.lock(lock(LockKind::MetricsOnly), now),
            StateName::Closed => self.breaker.reset_to(Automatic::Closed, ACTOR, "", now, &mut self.roll),
            StateName::Open => self.breaker.reset_to(Automatic::Open, ACTOR, "", now, &mut self.roll),
            StateName::HalfOpen => self.breaker.reset_to(Automatic::HalfOpen, ACTOR, "", now, &mut self.roll),
        };
    }
}

const ACTOR: &str = "replay";

/// The longest lease there is: for a replay that names no timeout of its calls.
pub const NO_LEASE: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::breaker::PolicySettings;

    fn replay(settings: impl FnOnce(Settings) -> Settings) -> Replay<impl FnMut() -> f64> {
        let policy = PolicySettings::Consecutive { fail_max: 1.try_into().expect("is not zero") };
        Replay::new(settings(Settings::new(policy, Duration::from_millis(100), Duration::from_millis(50))), Tick(0), || 0.0)
    }

    const FAILURE: Verdict = Verdict::Failure { retry_after: None };

    #[test]
    fn a_verdict_is_late_null_or_wrong() {
        let mut replay = replay(|settings| settings);
        assert_eq!(replay.apply(Operation::Settle("a", FAILURE), Tick(0)), Err(Wrong::NeverAsked));
        for name in ["a", "b"] {
            assert_eq!(replay.apply(Operation::Ask(name), Tick(0)), Ok(Came::Admitted(true)));
        }
        assert_eq!(replay.apply(Operation::Ask("a"), Tick(0)), Err(Wrong::AskedBefore));
        assert_eq!(replay.apply(Operation::Settle("a", FAILURE), Tick(1)), Ok(Came::Nothing));
        assert_eq!(replay.shown(Tick(1)).state, StateName::Open);
        assert_eq!(replay.apply(Operation::Settle("a", FAILURE), Tick(1)), Ok(Came::Late), "it has ended before");
        assert_eq!(replay.apply(Operation::Settle("b", Verdict::Success), Tick(1)), Ok(Came::Late), "its life is over");
        assert_eq!(replay.apply(Operation::Ask("c"), Tick(2)), Ok(Came::Admitted(false)));
        assert_eq!(replay.apply(Operation::Settle("c", FAILURE), Tick(2)), Ok(Came::Nothing), "it never went");
        assert_eq!(replay.shown(Tick(2)).refused, 1);
    }

    #[test]
    fn open_is_left_by_asking_and_half_open_by_its_timer() {
        let mut replay = replay(|settings| Settings { half_open_timeout: Some(Duration::from_millis(200)), ..settings });
        let state = |replay: &Replay<_>, now| replay.shown(Tick(now)).state;
        replay.apply(Operation::Force(StateName::Open), Tick(0)).expect("can be");
        replay.apply(Operation::Wait, Tick(150)).expect("can be");
        assert_eq!(state(&replay, 150), StateName::Open);
        assert_eq!(replay.apply(Operation::Ask("lost"), Tick(150)), Ok(Came::Admitted(true)));
        replay.apply(Operation::Wait, Tick(349)).expect("can be");
        assert_eq!(state(&replay, 349), StateName::HalfOpen);
        replay.apply(Operation::Wait, Tick(400)).expect("can be");
        assert_eq!(state(&replay, 400), StateName::Open);
        // Open since 350, when the stay was over, and not since somebody looked.
        assert_eq!(replay.apply(Operation::Ask("late"), Tick(449)), Ok(Came::Admitted(false)));
        assert_eq!(replay.apply(Operation::Ask("next"), Tick(450)), Ok(Came::Admitted(true)));
    }
}
