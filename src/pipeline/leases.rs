//! Leases on the probes of half-open breakers: what keeps a fleet from sending more at once than `permits` says.
//!
//! ```text
//!   asked ──────── use by ─────────────────────── deadline in the store
//!     │  RESERVE     │   call's timeout and a second   │
//!     └ a probe may start until here, and has ended ───┘ by then
//! ```
//!
//! - A lease is asked for as soon as a breaker is half-open, and as long as there is a use for one; while all are held, every 100 to 300 ms. One
//!   that no probe has gone with is held on to by asking again before its time is over, until somebody else waits for it:
//!   then it is given back, and this instance is slower than others to ask anew.
//! - One whose probe is back is given back. A process that dies leaves its leases to their deadlines.
//! - What is said of times is safe whoever's clock is fast: use-by counts here from before the question, the deadline there from after it.
//! - No call waits for any of it. While the store fails, a breaker goes by its own places ([`Breakers::do_without_leases`]).
//! - While no breaker is half-open nothing is asked.
//!
//! The half-open state must be stored before leases of it are: whoever is told that it is not asks again when the keeper
//! has stored it, or a moment later, and then less and less.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::breakers::Breakers;
use super::keeper::StoreHealth;
use super::ports::{Chance, Clock, LeaseStore, LeaseWish, Leasing, World};
use crate::machine::breaker::{Lease, RESERVE, Tenure, Terms};
use crate::machine::time::Tick;

/// Between two questions, and as much again by chance twice over.
const PAUSE: Duration = Duration::from_millis(100);

/// The same after a lease was given back for others.
const PAUSE_FOR_OTHERS: Duration = Duration::from_millis(400);

/// The same while the state is being stored; twice that with each question that comes too early, up to 32 times.
const PAUSE_FOR_SAVE: Duration = Duration::from_millis(15);

/// So many questions that come too early are asked again with the next change, which may be that the state is stored.
const SOON_STORED: u32 = 4;

/// How long before its time is over an unused lease is asked for again.
const AHEAD: Duration = Duration::from_millis(400);

/// Takes leases for these breakers until `ending` does, and gives back what it holds then.
pub async fn run<W: World, S: LeaseStore>(
    breakers: Arc<Breakers<W>>,
    store: Arc<S>,
    health: Arc<StoreHealth>,
    clock: W::Clock,
    chance: W::Chance,
    ending: impl Future<Output = ()>,
) {
    let names: Vec<String> = breakers.names().map(str::to_owned).collect();
    let mut idle: Vec<Option<Tenant<'_, W, S>>> = names
        .iter()
        .enumerate()
        .map(|(service, name)| {
            Some(Tenant {
                service,
                name,
                breakers: &*breakers,
                store: &*store,
                health: &health,
                clock: &clock,
                chance: &chance,
                held: Vec::new(),
                next_id: 0,
                next_ask: Tick(0),
                not_before: Tick(0),
                stale: 0,
            })
        })
        .collect();
    let ended = CancellationToken::new();
    // Few of many are half-open at a time: the others need no task that every change would wake.
    let mut busy = FuturesUnordered::new();
    let mut changes = breakers.changes();
    let mut ending = pin!(ending);
    loop {
        for (service, tenant) in idle.iter_mut().enumerate() {
            if breakers.is_probing(service)
                && let Some(tenant) = tenant.take()
            {
                busy.push(tenant.go_rounds(&ended));
            }
        }
        tokio::select! {
            biased;
            () = &mut ending => break,
            Some(tenant) = busy.next() => {
                let service = tenant.service;
                idle[service] = Some(tenant);
            }
            () = changes.changed() => {}
        }
    }
    ended.cancel();
    while busy.next().await.is_some() {}
}

/// One breaker, and what is held for it.
struct Tenant<'a, W: World, S> {
    service: usize,
    name: &'a str,
    breakers: &'a Breakers<W>,
    store: &'a S,
    health: &'a StoreHealth,
    clock: &'a W::Clock,
    chance: &'a W::Chance,
    /// What the store has granted, or may have, and has not got back.
    held: Vec<u64>,
    next_id: u64,
    /// When another lease is asked for.
    next_ask: Tick,
    /// The store has failed: nothing is asked of it until then.
    not_before: Tick,
    /// Questions in a row that were told of another state in the store.
    stale: u32,
}

impl<W: World, S: LeaseStore> Tenant<'_, W, S> {
    /// Until nothing is held and there is no use for anything, or the end has come; then it gives back what no call is out with.
    async fn go_rounds(mut self, ended: &CancellationToken) -> Self {
        let ended = ended.run_until_cancelled(self.rounds()).await.is_none();
        if ended {
            self.leave().await;
        }
        self
    }

    async fn rounds(&mut self) {
        let mut changes = self.breakers.changes();
        while !self.held.is_empty() || self.breakers.is_probing(self.service) {
            let wake = self.look().await;
            tokio::select! {
                biased;
                () = changes.changed() => {
                    if (1..=SOON_STORED).contains(&self.stale) {
                        self.next_ask = Tick(0);
                    }
                }
                () = self.clock.sleep_until(wake) => {}
            }
        }
        // The next half-open life begins with a question.
        (self.next_ask, self.stale) = (Tick(0), 0);
    }

    /// Gives back what is of no more use, asks for what is; when to look again.
    async fn look(&mut self) -> Tick {
        if self.clock.now() < self.not_before {
            return self.not_before;
        }
        let tenure = self.breakers.tenure(self.service);
        if self.give_back(&tenure).await.is_none() {
            return self.fall_back();
        }
        let Some(terms) = tenure.terms else { return Tick::NEVER };
        if !self.health.serves(self.service) {
            // Who is away is asked by the keeper alone, and its return is a change.
            return Tick::NEVER;
        }
        let mut wake = Tick::NEVER;
        for lease in &tenure.unused {
            let due = Tick(lease.use_by.0.saturating_sub(millis(AHEAD)));
            if due > self.clock.now() {
                wake = wake.min(due);
            } else {
                match self.ask(terms, lease.id, false).await {
                    None => return self.fall_back(),
                    Some(Leasing::Granted) => wake = Tick(0),
                    Some(Leasing::Full { .. } | Leasing::Stale) => {
                        if self.breakers.revoke(self.service, lease.id) {
                            self.next_ask = self.after(PAUSE_FOR_OTHERS);
                        }
                        wake = Tick(0);
                    }
                }
            }
        }
        if tenure.unused.len() + tenure.used.len() >= terms.places {
            return wake;
        }
        if self.next_ask <= self.clock.now() {
            let id = self.next_id;
            self.next_id += 1;
            let urgent = self.breakers.wants_probe(self.service);
            self.next_ask = match self.ask(terms, id, urgent).await {
                None => return self.fall_back(),
                // Where calls wait there may be more than one.
                Some(Leasing::Granted) if urgent => self.clock.now(),
                Some(Leasing::Granted | Leasing::Full { .. }) => self.after(PAUSE),
                Some(Leasing::Stale) => self.after(PAUSE_FOR_SAVE * (1 << self.stale.saturating_sub(1).min(5))),
            };
        }
        wake.min(self.next_ask)
    }

    /// Asks for a lease; `None` if the store does not answer.
    async fn ask(&mut self, terms: Terms, id: u64, urgent: bool) -> Option<Leasing> {
        let use_by = self.clock.now().plus(RESERVE);
        let wish = LeaseWish {
            lease: id,
            generation: terms.generation,
            permits: terms.permits,
            duration: RESERVE.saturating_add(terms.lease),
            urgent,
        };
        // Held from before the question: one that is granted and not heard of must be given back all the same.
        if !self.held.contains(&id) {
            self.held.push(id);
        }
        let answer = self.store.lease(self.name, wish).await.ok()?;
        self.stale = if answer == Leasing::Stale { self.stale.saturating_add(1) } else { 0 };
        match answer {
            Leasing::Granted => {
                self.breakers.grant(self.service, terms.generation, Lease { id, use_by });
            }
            Leasing::Full { .. } => self.breakers.keep_to_leases(self.service, terms.generation),
            Leasing::Stale => {}
        }
        if answer != Leasing::Granted && !self.breakers.tenure(self.service).has(id) {
            self.held.retain(|held| *held != id);
        }
        Some(answer)
    }

    /// Gives back what the breaker has no more use for; `None` if the store does not answer. What it does not hear of ends by itself.
    async fn give_back(&mut self, tenure: &Tenure) -> Option<()> {
        let idle: Vec<u64> = self.held.iter().copied().filter(|id| !tenure.has(*id)).collect();
        self.held.retain(|id| tenure.has(*id));
        if idle.is_empty() || !self.health.serves(self.service) {
            return Some(());
        }
        self.store.give_back(self.name, &idle).await.ok()
    }

    /// The store fails: without leases until it answers again.
    fn fall_back(&mut self) -> Tick {
        self.breakers.do_without_leases(self.service);
        self.not_before = self.after(PAUSE);
        self.not_before
    }

    /// Gives back at the end what no call is out with.
    async fn leave(&mut self) {
        let tenure = self.breakers.tenure(self.service);
        let unused: Vec<u64> = tenure.unused.iter().map(|lease| lease.id).collect();
        for id in unused {
            self.breakers.revoke(self.service, id);
        }
        let tenure = self.breakers.tenure(self.service);
        // Whoever does not answer has deadlines for them.
        let _ = self.give_back(&tenure).await;
    }

    fn after(&self, pause: Duration) -> Tick {
        self.clock.now().plus(pause + pause.mul_f64(2.0 * self.chance.roll()))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
