//! Outcomes and commits as one: the producer of a loop's transactions, and the thread that drives it.
//!
//! Guarantees:
//! - Of a batch all is there or nothing, for readers that read what is committed; and it is answered once, when it is known which.
//! - Nothing is committed for partitions that have gone. The group's generation goes with the offsets, read before it is looked whether the
//!   batch's partitions are this instance's, and whether the loop has heard of all that came and went: Kafka refuses an older one.
//! - One that another producer of the same `transactional.id` has taken the place of commits nothing any more: the consumer ends, with
//!   [`ConsumerHealth::fatal`](super::ConsumerHealth::fatal) set.
//!
//! Kafka that is away is no error: a transaction that has begun to commit is asked about until it is known what became of it. What is to be
//! sent again, and when, is the loop's affair.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};

use super::Settled;
use super::context::{Context, Shared, list_with_points};
use crate::config;
use crate::edge::kafka::properties::{self, log_line};
use crate::edge::kafka::publisher::{place, reason};
use crate::edge::kafka::{KafkaEdgeError, record};
use crate::pipeline::ports::{Aborted, Batch, Intake, Placed, PublishError, Token};

/// How long one call of the client may block: how late a stop is noticed.
const SLICE: Duration = Duration::from_secs(1);

/// How long to wait before what may be tried again is.
const AGAIN: Duration = Duration::from_millis(100);

/// After how many tries it is said that there is no answer.
const SPEAK_AT: u32 = 10;

/// How long to wait for room in the client's queue: about as long as it takes to send a batch.
const QUEUE_FULL: Duration = Duration::from_millis(5);

/// How long sending the offsets may take: the client gives the whole transaction up with it. Long enough for a coordinator to move, and half
/// of what the broker gives the transaction.
const OFFSETS_WITHIN: Duration = Duration::from_secs(5);

/// See the module's words.
pub(super) struct Transactions {
    producer: ThreadedProducer<Fates>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The batch to go next, and how much of what came and went its loop had heard of.
    handed: Option<(Batch, u64)>,
    stopped: bool,
}

/// Why a transaction does not go on.
enum Trouble {
    /// Nothing of it is there, once it is aborted.
    Abort(RDKafkaErrorCode),
    /// Nothing can ever be committed by this producer, for this reason.
    Fatal(String),
    /// The consumer closes.
    Stopped,
}

impl Transactions {
    /// Makes the producer. Whether Kafka can be reached does not matter here.
    pub fn new(settings: &config::Kafka, transactional_id: &str) -> Result<Self, KafkaEdgeError> {
        let producer = properties::transactions(settings, transactional_id).create_with_context(Fates::default())?;
        Ok(Self { producer, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Whether the properties are such as librdkafka takes. Nothing is connected to for long.
    pub fn check(settings: &config::Kafka) -> Result<(), KafkaEdgeError> {
        Self::new(settings, "check").map(drop)
    }

    /// Hands a batch over; `heard`: how much of what came and went its loop has heard of.
    pub fn hand(&self, batch: Batch, heard: u64) {
        self.state().handed = Some((batch, heard));
        self.changed.notify_all();
    }

    /// Ends [`Transactions::serve`], at the end of what it is just waiting for.
    pub fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    /// Makes transactions of what is handed over, until stopped or failed.
    pub fn serve(&self, consumer: &BaseConsumer<Context>, shared: &Shared) {
        // Whatever an earlier life of this id has left open is aborted by this.
        let mut trouble = self.initialised().err().map(|trouble| match trouble {
            Trouble::Abort(code) => Trouble::Fatal(format!("Kafka gives this process no transactions ({code})")),
            other => other,
        });
        while trouble.is_none() {
            let Some((batch, heard)) = self.next() else { return };
            match self.transact(&batch, heard, consumer, shared) {
                Ok(answer) => shared.answer(Intake::Transacted(answer)),
                Err(error) => trouble = Some(error),
            }
        }
        match trouble {
            Some(Trouble::Fatal(why)) => shared.health.fail(why),
            Some(Trouble::Abort(code)) => shared.health.fail(lasting(code)),
            Some(Trouble::Stopped) | None => {}
        }
    }

    fn next(&self) -> Option<(Batch, u64)> {
        let waits = |state: &mut State| !state.stopped && state.handed.is_none();
        let mut state = self.changed.wait_while(self.state(), waits).unwrap_or_else(PoisonError::into_inner);
        if state.stopped { None } else { state.handed.take() }
    }

    fn initialised(&self) -> Result<(), Trouble> {
        self.until_known(|| self.producer.init_transactions(SLICE))
    }

    fn transact(
        &self,
        batch: &Batch,
        heard: u64,
        consumer: &BaseConsumer<Context>,
        shared: &Shared,
    ) -> Result<Result<Placed, Aborted>, Trouble> {
        // Before the look at the partitions: whatever comes or goes after it has another generation, and this one commits nothing then.
        let generation = consumer.group_metadata();
        // A consumer that is out of its group may have no generation left, and Kafka takes offsets without one, as from a client that has never
        // heard of generations.
        let begins = |_: &_| !consumer.assignment_lost() && shared.ledger.begin(heard, &batch.points);
        let Some(generation) = generation.filter(begins) else {
            return Ok(Err(Aborted { began: false, refused: Vec::new() }));
        };
        let made = self.prepare(batch, &generation);
        if matches!(made, Err(Trouble::Stopped)) {
            // Nothing of it may be committed yet, so nothing is lost; left open, it would hold up readers until the broker gives it up.
            let _ = self.producer.abort_transaction(SLICE);
        }
        // Only its own answer says what became of the transaction, so it is asked for until that comes.
        let answer = match made.and_then(|()| self.until_known(|| self.producer.commit_transaction(SLICE))) {
            Err(Trouble::Abort(code)) => self.abort().and_then(|refused| match code {
                // What has finished above the commit must be said, or it runs again and is there twice.
                RDKafkaErrorCode::OffsetMetadataTooLarge => Err(Trouble::Fatal(NO_ROOM_BESIDE.to_owned())),
                _ => {
                    (shared.on_commit)(Settled::Failed(code.to_string()));
                    Ok(Err(Aborted { began: true, refused }))
                }
            }),
            made => made.map(|()| {
                (shared.on_commit)(Settled::Taken);
                Ok(self.producer.context().placed())
            }),
        };
        shared.ledger.end();
        answer
    }

    /// Does all but commit: what is stopped in here may still be aborted.
    fn prepare(&self, batch: &Batch, generation: &ConsumerGroupMetadata) -> Result<(), Trouble> {
        self.producer.context().begin();
        self.until_known(|| self.producer.begin_transaction())?;
        for (token, record) in &batch.records {
            self.publish(*token, record)?;
        }
        // What Kafka has refused so far needs no waiting for the rest.
        if self.producer.context().refused().is_empty() {
            let offsets = list_with_points(&batch.points);
            self.until_known(|| self.producer.send_offsets_to_transaction(&offsets, generation, OFFSETS_WITHIN))?;
        }
        // A commit would wait for the records too. Waited for here, no commit has begun if the consumer closes meanwhile.
        // Beside one that is refused the rest gets a moment only: it goes again with the next.
        let is_refused = || !self.producer.context().refused().is_empty();
        self.until_known(|| self.producer.flush(SLICE).or_else(|error| if is_refused() { Ok(()) } else { Err(error) }))?;
        match self.producer.context().refused().first() {
            Some((_, error)) => Err(Trouble::Abort(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))),
            None => Ok(()),
        }
    }

    fn publish(&self, token: Token, published: &crate::event::Record) -> Result<(), Trouble> {
        let word = usize::try_from(token.0).unwrap_or(usize::MAX);
        loop {
            let Err((error, _)) = self.producer.send(record::outgoing(published, word)) else { return Ok(()) };
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) if self.state().stopped => return Err(Trouble::Stopped),
                // The records in it are sent or fail, so there will be room.
                Some(RDKafkaErrorCode::QueueFull) => thread::sleep(QUEUE_FULL),
                code => {
                    self.producer.context().note(token, &error);
                    return Err(Trouble::Abort(code.unwrap_or(RDKafkaErrorCode::Fail)));
                }
            }
        }
    }

    /// Takes back what was begun; gives the records that were refused.
    fn abort(&self) -> Result<Vec<(Token, PublishError)>, Trouble> {
        match self.until_known(|| self.producer.abort_transaction(SLICE)) {
            // An error that neither passes nor is fatal leaves the producer in no state that could be gone on from.
            Err(Trouble::Abort(code)) => Err(Trouble::Fatal(format!("a transaction could not be taken back ({code})"))),
            Err(other) => Err(other),
            Ok(()) => Ok(self.producer.context().refused().drain(..).map(|(token, error)| (token, reason(&error))).collect()),
        }
    }

    /// Calls until there is an answer that stands.
    fn until_known(&self, call: impl Fn() -> KafkaResult<()>) -> Result<(), Trouble> {
        for tries in 1_u32.. {
            let Err(error) = call() else { return Ok(()) };
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
            match outlook(&error) {
                Outlook::Fatal => return Err(Trouble::Fatal(lasting(code))),
                Outlook::Again => {
                    tracing::debug!(%error, "a transaction's step is tried again");
                    if tries == SPEAK_AT {
                        tracing::warn!(error = %code, "Kafka does not end a transaction; it is asked to for as long as it takes");
                    }
                }
                Outlook::Abort => return Err(Trouble::Abort(code)),
            }
            if self.state().stopped {
                return Err(Trouble::Stopped);
            }
            thread::sleep(AGAIN);
        }
        Err(Trouble::Stopped)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What may come of a step that failed.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::edge::kafka) enum Outlook {
    /// The same step may be made again.
    Again,
    /// The transaction must be aborted.
    Abort,
    /// Its producer makes none any more.
    Fatal,
}

/// What may come of a step that failed with this.
pub(in crate::edge::kafka) fn outlook(error: &KafkaError) -> Outlook {
    match error {
        KafkaError::Transaction(error) if error.is_fatal() => Outlook::Fatal,
        KafkaError::Transaction(error) if error.is_retriable() => Outlook::Again,
        // Records that are still on their way: their own timeout ends it.
        KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut) => Outlook::Again,
        _ => Outlook::Abort,
    }
}

/// Why a broker that keeps too little beside an offset ends the consumer.
const NO_ROOM_BESIDE: &str =
    "Kafka keeps less beside an offset than exactly once needs: raise the brokers' `offset.metadata.max.bytes` to 4096";

/// Why there are no transactions any more.
fn lasting(code: RDKafkaErrorCode) -> String {
    match code {
        RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch => format!(
            "Kafka takes no transactions of this process any more ({code}): one was open for longer than `transaction.timeout.ms`, or another \
             instance runs under the same `transactional_id`"
        ),
        _ => format!("Kafka takes no transactions of this process any more ({code})"),
    }
}

/// The producer's callbacks: which records of the transaction Kafka did not take for their own sake, or their topic's, and where the others lie.
#[derive(Default)]
pub(in crate::edge::kafka) struct Fates {
    refused: Mutex<Vec<(Token, KafkaError)>>,
    placed: Mutex<Placed>,
}

impl Fates {
    /// A transaction begins, of which nothing is known yet.
    pub(in crate::edge::kafka) fn begin(&self) {
        self.refused().clear();
        drop(self.placed());
    }

    /// Those of the transaction under way that were refused.
    pub(in crate::edge::kafka) fn refused(&self) -> MutexGuard<'_, Vec<(Token, KafkaError)>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out where those lie that were written.
    fn placed(&self) -> Placed {
        std::mem::take(&mut *self.placed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes a record that failed by itself.
    pub(in crate::edge::kafka) fn note(&self, token: Token, error: &KafkaError) {
        if !error.rdkafka_error_code().is_some_and(is_for_anothers_sake) {
            self.refused().push((token, error.clone()));
        }
    }
}

/// Whether a record with this error only shares the fate of one that has failed.
fn is_for_anothers_sake(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight | RDKafkaErrorCode::InvalidDifferentRecord)
}

impl ClientContext for Fates {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // What it means for a transaction is in the answer of its steps.
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ProducerContext for Fates {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, token: usize) {
        let token = Token(token as u64);
        match result {
            Ok(record) => {
                let placed = place(record).map(|at| (token, at));
                self.placed.lock().unwrap_or_else(PoisonError::into_inner).extend(placed);
            }
            Err((error, _)) => self.note(token, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_still_on_its_way_is_waited_for() {
        for (error, expected) in [
            (KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut), Outlook::Again),
            (KafkaError::Flush(RDKafkaErrorCode::Fail), Outlook::Abort),
            (KafkaError::Canceled, Outlook::Abort),
        ] {
            assert_eq!(outlook(&error), expected, "{error}");
        }
    }

    #[test]
    fn every_record_that_failed_is_noted_but_for_those_that_went_with_it() {
        let fates = Fates::default();
        for (number, code) in [
            (0, RDKafkaErrorCode::PurgeQueue),
            (1, RDKafkaErrorCode::TopicAuthorizationFailed),
            (2, RDKafkaErrorCode::InvalidRecord),
            (3, RDKafkaErrorCode::InvalidDifferentRecord),
            (4, RDKafkaErrorCode::PurgeInflight),
        ] {
            fates.note(Token(number), &KafkaError::MessageProduction(code));
        }
        let refused: Vec<_> = fates.refused().iter().map(|(token, error)| (token.0, reason(error))).collect();
        let failed = PublishError::Failed(RDKafkaErrorCode::TopicAuthorizationFailed.to_string());
        assert_eq!(refused, [(1, failed), (2, PublishError::Invalid)]);
    }
}
