//! By the gradient: what a call usually takes, divided by what it takes now. Above one the service has room; below it, calls wait inside it.
//!
//! The rule is the one that Netflix' concurrency-limits describes under the name `Gradient2Limit`. Each round the limit becomes
//! limit × gradient + queue, smoothed: the gradient is tolerance × usual ÷ present, at least one half and at most one; the queue is what may
//! wait inside the service, and lets the limit grow while it answers as fast as ever.
//!
//! What a call usually takes is a long-running average there, of every call. Under a demand that never lets up, as a backlog's is, that
//! average learns the delay which the limit itself causes, allows as much again, and the limit creeps up to its maximum. Two rules keep it
//! honest here:
//! - It rises only with calls made at no more in flight than when it was learnt: what takes longer then is the service's own doing. At more
//!   it may be ours.
//! - Every [`ROUNDS_BETWEEN_LOOKS`] rounds one round is made with a quarter of the places, and if calls are quicker then, so they can be: it
//!   falls half of the way at once. An average that was learnt from a crowd, as after a start, is put right so. A quarter, because the limit
//!   settles at nearly twice what keeps the service busy: half of it would see little less of a crowd.

use super::{Round, Step};

/// What it goes by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// How many times longer than usual calls may take before the limit falls; at least one.
    pub tolerance: f64,
    /// The share of a step that is taken; above 0, at most 1.
    pub smoothing: f64,
    /// Calls that may wait inside the service; `None`: the square root of the limit.
    pub queue: Option<u32>,
}

/// Rounds between two that are made with a quarter of the places: they cost a sixtieth of the throughput at most.
pub const ROUNDS_BETWEEN_LOOKS: u32 = 50;

/// How much of a longer time the average takes up in a round. Fifty rounds are long beside a burst, and short beside a service that has become
/// slower for good.
const UP: f64 = 0.02;

/// How much of a shorter time it takes up: a service that has become quicker is believed sooner, for it cannot fake that.
const DOWN: f64 = 0.1;

/// The same in a round with a quarter of the places.
const DOWN_AT_A_LOOK: f64 = 0.5;

/// How many more calls may be in flight and still count as no more: in flight is a number of places, which moves by whole ones.
const NO_MORE: f64 = 1.1;

/// The least gradient: one round's word, however bad, is not enough to do more than halve the limit.
const LEAST: f64 = 0.5;

/// The law.
#[derive(Debug)]
pub(super) struct Gradient {
    settings: Settings,
    usual: Option<Usual>,
    rounds: u32,
    /// The limit before the round that is made with a quarter of it.
    looking: Option<f64>,
}

/// What a call usually takes, and with how many in flight that was learnt.
#[derive(Debug, Clone, Copy)]
struct Usual {
    micros: f64,
    crowd: f64,
}

impl Usual {
    fn learn(&mut self, round: &Round, down: f64) {
        let (took, crowd) = (round.took(), round.crowd());
        if took < self.micros {
            self.micros += down * (took - self.micros);
            self.crowd += down * (crowd - self.crowd);
        } else if crowd <= self.crowd * NO_MORE {
            self.micros += UP * (took - self.micros);
        }
    }
}

impl Gradient {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, usual: None, rounds: 0, looking: None }
    }

    fn towards(&self, limit: f64, target: f64) -> f64 {
        limit + self.settings.smoothing * (target - limit)
    }
}

impl Step for Gradient {
    fn is_overload(&self, _took_micros: u64) -> bool {
        false
    }

    fn down(&mut self, limit: f64) -> f64 {
        // As the least gradient, and nothing to wait: a service that refuses calls has no room for a queue.
        self.looking = None;
        self.towards(limit, limit * LEAST)
    }

    fn round(&mut self, limit: f64, round: &Round) -> f64 {
        let looked = self.looking.take();
        let usual = self.usual.get_or_insert(Usual { micros: round.took(), crowd: round.crowd() });
        usual.learn(round, if looked.is_some() { DOWN_AT_A_LOOK } else { DOWN });
        if let Some(before) = looked {
            return before;
        }
        if !round.is_crowded(limit) {
            return limit;
        }
        let gradient = (self.settings.tolerance * usual.micros / round.took()).clamp(LEAST, 1.0);
        let queue = self.settings.queue.map_or_else(|| limit.sqrt(), f64::from);
        let next = self.towards(limit, limit * gradient + queue);
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds.is_multiple_of(ROUNDS_BETWEEN_LOOKS) {
            self.looking = Some(next);
            return next / 4.0;
        }
        next
    }
}
