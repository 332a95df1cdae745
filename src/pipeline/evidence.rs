//! Tells the fleet what is seen here of services, and lets the breakers hear what the others see.
//!
//! - Failures, slow calls, results of probes and a breaker that has opened alone are told within [`GATHER`]; all else (successes, a window
//!   that has slid) within a second, more slowly where there are more than [`TOGETHER`] services. What has not changed is not told; what the
//!   others say is read anew every `reread` all the same.
//! - Whoever tells is answered with what all others say of the same life, so the last one of those who have something to say hears of all of it.
//! - Figures of the last calls are evidence for a minute after they changed last, those of a time for as long as their window is: what an instance
//!   that has died said is weighed until then.
//! - That a breaker has opened alone is told again every `reread`, at the latest every 20 s, and lasts three times as long ([`Pace`]), so that two of
//!   a fleet hear of each other however far apart they opened, and though a telling or two fail.
//! - No call waits for any of it. While the store is away each breaker weighs what it knows, and what has changed is told on return.
//! - Where no breaker has anything to tell, nothing is asked.

mod pace;

pub use pace::{Pace, Said};

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::breakers::Breakers;
use super::keeper::StoreHealth;
use super::ports::{Clock, EvidenceStore, Telling, World};

/// How long news waits for more of it.
pub const GATHER: Duration = Duration::from_millis(40);

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
        let step = self.step();
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

    /// How far apart the parts of a look at everything are.
    fn step(&self) -> Duration {
        (ROUND.mul_f64(TOGETHER as f64 / self.names.len().max(TOGETHER) as f64)).max(STEP)
    }

    /// How often things are told: what is due is found by the next look at everything.
    fn pace(&self) -> Pace {
        let looks = u32::try_from(self.names.len().div_ceil(TOGETHER)).unwrap_or(u32::MAX);
        Pace::new(self.reread, self.step() * looks)
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
        let (now, pace) = (self.clock.now(), self.pace());
        let (mut told, mut tellings) = (Vec::new(), Vec::new());
        // Who is away is asked by the keeper alone. What is not told now is found by the next look.
        for &service in services.iter().filter(|service| self.health.serves(**service)) {
            let Some((testimony, of_use)) = self.breakers.testimony(service, now) else { continue };
            let Some((said, lasts)) = pace.due(self.said[service].as_ref(), testimony, of_use, now) else { continue };
            tellings.push(Telling { service: self.names[service].clone(), testimony: said.testimony.clone(), lasts });
            told.push((service, said));
        }
        if tellings.is_empty() {
            return;
        }
        let answers = self.store.tell(&tellings).await;
        for (((service, said), telling), others) in told.into_iter().zip(tellings).zip(answers) {
            let Ok(others) = others else { continue };
            self.breakers.hear(service, said.testimony.generation, &others, !telling.lasts.is_zero());
            self.said[service] = Some(said);
        }
    }
}

#[cfg(test)]
mod tests;
