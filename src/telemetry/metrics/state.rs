//! A breaker's state as a one-hot gauge, and one for whether it is this instance's alone.
//!
//! Six gauges set one after the other would show two states, or none, to a scrape in between. And two transitions told by two threads
//! can arrive in the wrong order, and leave the older state standing until the next change, which may be hours. So the state is one
//! word with its generation above it: the newer one wins, and the gauges are set from it when they are read.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::IntGauge;

use crate::machine::breaker::{Generation, StateName};

/// Bits that hold the state.
const STATE_BITS: u32 = 3;
/// The bit above them: alone.
const ALONE: u64 = 1 << STATE_BITS;
const BITS: u32 = STATE_BITS + 1;
const _: () = assert!(StateName::ALL.len() <= 1 << STATE_BITS, "a state fits in its bits");

pub(super) struct BreakerState {
    word: AtomicU64,
    gauges: [IntGauge; StateName::ALL.len()],
    alone: IntGauge,
}

impl BreakerState {
    /// The state of a breaker that nothing has happened to.
    pub(super) fn new(gauges: [IntGauge; StateName::ALL.len()], alone: IntGauge) -> Self {
        Self { word: AtomicU64::new(word(Generation(0), StateName::Closed, false)), gauges, alone }
    }

    /// Takes a state up, unless one of a newer generation is known. One of the same generation replaces it: that is how a breaker
    /// yields to another instance's decision, and goes its own way alone.
    pub(super) fn enter(&self, generation: Generation, state: StateName, alone: bool) {
        let new = word(generation, state, alone);
        let newer = |held: u64| (new >> BITS >= held >> BITS).then_some(new);
        // Refused means that a newer state stands, which is what is wanted.
        let _ = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, newer);
    }

    /// Sets the gauges.
    pub(super) fn show(&self) {
        let held = self.word.load(Ordering::Relaxed);
        for (gauge, state) in self.gauges.iter().zip(StateName::ALL) {
            gauge.set(i64::from(state as u64 == held & (ALONE - 1)));
        }
        self.alone.set(i64::from(held & ALONE != 0));
    }
}

fn word(generation: Generation, state: StateName, alone: bool) -> u64 {
    // Closed again, it is as the fleet's is.
    let alone = if alone && state != StateName::Closed { ALONE } else { 0 };
    generation.0 << BITS | alone | state as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_generation_stands_alone() {
        use StateName::{Closed, ForcedOpen, HalfOpen, MetricsOnly, Open};
        for (told, stands, alone) in [
            (&[][..], Closed, 0),
            (&[(1, Open, false)], Open, 0),
            (&[(1, Open, false), (2, HalfOpen, false), (3, Closed, false)], Closed, 0),
            (&[(1, Open, true)], Open, 1),
            (&[(1, Open, true), (1, HalfOpen, true), (1, Closed, true)], Closed, 0),
            (&[(1, Open, true), (2, Open, false)], Open, 0),
            (&[(2, HalfOpen, false), (1, Open, true)], HalfOpen, 0),
            (&[(7, MetricsOnly, false), (6, Closed, false)], MetricsOnly, 0),
            (&[(3, Closed, false), (3, ForcedOpen, false)], ForcedOpen, 0),
        ] {
            let gauges = StateName::ALL.map(|_| IntGauge::new("state", "help").unwrap());
            let breaker = BreakerState::new(gauges, IntGauge::new("alone", "help").unwrap());
            for (generation, state, alone) in told {
                breaker.enter(Generation(*generation), *state, *alone);
            }
            breaker.show();
            let hot: Vec<_> = StateName::ALL.into_iter().filter(|state| breaker.gauges[*state as usize].get() == 1).collect();
            assert_eq!((hot, breaker.alone.get()), (vec![stands], alone), "{told:?}");
        }
    }
}
