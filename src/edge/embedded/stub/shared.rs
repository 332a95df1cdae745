//! What a stub's connections and its owner share: behaviour, journal, and the news that one of them changed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::request::Parts;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Notify, watch};

use crate::edge::clock::SystemClock;
use crate::pipeline::ports::Clock;

use super::behaviour::{Behaviour, Turn};
use super::journal::{Ended, Entry, Journal};

/// A stub's state, and how to hear of its changes.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) service: String,
    /// Wakes those who wait for the journal.
    pub(super) changed: Notify,
    /// Has every connection close as soon as it is idle.
    pub(super) close_idle: watch::Sender<()>,
    clock: SystemClock,
    entries: usize,
    /// The next request's number, over all stubs that were started together.
    next_seq: Arc<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) behaviour: Behaviour,
    pub(super) journal: Journal,
    next_step: usize,
    chance: Xoshiro256PlusPlus,
}

/// A request that has no answer yet. Dropped, its client is gone.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) in_flight_at_start: usize,
    shared: Arc<Shared>,
    seq: u64,
    open: bool,
}

impl Shared {
    pub(super) fn new(service: &str, entries: usize, seed: u64, next_seq: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            service: service.to_owned(),
            changed: Notify::new(),
            close_idle: watch::Sender::new(()),
            clock: SystemClock::new(),
            entries,
            next_seq,
            state: Mutex::new(State {
                behaviour: Behaviour::default(),
                journal: Journal::default(),
                next_step: 0,
                chance: Xoshiro256PlusPlus::seed_from_u64(seed),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test's predicate may panic with the lock held; what it only read is as good as before.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    pub(super) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.changed.notify_waiters();
        changed
    }

    /// Sets what is done with the requests that come from now on, from the first step.
    pub(super) fn set(&self, behaviour: Behaviour) {
        self.update(|state| {
            state.behaviour = behaviour;
            state.next_step = 0;
        });
    }

    /// Notes a request: what is to be done with it, and a roll in case that is left to chance.
    pub(super) fn begin(self: &Arc<Self>, connection: u64, head: &Parts, body: Bytes) -> (Turn, f64, InFlight) {
        let idempotency_key = head.headers.get("idempotency-key").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        self.update(|state| {
            let turn = state.behaviour.steps.get(state.next_step).unwrap_or(&state.behaviour.then).clone();
            state.next_step += 1;
            // Under the lock, so that the journal is in the order of its numbers.
            let seq = self.next_seq.fetch_add(1, Ordering::Relaxed);
            let entry = Entry {
                seq,
                service: self.service.clone(),
                connection,
                method: head.method.clone(),
                path: head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
                idempotency_key,
                headers: head.headers.clone(),
                body,
                started_at: self.clock.wall(),
                ended_at: None,
                ended: None,
                behaviour: turn.act.as_str(),
                in_flight_at_start: 0,
            };
            state.journal.begin(entry, self.entries);
            let in_flight_at_start = state.journal.counts.in_flight;
            let request = InFlight { in_flight_at_start, shared: Arc::clone(self), seq, open: true };
            (turn, state.chance.random(), request)
        })
    }
}

impl InFlight {
    /// Notes how the request ended.
    pub(super) fn end(mut self, ended: Ended) {
        self.close(ended);
    }

    fn close(&mut self, ended: Ended) {
        self.open = false;
        let at = self.shared.clock.wall();
        self.shared.update(|state| state.journal.end(self.seq, ended, at));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.open {
            self.close(Ended::ClientGone);
        }
    }
}
