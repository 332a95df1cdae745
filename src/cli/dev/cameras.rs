//! Made-up cameras that publish at a steady rate, and hold back before the embedded Kafka would drop what is not read yet.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::config;
use crate::edge::clock::SystemClock;
use crate::edge::embedded::generator::Generator;
use crate::edge::kafka::{KafkaEdgeError, Producer};
use crate::event::{Headers, Record, Topic};
use crate::pipeline::ports::{Clock, Publisher, Token};

/// Events that may be unread, and calls that may be parked, at once. The embedded Kafka keeps 5 MiB of a partition and silently drops what
/// is older; an event takes about 1 KiB and a parked call about 4, so that even a single partition holds this many of either.
const MOST: u64 = 1_000;

/// What the cameras have done, and what holds them back.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Events that Kafka has acknowledged.
    pub(super) published: AtomicU64,
    /// Whether they wait for the backlog to shrink.
    pub(super) held_back: AtomicBool,
}

pub(super) struct Cameras {
    pub(super) tally: Arc<Tally>,
    generator: Generator,
    topic: Topic,
    interval: Duration,
}

impl Cameras {
    pub(super) fn new(topic: Topic, rate: u32) -> Self {
        let cameras = NonZeroUsize::new(8).unwrap_or(NonZeroUsize::MIN);
        Self { tally: Arc::default(), generator: Generator::new(rand::random(), cameras), topic, interval: Duration::from_secs(1) / rate }
    }

    /// Publishes for as long as it is polled. `backlog`: events unread and calls parked, now.
    pub(super) async fn run(mut self, kafka: &config::Kafka, backlog: impl Fn(u64) -> u64) -> Result<(), KafkaEdgeError> {
        let producer = Producer::connect(kafka)?;
        let (publisher, mut acks) = producer.handle();
        let clock = SystemClock::new();
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for number in 0.. {
            ticks.tick().await;
            while let Some(ack) = acks.try_recv() {
                self.tally.published.fetch_add(u64::from(ack.result.is_ok()), Ordering::Relaxed);
            }
            let full = backlog(self.tally.published.load(Ordering::Relaxed)) >= MOST;
            self.tally.held_back.store(full, Ordering::Relaxed);
            if full {
                continue;
            }
            let now = clock.wall();
            let (key, value) = self.generator.event_at(now);
            let record = Record {
                topic: self.topic.clone(),
                partition: None,
                key: Some(key.into()),
                value: Some(value),
                headers: Headers::new(),
                timestamp: now,
            };
            // A full queue at this rate means that Kafka is gone; the next event is as good as this one.
            let _ = publisher.publish(&record, Token(number));
        }
        Ok(())
    }
}
