//! The process's chance: the thread's own generator, seeded by the operating system.

use crate::pipeline::ports::Chance;

/// Chance from the running thread's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThreadChance;

impl Chance for ThreadChance {
    fn roll(&self) -> f64 {
        rand::random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rolls_lie_in_the_half_open_unit_interval_and_differ() {
        let rolls: Vec<f64> = (0..1_000).map(|_| ThreadChance.roll()).collect();
        assert!(rolls.iter().all(|roll| (0.0..1.0).contains(roll)));
        assert!(rolls.windows(2).any(|pair| pair[0].to_bits() != pair[1].to_bits()));
    }
}
