//! How breakers look to people, and how they came to be so.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use super::Breakers;
use crate::machine::breaker::{Counts, FleetCounts, Settings, Snapshot, Transition};
use crate::pipeline::ports::{Clock as _, HistoryEntry, World};
use crate::pipeline::tuning::Standing;

/// Transitions of each breaker that are remembered in the process, for when the store is away.
const REMEMBERED: usize = 256;

/// A breaker as people see it.
#[derive(Debug, Clone)]
pub struct View {
    /// The service.
    pub service: String,
    /// The state with what belongs to it, its generation, and since when, as it is here.
    pub snapshot: Snapshot,
    /// Whether it has opened alone: for the fleet it is closed.
    pub alone: bool,
    /// What all instances say of it, as last heard; `None`: they do not tell, or nothing was heard yet.
    pub fleet: Option<FleetCounts>,
    /// The figures its policy weighs.
    pub counts: Counts,
    /// Probes in flight.
    pub probes: usize,
    /// What it was told to do.
    pub settings: Arc<Settings>,
    /// By whom, if not by the config.
    pub standing: Standing,
}

/// Keeps `one` as the last of at most `most`. What gives way is the oldest that was an instance's alone, if there is one: no number of those makes
/// a change of the fleet's breaker be forgotten.
pub(in crate::pipeline) fn keep<T>(kept: &mut VecDeque<T>, one: T, most: usize, is_alone: impl Fn(&T) -> bool) -> Option<T> {
    kept.push_back(one);
    if kept.len() > most { kept.remove(kept.iter().position(is_alone).unwrap_or(0)) } else { None }
}

impl<W: World> Breakers<W> {
    /// A breaker as people see it.
    pub fn view(&self, service: usize) -> View {
        let now = self.clock.now();
        let entry = &self.entries[service];
        let standing = entry.standing();
        entry.breaker.with(|breaker| View {
            service: entry.service.clone(),
            snapshot: breaker.standing(),
            alone: breaker.is_alone(),
            fleet: breaker.fleet_counts(now),
            counts: breaker.counts(now),
            probes: breaker.probes_in_flight(now),
            settings: Arc::clone(breaker.settings()),
            standing: standing.clone(),
        })
    }

    /// The transitions that this process knows of, newest first.
    pub fn remembered(&self, service: usize) -> Vec<HistoryEntry> {
        let remembered = self.entries[service].remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.iter().rev().cloned().collect()
    }

    pub(super) fn remember(&self, service: usize, transition: &Transition) {
        let mut remembered = self.entries[service].remembered.lock().unwrap_or_else(PoisonError::into_inner);
        keep(&mut remembered, self.history_entry(transition), REMEMBERED, |entry| entry.alone);
    }

    fn history_entry(&self, transition: &Transition) -> HistoryEntry {
        HistoryEntry {
            at: self.clock.wall_of(transition.at),
            from: transition.from,
            to: transition.to,
            cause: transition.cause,
            generation: transition.generation,
            instance: self.instance.clone(),
            actor: transition.actor.clone(),
            reason: transition.reason.clone(),
            counts: transition.counts,
            alone: transition.alone,
            fleet: transition.fleet.as_deref().cloned(),
        }
    }
}
