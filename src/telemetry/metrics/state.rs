//! A breaker's state as a one-hot gauge.
//!
//! Six gauges set one after the other would show two states, or none, to a scrape in between. And two transitions told by two threads
//! can arrive in the wrong order, and leave the older state standing until the next change, which may be hours. So the state is one
//! word with its generation above it: the newer one wins, and the gauges are set from it when they are read.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::IntGauge;

use crate::machine::breaker::{Generation, StateName};

/// Bits that hold the state.
const STATE_BITS: u32 = 3;
const _: () = assert!(StateName::ALL.len() <= 1 << STATE_BITS, "a state fits in its bits");

pub(super) struct BreakerState {
    word: AtomicU64,
    gauges: [IntGauge; StateName::ALL.len()],
}

impl BreakerState {
    /// The state of a breaker that nothing has happened to.
    pub(super) fn new(gauges: [IntGauge; StateName::ALL.len()]) -> Self {
        Self { word: AtomicU64::new(word(Generation(0), StateName::Closed)), gauges }
    }

    /// Takes a state up, unless one of a newer generation is known. One of the same generation replaces it: that is how a breaker
    /// yields to another instance's decision.
    pub(super) fn enter(&self, generation: Generation, state: StateName) {
        let new = word(generation, state);
        let newer = |held: u64| (new >> STATE_BITS >= held >> STATE_BITS).then_some(new);
        // Refused means that a newer state stands, which is what is wanted.
        let _ = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, newer);
    }

    /// Sets the gauges.
    pub(super) fn show(&self) {
        let held = self.word.load(Ordering::Relaxed) & ((1 << STATE_BITS) - 1);
        for (gauge, state) in self.gauges.iter().zip(StateName::ALL) {
            gauge.set(i64::from(state as u64 == held));
        }
    }
}

fn word(generation: Generation, state: StateName) -> u64 {
    generation.0 << STATE_BITS | state as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_generation_stands_alone() {
        use StateName::{Closed, ForcedOpen, HalfOpen, MetricsOnly, Open};
        for (told, stands) in [
            (&[][..], Closed),
            (&[(1, Open)], Open),
            (&[(1, Open), (2, HalfOpen), (3, Closed)], Closed),
            (&[(2, HalfOpen), (1, Open)], HalfOpen),
            (&[(7, MetricsOnly), (6, Closed)], MetricsOnly),
            (&[(3, Closed), (3, ForcedOpen)], ForcedOpen),
        ] {
            let gauges = StateName::ALL.map(|_| IntGauge::new("state", "help").unwrap());
            let breaker = BreakerState::new(gauges);
            for (generation, state) in told {
                breaker.enter(Generation(*generation), *state);
            }
            breaker.show();
            let hot: Vec<_> = StateName::ALL.into_iter().filter(|state| breaker.gauges[*state as usize].get() == 1).collect();
            assert_eq!(hot, [stands], "{told:?}");
        }
    }
}
