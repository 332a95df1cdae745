//! Turns at a service: at most so many calls at once, live ones first.
//!
//! A freed place goes to the live call that has waited longest; only when none waits, to a drained one, of which at
//! most `drain_max` are in flight, so that a recovered service is not knocked over by its backlog.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Who asks for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A live event's call.
    Live,
    /// A parked call.
    Drain,
}

/// The places of one service.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    drain_free: usize,
    live: VecDeque<oneshot::Sender<Turn>>,
    drain: VecDeque<oneshot::Sender<Turn>>,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    class: Class,
}

impl Turns {
    /// `max` places, of which drained calls may use `drain_max`.
    pub fn new(max: usize, drain_max: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: max, drain_free: drain_max.min(max), live: VecDeque::new(), drain: VecDeque::new() })))
    }

    /// A turn, if there is one and nobody waits for it.
    pub fn try_take(&self, class: Class) -> Option<Turn> {
        let mut state = self.locked();
        state.may_go(class).then(|| self.turn(&mut state, class))
    }

    /// Waits for a turn. Dropping the future gives up the place in the queue.
    pub async fn take(&self, class: Class) -> Turn {
        loop {
            let waiting = {
                let mut state = self.locked();
                if state.may_go(class) {
                    return self.turn(&mut state, class);
                }
                let (sender, receiver) = oneshot::channel();
                state.queue(class).push_back(sender);
                receiver
            };
            // The sender is dropped without a turn only with the state itself, which `self` keeps alive.
            if let Ok(turn) = waiting.await {
                return turn;
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, state: &mut State, class: Class) -> Turn {
        state.free -= 1;
        if class == Class::Drain {
            state.drain_free -= 1;
        }
        Turn { turns: self.clone(), class }
    }

    /// Hands free places to those who wait.
    fn hand_on(&self) {
        loop {
            let mut state = self.locked();
            let class = if state.free > 0 && !state.live.is_empty() {
                Class::Live
            } else if state.free > 0 && state.drain_free > 0 && !state.drain.is_empty() {
                Class::Drain
            } else {
                return;
            };
            let Some(waiting) = state.queue(class).pop_front() else { return };
            if waiting.is_closed() {
                continue;
            }
            let turn = self.turn(&mut state, class);
            drop(state);
            // One who has stopped waiting since drops the turn here, outside the lock, and that hands it on.
            drop(waiting.send(turn));
        }
    }
}

impl State {
    fn may_go(&self, class: Class) -> bool {
        match class {
            Class::Live => self.free > 0 && self.live.is_empty(),
            Class::Drain => self.free > 0 && self.drain_free > 0 && self.live.is_empty() && self.drain.is_empty(),
        }
    }

    fn queue(&mut self, class: Class) -> &mut VecDeque<oneshot::Sender<Turn>> {
        match class {
            Class::Live => &mut self.live,
            Class::Drain => &mut self.drain,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.turns.locked();
            state.free += 1;
            if self.class == Class::Drain {
                state.drain_free += 1;
            }
        }
        self.turns.hand_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    fn waiting(turns: &Turns, class: Class) -> BoxFuture<'static, Turn> {
        let turns = turns.clone();
        let mut future = async move { turns.take(class).await }.boxed();
        assert!((&mut future).now_or_never().is_none(), "a turn was free");
        future
    }

    fn now(turns: &Turns, class: Class) -> Turn {
        turns.take(class).now_or_never().expect("a turn is free")
    }

    #[test]
    fn live_calls_go_first_and_in_order() {
        let turns = Turns::new(1, 1);
        let held = now(&turns, Class::Live);
        let mut drain = waiting(&turns, Class::Drain);
        let mut first = waiting(&turns, Class::Live);
        let mut second = waiting(&turns, Class::Live);
        drop(held);
        let held = (&mut first).now_or_never().expect("the first live call");
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut drain).now_or_never().is_none());
        drop(held);
        let held = (&mut second).now_or_never().expect("the second live call");
        assert!((&mut drain).now_or_never().is_none());
        drop(held);
        assert!((&mut drain).now_or_never().is_some());
    }

    #[test]
    fn draining_uses_its_share_only() {
        let turns = Turns::new(4, 2);
        let (first, _second) = (now(&turns, Class::Drain), now(&turns, Class::Drain));
        let mut third = waiting(&turns, Class::Drain);
        let _live = (now(&turns, Class::Live), now(&turns, Class::Live));
        drop(first);
        assert!((&mut third).now_or_never().is_some());
    }

    #[test]
    fn who_stops_waiting_leaks_no_place() {
        let turns = Turns::new(1, 1);
        let held = now(&turns, Class::Live);
        let gone = waiting(&turns, Class::Live);
        let unpolled = waiting(&turns, Class::Live);
        drop(gone);
        drop(held);
        // The place was handed to `unpolled` already; dropping it unpolled must hand it back.
        drop(unpolled);
        let _free = now(&turns, Class::Drain);
    }

    #[test]
    fn a_drained_call_behind_a_full_share_does_not_stop_live_ones() {
        let turns = Turns::new(2, 1);
        let _drain = now(&turns, Class::Drain);
        let _waiting = waiting(&turns, Class::Drain);
        let _live = now(&turns, Class::Live);
    }
}
