//! Keeps breakers going ([`run_timers`]) and shared ([`Keeper`]): stores what is decided here, takes over what is decided elsewhere.
//!
//! Guarantees: no call waits for it; without a store, or while the store is away, every breaker goes on with what it knows, and what was
//! decided meanwhile is stored on return unless something newer is there. An operator's order wins over what instances decided by
//! themselves before they heard of it ([`Generation`] says how), and every change is stored in the order in which it was decided. Changed
//! settings are shared likewise, by their revision ([`super::tuning`] says how).
//!
//! Whatever the number of services: a poll compares 256 of them, in turn, by one question; all of them, question after question, at the start, when
//! the subscription stands anew, when the store is back, and when a poll finds what nobody had told. Between two questions, each
//! with the store's own time limit, what is decided here is stored and what is heard taken up. Changes go out 64 at a time.

mod health;
mod rounds;

pub use health::{StoreHealth, StoreState};

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::breakers::{Announcement, Breakers};
use super::facts::Fact;
use super::ports::{Clock, Heard, Kept, Saved, SavedTuning, Store, StoreError, Witness, World};
use super::tuning::{Chosen, Tuning};
use crate::machine::breaker::{Cause, Generation, Held, Snapshot};
use crate::machine::time::Tick;
use rounds::Rounds;

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

/// States stored side by side: enough for the way to the store to count little, few enough for each to be answered long before its time limit.
const SAVED_AT_ONCE: usize = 64;

/// What cannot be read cannot be written either.
fn can_be_written(tuning: &Tuning) -> bool {
    !matches!(tuning.chosen, Chosen::Unreadable(_))
}

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
    /// The services by their names: one instance may hear of all of them within a second.
    services: HashMap<String, usize>,
    rounds: Rounds,
    /// Changes that are decided and not stored, in order.
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
        let health = Arc::new(StoreHealth::unasked());
        let names: Vec<String> = breakers.names().map(str::to_owned).collect();
        let keeper = Self {
            breakers,
            store,
            announcements,
            clock,
            witness,
            poll_interval,
            health: Arc::clone(&health),
            services: names.iter().cloned().zip(0..).collect(),
            rounds: Rounds::new(names.len()),
            names,
            unsaved: VecDeque::new(),
        };
        (keeper, health)
    }

    /// Takes up what is stored, before the first call. The first question without an answer is the last: the breakers that it was of, and those
    /// after them, begin closed, and are reconciled later.
    pub async fn restore(&mut self) {
        self.rounds.all();
        loop {
            self.reconcile(Cause::Restored).await;
            if !self.rounds.is_due() {
                return;
            }
        }
    }

    /// Runs until `ending` does. What was decided by then is still stored, as far as the store answers: each save may take its timeout,
    /// and the first that fails is the last.
    pub async fn run(mut self, ending: impl Future<Output = ()>) {
        let mut ending = pin!(ending);
        let mut heard = self.store.watch();
        let mut watching = true;
        let mut next_poll = self.clock.now().plus(self.poll_interval);
        loop {
            // Between two questions of one round comes whatever else there is.
            let next = if self.rounds.is_due() { Tick(0) } else { next_poll };
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
                        if let Some(service) = self.services.get(&service) {
                            self.breakers.take_up(*service, &tuning);
                        }
                    }
                    Some(Heard::Connected) => self.rounds.all(),
                    None => watching = false,
                },
                () = self.clock.sleep_until(next) => {
                    if !self.rounds.is_due() {
                        self.rounds.poll();
                    }
                    self.reconcile(Cause::Adopted).await;
                    next_poll = self.clock.now().plus(self.poll_interval);
                }
            }
        }
    }

    async fn save(&mut self, announcement: Announcement) {
        if self.health.state() == StoreState::Up {
            self.unsaved.push_back(announcement);
            self.catch_up().await;
            return;
        }
        // A store that is away is asked by the poll alone: each try may take its whole timeout.
        self.keep(announcement);
    }

    /// Keeps a change for the store's return.
    fn keep(&mut self, announcement: Announcement) {
        if self.unsaved.len() >= KEPT {
            self.unsaved.pop_front();
        }
        self.unsaved.push_back(announcement);
    }

    /// Stores everything that was decided so far, each breaker's changes in order. False if the store did not answer.
    async fn catch_up(&mut self) -> bool {
        loop {
            while self.unsaved.len() < SAVED_AT_ONCE
                && let Ok(announcement) = self.announcements.try_recv()
            {
                self.unsaved.push_back(announcement);
            }
            let batch = self.next_batch();
            if batch.is_empty() {
                return true;
            }
            if !self.save_batch(batch).await {
                self.rounds.failed();
                self.gather();
                return false;
            }
        }
    }

    /// Keeps all that was decided so far.
    fn gather(&mut self) {
        while let Ok(announcement) = self.announcements.try_recv() {
            self.keep(announcement);
        }
    }

    /// Whether a breaker has a lock that may not be stored, so that nobody else has heard of it: it would be gone before it could stand by
    /// itself. All else gives way to what is stored above it, stored or not.
    fn is_unsaved_lock(&self, service: usize, known: &Snapshot) -> bool {
        let is_unsaved = || self.unsaved.len() >= KEPT || self.unsaved.iter().any(|one| one.service == service);
        matches!(known.held, Held::Locked(_)) && is_unsaved()
    }

    /// The oldest unsaved changes, as many as may be stored side by side: a breaker's next one goes after the one before it.
    fn next_batch(&mut self) -> Vec<Announcement> {
        let first = self.unsaved.iter().take(SAVED_AT_ONCE).enumerate();
        let repeated = first.clone().find(|(at, one)| first.clone().take(*at).any(|(_, before)| before.service == one.service));
        let count = repeated.map_or(first.len(), |(at, _)| at);
        self.unsaved.drain(..count).collect()
    }

    /// False if the store did not answer; what it has not stored waits again, in front of all others.
    async fn save_batch(&mut self, batch: Vec<Announcement>) -> bool {
        let saves = join_all(batch.iter().map(|one| self.save_one(one))).await;
        let mut failure = None;
        let mut unsaved = Vec::new();
        for (announcement, saved) in batch.into_iter().zip(saves) {
            let Announcement { service, snapshot, .. } = &announcement;
            match saved {
                Err(error) => {
                    failure.get_or_insert(error);
                    unsaved.push(announcement);
                }
                Ok(None) => {}
                Ok(Some(saved)) => {
                    if snapshot.held == Held::HalfOpen {
                        self.breakers.tell_stored();
                    }
                    if let Saved::Superseded(stored) = saved {
                        self.breakers.stand_by(*service, snapshot.generation, &stored);
                    }
                }
            }
        }
        for announcement in unsaved.into_iter().rev() {
            self.unsaved.push_front(announcement);
        }
        self.noted(failure.map_or(Ok(()), Err)).is_some()
    }

    /// What came of storing a change; `None` of one that is this instance's alone, and changes nothing that is stored.
    async fn save_one(&self, Announcement { service, snapshot, transition }: &Announcement) -> Result<Option<Saved>, StoreError> {
        let name = &self.names[*service];
        if transition.alone {
            return self.store.note(name, transition).await.map(|()| None);
        }
        self.store.save(name, snapshot, Some(transition)).await.map(Some)
    }

    async fn hear(&mut self, service: &str, snapshot: &Snapshot) {
        let Some(&service) = self.services.get(service) else { return };
        let known = self.breakers.snapshot(service);
        // What was decided here meets what is stored first.
        if self.health.state() == StoreState::Up {
            self.catch_up().await;
        } else {
            self.gather();
        }
        if !self.is_unsaved_lock(service, &known) {
            self.breakers.adopt(service, known.generation, snapshot, Cause::Adopted);
        }
    }

    /// Compares what is stored of the next breakers with what is known, and brings both to the newer of the two.
    async fn reconcile(&mut self, cause: Cause) {
        match self.compare(self.rounds.services(), cause).await {
            Some(differed) => {
                self.rounds.compared(differed);
                // Questions alone do not show that a store is there: it may answer them, and take nothing.
                if !self.rounds.is_due() {
                    self.note(StoreState::Up, "");
                }
            }
            None => self.rounds.failed(),
        }
    }

    /// Whether something differed; `None` if the store did not answer.
    async fn compare(&mut self, services: Range<usize>, cause: Cause) -> Option<bool> {
        let known: Vec<Snapshot> = services.clone().map(|service| self.breakers.snapshot(service)).collect();
        // What is known was announced before it could be known: stored without its transition, it would be missing in the history. And what
        // is stored before it is read is not missed there. Where the store takes nothing, what it holds is taken up all the same.
        let mut takes = self.catch_up().await;
        let loaded = self.store.load(&self.names[services.clone()]).await;
        let kept = self.noted(loaded)?;
        let mut differed = false;
        let mut lost = Vec::new();
        for ((service, known), kept) in services.clone().zip(known).zip(&kept) {
            match &kept.state {
                _ if self.is_unsaved_lock(service, &known) => {}
                Some(stored) if stored.generation > known.generation => {
                    differed = true;
                    self.breakers.adopt(service, known.generation, stored, cause);
                }
                Some(stored) if stored.generation == known.generation => self.breakers.yield_to(service, known.generation, stored),
                Some(_) => lost.push((service, known)),
                // A breaker that has never changed is what the absence of a state means.
                None if known.generation > Generation::default() => lost.push((service, known)),
                None => {}
            }
        }
        differed |= !lost.is_empty();
        for lost in lost.chunks(SAVED_AT_ONCE) {
            takes = takes && self.put_back(lost).await.is_some();
        }
        // After the states, so that an open time which a change of settings changes is the one that was stored.
        let (news, lost) = self.compare_tunings(services.zip(kept));
        if !takes {
            return None;
        }
        self.put_tunings(&lost).await?;
        Some(differed || news || !lost.is_empty())
    }

    /// Stores again what the store has lost.
    async fn put_back(&self, lost: &[(usize, Snapshot)]) -> Option<()> {
        let saves = lost.iter().map(|(service, known)| self.store.save(&self.names[*service], known, None));
        for ((service, known), saved) in lost.iter().zip(join_all(saves).await) {
            if let Saved::Superseded(stored) = self.noted(saved)? {
                self.breakers.yield_to(*service, known.generation, &stored);
            }
        }
        Some(())
    }

    /// The same for settings: whether something was news here, and what is to be stored, over which revisions.
    fn compare_tunings(&self, kept: impl Iterator<Item = (usize, Kept)>) -> (bool, Vec<(usize, Tuning, u64)>) {
        let mut lost = Vec::new();
        let mut news = false;
        for (service, Kept { tuning: stored, .. }) in kept {
            if let Some(stored) = &stored {
                news |= self.breakers.take_up_found(service, stored);
            }
            let over = stored.map_or(0, |stored| stored.revision);
            let (standing, _) = self.breakers.standing(service);
            // Above what is stored stands what the store has not taken yet, or has lost.
            if let Some(ours) = standing.tuning.filter(|ours| ours.revision > over)
                && can_be_written(&ours)
            {
                lost.push((service, ours, over));
            }
        }
        (news, lost)
    }

    /// Stores the settings that were changed while the store was away.
    async fn save_tunings(&self) {
        let unsaved = |service| {
            let (standing, _) = self.breakers.standing(service);
            Some((service, standing.tuning.filter(can_be_written)?, standing.unsaved_over?))
        };
        let unsaved: Vec<_> = (0..self.names.len()).filter_map(unsaved).collect();
        // Without an answer there is nothing more to do.
        let _ = self.put_tunings(&unsaved).await;
    }

    /// Stores changes of settings, each over a revision; `None` if the store did not answer.
    async fn put_tunings(&self, changes: &[(usize, Tuning, u64)]) -> Option<()> {
        for changes in changes.chunks(SAVED_AT_ONCE) {
            let saves = changes.iter().map(|(service, ours, over)| self.store.save_tuning(&self.names[*service], ours, *over));
            for ((service, ours, _), saved) in changes.iter().zip(join_all(saves).await) {
                match self.noted(saved)? {
                    SavedTuning::Stored => self.breakers.note_saved(*service, ours),
                    SavedTuning::Superseded(Some(stored)) => {
                        self.breakers.take_up(*service, &stored);
                    }
                    SavedTuning::Superseded(None) => {}
                }
            }
        }
        Some(())
    }

    /// The answer, if there is one; if not, the store is away. That it is there again shows when all has been compared, and what had to be
    /// stored was.
    fn noted<T>(&self, result: Result<T, StoreError>) -> Option<T> {
        result.map_err(|StoreError(error)| self.note(StoreState::Down, &error)).ok()
    }

    /// Notes how the store is, and says so once when that changes.
    fn note(&self, state: StoreState, error: &str) {
        if self.health.set(state, error) {
            self.breakers.share_probes(state == StoreState::Up);
            self.witness.tell(Fact::Store { up: state == StoreState::Up, error });
        }
    }
}

#[cfg(test)]
mod tests;
