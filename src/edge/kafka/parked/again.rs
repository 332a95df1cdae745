//! Reads parked calls again by their places, for the drains that have put them aside.
//!
//! A question costs one word to each broker for the ends of its partitions, then a journey for each run of neighbours; partitions are read beside
//! each other. What lies outside the ends, or is stepped over, is gone. What does not come in time is left out of the answer, and so is whatever has no
//! leader just now.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset as Position, TopicPartitionList};

use super::{POLL, ParkedReader, Reading, WITHIN};
use crate::edge::kafka::error::is_unreachable;
use crate::edge::kafka::{KafkaEdgeError, lag, record};
use crate::event::{Offset, Partition, Source, Topic};
use crate::machine::shelf::Run;
use crate::pipeline::ports::{Clock as _, Refetch, RefetchError, Refetched};

/// How long reading goes on: half of the time that calls are asked for ahead of their own.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// How long the client may take to go to another place: a word to its own thread, which asks nobody.
const SEEK_WITHIN: Duration = Duration::from_secs(1);

impl Refetch for ParkedReader {
    fn refetch(&self, runs: Vec<Run>) -> BoxFuture<'static, Result<Refetched, RefetchError>> {
        let reader = self.clone();
        async move { reader.ask(move |reading| reading.again(runs)).await.map_err(|error| RefetchError(error.to_string())) }.boxed()
    }
}

/// What is wanted of one partition.
struct Lane {
    /// By runs, in order.
    wanted: VecDeque<VecDeque<Offset>>,
    /// Where it reads from.
    from: Offset,
    /// Its end was reached once, and it was looked at again from where something was missing.
    ended: bool,
}

/// What follows from a record.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    /// It is wanted.
    take: bool,
    /// Places that were stepped over.
    gone: Vec<Offset>,
    /// Where to go on, if not behind it.
    seek: Option<Offset>,
}

impl Lane {
    fn new(runs: Vec<Vec<Offset>>) -> Self {
        let wanted: VecDeque<VecDeque<Offset>> = runs.into_iter().map(VecDeque::from).filter(|run| !run.is_empty()).collect();
        let from = wanted.front().and_then(|run| run.front()).copied().unwrap_or_default();
        Self { wanted, from, ended: false }
    }

    fn is_done(&self) -> bool {
        self.wanted.is_empty()
    }

    /// A record came.
    fn came(&mut self, offset: Offset) -> Step {
        let mut step = Step::default();
        // From before it went to another place, or the log has lost its end: then the next question will find that out.
        if offset < self.from {
            return step;
        }
        while let Some(run) = self.wanted.front_mut() {
            while let Some(first) = run.front().copied().filter(|first| *first <= offset) {
                run.pop_front();
                if first == offset {
                    step.take = true;
                } else {
                    step.gone.push(first);
                }
            }
            if !run.is_empty() {
                break;
            }
            self.wanted.pop_front();
            step.seek = self.wanted.front().and_then(|run| run.front()).copied().filter(|next| *next > offset);
        }
        if let Some(next) = step.seek {
            self.from = next;
        }
        step
    }

    /// Its end came: where to look again, or what is gone.
    fn ended(&mut self) -> Result<Offset, Vec<Offset>> {
        if !std::mem::replace(&mut self.ended, true)
            && let Some(first) = self.wanted.front().and_then(|run| run.front()).copied()
        {
            self.from = first;
            return Ok(first);
        }
        Err(std::mem::take(&mut self.wanted).into_iter().flatten().collect())
    }
}

impl Reading {
    fn again(&self, runs: Vec<Run>) -> Result<Refetched, KafkaEdgeError> {
        let mut wanted: BTreeMap<Topic, BTreeMap<i32, Vec<Vec<Offset>>>> = BTreeMap::new();
        for Run { partition, offsets } in runs {
            wanted.entry(partition.topic).or_default().entry(partition.partition.0).or_default().push(offsets);
        }
        let mut answer = Refetched::default();
        // One topic at a time: the end of a partition is told without its topic.
        for (topic, partitions) in wanted {
            self.again_of(&topic, partitions, &mut answer)?;
        }
        Ok(answer)
    }

    fn again_of(&self, topic: &Topic, partitions: BTreeMap<i32, Vec<Vec<Offset>>>, answer: &mut Refetched) -> Result<(), KafkaEdgeError> {
        let mut asked = TopicPartitionList::new();
        for partition in partitions.keys() {
            asked.add_partition(topic.as_str(), *partition);
        }
        let (lows, ends) = lag::edges(&self.client, &asked, WITHIN)?;
        let mut lanes = BTreeMap::new();
        let mut assignment = TopicPartitionList::new();
        for (partition, mut runs) in partitions {
            let edge = |list| lag::offset_of(list, topic, partition);
            let (Some(low), Some(end)) = (edge(&lows), edge(&ends)) else {
                // It has no leader just now.
                continue;
            };
            for run in &mut runs {
                let gone = run.extract_if(.., |offset| *offset < low || *offset >= end);
                answer.gone.extend(gone.map(|offset| place(topic, partition, offset)));
            }
            let lane = Lane::new(runs);
            if !lane.is_done() {
                assignment.add_partition_offset(topic.as_str(), partition, Position::Offset(lane.from.0))?;
                lanes.insert(partition, lane);
            }
        }
        if lanes.is_empty() {
            return Ok(());
        }
        self.client.assign(&assignment)?;
        self.read_lanes(topic, lanes, answer)?;
        // A partition that is paused would be so when it is assigned again. What was fetched ahead goes with the assignment.
        self.client.resume(&assignment)?;
        Ok(self.client.unassign()?)
    }

    fn read_lanes(&self, topic: &Topic, mut lanes: BTreeMap<i32, Lane>, answer: &mut Refetched) -> Result<(), KafkaEdgeError> {
        let until = self.clock.now().plus(READ_WITHIN);
        while !lanes.is_empty() && self.clock.now() < until {
            let (partition, seek) = match self.client.poll(POLL) {
                Some(Ok(message)) if message.topic() == topic.as_str() => {
                    let partition = message.partition();
                    let Some(lane) = lanes.get_mut(&partition) else { continue };
                    let step = lane.came(Offset(message.offset()));
                    answer.gone.extend(step.gone.into_iter().map(|offset| place(topic, partition, offset)));
                    if step.take {
                        answer.records.push(record::incoming(&message, std::slice::from_ref(topic)));
                    }
                    (partition, step.seek)
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    let Some(lane) = lanes.get_mut(&partition) else { continue };
                    let seek = lane.ended().map(Some).unwrap_or_else(|gone| {
                        answer.gone.extend(gone.into_iter().map(|offset| place(topic, partition, offset)));
                        None
                    });
                    (partition, seek)
                }
                Some(Err(error)) if error.rdkafka_error_code().is_some_and(is_unreachable) => continue,
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(_)) | None => continue,
            };
            if let Some(next) = seek {
                self.client.seek(topic.as_str(), partition, Position::Offset(next.0), SEEK_WITHIN)?;
            } else if lanes.get(&partition).is_some_and(Lane::is_done) {
                let mut done = TopicPartitionList::new();
                done.add_partition(topic.as_str(), partition);
                self.client.pause(&done)?;
                lanes.remove(&partition);
            }
        }
        Ok(())
    }
}

fn place(topic: &Topic, partition: i32, offset: Offset) -> Source {
    Source { topic: topic.clone(), partition: Partition(partition), offset }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

    use crate::config;
    use crate::edge::clock::SystemClock;
    use crate::event::TopicPartition;

    #[tokio::test]
    async fn records_are_read_again_wherever_they_lie_and_what_is_not_there_is_gone() {
        let cluster = MockCluster::new(1).expect("a cluster");
        cluster.create_topic("retry", 2, 1).expect("a topic");
        let brokers = cluster.bootstrap_servers();
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().expect("a producer");
        for number in 0..2_000 {
            let value = number.to_string();
            assert!(producer.send(BaseRecord::<(), str>::to("retry").partition(number % 2).payload(&value)).is_ok());
        }
        producer.flush(Duration::from_secs(10)).expect("flushed");
        let settings = config::Kafka { brokers, group: "g".to_owned(), properties: BTreeMap::new().into_iter().collect() };
        let reader = ParkedReader::new(&settings, "g", 1, 64 << 10, SystemClock::new());
        let run = |partition, all: &[i64]| Run {
            partition: TopicPartition { topic: Topic::from("retry"), partition: Partition(partition) },
            offsets: offsets(all),
        };
        let runs = vec![run(0, &[3, 4, 90]), run(0, &[700]), run(0, &[999]), run(1, &[0]), run(1, &[998, 1_000, 5_000])];
        // Twice, so that what one question leaves behind disturbs no other.
        for _ in 0..2 {
            let answer = reader.refetch(runs.clone()).await.expect("an answer");
            let mut found: Vec<(i32, i64)> =
                answer.records.iter().map(|record| (record.source.partition.0, record.source.offset.0)).collect();
            found.sort_unstable();
            assert_eq!(found, [(0, 3), (0, 4), (0, 90), (0, 700), (0, 999), (1, 0), (1, 998)]);
            for record in &answer.records {
                let number = record.source.offset.0 * 2 + i64::from(record.source.partition.0);
                assert_eq!(record.value.as_deref(), Some(number.to_string().as_bytes()));
            }
            let gone: Vec<i64> = answer.gone.iter().map(|source| source.offset.0).collect();
            assert_eq!(gone, [1_000, 5_000]);
        }
        // What cannot be reached is not gone.
        cluster.broker_down(1).expect("down");
        let away = reader.refetch(runs.clone()).await;
        assert!(
            away.as_ref().is_err() || away.as_ref().is_ok_and(|answer| answer.records.is_empty() && answer.gone.is_empty()),
            "{away:?}"
        );
        cluster.broker_up(1).expect("up");
        let mut found = 0;
        for _ in 0..20 {
            found = reader.refetch(runs.clone()).await.map_or(0, |answer| answer.records.len());
            if found == 7 {
                break;
            }
        }
        assert_eq!(found, 7, "it comes back by itself");
    }

    fn offsets(offsets: &[i64]) -> Vec<Offset> {
        offsets.iter().copied().map(Offset).collect()
    }

    #[test]
    fn it_goes_from_run_to_run_and_says_what_it_stepped_over() {
        let mut lane = Lane::new(vec![offsets(&[10, 12]), offsets(&[500, 501])]);
        assert_eq!((lane.from, lane.came(Offset(9))), (Offset(10), Step::default()), "nothing from before its place");
        assert_eq!(lane.came(Offset(11)), Step { gone: offsets(&[10]), ..Step::default() });
        assert_eq!(lane.came(Offset(12)), Step { take: true, seek: Some(Offset(500)), ..Step::default() });
        assert_eq!(lane.came(Offset(13)), Step::default(), "it was on its way");
        assert_eq!(lane.came(Offset(501)), Step { take: true, gone: offsets(&[500]), seek: None });
        assert!(lane.is_done());
    }

    #[test]
    fn nothing_is_gone_at_an_end_that_was_seen_once() {
        let mut lane = Lane::new(vec![offsets(&[10, 12])]);
        assert!(lane.came(Offset(10)).take);
        assert_eq!(lane.ended(), Ok(Offset(12)));
        assert_eq!(lane.ended(), Err(offsets(&[12])));
        assert!(lane.is_done());
    }

    proptest! {
        /// Whatever is there, and whatever is wanted: each wanted place is taken or gone, and only what is not there is gone.
        #[test]
        fn each_place_is_found_or_gone(there in prop::collection::btree_set(0i64..300, 1..80), wanted in prop::collection::btree_set(0i64..300, 1..40), run in 1usize..8) {
            let all: Vec<i64> = wanted.iter().copied().collect();
            let mut lane = Lane::new(all.chunks(run).map(offsets).collect());
            let (mut taken, mut gone, mut at) = (Vec::new(), Vec::new(), lane.from.0);
            while !lane.is_done() {
                let Some(next) = there.range(at..).next().copied() else {
                    match lane.ended() {
                        Ok(again) => at = again.0,
                        Err(rest) => gone.extend(rest),
                    }
                    continue;
                };
                let step = lane.came(Offset(next));
                if step.take { taken.push(next); }
                gone.extend(step.gone);
                at = step.seek.map_or(next + 1, |seek| seek.0);
            }
            prop_assert_eq!(taken, wanted.intersection(&there).copied().collect::<Vec<_>>());
            prop_assert_eq!(gone.into_iter().map(|offset| offset.0).collect::<Vec<_>>(), wanted.difference(&there).copied().collect::<Vec<_>>());
        }
    }
}
