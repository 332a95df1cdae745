//! Asks services for their health while their breakers are open or half-open, so that one without traffic recovers and no event is spent on
//! finding out.
//!
//! Half-open, a question is a probe like a call: admitted by the breaker, settled with its answer, its permit given back if it is cut short.
//! With no place free, or no lease on one, it waits for that. While open a question changes nothing; its answer is shown. Nothing is asked while the breaker is closed or locked.
//!
//! A service is asked one question at a time; those of different services wait for each other no more than their calls do. A question takes
//! no turn of the calls: it must get through while they are stuck.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::breakers::Breakers;
use super::facts::Fact;
use super::guard::Came;
use super::ports::{Clock, HealthCheck, Witness, World};
use crate::machine::breaker::StateName;
use crate::machine::health::{Next, Rounds, judge};
use crate::machine::judgement::Answer;
use crate::machine::time::Tick;

/// How one service is asked.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// The service: an index into the config's services.
    pub service: usize,
    /// From one question to the next; the next one waits for an answer that takes longer.
    pub interval: Duration,
    /// The longest that an answer may take; shorter than a probe's lease.
    pub timeout: Duration,
    /// Whether the questions are the breaker's probes.
    pub probes: bool,
}

/// Asks these services for as long as it is polled.
pub async fn run<W: World, H: HealthCheck>(
    manners: Vec<Manner>,
    breakers: Arc<Breakers<W>>,
    services: Arc<H>,
    clock: W::Clock,
    witness: Arc<W::Witness>,
) {
    let rounds = manners.into_iter().map(|manner| {
        let asking = Asking { manner, breakers: &*breakers, services: &*services, clock: &clock, witness: &*witness };
        asking.go_round()
    });
    join_all(rounds).await;
}

/// What came of a round.
enum Asked {
    /// It was asked, or need not be.
    Asked,
    /// Every place of a probe is taken, in the fleet or here: until then at most.
    NoPlace(Option<Tick>),
}

/// One service, and whom to ask about it.
struct Asking<'a, W: World, H> {
    manner: Manner,
    breakers: &'a Breakers<W>,
    services: &'a H,
    clock: &'a W::Clock,
    witness: &'a W::Witness,
}

impl<W: World, H: HealthCheck> Asking<'_, W, H> {
    async fn go_round(self) {
        let mut changes = self.breakers.changes();
        let mut rounds = Rounds::new(self.manner.interval);
        loop {
            let snapshot = self.breakers.snapshot(self.manner.service);
            let now = self.clock.now();
            match rounds.next(snapshot.generation, snapshot.held.name(), now) {
                Next::Rest => changes.changed().await,
                Next::AskAt(due) if due > now => {
                    tokio::select! {
                        biased;
                        () = changes.changed() => {}
                        () = self.clock.sleep_until(due) => {}
                    }
                }
                Next::AskAt(_) => match self.ask().await {
                    Asked::Asked => rounds.asked(now),
                    Asked::NoPlace(until) => {
                        tokio::select! {
                            biased;
                            () = changes.changed() => {}
                            () = self.clock.sleep_until(until.unwrap_or(now.plus(self.manner.interval))) => {}
                        }
                    }
                },
            }
        }
    }

    /// One question, unless the breaker has something against it.
    async fn ask(&self) -> Asked {
        let Manner { service, timeout, probes, .. } = self.manner;
        let began = self.clock.micros();
        let now = self.clock.tick_at(began);
        let admission = if probes {
            match self.breakers.admit_check(service, now) {
                Ok(admission) if admission.is_probe() => Some(admission),
                // It has closed meanwhile, or been locked.
                Ok(_) => return Asked::Asked,
                Err(refusal) if refusal.state == StateName::Open => None,
                Err(refusal) if refusal.state == StateName::HalfOpen => return Asked::NoPlace(refusal.until),
                Err(_) => return Asked::Asked,
            }
        } else {
            None
        };
        let answer = tokio::select! {
            biased;
            reply = self.services.check(service) => reply.map_or(Answer::NoReply, |reply| Came::of(reply).answer),
            () = self.clock.sleep_until(now.plus(timeout)) => Answer::TimedOut,
        };
        let ended = self.clock.micros();
        let took = Duration::from_micros(ended.saturating_sub(began));
        let (health, verdict) = judge(answer);
        self.witness.tell(Fact::HealthChecked { service, health, took });
        if let Some(admission) = admission {
            admission.settle(verdict, took, self.clock.tick_at(ended));
        }
        Asked::Asked
    }
}

#[cfg(test)]
mod tests;
