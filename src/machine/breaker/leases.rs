//! A half-open breaker's share of what the whole fleet may have in flight: leases, handed out by a store that every instance asks.
//!
//! While the store can be asked a probe goes with a lease or not at all, and uses it up. Who asks for leases renews that rule with every answer
//! ([`Breaker::grant`], [`Breaker::keep_to_leases`]); once nobody has for [`PATIENCE`], or the store has failed ([`Breaker::do_without_leases`]),
//! the breaker goes by its own places alone until it hears again. So no failure of whoever asks can hold it half-open for good.
//!
//! A lease is used until its call is back, though the breaker has left the life that sent it: the call is at the service all the same. While one is,
//! nobody may be asking for more, and patience begins once it is over.

use std::time::Duration;

use super::{Breaker, Generation, State};
use crate::machine::time::Tick;

/// How long a breaker waits for leases without hearing of them before it goes by its own places.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How long after it was asked for a lease may still be used.
pub const RESERVE: Duration = Duration::from_secs(1);

/// The right to send one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Tells it from others of this breaker.
    pub id: u64,
    /// The last tick but one at which its probe may start.
    pub use_by: Tick,
}

/// What leases a half-open breaker has a use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The life that they are for.
    pub generation: Generation,
    /// Probes in flight in the whole fleet, at most.
    pub permits: u32,
    /// Leases that this breaker alone can make use of at once, those in use included.
    pub places: usize,
    /// How long a probe may take.
    pub lease: Duration,
}

/// What leases a breaker has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tenure {
    /// What it has a use for; `None`: it is not half-open.
    pub terms: Option<Terms>,
    /// Those that no probe has gone with yet.
    pub unused: Vec<Lease>,
    /// Those whose probes are out.
    pub used: Vec<u64>,
}

impl Tenure {
    /// Whether it has this one.
    pub fn has(&self, id: u64) -> bool {
        self.used.contains(&id) || self.unused.iter().any(|lease| lease.id == id)
    }
}

#[derive(Debug, Default)]
pub(super) struct Leases {
    /// Whether the store can be asked.
    shared: bool,
    /// Until when no probe goes without a lease; zero: it has fallen back on its own places.
    binding: Tick,
    /// When a refused call is to ask again, unless `binding` is before.
    again: Tick,
    unused: Vec<Lease>,
    used: Vec<Used>,
}

#[derive(Debug)]
struct Used {
    lease: u64,
    probe: u64,
    ends: Tick,
}

impl Leases {
    /// A life begins: what was unused was for the one before.
    pub fn begin(&mut self, now: Tick) {
        self.unused.clear();
        self.heard(now);
    }

    /// Something was heard of leases: patience begins anew.
    fn heard(&mut self, now: Tick) {
        let over = self.used.iter().map(|used| used.ends.plus(RESERVE)).fold(now, Tick::max);
        self.binding = over.plus(PATIENCE);
        self.again = now.plus(PATIENCE);
    }

    /// Whether a probe may go; it uses up the lease that ends first, if there is one.
    pub fn let_go(&mut self, probe: u64, ends: Tick, now: Tick) -> bool {
        self.unused.retain(|lease| lease.use_by > now);
        let first = (0..self.unused.len()).min_by_key(|&index| self.unused[index].use_by);
        match first {
            Some(index) => {
                let lease = self.unused.swap_remove(index).id;
                self.used.push(Used { lease, probe, ends });
                if self.binding > now {
                    self.heard(now);
                }
                true
            }
            None => {
                let goes = !self.shared || self.binding <= now;
                if !goes && self.again <= now {
                    self.again = now.plus(PATIENCE);
                }
                goes
            }
        }
    }

    /// A probe is back.
    pub fn returned(&mut self, probe: u64, now: Tick) {
        let before = self.used.len();
        self.used.retain(|used| used.probe != probe);
        if self.used.len() < before && self.binding > now {
            self.heard(now);
        }
    }

    /// Until when every probe is refused for want of a lease; `None`: not known to be.
    pub fn wanting_until(&self) -> Option<Tick> {
        self.waits().filter(|_| self.unused.is_empty()).map(|end| end.min(self.again))
    }

    /// When it falls back on its own places, if nothing is heard.
    pub fn waits(&self) -> Option<Tick> {
        (self.shared && self.binding > Tick(0)).then_some(self.binding)
    }

    /// Falls back on its own places if it has waited long enough; whether it has just done so.
    pub fn fall_back(&mut self, now: Tick) -> bool {
        let falls = self.waits().is_some_and(|until| until <= now);
        if falls {
            self.binding = Tick(0);
        }
        falls
    }

    /// Leases whose probes are out. One that never came back is the store's to end: it does so at the lease's deadline, which is past
    /// [`RESERVE`] after the probe's.
    fn used(&mut self, now: Tick) -> Vec<u64> {
        self.used.retain(|used| used.ends.plus(RESERVE) > now);
        self.used.iter().map(|used| used.lease).collect()
    }
}

impl Breaker {
    /// Whether probes are the whole fleet's to count from now on, or, without a store, this breaker's own.
    pub fn share_probes(&mut self, shared: bool, now: Tick) {
        if !shared && self.leases.is_none() {
            return;
        }
        let leases = self.leases.get_or_insert_default();
        if shared && !leases.shared {
            leases.heard(now);
        }
        leases.shared = shared;
    }

    /// Takes a lease, or a later end of one that it has. False if it has no use for it: it is not half-open, or not in that life.
    pub fn grant(&mut self, generation: Generation, lease: Lease, now: Tick) -> bool {
        if !self.is_probing_in(generation) {
            return false;
        }
        let leases = self.leases.get_or_insert_default();
        leases.heard(now);
        if let Some(held) = leases.unused.iter_mut().find(|held| held.id == lease.id) {
            held.use_by = held.use_by.max(lease.use_by);
        } else if leases.used.iter().all(|used| used.lease != lease.id) {
            leases.unused.push(lease);
        }
        true
    }

    /// There is no lease to be had: others have them all.
    pub fn keep_to_leases(&mut self, generation: Generation, now: Tick) {
        if self.is_probing_in(generation)
            && let Some(leases) = &mut self.leases
        {
            leases.heard(now);
        }
    }

    /// The store has failed: goes by its own places until a lease is heard of, or for the rest of the stay. Whether it did not before.
    pub fn do_without_leases(&mut self) -> bool {
        let Some(leases) = &mut self.leases else { return false };
        let waited = leases.waits().is_some();
        leases.binding = Tick(0);
        waited
    }

    /// Takes back a lease that no probe has gone with. False if one has, or it is not there.
    pub fn revoke(&mut self, id: u64) -> bool {
        let Some(leases) = &mut self.leases else { return false };
        let before = leases.unused.len();
        leases.unused.retain(|lease| lease.id != id);
        leases.unused.len() < before
    }

    /// What leases it has at `now`, and what it has a use for.
    pub fn tenure(&mut self, now: Tick) -> Tenure {
        let terms = match &self.state {
            State::HalfOpen(half_open) if !self.is_alone() => Some(Terms {
                generation: self.life.generation,
                permits: self.settings.permits.max(1),
                places: half_open.places(&self.settings),
                lease: self.settings.lease,
            }),
            State::Closed { .. } | State::Open { .. } | State::HalfOpen(_) | State::Locked(_) => None,
        };
        let Some(leases) = &mut self.leases else { return Tenure { terms, ..Tenure::default() } };
        leases.unused.retain(|lease| lease.use_by > now);
        Tenure { terms, unused: leases.unused.clone(), used: leases.used(now) }
    }

    fn is_probing_in(&self, generation: Generation) -> bool {
        matches!(self.state, State::HalfOpen(_)) && !self.is_alone() && self.life.generation == generation
    }
}
