//! The one producer of a process, and the [`Publisher`] ports over it.
//!
//! Guarantees:
//! - A record is acknowledged when all in-sync replicas have it; what librdkafka repeats on its own is written once (idempotent producer).
//! - Whatever was handed over is told once, on the channel of the handle that handed it over, at the latest after `message.timeout.ms`.
//! - Nothing waits: a full queue is [`QueueFull`], and nothing was handed over.
//!
//! Trying again after [`PublishError::Failed`] is the caller's affair; it may write a record twice, if only the answer was lost.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::producer::{DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};

use super::properties::{self, log_line};
use super::{KafkaEdgeError, record};
use crate::config;
use crate::event::{Offset, Record};
use crate::pipeline::acks;
use crate::pipeline::ports::{Ack, AckSender, Acks, PublishError, Publisher, QueueFull, Token};

/// The one producer of a process. Cloning shares it.
#[derive(Clone)]
pub struct Producer {
    client: Arc<ThreadedProducer<Deliveries>>,
    longest: Option<Duration>,
}

/// One user of the producer, with a channel of its own for its acknowledgements.
pub struct KafkaPublisher {
    client: Arc<ThreadedProducer<Deliveries>>,
    number: usize,
}

impl Producer {
    /// Makes the producer. Whether Kafka can be reached does not matter here: records wait in the queue, and fail after
    /// `message.timeout.ms`.
    ///
    /// # Errors
    /// A property that librdkafka does not take.
    pub fn connect(settings: &config::Kafka) -> Result<Self, KafkaEdgeError> {
        let properties = properties::producer(settings);
        let longest = properties::message_timeout(&properties);
        Ok(Self { client: Arc::new(properties.create_with_context(Deliveries::default())?), longest })
    }

    /// A publisher, and where its acknowledgements arrive: one for each loop.
    pub fn handle(&self) -> (KafkaPublisher, Acks) {
        let (sender, arriving) = acks::channel();
        let mut handles = self.client.context().handles.write().unwrap_or_else(PoisonError::into_inner);
        let number = handles.len();
        assert!(number < MOST_HANDLES, "a process has a handle for each of its loops");
        handles.push(sender);
        drop(handles);
        (KafkaPublisher { client: Arc::clone(&self.client), number }, arriving)
    }

    /// Records handed over and not told yet, of all handles.
    pub fn in_flight(&self) -> usize {
        self.client.context().in_flight.load(Relaxed)
    }

    /// Records whose fate was told, of all handles. While records are in flight it moves within [`Producer::longest`], or nothing tells any more.
    pub fn told(&self) -> u64 {
        self.client.context().told.load(Relaxed)
    }

    /// The longest that a record's fate may take; `None` if the user's properties set it no bound.
    pub fn longest(&self) -> Option<Duration> {
        self.longest
    }

    /// Why nothing will ever be published again, if that is so: the broker refuses this producer for good. What helps is a new process.
    pub fn fatal(&self) -> Option<String> {
        self.client.client().fatal_error().map(|(code, _)| code.to_string())
    }

    /// Waits until all that was handed over is told, at most `within`. Linger ends at once.
    ///
    /// # Errors
    /// How many records are still not told.
    pub async fn flush(&self, within: Duration) -> Result<(), usize> {
        let client = Arc::clone(&self.client);
        // A panic in there, or a runtime that shuts down, leaves the count as it is.
        let flushed = tokio::task::spawn_blocking(move || client.flush(within).is_ok()).await.unwrap_or(false);
        if flushed { Ok(()) } else { Err(self.in_flight()) }
    }

    /// Flushes, at most `within`, and gives the producer up; what is not told by then fails. Handles that are still there keep it
    /// alive, and the last of them to go may block its thread for half a second.
    ///
    /// # Errors
    /// How many records were not told within the time.
    pub async fn close(self, within: Duration) -> Result<(), usize> {
        let flushed = self.flush(within).await;
        // Dropping joins the producer's thread, which blocks.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
        flushed
    }
}

impl Publisher for KafkaPublisher {
    fn publish(&self, record: &Record, token: Token) -> Result<(), QueueFull> {
        let delivery = Delivery { handle: self.number, token };
        let in_flight = &self.client.context().in_flight;
        // Before the record goes: its fate may be told before `send` has returned.
        in_flight.fetch_add(1, Relaxed);
        let Err((error, refused)) = self.client.send(record::outgoing(record, delivery.packed())) else { return Ok(()) };
        in_flight.fetch_sub(1, Relaxed);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) {
            return Err(QueueFull);
        }
        self.client.context().tell(Delivery::unpacked(refused.delivery_opaque), Err(reason(&error)));
        Ok(())
    }
}

/// Handles of one producer at most: what the upper byte of a word can tell apart.
const MOST_HANDLES: usize = 1 << 8;

/// Bits of a word that hold a token: more records than a process publishes.
const TOKEN_BITS: u32 = usize::BITS - 8;

/// What librdkafka keeps beside a record, and gives back with its fate: one word, so that nothing is allocated for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Delivery {
    handle: usize,
    token: Token,
}

impl Delivery {
    fn packed(self) -> usize {
        // Tokens count up from 0: at a million a second the bits last two thousand years.
        self.handle << TOKEN_BITS | usize::try_from(self.token.0).unwrap_or_default() & (usize::MAX >> 8)
    }

    fn unpacked(word: usize) -> Self {
        Self { handle: word >> TOKEN_BITS, token: Token((word & (usize::MAX >> 8)) as u64) }
    }
}

/// What became of a record that was not acknowledged.
pub(super) fn reason(error: &KafkaError) -> PublishError {
    match error.rdkafka_error_code() {
        // The second: larger than the topic's segments, which no later try changes either.
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge) => PublishError::TooLarge,
        Some(RDKafkaErrorCode::InvalidTimestamp) => PublishError::BadTime,
        Some(RDKafkaErrorCode::InvalidRecord) => PublishError::Invalid,
        Some(code) => PublishError::Failed(code.to_string()),
        None => PublishError::Failed(error.to_string()),
    }
}

/// Where a record lies that was acknowledged. The broker does not say it of one that it had already and was sent again.
pub(super) fn place(acknowledged: &BorrowedMessage<'_>) -> Option<Offset> {
    Some(acknowledged.offset()).filter(|offset| *offset >= 0).map(Offset)
}

/// The producer's callbacks, on its own thread.
#[derive(Default)]
struct Deliveries {
    // librdkafka's own count has its log lines and errors in it.
    in_flight: AtomicUsize,
    told: AtomicU64,
    /// Where the acknowledgements of each handle go, by its number.
    handles: RwLock<Vec<AckSender>>,
}

impl Deliveries {
    fn tell(&self, delivery: Delivery, result: Result<Option<Offset>, PublishError>) {
        if let Some(acks) = self.handles.read().unwrap_or_else(PoisonError::into_inner).get(delivery.handle) {
            acks.send(Ack { token: delivery.token, result });
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // What it means for a record is in the record's acknowledgement.
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: usize) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.told.fetch_add(1, Relaxed);
        self.tell(Delivery::unpacked(delivery), result.as_ref().map(place).map_err(|(error, _)| reason(error)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_fits_into_a_word_and_comes_out_again() {
        for handle in [0, 1, MOST_HANDLES - 1] {
            for token in [0, 1, 255, 256, 1 << 40, (1 << TOKEN_BITS) - 1] {
                let delivery = Delivery { handle, token: Token(token) };
                assert_eq!(Delivery::unpacked(delivery.packed()), delivery);
            }
        }
    }
}
