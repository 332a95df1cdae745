//! A Kafka that is read by places: answers come late, in part, or not at all, as the seed says.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fusebox::event::Incoming;
use fusebox::machine::shelf::Run;
use fusebox::pipeline::ports::{Refetch, RefetchError, Refetched};
use futures_util::future::{BoxFuture, FutureExt as _};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::bounds::Holdings;
use crate::kafka::Kafka;
use crate::oracle::Oracle;
use crate::world::DRAIN;

/// Reads parked calls again.
pub struct FakeRefetch {
    kafka: Arc<Kafka>,
    holdings: Arc<Holdings>,
    oracle: Arc<Oracle>,
    dice: Mutex<StdRng>,
}

impl FakeRefetch {
    pub fn new(kafka: Arc<Kafka>, holdings: Arc<Holdings>, oracle: Arc<Oracle>, seed: u64) -> Self {
        Self { kafka, holdings, oracle, dice: Mutex::new(StdRng::seed_from_u64(seed ^ 0x5be1f)) }
    }
}

impl Refetch for FakeRefetch {
    fn refetch(&self, runs: Vec<Run>) -> BoxFuture<'static, Result<Refetched, RefetchError>> {
        let mut dice = self.dice.lock().expect("unpoisoned");
        let delay = Duration::from_millis(if dice.random_bool(0.05) { dice.random_range(500..3_000) } else { dice.random_range(1..30) });
        let fails = dice.random_bool(0.1);
        let left_out = if dice.random_bool(0.1) { dice.random_range(0.0..1.0) } else { 0.0 };
        let mut answer = Refetched::default();
        for Run { partition, offsets } in runs {
            for offset in offsets {
                if dice.random_bool(left_out) {
                    continue;
                }
                let state = self.kafka.state();
                let log = state.logs.get(&(partition.topic.clone(), partition.partition)).expect("only what was read is read again");
                let at = log.binary_search_by_key(&offset, |(offset, _)| *offset).expect("what was read is there");
                let record = log[at].1.clone();
                let source = partition.at(offset);
                answer.records.push(Incoming {
                    source,
                    key: record.key,
                    value: record.value,
                    headers: record.headers,
                    timestamp: Some(record.timestamp),
                });
            }
        }
        drop(dice);
        let (holdings, oracle) = (Arc::clone(&self.holdings), Arc::clone(&self.oracle));
        async move {
            tokio::time::sleep(delay).await;
            if fails {
                oracle.count("refetches that failed");
                return Err(RefetchError("the seed says so".to_owned()));
            }
            for record in &mut answer.records {
                oracle.count("refetched");
                holdings.again(record, |record| oracle.has_ended(DRAIN, &record.source, &record.headers));
            }
            Ok(answer)
        }
        .boxed()
    }
}
