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
//!
//! A store may have several nodes, each with some of the services ([`Store::node`]). One that does not answer, or takes nothing, holds up its own
//! services alone: what is decided of them waits, and all others are stored and compared as ever. Each poll asks for one service of it, beside all
//! else; once that is answered what waits is stored, and what is owed compared. So one that falls silent holds up the others once, for what it was
//! asked when it did. The store is up while every node is.

mod answers;
mod health;
mod rounds;
mod unsaved;

pub use health::{StoreHealth, StoreState};

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::breakers::{Announcement, Breakers};
use super::facts::Fact;
use super::ports::{Clock, Heard, Kept, Saved, SavedTuning, Store, StoreError, Witness, World};
use super::tuning::{Chosen, Tuning};
use crate::machine::breaker::{Cause, Generation, Held, Snapshot};
use crate::machine::time::Tick;
use answers::{Answers, NodeAnswers};
use rounds::Rounds;
use unsaved::{SAVED_AT_ONCE, Unsaved};

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
    answers: NodeAnswers,
    unsaved: Unsaved,
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
        let names: Vec<String> = breakers.names().map(str::to_owned).collect();
        let health = Arc::new(StoreHealth::unasked(names.len()));
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
            answers: NodeAnswers::new(names.len()),
            names,
            unsaved: Unsaved::default(),
        };
        (keeper, health)
    }

    /// Takes up what is stored, before the first call. A node's first question without an answer is its last: the breakers that it was of, and those
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
    /// and a node's first that fails is its last.
    pub async fn run(mut self, ending: impl Future<Output = ()>) {
        let mut ending = pin!(ending);
        let mut heard = self.store.watch();
        let mut watching = true;
        let mut asked = FuturesUnordered::new();
        let mut next_poll = self.clock.now().plus(self.poll_interval);
        loop {
            // Between two questions of one round comes whatever else there is.
            let next = if self.rounds.is_due() { Tick(0) } else { next_poll };
            tokio::select! {
                biased;
                () = &mut ending => {
                    self.catch_up().await;
                    self.save_tunings().await;
                    return;
                }
                announcement = self.announcements.recv() => match announcement {
                    None => return,
                    Some(announcement) => {
                        self.take(announcement);
                        self.catch_up().await;
                    }
                },
                news = heard.recv(), if watching => match news {
                    Some(Heard::Changed { service, snapshot }) => self.hear(&service, &snapshot).await,
                    Some(Heard::Tuned { service, tuning }) => {
                        if let Some(service) = self.services.get(&service) {
                            self.breakers.take_up(*service, &tuning);
                        }
                    }
                    Some(Heard::Connected) => {
                        asked.extend(self.ask_anew());
                        self.rounds.all();
                    }
                    None => watching = false,
                },
                Some((service, answer)) = asked.next() => self.hear_of_node(service, answer).await,
                () = self.clock.sleep_until(next) => {
                    if !self.rounds.is_due() {
                        asked.extend(self.ask_anew());
                        self.rounds.poll();
                    }
                    self.reconcile(Cause::Adopted).await;
                    next_poll = self.clock.now().plus(self.poll_interval);
                }
            }
        }
    }

    /// What is decided of a node that is away waits until it answers again: each try may take its whole timeout.
    fn take(&mut self, announcement: Announcement) {
        if self.answers.are_well(announcement.service) {
            self.unsaved.push(announcement);
        } else {
            self.unsaved.keep(announcement);
        }
    }

    /// Stores everything that was decided so far, each breaker's changes in order, but for those whose nodes are away.
    async fn catch_up(&mut self) {
        loop {
            while self.unsaved.has_room()
                && let Ok(announcement) = self.announcements.try_recv()
            {
                self.take(announcement);
            }
            let batch = self.unsaved.next_batch();
            if batch.is_empty() {
                return;
            }
            self.save_batch(batch).await;
        }
    }

    /// Whether a breaker has a lock that may not be stored, so that nobody else has heard of it: it would be gone before it could stand by
    /// itself. All else gives way to what is stored above it, stored or not.
    fn is_unsaved_lock(&self, service: usize, known: &Snapshot) -> bool {
        matches!(known.held, Held::Locked(_)) && (self.unsaved.has(service) || self.unsaved.is_left_out(service))
    }

    /// What is not stored waits again, in front of all others.
    async fn save_batch(&mut self, batch: Vec<Announcement>) {
        let saves = join_all(batch.iter().map(|one| self.save_one(one))).await;
        let mut failures = Vec::new();
        let mut unsaved = Vec::new();
        for (announcement, saved) in batch.into_iter().zip(saves) {
            let Announcement { service, snapshot, .. } = &announcement;
            match saved {
                Err(error) => {
                    failures.push((*service, error));
                    unsaved.push(announcement);
                }
                Ok(None) => {}
                Ok(Some(saved)) => {
                    self.unsaved.met(*service);
                    if snapshot.held == Held::HalfOpen {
                        self.breakers.tell_stored();
                    }
                    if let Saved::Superseded(stored) = saved {
                        self.breakers.stand_by(*service, snapshot.generation, &stored);
                    }
                }
            }
        }
        self.unsaved.put_back(unsaved);
        self.failed(&failures, Answers::TakesNothing);
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
        self.catch_up().await;
        if !self.is_unsaved_lock(service, &known) {
            self.breakers.adopt(service, known.generation, snapshot, Cause::Adopted);
        }
    }

    /// Compares what is stored of the next breakers with what is known, and brings both to the newer of the two.
    async fn reconcile(&mut self, cause: Cause) {
        let answered = self.compare(self.rounds.services(), cause).await;
        self.rounds.compared(&answered);
        // Questions alone do not show that a store is there: it may answer them, and take nothing.
        if !self.rounds.is_due() {
            self.conclude();
        }
    }

    /// What is stored of which of them was read, and whether something differed.
    async fn compare(&mut self, mut services: Vec<usize>, cause: Cause) -> Vec<(usize, bool)> {
        let known: HashMap<usize, Snapshot> = services.iter().map(|service| (*service, self.breakers.snapshot(*service))).collect();
        // What is known was announced before it could be known: stored without its transition, it would be missing in the history. And what
        // is stored before it is read is not missed there. Where the store takes nothing, what it holds is taken up all the same.
        let well: BTreeSet<usize> = services.iter().copied().filter(|service| self.answers.are_well(*service)).collect();
        self.catch_up().await;
        // One that has just not taken it may be silent, and is asked about that first.
        services.retain(|service| self.answers.are_well(*service) || !well.contains(service));
        let found = self.load(services).await;
        let mut differing = BTreeSet::new();
        let mut lost = Vec::new();
        for (service, kept) in &found {
            let (service, known) = (*service, &known[service]);
            match &kept.state {
                _ if self.is_unsaved_lock(service, known) => {
                    if !self.unsaved.has(service) {
                        lost.push((service, known.clone()));
                    }
                    continue;
                }
                Some(stored) if stored.generation > known.generation => {
                    differing.insert(service);
                    self.breakers.adopt(service, known.generation, stored, cause);
                }
                Some(stored) if stored.generation == known.generation => self.breakers.yield_to(service, known.generation, stored),
                Some(_) => lost.push((service, known.clone())),
                // A breaker that has never changed is what the absence of a state means.
                None if known.generation > Generation::default() => lost.push((service, known.clone())),
                None => {}
            }
            self.unsaved.met(service);
        }
        differing.extend(lost.iter().map(|(service, _)| *service));
        self.put_back(lost).await;
        // After the states, so that an open time which a change of settings changes is the one that was stored.
        let answered: Vec<usize> = found.iter().map(|(service, _)| *service).collect();
        let (news, lost) = self.compare_tunings(found);
        differing.extend(lost.iter().map(|(service, ..)| *service).chain(news));
        self.put_tunings(lost).await;
        answered.into_iter().map(|service| (service, differing.contains(&service))).collect()
    }

    /// What is stored of these services, as far as their nodes answer.
    async fn load(&mut self, services: Vec<usize>) -> Vec<(usize, Kept)> {
        let asked: Vec<usize> = services.into_iter().filter(|service| !self.answers.are_silent(*service)).collect();
        if asked.is_empty() {
            return Vec::new();
        }
        let names: Vec<String> = asked.iter().map(|service| self.names[*service].clone()).collect();
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for (service, kept) in asked.into_iter().zip(self.store.load(&names).await) {
            match kept {
                Ok(kept) => found.push((service, kept)),
                Err(error) => failures.push((service, error)),
            }
        }
        self.failed(&failures, Answers::Silent);
        found
    }

    /// Stores again what the store has lost, and locks whose changes were left out: nobody has heard of those.
    async fn put_back(&mut self, mut lost: Vec<(usize, Snapshot)>) {
        while !lost.is_empty() {
            lost.retain(|(service, _)| self.answers.are_well(*service));
            let some: Vec<_> = lost.drain(..lost.len().min(SAVED_AT_ONCE)).collect();
            let saves = join_all(some.iter().map(|(service, known)| self.store.save(&self.names[*service], known, None))).await;
            let mut failures = Vec::new();
            for ((service, known), saved) in some.iter().zip(saves) {
                match saved {
                    Ok(Saved::Superseded(stored)) if self.unsaved.is_left_out(*service) => {
                        self.unsaved.met(*service);
                        self.breakers.stand_by(*service, known.generation, &stored);
                    }
                    Ok(Saved::Superseded(stored)) => self.breakers.yield_to(*service, known.generation, &stored),
                    Ok(Saved::Stored) => self.unsaved.met(*service),
                    Err(error) => failures.push((*service, error)),
                }
            }
            self.failed(&failures, Answers::TakesNothing);
        }
    }

    /// The same for settings: which were news here, and what is to be stored, over which revisions.
    fn compare_tunings(&self, kept: Vec<(usize, Kept)>) -> (Vec<usize>, Vec<(usize, Tuning, u64)>) {
        let (mut news, mut lost) = (Vec::new(), Vec::new());
        for (service, Kept { tuning: stored, .. }) in kept {
            news.extend(stored.as_ref().is_some_and(|stored| self.breakers.take_up_found(service, stored)).then_some(service));
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
    async fn save_tunings(&mut self) {
        let unsaved = |service| {
            let (standing, _) = self.breakers.standing(service);
            Some((service, standing.tuning.filter(can_be_written)?, standing.unsaved_over?))
        };
        let unsaved: Vec<_> = (0..self.names.len()).filter_map(unsaved).collect();
        self.put_tunings(unsaved).await;
    }

    /// Stores changes of settings, each over a revision, as far as the store takes them.
    async fn put_tunings(&mut self, mut changes: Vec<(usize, Tuning, u64)>) {
        while !changes.is_empty() {
            changes.retain(|(service, ..)| self.answers.are_well(*service));
            let some: Vec<_> = changes.drain(..changes.len().min(SAVED_AT_ONCE)).collect();
            let saves = some.iter().map(|(service, ours, over)| self.store.save_tuning(&self.names[*service], ours, *over));
            let saves = join_all(saves).await;
            let mut failures = Vec::new();
            for ((service, ours, _), saved) in some.iter().zip(saves) {
                match saved {
                    Ok(SavedTuning::Stored) => self.breakers.note_saved(*service, ours),
                    Ok(SavedTuning::Superseded(Some(stored))) => {
                        self.breakers.take_up(*service, &stored);
                    }
                    Ok(SavedTuning::Superseded(None)) => {}
                    Err(error) => failures.push((*service, error)),
                }
            }
            self.failed(&failures, Answers::TakesNothing);
        }
    }

    /// All has been compared, and what had to be stored was, but for the services of nodes that have failed meanwhile.
    fn conclude(&mut self) {
        let is_well = |service: usize| self.answers.are_well(service);
        if (0..self.names.len()).all(is_well) {
            self.note(StoreState::Up, "", |_, _| true);
        } else {
            self.note(StoreState::Down, &self.health.fault(), |_, service| is_well(service));
        }
    }

    /// Notes how the store is, and which services it serves, and says so once when that changes.
    fn note(&self, state: StoreState, error: &str, serves: impl Fn(&StoreHealth, usize) -> bool) {
        let changed = self.health.serve(|service| serves(&self.health, service));
        if self.health.set(state, error) {
            self.witness.tell(Fact::Store { up: state == StoreState::Up, error });
        }
        if changed {
            self.breakers.share_probes(|service| self.health.serves(service));
        }
    }
}

#[cfg(test)]
mod tests;
