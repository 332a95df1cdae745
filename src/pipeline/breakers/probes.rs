//! What [`super::super::leases`] asks of breakers: who wants a lease, who has one, and to take one.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Breakers;
use crate::machine::breaker::{Generation, Lease, Refusal, StateName, Tenure};
use crate::pipeline::ports::{Clock, World};

/// What goes as a probe while a breaker is half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probes {
    /// Calls, whoever comes first.
    Calls,
    /// Health checks alone ([`crate::pipeline::health`]): calls are refused until it is closed.
    Checks,
}

/// Whether somebody was refused who would have been a probe.
#[derive(Debug, Default)]
pub(super) struct Wanted(AtomicBool);

impl Wanted {
    pub(super) fn note(&self, refusal: &Refusal) {
        // Written where it changes alone: every refused call comes by here.
        if refusal.state == StateName::HalfOpen && !self.0.load(Ordering::Relaxed) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

impl<W: World> Breakers<W> {
    /// Whether the fleet shares a service's probes from now on, or each instance has its own.
    pub fn share_probes(&self, shared: impl Fn(usize) -> bool) {
        let now = self.clock.now();
        for (service, entry) in self.entries.iter().enumerate() {
            entry.breaker.with(|breaker| breaker.share_probes(shared(service), now));
        }
        self.tell_changed();
    }

    /// What leases a breaker has, and has a use for.
    pub fn tenure(&self, service: usize) -> Tenure {
        let now = self.clock.now();
        self.entries[service].breaker.with(|breaker| breaker.tenure(now))
    }

    /// Whether a breaker may have leases, or a use for one. Holds nobody up.
    pub fn is_probing(&self, service: usize) -> bool {
        self.state(service) == StateName::HalfOpen
    }

    /// Whether somebody was refused for want of a place since this was last asked.
    pub fn wants_probe(&self, service: usize) -> bool {
        self.entries[service].wanted.0.swap(false, Ordering::Relaxed)
    }

    /// Wakes whoever waits for a half-open state to be stored.
    pub fn tell_stored(&self) {
        self.tell_changed();
    }

    /// Takes a lease, or a later end of one. False if the breaker has no use for it.
    pub fn grant(&self, service: usize, generation: Generation, lease: Lease) -> bool {
        let now = self.clock.now();
        let taken = self.entries[service].breaker.with(|breaker| breaker.grant(generation, lease, now));
        if taken {
            self.tell_changed();
        }
        taken
    }

    /// There is no lease to be had now.
    pub fn keep_to_leases(&self, service: usize, generation: Generation) {
        let now = self.clock.now();
        self.entries[service].breaker.with(|breaker| breaker.keep_to_leases(generation, now));
    }

    /// No lease can be asked for: the breaker goes by its own places.
    pub fn do_without_leases(&self, service: usize) {
        if self.entries[service].breaker.with(|breaker| breaker.do_without_leases()) {
            self.tell_changed();
        }
    }

    /// Takes back a lease that no probe has gone with; false if one has.
    pub fn revoke(&self, service: usize, id: u64) -> bool {
        self.entries[service].breaker.with(|breaker| breaker.revoke(id))
    }

    pub(super) fn note_want(&self, service: usize, by: Probes, refusal: &Refusal) {
        let entry = &self.entries[service];
        if entry.probes == by {
            entry.wanted.note(refusal);
        }
    }
}
