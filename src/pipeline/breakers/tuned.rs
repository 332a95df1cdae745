//! What breakers go by, and at whose word: their settings where somebody has changed them ([`crate::pipeline::tuning`]).

use std::sync::{Arc, MutexGuard, PoisonError};

use super::{Breakers, Entry};
use crate::machine::breaker::Settings;
use crate::pipeline::facts::Fact;
use crate::pipeline::ports::{Chance as _, Clock as _, Witness as _, World};
use crate::pipeline::tuning::{Chosen, Meeting, Standing, Tuning, Wish};

impl Entry {
    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: World> Breakers<W> {
    /// What is known of the changes of a breaker's settings, and what it goes by.
    pub fn standing(&self, service: usize) -> (Standing, Arc<Settings>) {
        let entry = &self.entries[service];
        let standing = entry.standing();
        let settings = entry.breaker.with(|breaker| Arc::clone(breaker.settings()));
        (standing.clone(), settings)
    }

    /// The change that follows on the revision `known`, made here and now, by a number that was never given out here.
    pub fn next_tuning(&self, service: usize, known: u64, chosen: Chosen, wish: &Wish<'_>) -> Tuning {
        let mut standing = self.entries[service].standing();
        standing.numbered = standing.numbered.max(known).saturating_add(1);
        Tuning {
            revision: standing.numbered,
            chosen,
            actor: wish.actor.to_owned(),
            reason: wish.reason.to_owned(),
            at: self.clock.wall(),
            instance: self.instance.clone(),
        }
    }

    /// Lets a breaker go by a change, if the last one is still that of `known`; false if it is not. `unsaved_over`: the stored revision
    /// that it was laid over, if the store has yet to take it.
    pub fn tune(&self, service: usize, known: &Standing, tuning: &Tuning, unsaved_over: Option<u64>) -> bool {
        let mut standing = self.entries[service].standing();
        let fits = standing.is_at(known);
        if fits {
            self.go_by(service, &mut standing, tuning, unsaved_over);
        }
        fits
    }

    /// Lets a breaker go by a change that is stored, unless what is known here is as new, or is to be stored above it. Whether it is news.
    pub fn take_up(&self, service: usize, stored: &Tuning) -> bool {
        self.take_up_as(service, stored, Standing::meet)
    }

    /// The same for a change that was just read in the store.
    pub fn take_up_found(&self, service: usize, stored: &Tuning) -> bool {
        self.take_up_as(service, stored, Standing::find)
    }

    fn take_up_as(&self, service: usize, stored: &Tuning, to: fn(&Standing, &Tuning) -> Meeting) -> bool {
        let mut standing = self.entries[service].standing();
        let meeting = to(&standing, stored);
        if let (Meeting::Superseding, Some(lost)) = (meeting, &standing.tuning) {
            self.witness.tell(Fact::TuningLost { service, lost, stored });
        }
        if meeting != Meeting::Known {
            self.go_by(service, &mut standing, stored, None);
        }
        matches!(meeting, Meeting::Newer | Meeting::Superseding)
    }

    /// Notes that the store has taken a change that was made here.
    pub fn note_saved(&self, service: usize, saved: &Tuning) {
        self.entries[service].standing().note_saved(saved);
    }

    fn go_by(&self, service: usize, standing: &mut Standing, tuning: &Tuning, unsaved_over: Option<u64>) {
        let entry = &self.entries[service];
        let news = standing.tuning.as_ref().is_none_or(|known| !known.is(tuning));
        *standing = Standing { tuning: Some(tuning.clone()), unsaved_over, ..*standing };
        if news {
            self.witness.tell(Fact::Tuned { service, tuning });
        }
        let settings = match &tuning.chosen {
            Chosen::Configured => Arc::clone(&entry.configured),
            Chosen::Given(settings) => Arc::new(Settings { lease: entry.configured.lease, ..(**settings).clone() }),
            Chosen::Unreadable(_) => return,
        };
        let now = self.clock.now();
        self.change(service, |breaker| {
            if **breaker.settings() == *settings {
                return None;
            }
            breaker.retune(settings, now, || self.chance.roll())
        });
        // An open time may be over earlier or later, and a probe's place be free.
        self.tell_changed();
    }
}

/// Settings that breakers have alike, shared. Few are distinct where there are many services; of many distinct ones the latest are looked at.
pub(super) fn shared(distinct: &mut Vec<Arc<Settings>>, settings: Settings) -> Arc<Settings> {
    if let Some(known) = distinct.iter().rev().take(16).find(|known| ***known == settings) {
        return Arc::clone(known);
    }
    let settings = Arc::new(settings);
    distinct.push(Arc::clone(&settings));
    settings
}
