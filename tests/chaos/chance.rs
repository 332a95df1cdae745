//! A run's chance and length, from the environment.

use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// What comes next, from a seed.
pub struct Chance {
    seed: u64,
    generator: Xoshiro256PlusPlus,
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

/// How long faults go on: `CHAOS_SECONDS`, else this.
pub fn length(otherwise: Duration) -> Duration {
    number("CHAOS_SECONDS").map_or(otherwise, Duration::from_secs)
}

impl Chance {
    /// From `CHAOS_SEED`, or from a seed that no run had before.
    pub fn new() -> Self {
        // Short, so that it is easily typed.
        Self::of(number("CHAOS_SEED").unwrap_or_else(|| rand::random_range(0..1_000_000)))
    }

    /// From this seed.
    pub fn of(seed: u64) -> Self {
        Self { seed, generator: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    /// Another with the same seed, for a thread of its own: what one draws does not change what the other does.
    pub fn fork(&self) -> Self {
        Self::of(self.seed)
    }

    /// What to run again with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A number below this.
    pub fn below(&mut self, end: usize) -> usize {
        self.generator.random_range(0..end)
    }

    /// A time between these two, in milliseconds.
    pub fn between(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(self.generator.random_range(least_ms..=most_ms))
    }

    /// One of these.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// True with this chance in a hundred.
    pub fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }
}
