//! Keeps breakers going ([`run_timers`]) and shared ([`Keeper`]): stores what is decided here, takes over what is decided elsewhere.
//!
//! Guarantees: no call waits for it; without a store, or while the store is away, every breaker goes on with what it knows, and what was
//! decided meanwhile is stored on return unless something newer is there. An operator's order wins over what instances decided by
//! themselves before they heard of it ([`Generation`] says how), and every change is stored in the order in which it was decided. Changed
//! settings are shared likewise, by their revision ([`super::tuning`] says how).

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use super::breakers::{Announcement, Breakers};
use super::facts::Fact;
use super::ports::{Clock, Heard, Saved, SavedTuning, Store, StoreError, Witness, World};
use super::tuning::{Chosen, Tuning};
use crate::machine::breaker::{Cause, Generation, Held, Snapshot};
use crate::machine::time::Tick;

/// Whether the store can be asked, as far as is known.
#[derive(Debug, Default)]
pub struct StoreHealth(AtomicU8);

const ABSENT: u8 = 0;
/// One that was not asked yet: as good as away, but its first answer, or the lack of it, is news.
const UNASKED: u8 = 1;
const DOWN: u8 = 2;
const UP: u8 = 3;

/// What is known of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreState {
    /// None is configured.
    Absent,
    /// It has not been reached yet, or not lately.
    Down,
    /// It answers.
    Up,
}

impl StoreHealth {
    /// What is known.
    pub fn state(&self) -> StoreState {
        match self.0.load(Ordering::Relaxed) {
            ABSENT => StoreState::Absent,
            UP => StoreState::Up,
            _ => StoreState::Down,
        }
    }

    fn set(&self, state: StoreState) -> bool {
        let value = match state {
            StoreState::Absent => ABSENT,
            StoreState::Down => DOWN,
            StoreState::Up => UP,
        };
        self.0.swap(value, Ordering::Relaxed) != value
    }
}

/// Leaves states that have run out, when they have: without calls nobody would ask, and the drain would not wake.
pub async fn run_timers<W: World>(breakers: Arc<Breakers<W>>, clock: W::Clock) {
    let mut changes = breakers.changes();
    loop {
        let deadline = breakers.advance().unwrap_or(Tick::NEVER);
        tokio::select! {
            biased;
            () = changes.changed() => {}
            () = breakers.probe_sent() => {}
            () = clock.sleep_until(deadline) => {}
        }
    }
}

/// Changes that wait for the store's return, at most: older ones are left out of its history, never out of its state.
const KEPT: usize = 256;

/// Shares breakers through a store.
pub struct Keeper<W: World, S> {
    breakers: Arc<Breakers<W>>,
    store: Arc<S>,
    announcements: mpsc::UnboundedReceiver<Announcement>,
    clock: W::Clock,
    witness: Arc<W::Witness>,
    poll_interval: Duration,
    health: Arc<StoreHealth>,
    names: Vec<String>,
    /// Changes that were decided while the store was away, in order.
    unsaved: VecDeque<Announcement>,
}

impl<W: World, S: Store> Keeper<W, S> {
    /// A keeper of these breakers, and where it shows the store's health.
    pub fn new(
        breakers: Arc<Breakers<W>>,
        announcements: mpsc::UnboundedReceiver<Announcement>,
        store: Arc<S>,
        poll_interval: Duration,
        clock: W::Clock,
        witness: Arc<W::Witness>,
    ) -> (Self, Arc<StoreHealth>) {
        let health = Arc::new(StoreHealth::default());
        health.0.store(UNASKED, Ordering::Relaxed);
        let names = breakers.names().map(str::to_owned).collect();
        let unsaved = VecDeque::new();
        let keeper = Self { breakers, store, announcements, clock, witness, poll_interval, health: Arc::clone(&health), names, unsaved };
        (keeper, health)
    }

    /// Takes up what is stored, before the first call. Without an answer the breakers begin closed, and are reconciled later.
    pub async fn restore(&mut self) {
        self.reconcile(Cause::Restored).await;
    }

    /// Runs until `ending` does. What was decided by then is still stored, as far as the store answers: each save may take its timeout,
    /// and the first that fails is the last.
    pub async fn run(mut self, ending: impl Future<Output = ()>) {
        let mut ending = pin!(ending);
        let mut heard = self.store.watch();
        let mut watching = true;
        let mut next_poll = self.clock.now().plus(self.poll_interval);
        loop {
            tokio::select! {
                biased;
                () = &mut ending => {
                    if self.catch_up().await {
                        self.save_tunings().await;
                    }
                    return;
                }
                announcement = self.announcements.recv() => match announcement {
                    None => return,
                    Some(announcement) => self.save(announcement).await,
                },
                news = heard.recv(), if watching => match news {
                    Some(Heard::Changed { service, snapshot }) => self.hear(&service, &snapshot).await,
                    Some(Heard::Tuned { service, tuning }) => {
                        if let Some(service) = self.breakers.find(&service) {
                            self.breakers.take_up(service, &tuning);
                        }
                    }
                    Some(Heard::Connected) => next_poll = Tick(0),
                    None => watching = false,
                },
                () = self.clock.sleep_until(next_poll) => {
                    self.reconcile(Cause::Adopted).await;
                    next_poll = self.clock.now().plus(self.poll_interval);
                }
            }
        }
    }

    async fn save(&mut self, announcement: Announcement) {
        self.keep(announcement);
        // A store that is away is asked by the poll alone: each try may take its whole timeout.
        if self.health.state() == StoreState::Up {
            self.catch_up().await;
        }
    }

    fn keep(&mut self, announcement: Announcement) {
        if self.unsaved.len() == KEPT {
            self.unsaved.pop_front();
        }
        self.unsaved.push_back(announcement);
    }

    /// Stores everything that was decided so far, in order. False if the store did not answer.
    async fn catch_up(&mut self) -> bool {
        loop {
            while let Ok(announcement) = self.announcements.try_recv() {
                self.keep(announcement);
            }
            let Some(announcement) = self.unsaved.pop_front() else { return true };
            if !self.try_save(&announcement).await {
                self.unsaved.push_front(announcement);
                return false;
            }
        }
    }

    /// False if the store did not answer.
    async fn try_save(&self, announcement: &Announcement) -> bool {
        let Announcement { service, snapshot, transition } = announcement;
        let saved = self.store.save(&self.names[*service], snapshot, Some(transition)).await;
        let Some(saved) = self.noted(saved) else { return false };
        if snapshot.held == Held::HalfOpen {
            self.breakers.tell_stored();
        }
        if let Saved::Superseded(stored) = saved {
            self.breakers.stand_by(*service, snapshot.generation, &stored);
        }
        true
    }

    async fn hear(&mut self, service: &str, snapshot: &Snapshot) {
        let Some(service) = self.breakers.find(service) else { return };
        let known = self.breakers.snapshot(service);
        // What was decided here meets what is stored first: a lock that nobody has heard of would be gone before it could stand by itself.
        // Where the store does not answer, the next poll finds the news.
        if self.catch_up().await {
            self.breakers.adopt(service, known.generation, snapshot, Cause::Adopted);
        }
    }

    /// Compares what is stored with what is known, and brings both to the newer of the two.
    async fn reconcile(&mut self, cause: Cause) {
        let loaded = self.store.load(&self.names).await;
        let Some(stored) = self.noted(loaded) else { return };
        for (service, stored) in stored.into_iter().enumerate() {
            let known = self.breakers.snapshot(service);
            // What is known was announced before it could be known: stored without its transition, it would be missing in the history.
            if !self.catch_up().await {
                return;
            }
            match stored {
                Some(stored) if stored.generation > known.generation => self.breakers.adopt(service, known.generation, &stored, cause),
                Some(stored) if stored.generation == known.generation => self.breakers.yield_to(service, known.generation, &stored),
                Some(_) => self.put_back(service, &known).await,
                // A breaker that has never changed is what the absence of a state means.
                None if known.generation > Generation::default() => self.put_back(service, &known).await,
                None => {}
            }
        }
        self.reconcile_tunings().await;
    }

    /// The same for changed settings; after the states, so that an open time which they change is the one that was stored.
    async fn reconcile_tunings(&self) {
        let loaded = self.store.load_tunings(&self.names).await;
        let Some(stored) = self.noted(loaded) else { return };
        for (service, stored) in stored.into_iter().enumerate() {
            if let Some(stored) = &stored {
                self.breakers.take_up_found(service, stored);
            }
            let over = stored.map_or(0, |stored| stored.revision);
            let (standing, _) = self.breakers.standing(service);
            // Above what is stored stands what the store has not taken yet, or has lost.
            if let Some(ours) = standing.tuning
                && ours.revision > over
                && !self.put_tuning(service, &ours, over).await
            {
                return;
            }
        }
    }

    /// Stores the settings that were changed while the store was away.
    async fn save_tunings(&self) {
        for service in 0..self.names.len() {
            let (standing, _) = self.breakers.standing(service);
            if let (Some(ours), Some(over)) = (standing.tuning, standing.unsaved_over)
                && !self.put_tuning(service, &ours, over).await
            {
                return;
            }
        }
    }

    /// False if the store did not answer.
    async fn put_tuning(&self, service: usize, ours: &Tuning, over: u64) -> bool {
        // What cannot be read cannot be written either.
        if matches!(ours.chosen, Chosen::Unreadable(_)) {
            return true;
        }
        let saved = self.store.save_tuning(&self.names[service], ours, over).await;
        match self.noted(saved) {
            Some(SavedTuning::Stored) => self.breakers.note_saved(service, ours),
            Some(SavedTuning::Superseded(Some(stored))) => self.breakers.take_up(service, &stored),
            Some(SavedTuning::Superseded(None)) => {}
            None => return false,
        }
        true
    }

    async fn put_back(&self, service: usize, known: &Snapshot) {
        let saved = self.store.save(&self.names[service], known, None).await;
        if let Some(Saved::Superseded(stored)) = self.noted(saved) {
            self.breakers.yield_to(service, known.generation, &stored);
        }
    }

    /// Notes whether the store answered, and says so once when that changes.
    fn noted<T>(&self, result: Result<T, StoreError>) -> Option<T> {
        let (answer, state, error) = match result {
            Ok(answer) => (Some(answer), StoreState::Up, String::new()),
            Err(StoreError(error)) => (None, StoreState::Down, error),
        };
        if self.health.set(state) {
            self.breakers.share_probes(state == StoreState::Up);
            self.witness.tell(Fact::Store { up: state == StoreState::Up, error: &error });
        }
        answer
    }
}

#[cfg(test)]
mod tests;
