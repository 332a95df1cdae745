//! Records on their way to Kafka: each is kept until it is acknowledged, and published again until it is.
//!
//! A record that fails is tried again with back-off and holds up its owner, and later records of its topic and key. One that is too large
//! is handed back, because trying again is useless. One whose owner has nothing to publish any more is dropped, unless the client has it
//! already: then it may still arrive, and is not published again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use foldhash::fast::RandomState;

use super::facts::Fact;
use super::ports::{Ack, PublishError, Publisher, Token, Witness};
use super::stragglers::Stragglers;
use crate::event::{Offset, Record, UnixMillis};
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
    stragglers: Stragglers,
}

#[derive(Debug)]
struct Pending<O> {
    record: Record,
    owner: O,
    failures: u32,
    /// It was handed over, and what became of it is not told yet.
    is_out: bool,
    /// It is not to be published again.
    last_try: bool,
}

/// The time, on both clocks, and a chance: asked for only where something has failed.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The process's monotonic time.
    pub now: Tick,
    /// The wall clock.
    pub wall: UnixMillis,
    /// A number in `[0, 1)`.
    pub roll: f64,
}

/// What an acknowledgement meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Acked<O> {
    /// The owner's record is in Kafka, at this place of its partition if that is known.
    Published(O, Option<Offset>),
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
            stragglers: Stragglers::default(),
        }
    }

    /// Publishes a record for its owner.
    pub fn send(&mut self, record: Record, owner: O, now: impl FnOnce() -> Tick) {
        let token = Token(self.next);
        self.next += 1;
        let waits = self.stragglers.holds(&record, token);
        self.pending.insert(token, Pending { record, owner, failures: 0, is_out: false, last_try: false });
        if !waits {
            self.hand_over(token, now);
        }
    }

    /// Publishes a record for its owner, after the longest wait between two tries.
    pub fn send_later(&mut self, record: Record, owner: O, now: Tick) {
        let token = Token(self.next);
        self.next += 1;
        self.pending.insert(token, Pending { record, owner, failures: 0, is_out: false, last_try: false });
        self.again.push(now.plus(AGAIN.max), token);
    }

    /// The clock is read only if it must be: nearly every record is taken at once.
    fn hand_over(&mut self, token: Token, now: impl FnOnce() -> Tick) {
        let Some(pending) = self.pending.get_mut(&token) else { return };
        pending.is_out = true;
        if !self.held_back.is_empty() || self.publisher.publish(&pending.record, token).is_err() {
            if self.held_back.is_empty() {
                self.held_back_until = now().plus(QUEUE_FULL);
            }
            self.held_back.push_back(token);
        }
    }

    /// Takes an acknowledgement in.
    pub fn acked(&mut self, ack: Ack, moment: impl Fn() -> Moment, witness: &impl Witness) -> Acked<O> {
        let now = || moment().now;
        match ack.result {
            Ok(at) => match self.taken(ack.token, now) {
                Some(pending) => Acked::Published(pending.owner, at),
                None => Acked::Again,
            },
            Err(_) if self.pending.get(&ack.token).is_some_and(|pending| pending.last_try) => {
                self.taken(ack.token, now).map_or(Acked::Again, |pending| Acked::Dropped(pending.owner))
            }
            Err(PublishError::TooLarge) => match self.taken(ack.token, now) {
                Some(pending) => Acked::TooLarge(pending.owner, pending.record),
                None => Acked::Again,
            },
            Err(error @ (PublishError::Failed(_) | PublishError::BadTime | PublishError::Invalid)) => {
                if let Some(pending) = self.pending.get_mut(&ack.token) {
                    let Moment { now, wall, roll } = moment();
                    if error == PublishError::BadTime {
                        pending.record.timestamp = wall;
                    }
                    pending.is_out = false;
                    pending.failures = pending.failures.saturating_add(1);
                    witness.tell(Fact::PublishFailed { topic: &pending.record.topic, error: &error.to_string() });
                    // Half of the delay is fixed: full jitter could come back at once to a broker that has just said no.
                    let delay = AGAIN.delay(pending.failures, None, 0.5 + roll / 2.0);
                    if self.stragglers.failed(&pending.record, ack.token) {
                        self.again.push(now.plus(delay), ack.token);
                    }
                }
                Acked::Again
            }
        }
    }

    /// Publishes nothing more for the owners for which `ends` holds. Gives those whose records are dropped; what becomes of one that the
    /// client has is told by its acknowledgement.
    #[expect(clippy::iter_over_hash_type, reason = "what is found is put in order")]
    pub fn drop_of(&mut self, mut ends: impl FnMut(&O) -> bool) -> Vec<O> {
        let held_back: BTreeSet<Token> = self.held_back.iter().copied().collect();
        let mut dropped = BTreeSet::new();
        for (token, pending) in &mut self.pending {
            pending.last_try |= ends(&pending.owner);
            if pending.last_try && (!pending.is_out || held_back.contains(token)) {
                dropped.insert(*token);
            }
        }
        drop(self.again.remove(|token| dropped.contains(token)));
        self.held_back.retain(|token| !dropped.contains(token));
        let mut owners = Vec::with_capacity(dropped.len());
        for token in &dropped {
            let Some(pending) = self.pending.remove(token) else { continue };
            // Whoever waited behind it may go, but not from here: the caller is in the middle of ending lives.
            if let Some(next) = self.stragglers.passed(&pending.record, *token).filter(|next| !dropped.contains(next)) {
                self.again.push(Tick(0), next);
            }
            owners.push(pending.owner);
        }
        owners
    }

    /// Lets go of a record that has come to an end, and lets the one go that waited for it.
    fn taken(&mut self, token: Token, now: impl FnOnce() -> Tick) -> Option<Pending<O>> {
        let pending = self.pending.remove(&token)?;
        let next = self.stragglers.passed(&pending.record, token);
        if let Some(next) = next.filter(|next| self.pending.get(next).is_some_and(|next| !next.is_out)) {
            self.hand_over(next, now);
        }
        Some(pending)
    }

    /// Publishes what is due again.
    pub fn retry(&mut self, now: Tick) {
        if self.held_back_until <= now {
            for token in std::mem::take(&mut self.held_back) {
                self.hand_over(token, || now);
            }
        }
        while let Some((_, token)) = self.again.pop_due(now) {
            // One that an earlier record of its key has failed behind meanwhile goes when that one is there.
            if self.pending.get(&token).is_some_and(|pending| !pending.is_out && self.stragglers.may_go(&pending.record, token)) {
                self.hand_over(token, || now);
            }
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
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::event::{Headers, Topic};
    use crate::pipeline::ports::QueueFull;

    /// Keeps what it is handed.
    #[derive(Clone, Default)]
    struct Client(Arc<Mutex<Vec<(String, Token)>>>);

    impl Client {
        /// The values that were handed over since this was last asked, and their tokens.
        fn handed(&self) -> Vec<(String, Token)> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }

        fn values(&self) -> Vec<String> {
            self.handed().into_iter().map(|(value, _)| value).collect()
        }
    }

    impl Publisher for Client {
        fn publish(&self, record: &Record, token: Token) -> Result<(), QueueFull> {
            let value = String::from_utf8(record.value.as_deref().unwrap().to_vec()).unwrap();
            self.0.lock().unwrap().push((value, token));
            Ok(())
        }
    }

    struct Deaf;

    impl Witness for Deaf {
        fn tell(&self, _fact: Fact<'_>) {}
    }

    fn record(topic: &str, key: Option<&'static str>, value: &'static str) -> Record {
        let key = key.map(|key| key.into());
        Record {
            topic: Topic::from(topic),
            partition: None,
            key,
            value: Some(value.into()),
            headers: Headers::new(),
            timestamp: UnixMillis(1),
        }
    }

    fn moment(now: Tick) -> Moment {
        Moment { now, wall: UnixMillis(1), roll: 0.5 }
    }

    const LATER: Tick = Tick(60_000_000);

    fn outbox() -> (Client, Outbox<Client, ()>) {
        let client = Client::default();
        (client.clone(), Outbox::new(client))
    }

    fn ack(outbox: &mut Outbox<Client, ()>, token: Token, fails: bool, now: Tick) {
        let result = if fails { Err(PublishError::Failed("no".to_owned())) } else { Ok(None) };
        outbox.acked(Ack { token, result }, || moment(now), &Deaf);
    }

    #[test]
    fn what_failed_goes_before_what_comes_behind_it() {
        let (client, mut outbox) = outbox();
        for (key, value) in [(Some("a"), "a1"), (Some("a"), "a2"), (Some("b"), "b1"), (None, "n1")] {
            outbox.send(record("t", key, value), (), || Tick(0));
        }
        let tokens: HashMap<String, Token> = client.handed().into_iter().collect();
        // The later one's failure is told first, and its wait is over first.
        ack(&mut outbox, tokens["a2"], true, Tick(0));
        ack(&mut outbox, tokens["a1"], true, LATER);
        ack(&mut outbox, tokens["b1"], true, LATER);
        ack(&mut outbox, tokens["n1"], true, LATER);
        outbox.send(record("t", Some("a"), "a3"), (), || LATER);
        outbox.send(record("t", Some("c"), "c1"), (), || LATER);
        outbox.send(record("other", Some("a"), "o1"), (), || LATER);
        assert_eq!(client.values(), ["c1", "o1"], "other keys and topics wait for nobody");
        outbox.retry(LATER.plus(AGAIN.max));
        let handed = client.handed();
        assert_eq!(handed.iter().map(|(value, _)| value.as_str()).collect::<Vec<_>>(), ["a1", "b1", "n1"]);
        ack(&mut outbox, tokens["a1"], true, LATER);
        assert_eq!(client.values(), Vec::<String>::new(), "not there yet");
        outbox.retry(LATER.plus(AGAIN.max));
        assert_eq!(client.values(), ["a1"]);
        ack(&mut outbox, tokens["a1"], false, LATER);
        assert_eq!(client.values(), ["a2"], "at once, one at a time");
        outbox.send(record("t", Some("a"), "a4"), (), || LATER);
        ack(&mut outbox, tokens["a2"], false, LATER);
        let a3 = client.handed();
        assert_eq!(a3[0].0, "a3");
        ack(&mut outbox, a3[0].1, false, LATER);
        let a4 = client.handed();
        assert_eq!(a4[0].0, "a4");
        ack(&mut outbox, a4[0].1, false, LATER);
        outbox.send(record("t", Some("a"), "a5"), (), || LATER);
        assert_eq!(client.values(), ["a5"], "all is as before");
    }

    #[test]
    fn an_earlier_one_that_fails_late_is_not_overtaken_twice() {
        let (client, mut outbox) = outbox();
        outbox.send(record("t", Some("a"), "a1"), (), || Tick(0));
        outbox.send(record("t", Some("a"), "a2"), (), || Tick(0));
        let tokens: HashMap<String, Token> = client.handed().into_iter().collect();
        ack(&mut outbox, tokens["a2"], true, Tick(0));
        outbox.retry(LATER);
        assert_eq!(client.values(), ["a2"], "nobody knows of the first yet");
        ack(&mut outbox, tokens["a1"], true, LATER);
        outbox.retry(LATER.plus(AGAIN.max));
        assert_eq!(client.values(), ["a1"]);
        // The second is still out: it is not handed over again.
        ack(&mut outbox, tokens["a1"], false, LATER);
        assert_eq!(client.values(), Vec::<String>::new());
        ack(&mut outbox, tokens["a2"], false, LATER);
        assert!(outbox.is_empty());
        outbox.send(record("t", Some("a"), "a3"), (), || LATER);
        assert_eq!(client.values(), ["a3"]);
    }

    #[test]
    fn one_that_is_too_large_lets_the_next_go_and_one_sent_for_later_goes_when_it_is_due() {
        let (client, mut outbox) = outbox();
        outbox.send(record("t", Some("a"), "a1"), (), || Tick(0));
        let first = client.handed()[0].1;
        ack(&mut outbox, first, true, Tick(0));
        outbox.send(record("t", Some("a"), "a2"), (), || Tick(0));
        outbox.send_later(record("t", Some("a"), "late"), (), Tick(0));
        outbox.retry(Tick(0).plus(AGAIN.max));
        assert_eq!(client.values(), ["a1", "late"]);
        let too_large = Ack { token: first, result: Err(PublishError::TooLarge) };
        assert!(matches!(outbox.acked(too_large, || moment(LATER), &Deaf), Acked::TooLarge((), _)));
        assert_eq!(client.values(), ["a2"]);
    }

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

    #[test]
    fn what_is_dropped_is_not_published_again() {
        let places = Arc::new(Places { free: AtomicUsize::new(3), handed: AtomicUsize::new(0) });
        let mut outbox = Outbox::new(Arc::clone(&places));
        let failed = |token| Ack { token: Token(token), result: Err(PublishError::Failed("no".to_owned())) };
        let acked = |outbox: &mut Outbox<_, _>, ack| outbox.acked(ack, || moment(Tick(0)), &Deaf);
        for owner in ["waits to be tried again", "in the client's hands, and fails", "in the client's hands", "held back", "another's"] {
            outbox.send(record("t", None, "v"), owner, || Tick(0));
        }
        assert_eq!(acked(&mut outbox, failed(0)), Acked::Again);
        let dropped = outbox.drop_of(|owner| *owner != "another's");
        assert_eq!(dropped, ["waits to be tried again", "held back"]);
        assert_eq!(acked(&mut outbox, failed(1)), Acked::Dropped("in the client's hands, and fails"));
        let at = Some(Offset(7));
        assert_eq!(acked(&mut outbox, Ack { token: Token(2), result: Ok(at) }), Acked::Published("in the client's hands", at));
        places.free.store(100, Ordering::Relaxed);
        outbox.retry(Tick::NEVER);
        assert_eq!((places.handed.load(Ordering::Relaxed), outbox.len(), outbox.next_retry()), (4, 1, None), "another's alone");
    }

    #[test]
    fn what_waited_behind_a_dropped_one_goes() {
        let client = Client::default();
        let mut outbox = Outbox::new(client.clone());
        outbox.send(record("t", Some("a"), "a1"), "ends", || Tick(0));
        outbox.acked(Ack { token: Token(0), result: Err(PublishError::Failed("no".to_owned())) }, || moment(Tick(0)), &Deaf);
        outbox.send(record("t", Some("a"), "a2"), "ends", || Tick(0));
        outbox.send(record("t", Some("a"), "a3"), "goes on", || Tick(0));
        assert_eq!(client.values(), ["a1"]);
        assert_eq!(outbox.drop_of(|owner| *owner == "ends"), ["ends", "ends"]);
        outbox.retry(Tick(1));
        assert_eq!((client.values(), outbox.next_retry()), (vec!["a3".to_owned()], None));
        outbox.retry(LATER);
        assert!(client.values().is_empty(), "once");
    }
}
