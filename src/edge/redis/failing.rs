//! What fails while all else is answered, which would show nowhere: leases on probes, say, for a user that lacks a right. That Redis is away, the
//! poll finds out, and says so. Of several nodes each is judged by itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::machine::time::Tick;

/// Questions of one kind that fail, by the numbers of the nodes where they do.
#[derive(Debug, Default)]
pub(super) struct Failing(Mutex<HashMap<usize, Since>>);

#[derive(Debug)]
struct Since {
    /// `None`: all else has failed since, so that nothing fails alone yet.
    first: Option<Tick>,
    told: bool,
}

impl Failing {
    /// Notes that one has failed now. Whether that is to be told: once, when the first that did is longer ago than `poll`.
    pub(super) fn is_news(&self, node: usize, now: Tick, poll: Duration) -> bool {
        let mut failing = self.nodes();
        let since = failing.entry(node).or_insert(Since { first: None, told: false });
        let news = !since.told && now.since(*since.first.get_or_insert(now)) > poll;
        since.told |= news;
        news
    }

    /// Notes that something that everything needs has failed. What was told of is told of no second time, and so is its end.
    pub(super) fn all_fails(&self, node: usize) {
        let mut failing = self.nodes();
        if let Some(since) = failing.get_mut(&node) {
            since.first = None;
        }
        failing.retain(|_, since| since.told || since.first.is_some());
    }

    /// Notes that one has not failed. Whether it was told that they fail.
    pub(super) fn end(&self, node: usize) -> bool {
        self.nodes().remove(&node).is_some_and(|since| since.told)
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<usize, Since>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(3);

    fn fails(failing: &Failing, node: usize, ms: u64) -> bool {
        failing.is_news(node, Tick(0).plus(Duration::from_millis(ms)), POLL)
    }

    #[test]
    fn what_fails_alone_is_told_once_and_so_is_its_end() {
        let failing = Failing::default();
        let at = |ms| fails(&failing, 0, ms);
        assert_eq!([0, 1_000].map(at), [false, false]);
        assert!(!failing.end(0), "nothing was told");
        assert_eq!([2_000, 4_000, 5_000, 5_001, 5_002, 60_000].map(at), [false, false, false, true, false, false]);
        assert_eq!([failing.end(0), failing.end(0)], [true, false]);
        assert_eq!([61_000, 64_000, 64_001].map(at), [false, false, true]);
    }

    #[test]
    fn while_all_else_fails_too_nothing_fails_alone() {
        let failing = Failing::default();
        assert!(!fails(&failing, 0, 0));
        failing.all_fails(0);
        assert_eq!([3_001, 6_001, 6_002].map(|ms| fails(&failing, 0, ms)), [false, false, true], "from when it last did");
        failing.all_fails(0);
        assert!(!fails(&failing, 0, 60_000), "no second time");
        assert!(failing.end(0), "whoever has read that it fails reads that it does no longer");
    }

    #[test]
    fn nodes_have_nothing_to_do_with_each_other() {
        let failing = Failing::default();
        assert_eq!([0, 1].map(|node| fails(&failing, node, 0)), [false, false]);
        for ms in (0..3_000).step_by(100) {
            failing.all_fails(2);
            assert!(!fails(&failing, 1, ms) && !failing.end(0));
        }
        failing.all_fails(0);
        assert!(fails(&failing, 1, 3_001));
        assert_eq!([2, 0, 1].map(|node| failing.end(node)), [false, false, true]);
    }
}
