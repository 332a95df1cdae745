//! How the configured bound of what is in memory is shared out. It bounds the whole process, the queues of Kafka's clients counted in:
//!
//! - Where an instance both processes events and drains parked calls, each side gets half. The drains' half goes to their consumers in equal
//!   parts, so that the backlog of one service does not pause another's.
//! - Of a consumer's share a fifth is read ahead, of its bytes no more than [`MOST_AHEAD`]: it lies in librdkafka's queue. Four fifths of the
//!   records and three fifths of the bytes are the budget of what was handed on and is not finished. The last fifth of the bytes is for what
//!   the events that run make of it: requests, replies, outcomes.
//! - What waits for Kafka's acknowledgement is in the same budget, twice: as our record and as the client's copy. So the one producer's
//!   queue, whatever its own bound, holds no more than the budgets do.
//!
//! What it does not bound: a record that comes may overdraw a budget by itself, one of each partition, and so may what is made of the events
//! that run; a fetch is bounded as it is on the wire, before it is decompressed; and each further broker may have a fetch of its own
//! under way. A client needs [`LEAST_AHEAD`] whatever the bound, and one record at a time.

use std::sync::Arc;

use super::Role;
use crate::config::Processing;
use crate::edge::kafka::Ahead;
use crate::pipeline::ports::Budget;

/// The least that is read ahead, bytes: fetches of less would make a consumer crawl.
const LEAST_AHEAD: usize = 64 << 10;

/// The most that is read ahead, bytes: at 160,000 events of 1 KiB a second it lasts for 25 ms, many times as long as a fetch takes. More
/// would keep no lane busier.
const MOST_AHEAD: usize = 4 << 20;

/// One consumer's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    records: usize,
    bytes: usize,
    ahead: Ahead,
}

impl Share {
    /// That of the consumer of events.
    pub fn of_events(processing: &Processing, role: Role) -> Self {
        Self::new(processing, if role == Role::All { 2 } else { 1 })
    }

    /// That of one of so many consumers of parked calls.
    pub fn of_drain(processing: &Processing, role: Role, drains: usize) -> Self {
        Self::new(processing, drains.max(1) * if role == Role::All { 2 } else { 1 })
    }

    fn new(processing: &Processing, shares: usize) -> Self {
        let share = |whole: usize| (whole / shares).max(1);
        let (records, bytes) = (share(processing.max_in_flight.get()), share(processing.max_in_flight_bytes.get()));
        let ahead = Ahead { records: (records / 5).max(1), bytes: (bytes / 5).clamp(LEAST_AHEAD, MOST_AHEAD) };
        Self {
            records: records.saturating_sub(ahead.records).max(records.div_ceil(5)),
            bytes: bytes.saturating_sub(ahead.bytes).min(bytes / 5 * 3).max(bytes.div_ceil(5)),
            ahead,
        }
    }

    /// What may be handed on and not finished.
    pub fn budget(&self) -> Arc<Budget> {
        Budget::new(self.records, self.bytes)
    }

    /// What may be read ahead of that.
    pub fn ahead(&self) -> Ahead {
        self.ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use crate::config::{Guarantee, Ordering};
    use proptest::prelude::*;

    fn processing(records: usize, bytes: usize) -> Processing {
        let one = NonZeroUsize::MIN;
        Processing {
            ordering: Ordering::Key,
            concurrency: one,
            max_in_flight: NonZeroUsize::new(records).unwrap_or(one),
            max_in_flight_bytes: NonZeroUsize::new(bytes).unwrap_or(one),
            max_event_bytes: one,
            commit_interval: Duration::from_secs(1),
            guarantee: Guarantee::AtLeastOnce,
        }
    }

    fn share(records: usize, bytes: usize, ahead: (usize, usize)) -> Share {
        Share { records, bytes, ahead: Ahead { records: ahead.0, bytes: ahead.1 } }
    }

    #[test]
    fn the_shares_of_the_shipped_bound() {
        let shipped = processing(10_000, 64 << 20);
        assert_eq!(Share::of_events(&shipped, Role::Processor), share(8_000, 40_265_316, (2_000, MOST_AHEAD)));
        assert_eq!(Share::of_events(&shipped, Role::All), share(4_000, 20_132_658, (1_000, MOST_AHEAD)));
        assert_eq!(Share::of_drain(&shipped, Role::All, 1), Share::of_events(&shipped, Role::All));
        assert_eq!(Share::of_drain(&shipped, Role::Retry, 2), Share::of_events(&shipped, Role::All));
    }

    #[test]
    fn the_smallest_bounds_leave_something_to_everybody() {
        assert_eq!(Share::of_events(&processing(1, 1_024), Role::Processor), share(1, 205, (1, LEAST_AHEAD)));
        assert_eq!(Share::of_drain(&processing(1, 1_024), Role::All, 7), share(1, 15, (1, LEAST_AHEAD)));
    }

    proptest! {
        /// All shares together are the whole, but for the least that each needs.
        #[test]
        fn the_whole_is_not_exceeded(records in 1usize..1 << 24, bytes in 1_024usize..1 << 40, drains in 0usize..10) {
            let whole = processing(records, bytes);
            for role in [Role::All, Role::Processor, Role::Retry] {
                let events = (role != Role::Retry).then(|| Share::of_events(&whole, role));
                let parked = if role == Role::Processor { 0 } else { drains };
                let shares: Vec<Share> = events.into_iter().chain((0..parked).map(|_| Share::of_drain(&whole, role, drains))).collect();
                let all = |of: fn(&Share) -> usize| shares.iter().map(of).sum::<usize>();
                prop_assert!(all(|share| share.records + share.ahead.records) <= records + 2 * shares.len());
                prop_assert!(all(|share| share.bytes + share.ahead.bytes) <= bytes + (LEAST_AHEAD + 1) * shares.len());
                prop_assert!(shares.iter().all(|share| share.records > 0 && share.bytes > 0));
            }
        }
    }
}
