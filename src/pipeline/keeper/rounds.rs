//! Which breakers are compared with the store next: a few at a time, in turn, so that no number of services makes a question long.

use std::collections::{BTreeSet, VecDeque};

/// Services compared by one question of the store, and in turn by one poll.
pub(super) const AT_ONCE: usize = 256;

/// Where the comparing stands.
#[derive(Debug)]
pub(super) struct Rounds {
    /// Whose turn it is at the next poll.
    next: usize,
    /// To be compared before the next poll.
    due: VecDeque<usize>,
    /// By service, whether anything may have been missed. It outlasts a failure: only what is answered for is owed no longer.
    owed: Vec<bool>,
    /// By service, whether its node has failed and has not been well since.
    failing: Vec<bool>,
}

impl Rounds {
    pub(super) fn new(services: usize) -> Self {
        Self { next: 0, due: VecDeque::new(), owed: vec![true; services], failing: vec![false; services] }
    }

    /// Anything may have been missed: all are compared now.
    pub(super) fn all(&mut self) {
        self.owed.fill(true);
        self.due = self.in_turn().collect();
    }

    /// A poll is due: the next ones are compared now, and all that are owed.
    pub(super) fn poll(&mut self) {
        self.due = self
            .in_turn()
            .enumerate()
            .filter(|(place, service)| *place < AT_ONCE || self.owed[*service])
            .map(|(_, service)| service)
            .collect();
        self.next = (self.next + AT_ONCE) % self.owed.len().max(1);
    }

    /// Whether there is more to compare now.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Those that are compared next.
    pub(super) fn services(&self) -> Vec<usize> {
        self.due.iter().take(AT_ONCE).copied().collect()
    }

    /// They were to be compared, and these were answered for, each with whether it differed. If it did with what nobody had told, there may be more. What
    /// was not answered for is owed.
    pub(super) fn compared(&mut self, answered: &[(usize, bool)]) {
        let asked: BTreeSet<usize> = self.due.drain(..self.due.len().min(AT_ONCE)).collect();
        if answered.iter().any(|(service, differed)| *differed && !self.owed[*service]) {
            self.owed.fill(true);
            self.due = self.in_turn().filter(|service| !asked.contains(service)).collect();
        }
        asked.into_iter().for_each(|service| self.owed[service] = true);
        answered.iter().for_each(|(service, _)| self.owed[*service] = false);
    }

    /// A service's node has failed: what was missed of it may be anything, from now on until it is well.
    pub(super) fn failed(&mut self, service: usize) {
        if !std::mem::replace(&mut self.failing[service], true) {
            self.owed[service] = true;
        }
    }

    /// The node of these answers again. Where it is well, they are owed, whatever was read of them while it was not. What is owed of them is compared
    /// now.
    pub(super) fn answer(&mut self, services: &BTreeSet<usize>, well: bool) {
        if well {
            for service in services {
                self.owed[*service] |= std::mem::take(&mut self.failing[*service]);
            }
        }
        let due: BTreeSet<usize> = self.due.drain(..).collect();
        self.due = self.in_turn().filter(|one| due.contains(one) || (services.contains(one) && self.owed[*one])).collect();
    }

    /// All of them, from the one whose turn it is.
    fn in_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let (next, services) = (self.next, self.owed.len());
        (next..services).chain(0..next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares what is due; where each question began, and of how many services it was.
    fn compare(rounds: &mut Rounds, differs: Option<usize>) -> Vec<(usize, usize)> {
        compare_but(rounds, differs, |_| false)
    }

    /// The same, where some are not answered for.
    fn compare_but(rounds: &mut Rounds, differs: Option<usize>, silent: impl Fn(usize) -> bool) -> Vec<(usize, usize)> {
        let mut asked = Vec::new();
        while rounds.is_due() {
            let services = rounds.services();
            asked.push((services[0], services.len()));
            let answered = services.into_iter().filter(|service| !silent(*service));
            rounds.compared(&answered.map(|service| (service, differs == Some(service))).collect::<Vec<_>>());
        }
        asked
    }

    fn of(asked: Vec<(usize, usize)>) -> usize {
        asked.iter().map(|(_, count)| count).sum()
    }

    #[test]
    fn a_poll_compares_a_few_in_turn_and_all_where_there_are_few() {
        let mut rounds = Rounds::new(600);
        rounds.all();
        assert_eq!(compare(&mut rounds, None), [(0, 256), (256, 256), (512, 88)]);
        for expect in [(0, 256), (256, 256), (512, 256), (168, 256)] {
            rounds.poll();
            assert_eq!(compare(&mut rounds, None), [expect]);
        }
        for services in [0, 1, 256] {
            let mut rounds = Rounds::new(services);
            rounds.all();
            compare(&mut rounds, None);
            rounds.poll();
            assert_eq!(rounds.services(), (0..services).collect::<Vec<_>>());
            assert_eq!(compare(&mut rounds, None).len(), usize::from(services > 0));
        }
    }

    #[test]
    fn all_are_compared_once_where_something_may_have_been_missed() {
        let mut rounds = Rounds::new(600);
        rounds.poll();
        assert_eq!(of(compare(&mut rounds, Some(3))), 600, "at the start");
        rounds.poll();
        assert_eq!(of(compare(&mut rounds, None)), 256);
        rounds.poll();
        assert_eq!(of(compare(&mut rounds, Some(0))), 600, "a difference that nobody had told");
        rounds.all();
        assert_eq!(of(compare(&mut rounds, Some(599))), 600, "and what is found meanwhile is none");
        rounds.poll();
        assert_eq!(of(compare(&mut rounds, None)), 256);
    }

    #[test]
    fn what_is_not_answered_for_is_owed_until_it_is() {
        let mut rounds = Rounds::new(600);
        rounds.all();
        compare(&mut rounds, None);
        let odd: BTreeSet<usize> = (1..600).step_by(2).collect();
        odd.iter().for_each(|service| rounds.failed(*service));
        assert!(!rounds.is_due(), "not before the next poll");
        for _ in 0..4 {
            rounds.poll();
            compare_but(&mut rounds, None, |service| odd.contains(&service));
        }
        rounds.answer(&odd, true);
        assert_eq!(of(compare(&mut rounds, None)), 300, "its node is back");
        rounds.poll();
        assert_eq!(of(compare(&mut rounds, None)), 256);
    }

    /// One that takes nothing is read, in turn. What was decided of it meanwhile is compared when it takes again.
    #[test]
    fn what_was_read_of_a_node_that_failed_is_compared_again_when_it_is_well() {
        let mut rounds = Rounds::new(600);
        let all: BTreeSet<usize> = (0..600).collect();
        rounds.all();
        compare(&mut rounds, None);
        for expect in [600, 256, 256] {
            all.iter().for_each(|service| rounds.failed(*service));
            rounds.poll();
            assert_eq!(of(compare(&mut rounds, None)), expect);
        }
        rounds.answer(&all, false);
        assert!(!rounds.is_due());
        rounds.answer(&all, true);
        assert_eq!(of(compare(&mut rounds, None)), 600);
    }
}
