//! What fails while all else is answered, which would show nowhere: leases on probes, say, for a user that lacks a right. That Redis is away, the
//! poll finds out, and says so.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::machine::time::Tick;

/// Questions of one kind that fail, if they do.
#[derive(Debug, Default)]
pub(super) struct Failing(Mutex<Option<Since>>);

#[derive(Debug)]
struct Since {
    first: Tick,
    told: bool,
}

impl Failing {
    /// Notes that one has failed now. Whether that is to be told: once, when the first that did is longer ago than `poll`.
    pub(super) fn is_news(&self, now: Tick, poll: Duration) -> bool {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = failing.get_or_insert(Since { first: now, told: false });
        let news = !since.told && now.since(since.first) > poll;
        since.told |= news;
        news
    }

    /// Notes that one has not failed, or that something else has. Whether it was told that they fail.
    pub(super) fn end(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().is_some_and(|since| since.told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_alone_is_told_once_and_so_is_its_end() {
        const POLL: Duration = Duration::from_secs(3);
        let failing = Failing::default();
        let at = |ms: u64| failing.is_news(Tick(0).plus(Duration::from_millis(ms)), POLL);
        assert_eq!([0, 1_000].map(at), [false, false]);
        assert!(!failing.end(), "nothing was told");
        assert_eq!([2_000, 4_000, 5_000, 5_001, 5_002, 60_000].map(at), [false, false, false, true, false, false]);
        assert_eq!([failing.end(), failing.end()], [true, false]);
        assert_eq!([61_000, 64_000, 64_001].map(at), [false, false, true]);
    }
}
