//! Turns at a service: at most so many calls at once, live ones first.
//!
//! A freed place goes to the live call that has waited longest; only when none waits, to a drained one, of which only a share is in flight, so
//! that a recovered service is not knocked over by its backlog.
//!
//! How many places there are is fixed, or found out while calls end ([`Limit`]). Where it falls below what is out, nobody loses a turn: no place
//! is given until enough have come back. The drained calls' share shrinks with it, to one place at least. The share itself may change too: it
//! is what this instance has of the fleet's ([`crate::machine::share`]).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::machine::limit::{Limit, Sample, Settings, Sign};

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
pub struct Turns(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    /// Whether the number of places is found out: where it is not, what ended costs no lock.
    adapts: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    places: usize,
    /// What drained calls may use of `max` places.
    drain_max: usize,
    /// What they may use of the places that there are.
    drain_places: usize,
    out: usize,
    drain_out: usize,
    limit: Option<Limit>,
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
    /// `max` places, of which drained calls may use `drain_max`; fewer where the number is found out.
    pub fn new(max: usize, drain_max: usize, adaptive: Option<Settings>) -> Self {
        let drain_max = drain_max.min(max);
        let limit = adaptive.map(|settings| Limit::new(settings, max));
        let places = limit.as_ref().map_or(max, Limit::places);
        let state = State {
            places,
            drain_max,
            drain_places: share(places, max, drain_max),
            out: 0,
            drain_out: 0,
            limit,
            live: VecDeque::new(),
            drain: VecDeque::new(),
        };
        Self(Arc::new(Shared { max, adapts: adaptive.is_some(), state: Mutex::new(state) }))
    }

    /// How many places there are now.
    pub fn places(&self) -> usize {
        self.locked().places
    }

    /// Drained calls may use so many of all places from now on. Those that are out stay out.
    pub fn set_drain_max(&self, drain_max: usize) {
        {
            let (max, mut state) = (self.0.max, self.locked());
            state.drain_max = drain_max.min(max);
            state.drain_places = share(state.places, max, state.drain_max);
        }
        self.hand_on();
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
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, state: &mut State, class: Class) -> Turn {
        state.out += 1;
        if class == Class::Drain {
            state.drain_out += 1;
        }
        Turn { turns: self.clone(), class }
    }

    /// Hands free places to those who wait.
    fn hand_on(&self) {
        loop {
            let mut state = self.locked();
            let class = if state.has_place() && !state.live.is_empty() {
                Class::Live
            } else if state.has_drain_place() && !state.drain.is_empty() {
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

/// The drained calls' part of the places there are, as large as it is of all; rounded up, so that it never comes to nothing.
fn share(places: usize, max: usize, drain_max: usize) -> usize {
    if places == max { drain_max } else { (places * drain_max).div_ceil(max) }
}

impl State {
    fn has_place(&self) -> bool {
        self.out < self.places
    }

    fn has_drain_place(&self) -> bool {
        self.has_place() && self.drain_out < self.drain_places
    }

    fn may_go(&self, class: Class) -> bool {
        match class {
            Class::Live => self.has_place() && self.live.is_empty(),
            Class::Drain => self.has_drain_place() && self.live.is_empty() && self.drain.is_empty(),
        }
    }

    fn queue(&mut self, class: Class) -> &mut VecDeque<oneshot::Sender<Turn>> {
        match class {
            Class::Live => &mut self.live,
            Class::Drain => &mut self.drain,
        }
    }
}

impl Turn {
    /// What the call that had this turn says of the service's load. Where places are fixed, nobody listens.
    pub fn tell(&self, sign: Sign, began_micros: u64, took: Duration) {
        let Shared { max, adapts, .. } = *self.turns.0;
        if !adapts {
            return;
        }
        let grew = {
            let mut state = self.turns.locked();
            let (before, in_flight) = (state.places, state.out);
            let Some(limit) = &mut state.limit else { return };
            let ended = began_micros.saturating_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            limit.hear(&Sample { began: began_micros, ended, in_flight, sign });
            let places = limit.places();
            (state.places, state.drain_places) = (places, share(places, max, state.drain_max));
            places > before
        };
        if grew {
            self.turns.hand_on();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.turns.locked();
            state.out -= 1;
            if self.class == Class::Drain {
                state.drain_out -= 1;
            }
        }
        self.turns.hand_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::limit::{Law, aimd};
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use proptest::prelude::*;

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
        let turns = Turns::new(1, 1, None);
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
        let turns = Turns::new(4, 2, None);
        let (first, _second) = (now(&turns, Class::Drain), now(&turns, Class::Drain));
        let mut third = waiting(&turns, Class::Drain);
        let _live = (now(&turns, Class::Live), now(&turns, Class::Live));
        drop(first);
        assert!((&mut third).now_or_never().is_some());
    }

    #[test]
    fn who_stops_waiting_leaks_no_place() {
        let turns = Turns::new(1, 1, None);
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
        let turns = Turns::new(2, 1, None);
        let _drain = now(&turns, Class::Drain);
        let _waiting = waiting(&turns, Class::Drain);
        let _live = now(&turns, Class::Live);
    }

    const MICRO: Duration = Duration::from_micros(1);

    fn adaptive(max: usize, drain_max: usize, initial: usize) -> Turns {
        let law = Law::Aimd(aimd::Settings { latency: Duration::from_secs(1), backoff_ratio: 0.5 });
        Turns::new(max, drain_max, Some(Settings { law, minimum: 1, initial }))
    }

    #[test]
    fn places_that_are_taken_away_come_back_as_calls_end() {
        let turns = adaptive(8, 4, 4);
        let mut held: Vec<_> = (0..4).map(|_| now(&turns, Class::Live)).collect();
        let mut next = waiting(&turns, Class::Live);
        held[0].tell(Sign::Overloaded, 1, MICRO);
        assert_eq!(turns.places(), 2);
        for _ in 0..2 {
            held.pop();
            assert!((&mut next).now_or_never().is_none(), "as many are out as there are places");
        }
        held.pop();
        assert!((&mut next).now_or_never().is_some());
    }

    #[test]
    fn places_that_are_added_go_to_who_waits() {
        let turns = adaptive(8, 4, 1);
        let held = now(&turns, Class::Live);
        let (mut drain, mut live) = (waiting(&turns, Class::Drain), waiting(&turns, Class::Live));
        held.tell(Sign::Served, 1, MICRO);
        assert_eq!(turns.places(), 2);
        let _live = (&mut live).now_or_never().expect("live calls first");
        assert!((&mut drain).now_or_never().is_none());
    }

    #[test]
    fn a_smaller_share_takes_no_turn_away_and_a_larger_one_is_handed_on() {
        let turns = Turns::new(8, 3, None);
        let mut held: Vec<_> = (0..3).map(|_| now(&turns, Class::Drain)).collect();
        let mut next = waiting(&turns, Class::Drain);
        turns.set_drain_max(1);
        for _ in 0..2 {
            held.pop();
            assert!((&mut next).now_or_never().is_none(), "as many are out as the share is");
        }
        turns.set_drain_max(2);
        let _next = (&mut next).now_or_never().expect("the share has grown");
        assert!(turns.try_take(Class::Drain).is_none());
        // No more than there are places.
        turns.set_drain_max(100);
        let all: Vec<_> = std::iter::from_fn(|| turns.try_take(Class::Drain)).collect();
        assert_eq!(all.len(), 6);
    }

    proptest! {
        /// However places, shares, calls and those who stop waiting come and go: never more are out than there were places when the last was given,
        /// nor more drained ones than their share, no live call waits while a drained one goes, and in the end no place is lost.
        #[test]
        fn no_place_is_lost_and_none_too_many_is_given(
            (max, drain_max, initial) in (1_usize..12).prop_flat_map(|max| (Just(max), 0..=max, 1..=max)),
            steps in prop::collection::vec((0_u8..8, any::<prop::sample::Index>()), 0..200),
        ) {
            let mut drain_max = drain_max;
            let turns = adaptive(max, drain_max, initial);
            let mut out: Vec<Turn> = Vec::new();
            let mut queue: Vec<(Class, BoxFuture<'static, Turn>)> = Vec::new();
            let mut clock = 0;
            for (step, index) in steps {
                clock += 10;
                match step {
                    7 => {
                        drain_max = index.index(max + 1);
                        turns.set_drain_max(drain_max);
                    }
                    0..=2 => {
                        let class = if step == 2 { Class::Drain } else { Class::Live };
                        let turns = turns.clone();
                        queue.push((class, async move { turns.take(class).await }.boxed()));
                    }
                    3 if !queue.is_empty() => drop(queue.swap_remove(index.index(queue.len()))),
                    4 if !out.is_empty() => out[index.index(out.len())].tell(Sign::Overloaded, clock, MICRO),
                    5 if !out.is_empty() => out[index.index(out.len())].tell(Sign::Served, clock, MICRO),
                    _ if !out.is_empty() => drop(out.swap_remove(index.index(out.len()))),
                    _ => {}
                }
                let (before, drain_before) = (out.len(), out.iter().filter(|turn| turn.class == Class::Drain).count());
                let mut still = Vec::new();
                for (class, mut future) in queue {
                    match (&mut future).now_or_never() {
                        Some(turn) => out.push(turn),
                        None => still.push((class, future)),
                    }
                }
                queue = still;
                let drained = out.iter().filter(|turn| turn.class == Class::Drain).count();
                let places = turns.places();
                prop_assert!((1..=max).contains(&places));
                // What was out already may be more than there are places now; what was given since may not.
                prop_assert!(out.len() <= places.max(before), "{} of {places} are out", out.len());
                prop_assert!(drained <= share(places, max, drain_max).max(drain_before));
                let live_waits = queue.iter().any(|(class, _)| *class == Class::Live);
                let drain_waits = queue.iter().any(|(class, _)| *class == Class::Drain);
                prop_assert!(!live_waits || out.len() >= places, "a live call waits beside a free place");
                let room = out.len() < places && drained < share(places, max, drain_max);
                prop_assert!(!drain_waits || live_waits || !room, "a drained call waits beside a free place");
            }
            drop((out, queue));
            let state = turns.locked();
            prop_assert_eq!((state.out, state.drain_out), (0, 0));
        }
    }
}
