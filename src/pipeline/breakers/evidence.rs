//! What [`super::super::evidence`] asks of breakers: what they have to tell the fleet, and to hear what it says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Breakers;
use crate::machine::breaker::{Generation, Testimony, Told, Verdict};
use crate::machine::time::Tick;
use crate::pipeline::ports::{Chance as _, Clock as _, World};

/// Whether something has happened that the others should hear of soon.
#[derive(Debug, Default)]
pub(super) struct News(AtomicBool);

impl<W: World> Breakers<W> {
    /// Makes the breakers a fleet's: before the first call.
    pub fn join_fleet(&self) {
        let name: Arc<str> = self.instance.as_str().into();
        for entry in &self.entries {
            entry.breaker.with(|breaker| breaker.join_fleet(Arc::clone(&name)));
        }
    }

    /// What a breaker has to tell, and for how long that is of use.
    pub fn testimony(&self, service: usize, now: Tick) -> Option<(Testimony, Duration)> {
        self.entries[service].breaker.with(|breaker| breaker.testimony(now))
    }

    /// Lets a breaker hear what all others say of the life `generation`; see [`Breaker::hear`](crate::machine::breaker::Breaker::hear).
    pub fn hear(&self, service: usize, generation: Generation, told: &[Told], current: bool) {
        let now = self.clock.now();
        let heard = self.change(service, |breaker| breaker.hear(generation, told, current, now, || self.chance.roll()));
        if heard.is_some() {
            self.note_news(service);
        }
    }

    /// Whether something has happened since this was last asked.
    pub fn has_news(&self, service: usize) -> bool {
        self.entries[service].news.0.swap(false, Ordering::Relaxed)
    }

    /// Returns once there is news since the last return. For one task.
    pub async fn news(&self) {
        self.told.notified().await;
    }

    /// A verdict is news where there is anything to tell, unless it is a success that no probe brought: those are told now and then.
    pub(super) fn note_verdict(&self, service: usize, verdict: Verdict, probe: bool) {
        match verdict {
            Verdict::Success if !probe => {}
            Verdict::Ignored => {}
            Verdict::Success | Verdict::Slow | Verdict::Failure { .. } => {
                let entry = &self.entries[service];
                if !entry.news.0.load(Ordering::Relaxed) && entry.breaker.with(|breaker| breaker.tells()) {
                    self.note_news(service);
                }
            }
        }
    }

    pub(super) fn note_news(&self, service: usize) {
        let news = &self.entries[service].news.0;
        // Where nobody asks, it is written once.
        if !news.load(Ordering::Relaxed) && !news.swap(true, Ordering::Relaxed) {
            self.told.notify_one();
        }
    }
}
