//! Records on their way to Kafka: each is kept until it is acknowledged, and published again until it is.
//!
//! A record that fails is tried again with back-off and holds up its owner only. One that is too large is handed back, because
//! trying again is useless. One whose owner has nothing to publish any more is dropped, unless the client has it already: then it may
//! still arrive, and is not published again.

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
    /// It is in the client's hands, and is not to be published again.
    last_try: bool,
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
    /// The owner's record may be in Kafka or not; it is not published again.
    Dropped(O),
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
        self.pending.insert(token, Pending { record, owner, failures: 0, last_try: false });
        self.hand_over(token, now);
    }

    /// Publishes a record for its owner, after the longest wait between two tries.
    pub fn send_later(&mut self, record: Record, owner: O, now: Tick) {
        let token = Token(self.next);
        self.next += 1;
        self.pending.insert(token, Pending { record, owner, failures: 0, last_try: false });
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
            Err(_) if self.pending.get(&ack.token).is_some_and(|pending| pending.last_try) => {
                self.pending.remove(&ack.token).map_or(Acked::Again, |pending| Acked::Dropped(pending.owner))
            }
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

    /// Publishes nothing more for the owners for which `ends` holds. Gives those whose records are dropped; what becomes of one that the
    /// client has is told by its acknowledgement.
    #[expect(clippy::iter_over_hash_type, reason = "each is marked by itself")]
    pub fn drop_of(&mut self, mut ends: impl FnMut(&O) -> bool) -> Vec<O> {
        for pending in self.pending.values_mut() {
            pending.last_try |= ends(&pending.owner);
        }
        let ended = |token: &Token| self.pending.get(token).is_some_and(|pending| pending.last_try);
        let mut waiting = self.again.remove(ended);
        waiting.extend(self.held_back.iter().copied().filter(ended));
        let owners = waiting.iter().filter_map(|token| self.pending.remove(token)).map(|pending| pending.owner).collect();
        self.held_back.retain(|token| self.pending.contains_key(token));
        owners
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Headers, Topic};
    use crate::pipeline::fakes::Notes;
    use crate::pipeline::ports::QueueFull;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A client with so many places in its queue, which counts what it is handed.
    struct Places {
        free: AtomicUsize,
        handed: AtomicUsize,
    }

    impl Publisher for Arc<Places> {
        fn publish(&self, _record: &Record, _token: Token) -> Result<(), QueueFull> {
            let taken = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1));
            taken.map_err(|_| QueueFull)?;
            self.handed.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    fn record() -> Record {
        Record { topic: Topic::from("t"), key: None, value: None, headers: Headers::new(), timestamp: UnixMillis(1) }
    }

    #[test]
    fn what_is_dropped_is_not_published_again() {
        let places = Arc::new(Places { free: AtomicUsize::new(3), handed: AtomicUsize::new(0) });
        let mut outbox = Outbox::new(Arc::clone(&places));
        let failed = |token| Ack { token: Token(token), result: Err(PublishError::Failed("no".to_owned())) };
        let acked = |outbox: &mut Outbox<_, _>, ack| outbox.acked(ack, Tick(0), UnixMillis(1), 0.5, &Notes::default());
        for owner in ["waits to be tried again", "in the client's hands, and fails", "in the client's hands", "held back", "another's"] {
            outbox.send(record(), owner, Tick(0));
        }
        assert_eq!(acked(&mut outbox, failed(0)), Acked::Again);
        let dropped = outbox.drop_of(|owner| *owner != "another's");
        assert_eq!(dropped, ["waits to be tried again", "held back"]);
        assert_eq!(acked(&mut outbox, failed(1)), Acked::Dropped("in the client's hands, and fails"));
        assert_eq!(acked(&mut outbox, Ack { token: Token(2), result: Ok(()) }), Acked::Published("in the client's hands"));
        places.free.store(100, Ordering::Relaxed);
        outbox.retry(Tick::NEVER);
        assert_eq!((places.handed.load(Ordering::Relaxed), outbox.len(), outbox.next_retry()), (4, 1, None), "another's alone");
    }
}
