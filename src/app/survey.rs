//! What the backlogs are made of, whoever drains them: looked through whole while they are short, else sampled from all over.
//!
//! A survey costs some fetches, so it is made when somebody asks, and every so often for the metrics. Between two the times go on, and the counts
//! stand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::edge::clock::SystemClock;
use crate::edge::kafka::ParkedReader;
use crate::event::envelope::{self, Parking};
use crate::event::{Incoming, Topic, UnixMillis};
use crate::machine::tally::{Said, Tally};
use crate::machine::time::Tick;
use crate::pipeline::orders::OrderBook;
use crate::pipeline::ports::Clock as _;

/// How many parked calls are looked at: a backlog that is no longer is looked through. At a few KiB each that is some MiB at most.
const MOST: u32 = 2_000;

/// How long a survey of one topic may take.
const WITHIN: Duration = Duration::from_secs(1);

/// What a fetch brings of a partition at most: a place of a sample takes some tens of records.
const FETCH: u32 = 64 << 10;

/// How old a survey may be for somebody who asks.
const FRESH: Duration = Duration::from_secs(2);

/// How old one may be for the metrics, if it was of everything, and if it is a sample.
const OLD: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));

/// Who wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// Somebody who asks.
    Somebody,
    /// The metrics.
    Metrics,
}

pub(super) struct Surveys {
    reader: ParkedReader,
    clock: SystemClock,
    book: Arc<OrderBook>,
    made: Mutex<BTreeMap<Topic, Survey>>,
}

/// One topic.
#[derive(Debug, Clone)]
struct Survey {
    at: Tick,
    /// What the offsets said, as of when it was made.
    state: State,
    /// What was ordered then: it says when calls may go.
    ordered: u64,
    /// Unfinished records that were looked at, whatever they are.
    looked_at: u64,
    exact: bool,
    tallies: BTreeMap<Box<str>, Tally>,
}

/// What names a state of a topic and its group: the sum of its ends, and of how far the group has come.
pub(super) type State = (i64, i64);

/// What is known of a service's backlog.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Calls on the topic as they were counted, where they were and nothing has changed since.
    pub(super) counted: Option<u64>,
    pub(super) said: Said,
    /// How old it is.
    pub(super) age: Duration,
}

impl Surveys {
    pub(super) fn new(settings: &crate::config::Kafka, group: &str, book: Arc<OrderBook>, clock: SystemClock) -> Self {
        Self { reader: ParkedReader::new(settings, group, 1, FETCH, clock), clock, book, made: Mutex::default() }
    }

    /// Makes a survey of a topic if the last one is too old; true if one was made.
    pub(super) async fn refresh(&self, topic: &Topic, state: State, whom: For) -> bool {
        let (now, ordered) = (self.clock.now(), self.book.revision());
        let is_fresh = |survey: &Survey| {
            let age = now.since(survey.at);
            match whom {
                For::Somebody => age < FRESH && survey.ordered == ordered,
                For::Metrics => {
                    age < if survey.exact { OLD.0 } else { OLD.1 } || (survey.exact && survey.state == state && survey.ordered == ordered)
                }
            }
        };
        if self.made.lock().unwrap_or_else(PoisonError::into_inner).get(topic).is_some_and(is_fresh) {
            return false;
        }
        let tallies: Arc<Mutex<BTreeMap<Box<str>, Tally>>> = Arc::default();
        let (seen, wall, book) = (Arc::clone(&tallies), self.clock.wall(), Arc::clone(&self.book));
        let see = move |record: Incoming| {
            let written = record.timestamp;
            if let Ok(parked) = envelope::read(record, wall) {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                let header = parked.parking.not_before;
                let not_before = book.orders().about(&parked).map_or(header, |order| order.act.due(header, wall));
                seen.entry(parked.service).or_default().see(&Parking { not_before, ..parked.parking }, written);
            }
        };
        // What was known stays known while Kafka is away.
        let Ok(sampled) = self.reader.sample(topic.clone(), MOST, WITHIN, see).await else { return false };
        let tallies = std::mem::take(&mut *tallies.lock().unwrap_or_else(PoisonError::into_inner));
        let survey = Survey { at: now, state, ordered, looked_at: sampled.looked_at, exact: sampled.exact, tallies };
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.clone(), survey);
        true
    }

    /// What is known of a service's calls on a topic that has `depth` of them; `None` if it was never looked at.
    pub(super) fn known(&self, topic: &Topic, service: &str, depth: u64, state: State) -> Option<Known> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.get(topic).map(|survey| survey.known(service, depth, state, self.clock.now(), self.clock.wall()))
    }
}

impl Survey {
    fn known(&self, service: &str, depth: u64, state: State, now: Tick, wall: UnixMillis) -> Known {
        let counted = (self.exact && self.state == state).then_some(self.looked_at);
        let age = now.since(self.at);
        let depth = counted.unwrap_or(depth);
        if depth == 0 {
            return Known { counted, said: Said { exact: true, ..Said::default() }, age };
        }
        let Some(tally) = self.tallies.get(service) else {
            return Known { counted, said: Said { exact: self.exact, ..Said::default() }, age };
        };
        // Several services may park on one topic: each has its part of the depth.
        let part = u128::from(depth) * u128::from(tally.looked_at()) / u128::from(self.looked_at.max(1));
        let mut said = tally.say(u64::try_from(part).unwrap_or(u64::MAX), self.exact, wall);
        said.due = said.due.min(depth);
        Known { counted, said, age }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::envelope::Reason;

    #[test]
    fn what_was_counted_holds_until_something_changes() {
        let mut tally = Tally::default();
        for first in [10, 20, 30] {
            let parking = Parking {
                reason: Reason::Timeout,
                attempt: 1,
                parks: 1,
                not_before: UnixMillis(first),
                first_parked_at: UnixMillis(first),
            };
            tally.see(&parking, None);
        }
        let whole = Survey {
            at: Tick(1_000),
            state: (9, 4),
            ordered: 0,
            looked_at: 4,
            exact: true,
            tallies: BTreeMap::from([("notifier".into(), tally)]),
        };
        let known = |survey: &Survey, service, depth, state| survey.known(service, depth, state, Tick(3_000), UnixMillis(20));
        // The offsets say five: one of them is no record.
        let same = known(&whole, "notifier", 5, (9, 4));
        assert_eq!((same.counted, same.said.due, same.said.exact, same.age), (Some(4), 2, true, Duration::from_secs(2)));
        let moved = known(&whole, "notifier", 1, (9, 8));
        assert_eq!((moved.counted, moved.said.due), (None, 1), "no more are due than there are");
        assert_eq!(known(&whole, "notifier", 0, (9, 9)).said, Said { exact: true, ..Said::default() });
        assert_eq!(known(&whole, "vms", 5, (9, 4)).said.due, 0);
        let sample = Survey { exact: false, ..whole };
        let estimate = known(&sample, "notifier", 4_000, (9, 4));
        assert_eq!((estimate.counted, estimate.said.due, estimate.said.looked_at), (None, 2_000, 3));
    }
}
