//! Tells the fleet what is seen here of services, and lets the breakers hear what the others see.
//!
//! - Failures, slow calls, results of probes and a breaker that has opened alone are told within [`GATHER`]; all else (successes, a window
//!   that has slid) within a second, more slowly where there are more than [`TOGETHER`] services. What has not changed is not told; what the
//!   others say is read anew every `reread` all the same.
//! - Whoever tells is answered with what all others say of the same life, so the last one of those who have something to say hears of all of it.
//! - Figures of the last calls are evidence for a minute after they changed last, those of a time for as long as their window is: what an instance
//!   that has died said is weighed until then.
//! - No call waits for any of it. While the store is away each breaker weighs what it knows, and what has changed is told on return.
//! - Where no breaker has anything to tell, nothing is asked.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::breakers::Breakers;
use super::keeper::StoreHealth;
use super::ports::{Clock, EvidenceStore, Telling, World};
use crate::machine::breaker::Testimony;
use crate::machine::time::Tick;

/// How long news waits for more of it.
pub const GATHER: Duration = Duration::from_millis(20);

/// How often everything is looked at, and at the least how far apart its parts are.
const ROUND: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(100);

/// Services that are looked at, or told of, at once.
pub const TOGETHER: usize = 250;

/// Tells and hears until `ending` does. What all others say is read anew after `reread`.
pub async fn run<W: World, S: EvidenceStore>(
    breakers: Arc<Breakers<W>>,
    store: Arc<S>,
    health: Arc<StoreHealth>,
    clock: W::Clock,
    reread: Duration,
    ending: impl Future<Output = ()>,
) {
    let names = breakers.names().map(str::to_owned).collect::<Vec<_>>();
    let said = names.iter().map(|_| None).collect();
    let mut teller = Teller { breakers: &*breakers, store: &*store, health: &health, clock: &clock, reread, names, said, next: 0 };
    let (rounds, ending) = (pin!(teller.go_round()), pin!(ending));
    tokio::select! {
        biased;
        () = ending => {}
        () = rounds => {}
    }
}

/// What was told last of a service.
#[derive(Debug)]
struct Said {
    testimony: Testimony,
    /// When it was first told.
    changed: Tick,
    /// When it was told last, and the others were heard.
    at: Tick,
}

struct Teller<'a, W: World, S> {
    breakers: &'a Breakers<W>,
    store: &'a S,
    health: &'a StoreHealth,
    clock: &'a W::Clock,
    reread: Duration,
    names: Vec<String>,
    said: Vec<Option<Said>>,
    /// Where the next look at everything goes on.
    next: usize,
}

impl<W: World, S: EvidenceStore> Teller<'_, W, S> {
    async fn go_round(&mut self) {
        let step = (ROUND.mul_f64(TOGETHER as f64 / self.names.len().max(TOGETHER) as f64)).max(STEP);
        let mut next_look = self.clock.now();
        loop {
            tokio::select! {
                biased;
                () = self.clock.sleep_until(next_look) => {
                    let services = self.slice();
                    self.tell(&services).await;
                    next_look = self.clock.now().plus(step);
                }
                () = self.breakers.news() => {
                    self.clock.sleep_until(self.clock.now().plus(GATHER)).await;
                    let services: Vec<usize> = (0..self.names.len()).filter(|service| self.breakers.has_news(*service)).collect();
                    for services in services.chunks(TOGETHER) {
                        self.tell(services).await;
                    }
                }
            }
        }
    }

    /// The next services in turn.
    fn slice(&mut self) -> Vec<usize> {
        let all = self.names.len();
        let services = (0..all.min(TOGETHER)).map(|place| (self.next + place) % all).collect();
        self.next = if all == 0 { 0 } else { (self.next + TOGETHER) % all };
        services
    }

    /// Tells of those services of which there is something to tell, and hears what the others say of them.
    async fn tell(&mut self, services: &[usize]) {
        let now = self.clock.now();
        let (mut told, mut tellings) = (Vec::new(), Vec::new());
        // Who is away is asked by the keeper alone. What is not told now is found by the next look.
        for &service in services.iter().filter(|service| self.health.serves(**service)) {
            if let Some((telling, changed)) = self.telling(service, now) {
                tellings.push(telling);
                told.push((service, changed));
            }
        }
        if tellings.is_empty() {
            return;
        }
        let answers = self.store.tell(&tellings).await;
        for (((service, changed), telling), others) in told.into_iter().zip(tellings).zip(answers) {
            let Ok(others) = others else { continue };
            let generation = telling.testimony.generation;
            self.breakers.hear(service, generation, &others, !telling.lasts.is_zero());
            self.said[service] = Some(Said { testimony: telling.testimony, changed, at: now });
        }
    }

    /// What is to be told of a service, and since when it is so; `None`: nothing.
    fn telling(&self, service: usize, now: Tick) -> Option<(Telling, Tick)> {
        let (testimony, lasts) = self.breakers.testimony(service, now)?;
        let said = self.said[service].as_ref();
        let same = said.filter(|said| said.testimony == testimony);
        if same.is_some_and(|said| now.since(said.at) < self.reread) {
            return None;
        }
        let changed = same.map_or(now, |said| said.changed);
        // Whoever is alone is so until it is not.
        let over = if testimony.alone { Duration::ZERO } else { now.since(changed) };
        let lasts = lasts.saturating_sub(over);
        Some((Telling { service: self.names[service].clone(), testimony, lasts }, changed))
    }
}

#[cfg(test)]
mod tests;
