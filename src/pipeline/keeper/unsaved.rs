//! Changes that are decided and not stored: those that may go to the store now, and those whose node does not answer.

use std::collections::{BTreeSet, VecDeque};

use crate::pipeline::breakers::{Announcement, keep};

/// Changes that wait for a node's return, at most: older ones are left out of its history, never out of its state.
pub(super) const KEPT: usize = 256;

/// States stored side by side: enough for the way to the store to count little, few enough for each to be answered long before its time limit.
pub(super) const SAVED_AT_ONCE: usize = 64;

/// Each breaker's changes are in order, in one of the two.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    due: VecDeque<Announcement>,
    waiting: VecDeque<Announcement>,
    /// Breakers with a change that waited, and gave way to those of others. What is known of them may not be stored.
    left_out: BTreeSet<usize>,
}

impl Unsaved {
    /// A change that may be stored.
    pub(super) fn push(&mut self, announcement: Announcement) {
        self.due.push_back(announcement);
    }

    /// A change that waits. Where there are too many, those of one instance alone give way first.
    pub(super) fn keep(&mut self, announcement: Announcement) {
        let gone = keep(&mut self.waiting, announcement, KEPT, |one| one.transition.alone);
        self.left_out.extend(gone.filter(|gone| !gone.transition.alone).map(|gone| gone.service));
    }

    /// Changes that were to be stored and were not, before all others.
    pub(super) fn put_back(&mut self, announcements: Vec<Announcement>) {
        for announcement in announcements.into_iter().rev() {
            self.due.push_front(announcement);
        }
    }

    /// Those for which `waits` holds wait from now on.
    pub(super) fn set_aside(&mut self, waits: impl Fn(usize) -> bool) {
        for announcement in std::mem::take(&mut self.due) {
            if waits(announcement.service) { self.keep(announcement) } else { self.push(announcement) }
        }
    }

    /// Those of these services wait no longer.
    pub(super) fn retry(&mut self, services: &BTreeSet<usize>) {
        let (due, waiting) = self.waiting.drain(..).partition(|one| services.contains(&one.service));
        self.waiting = waiting;
        self.due.extend::<VecDeque<_>>(due);
    }

    /// Whether there is room for more of what may be stored.
    pub(super) fn has_room(&self) -> bool {
        self.due.len() < SAVED_AT_ONCE
    }

    /// Whether a breaker has a change that is to be stored.
    pub(super) fn has(&self, service: usize) -> bool {
        self.waiting.iter().chain(&self.due).any(|one| one.service == service)
    }

    /// Whether a breaker's change was left out, and nothing of it was stored since.
    pub(super) fn is_left_out(&self, service: usize) -> bool {
        self.left_out.contains(&service)
    }

    /// What is known of a breaker has met what is stored.
    pub(super) fn met(&mut self, service: usize) {
        self.left_out.remove(&service);
    }

    /// The oldest changes, as many as may be stored side by side: a breaker's next one goes after the one before it.
    pub(super) fn next_batch(&mut self) -> Vec<Announcement> {
        let first = self.due.iter().take(SAVED_AT_ONCE).enumerate();
        let repeated = first.clone().find(|(at, one)| first.clone().take(*at).any(|(_, before)| before.service == one.service));
        let count = repeated.map_or(first.len(), |(at, _)| at);
        self.due.drain(..count).collect()
    }
}
