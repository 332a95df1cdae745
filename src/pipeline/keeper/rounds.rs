//! Which breakers are compared with the store next: a few at a time, in turn, so that no number of services makes a question long.

use std::ops::Range;

/// Services compared by one question of the store, and by one poll.
pub(super) const AT_ONCE: usize = 256;

/// Where the comparing stands.
#[derive(Debug)]
pub(super) struct Rounds {
    services: usize,
    next: usize,
    /// Still to be compared before the next poll.
    left: usize,
    /// Still to be compared before all have been, since something may have been missed anywhere; it outlasts a failure.
    owed: usize,
}

impl Rounds {
    pub(super) fn new(services: usize) -> Self {
        Self { services, next: 0, left: 0, owed: services }
    }

    /// Anything may have been missed: all are compared now.
    pub(super) fn all(&mut self) {
        self.owed = self.services;
        self.left = self.owed;
    }

    /// A poll is due: the next ones are compared now, and all that are owed.
    pub(super) fn poll(&mut self) {
        self.left = self.owed.max(AT_ONCE.min(self.services));
    }

    /// Whether there is more to compare now.
    pub(super) fn is_due(&self) -> bool {
        self.left > 0
    }

    /// Those that are compared next.
    pub(super) fn services(&self) -> Range<usize> {
        self.next..self.next + self.left.min(AT_ONCE).min(self.services - self.next)
    }

    /// They were compared. `differed`: with what nobody had told; so there may be more.
    pub(super) fn compared(&mut self, differed: bool) {
        let count = self.services().len();
        if differed && self.owed == 0 {
            (self.owed, self.left) = (self.services, self.services);
        }
        self.next = (self.next + count) % self.services.max(1);
        self.left -= count;
        self.owed = self.owed.saturating_sub(count);
    }

    /// The store has failed, or a part of it: what it has missed may be anything.
    pub(super) fn failed(&mut self) {
        self.owed = self.services;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares what is due; where each question began, and of how many services it was.
    fn compare(rounds: &mut Rounds, differs: Option<usize>) -> Vec<(usize, usize)> {
        let mut asked = Vec::new();
        while rounds.is_due() {
            let services = rounds.services();
            asked.push((services.start, services.len()));
            rounds.compared(differs.is_some_and(|differing| services.contains(&differing)));
        }
        asked
    }

    #[test]
    fn a_poll_compares_a_few_in_turn_and_all_where_there_are_few() {
        let mut rounds = Rounds::new(600);
        rounds.all();
        assert_eq!(compare(&mut rounds, None), [(0, 256), (256, 256), (512, 88)]);
        for expect in [&[(0, 256)][..], &[(256, 256)], &[(512, 88), (0, 168)], &[(168, 256)]] {
            rounds.poll();
            assert_eq!(compare(&mut rounds, None), expect);
        }
        for services in [0, 1, 256] {
            let mut rounds = Rounds::new(services);
            rounds.all();
            compare(&mut rounds, None);
            rounds.poll();
            assert_eq!(rounds.services(), 0..services);
            assert_eq!(compare(&mut rounds, None).len(), usize::from(services > 0));
        }
    }

    #[test]
    fn all_are_compared_once_where_something_may_have_been_missed() {
        let mut rounds = Rounds::new(600);
        let of = |asked: Vec<(usize, usize)>| asked.iter().map(|(_, count)| count).sum::<usize>();
        rounds.poll();
        assert_eq!(of(compare(&mut rounds, Some(3))), 600, "at the start");
        rounds.poll();
        assert_eq!(of(compare(&mut rounds, None)), 256);
        rounds.poll();
        assert_eq!(of(compare(&mut rounds, Some(300))), 600, "a difference that nobody had told");
        rounds.all();
        rounds.compared(false);
        rounds.failed();
        compare(&mut rounds, None);
        rounds.failed();
        assert!(!rounds.is_due(), "not before the next poll");
        rounds.poll();
        assert_eq!(of(compare(&mut rounds, None)), 600, "the store was away");
        rounds.poll();
        assert_eq!(of(compare(&mut rounds, None)), 256);
    }
}
