//! The poll thread: owns the consumer, comes round at least every 100 ms, and never dies silently.
//!
//! A second thread commits: rust-rdkafka's asynchronous commit gives no result, and a blocking one on the poll thread would hold up
//! records and rebalances for as long as a coordinator is away. Where records and commits are one, it makes transactions instead.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;

use super::context::{Context, Shared, lock};
use crate::edge::kafka::record;
use crate::event::TopicPartition;
use crate::pipeline::ports::Clock;

/// How long a poll waits when nothing comes. It bounds how late a stop is noticed; records wake it at once.
const IDLE: Duration = Duration::from_millis(100);
/// How long a poll waits while partitions are paused: how late room is noticed, in the budget or beside a partition's commit.
const PAUSED: Duration = Duration::from_millis(5);
/// How often room is looked for before anything is paused.
const TURN: Duration = Duration::from_millis(2);
/// The most records handed on at once: enough to make the hand-over's cost small, few enough that the loop can begin early.
const BATCH: usize = 256;

/// How long a rebalance may hold up a consumer's leaving: the others take part in it within their heartbeat's interval, and for one that is
/// gone nobody can wait.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// Runs the consumer until it is closed or fails, commits, and leaves the group.
pub(super) fn run<C: Clock>(consumer: BaseConsumer<Context>, shared: &Arc<Shared>, clock: &C) {
    let consumer = Arc::new(consumer);
    let committer = {
        let (consumer, shared) = (Arc::clone(&consumer), Arc::clone(shared));
        thread::Builder::new().name("kafka-commit".into()).spawn(move || {
            guarded(&shared, "the commit thread", || match &shared.transactions {
                Some(transactions) => transactions.serve(&consumer, &shared),
                None => shared.ledger.serve(|points| shared.commit(&consumer, points)),
            });
        })
    };
    match &committer {
        Ok(_) => guarded(shared, "the poll thread", || poll(&consumer, shared, clock)),
        Err(error) => shared.health.fail(format!("no thread for commits: {error}")),
    }
    let has_nothing = shared.ledger.assigned() == 0;
    guarded(shared, "the poll thread", || {
        let all: Vec<_> = shared.ledger.partitions().into_iter().collect();
        let points = lock(&shared.closing).get_or_insert_default().clone();
        // Behind the commit under way, if there is one, and before the consumer leaves.
        let last = shared.ledger.release(&all, points);
        shared.commit_last(&consumer, &last);
    });
    shared.ledger.stop();
    if let Some(transactions) = &shared.transactions {
        transactions.stop();
    }
    if let Ok(committer) = committer {
        // It is guarded: its panic is in the health already.
        let _ = committer.join();
    }
    lock(&shared.outbox).sender = None;
    // The committer has given its share back, so this is the last. Dropping it leaves the group, from this thread, in its own time.
    guarded(shared, "leaving the group", || {
        // librdkafka forgets to leave when it closes a cooperative member without partitions; the group would wait for it until its session
        // has timed out, with every rebalance, and every commit behind one, held up. A member that unsubscribes leaves in any case.
        if has_nothing && !shared.keeps_its_place {
            leave(&consumer, shared, clock);
        }
        drop(consumer);
    });
    shared.health.set_partitions(0, 0);
}

/// Gives up the subscription, and with it the group. In the middle of a rebalance librdkafka puts that off until its end, which polling brings
/// about, and forgets it if the consumer is closed before. Nothing but its statistics tells that it is done.
fn leave<C: Clock>(consumer: &BaseConsumer<Context>, shared: &Shared, clock: &C) {
    let until = clock.now().plus(LEAVE_WITHIN);
    consumer.unsubscribe();
    shared.is_outside.store(false, Relaxed);
    while !shared.is_outside.load(Relaxed) && clock.now() < until {
        // What comes has not begun: it is read again by whoever is next.
        drop(consumer.poll(PAUSED));
    }
}

fn poll<C: Clock>(consumer: &BaseConsumer<Context>, shared: &Shared, clock: &C) {
    while !shared.is_closing() && !shared.health.has_failed() {
        shared.health.poll(clock.now());
        wait_for_room(shared);
        shared.read_again(consumer);
        let shut = is_shut(shared);
        let paused = shared.set_shut(consumer, shut);
        let mut polled = consumer.poll(if shut || paused { PAUSED } else { IDLE });
        let mut sending = None;
        for number in 1.. {
            match polled {
                Some(Ok(message)) => take(shared, &message, &mut sending),
                Some(Err(error)) => complain(shared, &error),
                None => break,
            }
            // Nothing may be polled that is not taken: librdkafka has moved on past it, and the next commit would too.
            // With the gate shut, a record is the first of its partition, which is to be paused before its next.
            if number >= BATCH || shut || shared.budget.is_full() {
                break;
            }
            polled = consumer.poll(Duration::ZERO);
        }
        shared.flush();
    }
}

/// A budget that is full for a moment only is waited for: pausing throws away what was fetched, and fetching it again can take a second. A
/// small budget is full with every record. No message is polled meanwhile, no longer than an idle poll would take.
fn wait_for_room(shared: &Shared) {
    let is_full = || shared.budget.is_full() && !shared.stopped.load(Relaxed) && !shared.is_closing();
    let mut turns = if lock(&shared.gate).shut { 0 } else { IDLE.as_millis() / TURN.as_millis() };
    while turns > 0 && is_full() {
        thread::sleep(TURN);
        turns -= 1;
    }
}

/// Full: shut. With room again: not. In between: as before, so that a full budget does not make it pause and resume with every record.
fn is_shut(shared: &Shared) -> bool {
    shared.stopped.load(Relaxed) || shared.budget.is_full() || (lock(&shared.gate).shut && !shared.budget.has_room())
}

/// Takes a message in. `sending` is the partition of the one before: they come in runs.
fn take(shared: &Shared, message: &BorrowedMessage<'_>, sending: &mut Option<TopicPartition>) {
    let record = record::incoming(message, &shared.topics);
    let partition = record.source.topic_partition();
    if sending.as_ref() != Some(&partition) {
        shared.started(partition.clone());
        *sending = Some(partition);
    }
    // Fetched before the stop: it has not begun, so no commit passes it, and it is read again by whoever is next.
    if shared.stopped.load(Relaxed) {
        return;
    }
    shared.budget.take(record.size());
    lock(&shared.outbox).batch.push(record);
}

fn complain(shared: &Shared, error: &KafkaError) {
    match error {
        KafkaError::MessageConsumptionFatal(code) => shared.health.fail(code.to_string()),
        other => {
            if let Some(code) = other.rdkafka_error_code() {
                shared.health.complain(code);
            }
        }
    }
}

/// A panic ends the consumer with a reason, instead of a thread without a word.
fn guarded(shared: &Shared, what: &str, run: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        shared.health.fail(format!("{what} panicked: {}", words(panic.as_ref())));
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}
