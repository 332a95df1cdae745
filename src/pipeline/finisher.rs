//! From "it has run" to "it is finished": what a record leaves behind is published, and when Kafka has acknowledged all of it the
//! record is finished and its partition's commit point may move.
//!
//! What is said of an event goes last, its outcome or the letter that it ends as: it says what became of the rest, and must not say so before it is true.
//!
//! What a topic does not take because of its size becomes a dead letter that says so; a dead letter that is itself too large
//! leaves its value behind, then foreign headers, then its key.
//!
//! A record begins only if what finishes of its partition can still all be said beside the commit; until then it waits, and its partition
//! is held. When a partition's life ends, what of it has not reached Kafka's client is dropped: its next owner runs it.

mod aside;
mod batches;
mod instead;
mod park;
mod taking;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

pub use self::aside::Aside;
use self::batches::{Batches, Item};
use self::instead::in_place_of;
use self::park::Parks;
pub use self::park::{Park, ParkEnd};
use super::facts::Fact;
use super::holds::Holds;
use super::ledger::{Ledger, Life, NotBegun};
use super::outbox::{Acked, Moment, Outbox};
use super::ports::{Ack, Assignment, Budget, Chance, Clock, CommitPoint, Witness, World};
use super::stages::{Leaving, Left};
use crate::event::dead_letter::Letterbox;
use crate::event::{Incoming, Record, Source, TopicPartition};
use crate::machine::time::Tick;

/// A record that was begun: what must come back to finish it or let it go.
#[derive(Debug)]
pub struct Begun {
    /// The record as it was read.
    pub record: Incoming,
    life: Life,
    size: usize,
}

impl Begun {
    /// What is left of the record if it is cut off.
    pub fn stub(&self) -> Stub {
        Stub { source: self.record.source.clone(), life: self.life, size: self.size }
    }
}

/// What is left of a record that was begun and cut off.
#[derive(Debug)]
pub struct Stub {
    source: Source,
    life: Life,
    size: usize,
}

/// Records between their running and their finish, each with what its loop wants to know at its finish.
pub struct Finisher<W: World, T> {
    ledger: Ledger,
    holds: Holds,
    /// Partitions are held before there is no room at all.
    early: bool,
    /// Records that were not run because they had finished in earlier lives, for a loop that wants to know.
    skipped: Option<Vec<Source>>,
    /// Lives have ended since the loop last looked.
    ended: bool,
    outbox: Outbox<W::Publisher, Owner>,
    finishing: HashMap<u64, Finishing<T>, RandomState>,
    next_number: u64,
    left: Vec<u64>,
    parks: Parks,
    /// Where records are finished together; `None`: each by itself.
    batches: Option<Batches<T>>,
    budget: Arc<Budget>,
    dead_letters: Letterbox,
    clock: W::Clock,
    chance: W::Chance,
    witness: Arc<W::Witness>,
}

/// What becomes of a record that has run.
#[derive(Debug, PartialEq, Eq)]
pub enum Finish<T> {
    /// What it leaves behind is on its way, in order; with what its loop wants to know if it is finished already.
    Left(Option<T>),
    /// What is said of it waits for the rest: what comes behind it in its lane must wait too, until its number is told by [`Finisher::left`].
    Held(u64),
}

struct Owner {
    number: u64,
    what: Left,
}

struct Finishing<T> {
    begun: Begun,
    awaited: usize,
    /// What is said of it, while what that speaks of is on its way: an outcome that says `parked` must not be there before the parked call is.
    last: Option<Leaving>,
    done: T,
}

impl<W: World, T> Finisher<W, T> {
    /// With no partitions. `max_ahead_bytes`: the longest text beside a commit.
    pub fn new(
        publisher: W::Publisher,
        max_ahead_bytes: usize,
        budget: Arc<Budget>,
        dead_letters: Letterbox,
        clock: W::Clock,
        chance: W::Chance,
        witness: Arc<W::Witness>,
    ) -> Self {
        Self {
            ledger: Ledger::new(max_ahead_bytes),
            holds: Holds::default(),
            early: false,
            skipped: None,
            ended: false,
            outbox: Outbox::new(publisher),
            finishing: HashMap::default(),
            next_number: 0,
            left: Vec::new(),
            parks: Parks::default(),
            batches: None,
            budget,
            dead_letters,
            clock,
            chance,
            witness,
        }
    }

    /// Finishes records together, in transactions that begin at least `interval` apart, and not each by itself; with `None` it stays as it is.
    pub fn together(self, interval: Option<Duration>) -> Self {
        Self { batches: interval.map(Batches::new), ..self }
    }

    /// Remembers which records are not run because they had finished in earlier lives.
    pub fn telling_skipped(self, wanted: bool) -> Self {
        Self { skipped: wanted.then(Vec::new), ..self }
    }

    /// Partitions came.
    pub fn assign(&mut self, assignments: Vec<Assignment>) {
        let partitions: Vec<TopicPartition> = assignments.iter().map(|assignment| assignment.partition.clone()).collect();
        self.begin_anew(assignments);
        self.witness.tell(Fact::Assigned { partitions: &partitions });
    }

    /// Partitions that were ours all the while begin new lives.
    pub fn begin_anew(&mut self, assignments: Vec<Assignment>) {
        // One that is held already has a new life: the old one's end was not told.
        self.let_held_go(|partition| assignments.iter().any(|came| came.partition == *partition));
        self.ledger.assign(assignments);
        self.end_lives();
    }

    /// `None` if the record must not be run: its partition is not ours, or it was read, or has finished, before.
    fn begin(&mut self, record: Incoming) -> Option<Begun> {
        let size = record.size();
        match self.ledger.begin(&record.source) {
            Ok(life) => Some(Begun { record, life, size }),
            Err(why) => {
                self.budget.give(size);
                if let (NotBegun::Finished, Some(skipped)) = (why, &mut self.skipped) {
                    skipped.push(record.source);
                }
                None
            }
        }
    }

    /// Lets a record go that was begun and will not be finished here: whoever has its partition next reads it again.
    pub fn forget(&mut self, begun: &Begun) {
        self.ledger.forget(&begun.record.source, begun.life);
        self.budget.give(begun.size);
    }

    /// Whether the life that a record was begun in is over.
    pub fn is_over(&self, stub: &Stub) -> bool {
        !self.ledger.is_current(&stub.source, stub.life)
    }

    /// Lets a record go that was cut off.
    pub fn drop_stub(&mut self, stub: &Stub) {
        self.ledger.forget(&stub.source, stub.life);
        self.budget.give(stub.size);
    }

    /// Whether lives have ended since this was last asked: then nothing of them may go on running.
    pub fn have_lives_ended(&mut self) -> bool {
        std::mem::take(&mut self.ended)
    }

    /// Drops what ended lives leave behind, but for what Kafka's client has already; their lanes are free.
    #[expect(clippy::iter_over_hash_type, reason = "what is found is put in order")]
    fn end_lives(&mut self) {
        self.ended = true;
        let mut over = BTreeSet::new();
        for (number, Finishing { begun, .. }) in &self.finishing {
            if !self.ledger.is_current(&begun.record.source, begun.life) {
                over.insert(*number);
            }
        }
        for Owner { number, .. } in self.outbox.drop_of(|owner| over.contains(&owner.number)) {
            self.dropped(number);
        }
        for number in over {
            if let Some(finishing) = self.finishing.get_mut(&number)
                && finishing.last.take().is_some()
            {
                self.left.push(number);
            }
        }
        self.drop_gathered();
    }

    /// A piece of what a record leaves behind will not be published; without any, the record is let go.
    fn dropped(&mut self, number: u64) {
        let Some(finishing) = self.finishing.get_mut(&number) else { return };
        finishing.awaited -= 1;
        if finishing.awaited == 0
            && let Some(finishing) = self.finishing.remove(&number)
        {
            if finishing.last.is_some() {
                self.left.push(number);
            }
            self.forget(&finishing.begun);
        }
    }

    /// Whether the record's partition is still held as it was when the record began.
    pub fn is_current(&self, begun: &Begun) -> bool {
        self.ledger.is_current(&begun.record.source, begun.life)
    }

    /// A record has run. It is finished when everything that it leaves behind is acknowledged; if its partition is no longer held, it
    /// leaves nothing.
    pub fn finish(&mut self, begun: Begun, leaves: Vec<Leaving>, done: T) -> Finish<T> {
        if !self.is_current(&begun) {
            self.forget(&begun);
            return Finish::Left(None);
        }
        if leaves.is_empty() && self.batches.is_none() {
            return Finish::Left(self.finished(&begun, done));
        }
        let number = self.next_number;
        self.next_number += 1;
        let speaks = said_last(&leaves);
        // What waits for Kafka is as large as what services answered, not as what was read: it counts too, and twice, for the client has a
        // copy of its own.
        let bytes = 2 * leaves.iter().map(|leaving| leaving.record.size()).sum::<usize>();
        self.budget.grow(bytes);
        let begun = Begun { size: begun.size + bytes, ..begun };
        if let Some(batches) = &mut self.batches {
            // All of it is taken as one, so nothing waits for the rest.
            batches.gather(Item::new(begun, leaves, done));
            return Finish::Left(None);
        }
        let (mut awaited, mut last) = (0, None);
        for (place, leaving) in leaves.into_iter().enumerate() {
            if Some(place) == speaks {
                last = Some(leaving);
            } else {
                awaited += 1;
                let Leaving { record, what } = leaving;
                self.outbox.send(record, Owner { number, what }, || self.clock.now());
            }
        }
        let held = last.is_some();
        self.finishing.insert(number, Finishing { begun, awaited, last, done });
        if held { Finish::Held(number) } else { Finish::Left(None) }
    }

    /// The records that were [`Finish::Held`] and have left since: their followers may go.
    pub fn left(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.left)
    }

    /// Takes an acknowledgement in; a record that is finished by it gives back what its loop wanted to know.
    pub fn acked(&mut self, ack: Ack) -> Option<T> {
        let moment = || Moment { now: self.clock.now(), wall: self.clock.wall(), roll: self.chance.roll() };
        let acked = self.outbox.acked(ack, moment, &*self.witness);
        match acked {
            Acked::Again => None,
            Acked::Dropped(owner) => {
                self.dropped(owner.number);
                None
            }
            Acked::TooLarge(owner, record) => {
                self.replace(owner, record);
                None
            }
            Acked::Published(Owner { number, what }, at) => {
                let finishing = self.finishing.get_mut(&number)?;
                tell(&*self.witness, &what, &finishing.begun.record.source);
                if let Left::Parked { service, .. } = what {
                    self.parks.note(&self.ledger, &finishing.begun, service, ParkEnd::Parked(at));
                }
                finishing.awaited -= 1;
                if finishing.awaited > 0 {
                    return None;
                }
                if let Some(Leaving { record, what }) = finishing.last.take() {
                    self.left.push(number);
                    if self.ledger.is_current(&finishing.begun.record.source, finishing.begun.life) {
                        finishing.awaited = 1;
                        self.outbox.send(record, Owner { number, what }, || self.clock.now());
                        return None;
                    }
                }
                let finishing = self.finishing.remove(&number)?;
                self.finished(&finishing.begun, finishing.done)
            }
        }
    }

    fn finished(&mut self, begun: &Begun, done: T) -> Option<T> {
        self.budget.give(begun.size);
        self.ledger.finish(&begun.record.source, begun.life).then_some(done)
    }

    /// Publishes a smaller record in place of one that its topic does not take.
    fn replace(&mut self, owner: Owner, record: Record) {
        let Owner { number, what } = owner;
        let Some(finishing) = self.finishing.get(&number) else { return };
        match in_place_of(&record, &what, &finishing.begun.record, &self.dead_letters, self.clock.wall()) {
            Some((record, replaced)) => {
                if let Left::Parked { service, .. } = what {
                    self.parks.note(&self.ledger, &finishing.begun, service, ParkEnd::Replaced);
                }
                self.outbox.send(record, Owner { number, what: replaced }, || self.clock.now());
            }
            None => self.outbox.send_later(record, Owner { number, what }, self.clock.now()),
        }
    }

    /// Publishes what is due again.
    pub fn retry(&mut self) {
        self.outbox.retry(self.clock.now());
    }

    /// When [`Finisher::retry`] will have something to do.
    pub fn next_retry(&self) -> Option<Tick> {
        self.outbox.next_retry()
    }

    /// The lives that partitions have now.
    pub fn lives(&self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, Life)> {
        self.ledger.lives(partitions)
    }

    /// Records of these lives that have begun and are not finished.
    pub fn unfinished(&self, lives: &[(TopicPartition, Life)]) -> usize {
        self.ledger.unfinished(lives)
    }

    /// Ends lives, and says how far each partition is to be committed: nothing is, by itself, where records are finished together. A partition
    /// that has another life by now is left alone.
    pub fn release(&mut self, lives: &[(TopicPartition, Life)]) -> Vec<CommitPoint> {
        let partitions: Vec<TopicPartition> = lives.iter().map(|(partition, _)| partition.clone()).collect();
        self.witness.tell(Fact::Revoked { partitions: &partitions, lost: false });
        let points = self.ledger.release(lives);
        self.end_lives();
        if self.batches.is_some() { Vec::new() } else { points }
    }

    /// Partitions are another's already: nothing of them is committed.
    pub fn lose(&mut self, partitions: &[TopicPartition]) {
        self.witness.tell(Fact::Revoked { partitions, lost: true });
        self.ledger.release(&self.ledger.lives(partitions));
        self.end_lives();
    }

    /// The commit points that have moved since they were last asked for; none, where records are finished together: then they go with them.
    pub fn moved(&mut self) -> Vec<CommitPoint> {
        if self.batches.is_some() { Vec::new() } else { self.ledger.moved() }
    }

    /// The partitions that are held, with their lives.
    pub fn held(&self) -> Vec<(TopicPartition, Life)> {
        self.ledger.lives(&self.ledger.partitions())
    }

    /// Records whose leavings are on their way.
    pub fn len(&self) -> usize {
        self.finishing.len() + self.batches.as_ref().map_or(0, Batches::len)
    }

    /// Whether there are none, and no commit point without a record is on its way either.
    pub fn is_empty(&self) -> bool {
        self.finishing.is_empty() && self.batches.as_ref().is_none_or(Batches::is_empty)
    }
}

/// Which of an event's leavings waits for the others: its outcome, or the letter that it ends as where calls of it were parked. What follows it in
/// its lane must not be there before those are.
fn said_last(leaves: &[Leaving]) -> Option<usize> {
    if leaves.len() < 2 {
        return None;
    }
    let outcome = leaves.iter().position(|leaving| leaving.what == Left::Outcome);
    let parks = || leaves.iter().any(|leaving| matches!(leaving.what, Left::Parked { .. }));
    outcome.or_else(|| parks().then_some(leaves.len() - 1))
}

fn tell(witness: &impl Witness, what: &Left, source: &Source) {
    match what {
        Left::Outcome | Left::Delivery => {}
        Left::Parked { service, reason } => witness.tell(Fact::Parked { service: *service, reason: *reason }),
        Left::DeadLetter { code, error } => witness.tell(Fact::DeadLettered { code: *code, error, origin: source }),
    }
}
