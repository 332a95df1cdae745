//! Records on their way to Kafka: each is kept until it is acknowledged, and published again until it is.
//!
//! A record that fails is tried again with back-off and holds up its owner only. One that is too large is handed back, because
//! trying again is useless.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use foldhash::fast::RandomState;

use super::facts::Fact;
use super::ports::{Ack, PublishError, Publisher, Token, Witness};
use crate::event::{Record, UnixMillis};
use crate::machine::due_queue::DueQueue;
use crate::machine::schedule::Schedule;
use crate::machine::time::Tick;

/// How long to wait before a record is published again.
const AGAIN: Schedule = Schedule { initial: Duration::from_millis(200), max: Duration::from_secs(10) };

/// How long to wait when the client's queue is full: about as long as it takes to send a batch.
const QUEUE_FULL: Duration = Duration::from_millis(20);

/// Records on their way, each with an owner of type `O`.
#[derive(Debug)]
pub struct Outbox<P, O> {
    publisher: P,
    next: u64,
    pending: HashMap<Token, Pending<O>, RandomState>,
    /// Handed to nobody yet because the client's queue was full, in order.
    held_back: VecDeque<Token>,
    held_back_until: Tick,
    again: DueQueue<Token>,
}

#[derive(Debug)]
struct Pending<O> {
    record: Record,
    owner: O,
    failures: u32,
}

/// What an acknowledgement meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Acked<O> {
    /// The owner's record is in Kafka.
    Published(O),
    /// The owner's record is too large for its topic, and is handed back.
    TooLarge(O, Record),
    /// It will be published again.
    Again,
}

impl<P: Publisher, O> Outbox<P, O> {
    /// Nothing on its way.
    pub fn new(publisher: P) -> Self {
        Self {
            publisher,
            next: 0,
            pending: HashMap::default(),
            held_back: VecDeque::new(),
            held_back_until: Tick(0),
            again: DueQueue::new(),
        }
    }

    /// Publishes a record for its owner.
    pub fn send(&mut self, record: Record, owner: O, now: Tick) {
        let token = Token(self.next);
        self.next += 1;
        self.pending.insert(token, Pending { record, owner, failures: 0 });
        self.hand_over(token, now);
    }

    /// Publishes a record for its owner, after the longest wait between two tries.
    pub fn send_later(&mut self, record: Record, owner: O, now: Tick) {
        let token = Token(self.next);
        self.next += 1;
        self.pending.insert(token, Pending { record, owner, failures: 0 });
        self.again.push(now.plus(AGAIN.max), token);
    }

    fn hand_over(&mut self, token: Token, now: Tick) {
        let Some(pending) = self.pending.get(&token) else { return };
        if !self.held_back.is_empty() || self.publisher.publish(&pending.record, token).is_err() {
            if self.held_back.is_empty() {
                self.held_back_until = now.plus(QUEUE_FULL);
            }
            self.held_back.push_back(token);
        }
    }

    /// Takes an acknowledgement in.
    pub fn acked(&mut self, ack: Ack, now: Tick, wall: UnixMillis, roll: f64, witness: &impl Witness) -> Acked<O> {
        match ack.result {
            Ok(()) => match self.pending.remove(&ack.token) {
                Some(pending) => Acked::Published(pending.owner),
                None => Acked::Again,
            },
            Err(PublishError::TooLarge) => match self.pending.remove(&ack.token) {
                Some(pending) => Acked::TooLarge(pending.owner, pending.record),
                None => Acked::Again,
            },
            Err(error @ (PublishError::Failed(_) | PublishError::BadTime)) => {
                if let Some(pending) = self.pending.get_mut(&ack.token) {
                    if error == PublishError::BadTime {
                        pending.record.timestamp = wall;
                    }
                    pending.failures = pending.failures.saturating_add(1);
                    witness.tell(Fact::PublishFailed { topic: &pending.record.topic, error: &error.to_string() });
                    // Half of the delay is fixed: full jitter could come back at once to a broker that has just said no.
                    let delay = AGAIN.delay(pending.failures, None, 0.5 + roll / 2.0);
                    self.again.push(now.plus(delay), ack.token);
                }
                Acked::Again
            }
        }
    }

    /// Publishes what is due again.
    pub fn retry(&mut self, now: Tick) {
        if self.held_back_until <= now {
            for token in std::mem::take(&mut self.held_back) {
                self.hand_over(token, now);
            }
        }
        while let Some((_, token)) = self.again.pop_due(now) {
            self.hand_over(token, now);
        }
    }

    /// When [`Outbox::retry`] will have something to do.
    pub fn next_retry(&self) -> Option<Tick> {
        let held_back = (!self.held_back.is_empty()).then_some(self.held_back_until);
        [held_back, self.again.next_due()].into_iter().flatten().min()
    }

    /// Records on their way.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}
