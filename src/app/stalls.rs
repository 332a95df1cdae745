//! What comes round and brings nothing: a partition whose records do not come, a producer that tells no record's fate.
//!
//! Both look like peace from inside: a loop that waits for records, or for acknowledgements, waits well. So what ought to come is asked of the
//! brokers (by [`super::backlog`]) or counted, and what stands still for too long although it ought to move fails `/livez`: a new process begins anew,
//! which is the one repair that helps whatever the cause.
//!
//! A partition ought to move while the brokers have records that were not fetched of it, or fetched ones wait to be handed on; and it is neither
//! paused, nor held for want of room, nor on its way to another instance; and its broker answers. The end of what a transaction left behind, or
//! compaction, is no record, but is fetched all the same: what is compared with the log's end is where fetching stands, not the last record.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::edge::kafka::{ConsumerHealth, PartitionLag, Producer, Reading};
use crate::event::{Offset, TopicPartition};
use crate::machine::standstill::Standstill;
use crate::machine::time::Tick;

/// How long a partition may stand still. librdkafka gives up a fetch that no broker answers after `socket.timeout.ms`, 60 s, and asks anew: twice
/// that is a fetcher that does not ask.
const BOUND: Duration = Duration::from_secs(120);

/// How old what a consumer says of its partitions may be: it says so every two seconds.
const FRESH: Duration = Duration::from_secs(10);

/// How much longer than the longest that a record may take the producer may tell nothing.
const MARGIN: Duration = Duration::from_secs(30);

/// Looks for what stands still.
pub(super) struct Stalls {
    consumers: Vec<Consumer>,
    producer: Mutex<(Standstill<u64>, Option<Duration>)>,
}

/// One consumer and its partitions.
struct Consumer {
    name: &'static str,
    health: Arc<ConsumerHealth>,
    partitions: Mutex<Partitions>,
}

#[derive(Default)]
struct Partitions(BTreeMap<TopicPartition, Watched>);

#[derive(Default)]
struct Watched {
    stands: Standstill<Place>,
    stalled: Option<Duration>,
}

/// Where a partition stands: how far it is fetched, and how far handed on. One that brings its records slowly moves.
type Place = (Option<Offset>, Option<Offset>);

impl Stalls {
    /// Of these consumers, by the names of their loops.
    pub(super) fn new(consumers: impl Iterator<Item = (&'static str, Arc<ConsumerHealth>)>) -> Arc<Self> {
        let consumers = consumers.map(|(name, health)| Consumer { name, health, partitions: Mutex::default() }).collect();
        Arc::new(Self { consumers, producer: Mutex::default() })
    }

    /// The brokers said where the partitions of these loops' topics end; left out is what they did not say. Nothing, if they said nothing.
    pub(super) fn look(&self, name: &str, ends: &[PartitionLag], now: Tick) {
        for consumer in self.consumers.iter().filter(|consumer| consumer.name == name) {
            let Consumer { health, partitions, .. } = consumer;
            let readings = health.readings();
            let trusted = health.is_connected() && !health.is_revoking() && now.since(readings.at) <= FRESH;
            locked(partitions).look(&readings.partitions, if trusted { ends } else { &[] }, now);
        }
    }

    /// How far the producer is with telling.
    pub(super) fn look_at(&self, producer: &Producer, now: Tick) {
        let Some(longest) = producer.longest() else { return };
        let owed = (producer.in_flight() > 0).then(|| producer.told());
        let (stands, stood) = &mut *locked(&self.producer);
        let found = stands.look(owed, now, longest + MARGIN);
        if let (Some(found), None) = (found, &stood) {
            tracing::error!(
                target: "fusebox",
                stood_s = found.as_secs(),
                "the producer tells nothing of what was handed to it: /livez fails, so that a new process begins anew"
            );
        }
        *stood = found;
    }

    /// Partitions that stand still.
    pub(super) fn stalled(&self) -> usize {
        self.consumers.iter().map(|consumer| locked(&consumer.partitions).stalled().count()).sum()
    }

    /// What stands still, in a sentence.
    pub(super) fn why(&self) -> Option<String> {
        let producer = locked(&self.producer).1;
        if let Some(stood) = producer {
            return Some(format!("the producer has not told what became of a record for {} s", stood.as_secs()));
        }
        self.consumers.iter().find_map(|consumer| {
            let partitions = locked(&consumer.partitions);
            let (partition, stood) = partitions.stalled().next()?;
            Some(format!("{partition} has records and has brought none for {} s, although nothing holds it", stood.as_secs()))
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Partitions {
    fn look(&mut self, readings: &[Reading], ends: &[PartitionLag], now: Tick) {
        self.0.retain(|partition, _| readings.iter().any(|reading| reading.partition == *partition));
        for reading in readings {
            let watched = self.0.entry(reading.partition.clone()).or_default();
            let end = ends.iter().find(|end| end.partition == reading.partition);
            let place = end.filter(|end| ought_to_move(reading, end)).map(|_| (reading.fetch, reading.position));
            let stalled = watched.stands.look(place, now, BOUND);
            if let (Some(stood), None) = (stalled, watched.stalled) {
                tracing::error!(
                    target: "fusebox",
                    partition = %reading.partition,
                    position = reading.position.map(|offset| offset.0),
                    fetched_to = reading.fetch.map(|offset| offset.0),
                    end = end.map(|end| end.end.0),
                    queued = reading.queued,
                    stood_s = stood.as_secs(),
                    "a partition has records and brings none, although nothing holds it: /livez fails, so that a new process begins anew"
                );
            }
            watched.stalled = stalled;
        }
    }

    fn stalled(&self) -> impl Iterator<Item = (&TopicPartition, Duration)> {
        self.0.iter().filter_map(|(partition, watched)| Some((partition, watched.stalled?)))
    }
}

/// Whether a partition has something to bring, and nothing keeps it from bringing it.
fn ought_to_move(reading: &Reading, lag: &PartitionLag) -> bool {
    let behind = match reading.fetch {
        Some(next) => next < lag.end,
        // It has not found where to begin: that it has something to find, the group's commit says.
        None => lag.lag() > 0,
    };
    !reading.held && (behind || reading.queued > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Partition, Topic};

    fn partition() -> TopicPartition {
        TopicPartition { topic: Topic::from("events"), partition: Partition(3) }
    }

    fn end(end: i64, committed: i64) -> Vec<PartitionLag> {
        vec![PartitionLag { partition: partition(), low: Offset(0), end: Offset(end), committed: Some(Offset(committed)), finished: 0 }]
    }

    fn reading(fetch: i64, position: i64, queued: u64) -> Reading {
        let offset = |number: i64| (number >= 0).then_some(Offset(number));
        Reading { partition: partition(), fetch: offset(fetch), position: offset(position), queued, held: false }
    }

    /// Whether it stalls if every look for ten minutes, five seconds apart, shows this.
    fn stalls(at: impl Fn(u64) -> (Vec<Reading>, Vec<PartitionLag>)) -> bool {
        let mut partitions = Partitions::default();
        (0..120).any(|look| {
            let (readings, ends) = at(look);
            partitions.look(&readings, &ends, Tick(look * 5_000));
            partitions.stalled().next().is_some()
        })
    }

    #[test]
    fn a_partition_with_records_that_brings_none_stalls() {
        assert!(stalls(|_| (vec![reading(5, 5, 0)], end(9, 5))), "not fetched");
        assert!(stalls(|look| (vec![reading(5, 5, 0)], end(9 + look.cast_signed(), 5))), "not fetched, while more comes");
        assert!(stalls(|_| (vec![reading(9, 5, 4)], end(9, 5))), "fetched, and not handed on");
        assert!(stalls(|_| (vec![reading(-1, -1, 0)], end(9, 5))), "assigned, and it has not found where to begin");
    }

    #[test]
    fn no_false_alarm() {
        let held = Reading { held: true, ..reading(5, 5, 0) };
        assert!(!stalls(|_| (vec![held.clone()], end(9, 5))), "paused");
        assert!(!stalls(|_| (vec![reading(9, 5, 0)], end(9, 5))), "at the end: a transaction's marker, or a hole of compaction");
        assert!(!stalls(|_| (vec![reading(9, 9, 0)], end(9, 2))), "everything is read, nothing finishes: another's affair");
        assert!(!stalls(|_| (vec![reading(-1, -1, 0)], end(9, 9))), "nothing to find");
        assert!(!stalls(|_| (vec![reading(5, 5, 0)], vec![])), "no broker says where it ends");
        assert!(!stalls(|look| (vec![reading(5, 5, 0)], if look % 20 == 0 { vec![] } else { end(9, 5) })), "its broker goes and comes");
        assert!(!stalls(|look| (vec![reading(9, look.cast_signed(), 50)], end(9, 5))), "slow, but it moves");
        let comes_and_goes = |look| if look % 20 == 0 { vec![] } else { vec![reading(5, 5, 0)] };
        assert!(!stalls(|look| (comes_and_goes(look), end(9, 5))), "taken away in between");
    }

    #[test]
    fn a_producer_that_tells_nothing_is_found() {
        let mut producer = Standstill::default();
        let look = |producer: &mut Standstill<u64>, told, second: u64| producer.look(told, Tick(second * 1_000), Duration::from_secs(60));
        for second in (0..300).step_by(5) {
            assert_eq!(look(&mut producer, (second % 50 != 0).then_some(7), second), None, "nothing is owed in between");
        }
        let found = (300..400).step_by(5).find_map(|second| look(&mut producer, Some(7), second));
        assert!(found.is_some());
    }
}
