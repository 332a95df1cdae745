//! Settings that somebody changes while breakers run: what is known of them here ([`Standing`]), and how a change is made ([`tune`]).
//!
//! Guarantees:
//! - A change is laid over the settings that stand where they are shared, and takes the next revision there: of two that are made at
//!   once the second is laid over the first, or refused if it asked for the one before it. None is lost unsaid.
//! - It is taken whole or not at all, and weighed at once.
//! - A store that was emptied gets back what an instance knows. What was changed there in between, laid over nothing, stands if it was made
//!   later, and that is told.
//! - Without a store it lasts as long as the process. With the store away it is made here and saved on return, if nobody has changed the
//!   settings there meanwhile; if somebody has, theirs stand, and that is told.
//!
//! What it leaves to others: what a change says ([`crate::config::changed_breaker`]), and hearing of the others' ([`super::keeper`]).

use std::sync::Arc;

use super::breakers::Breakers;
use super::ports::{SavedTuning, Store, World};
use crate::event::UnixMillis;
use crate::machine::breaker::Settings;

/// How often a change is laid anew over what others have changed meanwhile, before it is given up.
const TRIES: usize = 8;

/// A change of a breaker's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuning {
    /// Its number, from 1: each change's is above that of the one that it was laid over. 0 are the configured settings, never changed.
    pub revision: u64,
    /// What the breaker goes by from there.
    pub chosen: Chosen,
    /// Who asked for it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When, as the reader's wall clock has it.
    pub at: UnixMillis,
    /// The instance that was asked.
    pub instance: String,
}

/// What a breaker goes by.
#[derive(Debug, Clone, PartialEq)]
pub enum Chosen {
    /// Each instance's own configured settings.
    Configured,
    /// These. The lease is each instance's own: it follows from the configured timeout.
    Given(Arc<Settings>),
    /// Something that this version cannot read, and why: what is in force stays.
    Unreadable(String),
}

impl Tuning {
    /// Whether it is the same change. Times are not compared: on the way through the store they pass from one clock to another.
    pub fn is(&self, other: &Self) -> bool {
        let word = |tuning: &Self| (tuning.revision, std::mem::discriminant(&tuning.chosen));
        word(self) == word(other) && (&self.instance, &self.actor, &self.reason) == (&other.instance, &other.actor, &other.reason)
    }
}

/// What is known here of the changes of a breaker's settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// The last one; `None`: nobody has changed them.
    pub tuning: Option<Tuning>,
    /// The stored revision that it was laid over, if the store has not taken it yet.
    pub unsaved_over: Option<u64>,
    /// The highest revision that was given out here, be its change in force or lost.
    pub numbered: u64,
}

/// What a change found in the store is to what is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// Nothing new: it is older, or known.
    Known,
    /// What had been made here is stored.
    Saved,
    /// It is newer, and stands.
    Newer,
    /// It stands in the place of what is known here: it was stored before that, or after that was lost with the store.
    Superseding,
}

impl Standing {
    /// The last change's number; 0: there was none.
    pub fn revision(&self) -> u64 {
        self.tuning.as_ref().map_or(0, |tuning| tuning.revision)
    }

    /// What names the last change among all, also those of instances that cannot hear of each other: its revision and the instance that
    /// was asked, which gives out no revision twice. `0`: nobody has changed the settings. It needs no escape in an entity tag.
    pub fn tag(&self) -> String {
        let Some(tuning) = &self.tuning else { return "0".to_owned() };
        let plain = |letter: char| if letter.is_ascii_alphanumeric() || "-._".contains(letter) { letter } else { '_' };
        format!("{}-{}", tuning.revision, tuning.instance.chars().map(plain).collect::<String>())
    }

    /// Whether `tag` names the last change. A revision by itself does where no other change can have it: one that is stored, or, without a
    /// store, one of this process.
    pub fn is_named(&self, tag: &str) -> bool {
        tag == self.tag() || self.unsaved_over.is_none() && tag == self.revision().to_string()
    }

    /// Whether the last change is still the same one.
    pub fn is_at(&self, other: &Self) -> bool {
        match (&self.tuning, &other.tuning) {
            (Some(ours), Some(theirs)) => ours.is(theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        }
    }

    /// What a stored change is to it. Of equal revisions the stored one stands: it is what the others go by.
    pub fn meet(&self, stored: &Tuning) -> Meeting {
        let same = self.tuning.as_ref().is_some_and(|ours| ours.is(stored));
        match self.unsaved_over {
            Some(_) if same => Meeting::Saved,
            Some(over) if stored.revision > over => Meeting::Superseding,
            None if stored.revision > self.revision() => Meeting::Newer,
            // The store holds no revision twice, unless it was emptied: ours is gone from there.
            None if stored.revision == self.revision() && !same => Meeting::Superseding,
            Some(_) | None => Meeting::Known,
        }
    }

    /// The same for what was just read in the store. Of a lower revision than what it has taken before, it was emptied since; what was made
    /// without knowing of ours, and after it, stands.
    pub fn find(&self, stored: &Tuning) -> Meeting {
        let lost = |ours: &Tuning| self.unsaved_over.is_none() && ours.revision > stored.revision && ours.at < stored.at;
        if self.tuning.as_ref().is_some_and(lost) { Meeting::Superseding } else { self.meet(stored) }
    }

    /// Notes that the store has taken a change that was made here. One that was laid over it meanwhile has that much less to wait for.
    pub fn note_saved(&mut self, saved: &Tuning) {
        if self.tuning.as_ref().is_some_and(|ours| ours.is(saved)) {
            self.unsaved_over = None;
        } else if let Some(over) = &mut self.unsaved_over {
            *over = saved.revision.max(*over);
        }
    }
}

/// Who wants a change, and over what.
#[derive(Debug, Clone)]
pub struct Wish<'a> {
    /// Who.
    pub actor: &'a str,
    /// Why.
    pub reason: &'a str,
    /// The tags of the changes over which it may be laid; `None`: any.
    pub over: Option<&'a [String]>,
}

/// What a wish has come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuned {
    /// The settings that it was laid over.
    pub before: Arc<Settings>,
    /// The change; `None`: there was nothing to change.
    pub tuning: Option<Tuning>,
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq)]
pub enum NotTuned<E> {
    /// It may not be laid over the present settings, which have this tag.
    Stale(String),
    /// What it says is wrong.
    Wrong(E),
    /// Others change the settings all the time.
    Contended,
}

/// Changes a breaker's settings for everybody. `decide` says to what, given those in force; it may be asked several times.
///
/// # Errors
/// See [`NotTuned`]: nothing has changed then.
pub async fn tune<W: World, S: Store, E>(
    breakers: &Breakers<W>,
    store: Option<&S>,
    service: usize,
    wish: &Wish<'_>,
    decide: impl Fn(&Settings) -> Result<Chosen, E>,
) -> Result<Tuned, NotTuned<E>> {
    let names: Vec<String> = breakers.names().skip(service).take(1).map(str::to_owned).collect();
    for _ in 0..TRIES {
        // What another instance has just answered may not have been heard here yet.
        let stored = match store {
            Some(store) => store.load(&names).await.into_iter().next().and_then(Result::ok).map(|kept| kept.tuning),
            None => None,
        };
        if let Some(Some(stored)) = &stored {
            breakers.take_up_found(service, stored);
        }
        let (standing, before) = breakers.standing(service);
        if wish.over.is_some_and(|over| !over.iter().any(|tag| standing.is_named(tag))) {
            return Err(NotTuned::Stale(standing.tag()));
        }
        let chosen = decide(&before).map_err(NotTuned::Wrong)?;
        if changes_nothing(&standing, &before, &chosen) {
            return Ok(Tuned { before, tuning: None });
        }
        let tuning = breakers.next_tuning(service, standing.revision(), chosen, wish);
        let saved = match (store, &stored) {
            (Some(store), Some(stored)) => {
                let over = stored.as_ref().map_or(0, |stored| stored.revision);
                store.save_tuning(&names[0], &tuning, over).await.ok()
            }
            _ => None,
        };
        let done = match saved {
            Some(SavedTuning::Stored) => {
                // The fleet goes by it already, whatever was heard here meanwhile.
                if !breakers.tune(service, &standing, &tuning, None) {
                    breakers.take_up(service, &tuning);
                }
                true
            }
            Some(SavedTuning::Superseded(stored)) => {
                if let Some(stored) = stored {
                    breakers.take_up(service, &stored);
                }
                false
            }
            None => {
                let over = store.is_some().then(|| standing.unsaved_over.unwrap_or(standing.revision()));
                breakers.tune(service, &standing, &tuning, over)
            }
        };
        if done {
            return Ok(Tuned { before, tuning: Some(tuning) });
        }
    }
    Err(NotTuned::Contended)
}

fn changes_nothing(standing: &Standing, in_force: &Settings, chosen: &Chosen) -> bool {
    match (standing.tuning.as_ref().map(|tuning| &tuning.chosen), chosen) {
        (Some(Chosen::Unreadable(_)), _) => false,
        (None | Some(Chosen::Configured), Chosen::Configured) => true,
        (_, Chosen::Given(settings)) => **settings == *in_force,
        (Some(Chosen::Given(_)), Chosen::Configured) | (_, Chosen::Unreadable(_)) => false,
    }
}

#[cfg(test)]
mod tests;
