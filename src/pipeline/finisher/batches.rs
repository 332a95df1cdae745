//! Finished together: what records leave behind is gathered, and goes to Kafka with their partitions' commit points as one transaction after
//! another. Either all of it is there, or nothing: an event's outcome is read once, whatever dies in between.
//!
//! A record of a batch is marked as finished, so that the batch's commit points say so, but counts as unfinished until the batch is committed:
//! a partition's hand-over and a stop wait for that. While a batch is out, what finishes is gathered for the next one. A batch that was not
//! committed goes again, first and in its order, with what was gathered since; but for the records whose partitions have gone.
//!
//! What Kafka's client does with a batch, and what it does with one from an instance whose partitions have gone meanwhile, is left to
//! [`Subscription::transact`].

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use super::instead::{event_of, in_place_of};
use super::{Begun, Finisher, ParkEnd, tell};
use crate::event::dead_letter::{Code, DeadLetter, Letterbox};
use crate::event::{Incoming, Record, TopicPartition, UnixMillis};
use crate::machine::schedule::Schedule;
use crate::machine::time::Tick;
use crate::pipeline::facts::Fact;
use crate::pipeline::ledger::Ledger;
use crate::pipeline::ports::{Aborted, Batch, Chance, Clock, Placed, PublishError, Subscription, Token, Witness, World};
use crate::pipeline::stages::{Leaving, Left};

/// How long to wait before what was not committed goes again.
const AGAIN: Schedule = Schedule { initial: Duration::from_millis(200), max: Duration::from_secs(10) };

/// Records published in one transaction at most, but for those of its last event: a second's worth of a fast instance, so that a
/// transaction stays short beside the time after which a broker gives it up. After one that was taken back fewer go together, by half each
/// time: Kafka may be too slow for so many.
const MOST: usize = 10_000;

/// What is gathered and what is out.
#[derive(Debug)]
pub(super) struct Batches<T> {
    interval: Duration,
    gathered: VecDeque<Item<T>>,
    out: Option<Out<T>>,
    /// When the next may begin.
    begin_at: Tick,
    /// Batches since the last that was committed.
    failures: u32,
    /// Records published in the next one at most.
    most: usize,
}

/// A batch on its way.
#[derive(Debug)]
struct Out<T> {
    items: Vec<Item<T>>,
    partitions: Vec<TopicPartition>,
}

/// A record that has run, with what it leaves behind.
#[derive(Debug)]
pub(super) struct Item<T> {
    begun: Begun,
    leaves: Vec<Leaving>,
    done: T,
    marked: bool,
    /// Services whose calls were to be parked and are dead letters instead.
    replaced: Vec<usize>,
}

impl<T> Item<T> {
    pub(super) fn new(begun: Begun, leaves: Vec<Leaving>, done: T) -> Self {
        Self { begun, leaves, done, marked: false, replaced: Vec::new() }
    }
}

impl<T> Batches<T> {
    /// Nothing gathered. Two batches begin at least `interval` apart.
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, gathered: VecDeque::new(), out: None, begin_at: Tick(0), failures: 0, most: MOST }
    }

    pub(super) fn gather(&mut self, item: Item<T>) {
        self.gathered.push_back(item);
    }

    /// Records that are gathered or out.
    pub(super) fn len(&self) -> usize {
        self.gathered.len() + self.out.as_ref().map_or(0, |out| out.items.len())
    }

    /// Whether nothing is gathered and nothing is out.
    pub(super) fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.out.is_none()
    }

    /// When the next batch is to begin; `None` while one is out, or there is nothing for it.
    fn next(&self, ledger: &Ledger) -> Option<Tick> {
        (self.out.is_none() && (!self.gathered.is_empty() || ledger.has_moved())).then_some(self.begin_at)
    }

    fn form(&mut self, ledger: &mut Ledger, now: Tick) -> Option<Batch> {
        self.next(ledger).filter(|at| *at <= now)?;
        let (mut items, mut records) = (Vec::new(), Vec::new());
        // What was marked for an earlier batch is in front, and goes whole: no point may tell of a record that is not with it.
        while self.gathered.front().is_some_and(|item| item.marked || records.len() < self.most)
            && let Some(mut item) = self.gathered.pop_front()
        {
            if !std::mem::replace(&mut item.marked, true) {
                ledger.mark(&item.begun.record.source, item.begun.life);
            }
            for leaving in &item.leaves {
                records.push((Token(records.len() as u64), leaving.record.clone()));
            }
            items.push(item);
        }
        let points = ledger.moved();
        self.out = Some(Out { items, partitions: points.iter().map(|point| point.partition.clone()).collect() });
        self.begin_at = now.plus(self.interval);
        Some(Batch { records, points })
    }
}

impl<W: World, T> Finisher<W, T> {
    /// Hands a batch over, if there is something for it and its time has come.
    pub fn transact(&mut self, subscription: &impl Subscription) {
        let Some(batches) = &mut self.batches else { return };
        if let Some(batch) = batches.form(&mut self.ledger, self.clock.now()) {
            subscription.transact(batch);
        }
    }

    /// Somebody waits for what is finished, so that the next batch begins at once, whatever became of those before.
    pub fn hurry(&mut self) {
        if let Some(batches) = &mut self.batches {
            (batches.begin_at, batches.failures) = (Tick(0), 0);
        }
    }

    /// When [`Finisher::transact`] will have something to do.
    pub fn next_transaction(&self) -> Option<Tick> {
        self.batches.as_ref()?.next(&self.ledger)
    }

    /// Takes in what became of the batch that is out; gives what the loop wanted to know of the records that are finished by it.
    pub fn transacted(&mut self, answer: Result<Placed, Aborted>) -> Vec<T> {
        let Some(out) = self.batches.as_mut().and_then(|batches| batches.out.take()) else { return Vec::new() };
        match answer {
            Ok(placed) => self.committed(out, placed),
            Err(aborted) => {
                self.aborted(out, aborted);
                Vec::new()
            }
        }
    }

    fn committed(&mut self, out: Out<T>, mut placed: Placed) -> Vec<T> {
        if let Some(batches) = &mut self.batches {
            batches.failures = 0;
            batches.most = (batches.most * 2).min(MOST);
        }
        placed.sort_unstable_by_key(|(token, _)| *token);
        let mut placed = placed.into_iter().peekable();
        let mut finished = Vec::with_capacity(out.items.len());
        // Tokens count the pieces of all items, in order.
        let mut tokens = (0..).map(Token);
        for Item { begun, leaves, done, replaced, .. } in out.items {
            for service in replaced {
                self.parks.note(&self.ledger, &begun, service, ParkEnd::Replaced);
            }
            for (Leaving { what, .. }, token) in leaves.iter().zip(&mut tokens) {
                tell(&*self.witness, what, &begun.record.source);
                let at = placed.next_if(|(of, _)| *of == token).map(|(_, at)| at);
                if let Left::Parked { service, .. } = what {
                    self.parks.note(&self.ledger, &begun, *service, ParkEnd::Parked(at));
                }
            }
            self.budget.give(begun.size);
            if self.ledger.settle(&begun.record.source, begun.life) {
                finished.push(done);
            }
        }
        finished
    }

    fn aborted(&mut self, mut out: Out<T>, Aborted { began, mut refused }: Aborted) {
        refused.sort_unstable_by_key(|(token, _)| *token);
        let mut refused = refused.into_iter().peekable();
        // Tokens count the pieces of all items, in order.
        let (mut mended, mut number) = (false, 0);
        for Item { begun, leaves, replaced, .. } in &mut out.items {
            for leaving in leaves {
                while let Some((_, error)) = refused.next_if(|(token, _)| token.0 == number) {
                    let was = leaving.what.clone();
                    if self.mend(leaving, &begun.record, &error) {
                        mended = true;
                        if let Left::Parked { service, .. } = was {
                            replaced.push(service);
                        }
                    }
                }
                number += 1;
            }
        }
        self.ledger.move_again(&out.partitions);
        let (now, roll) = (self.clock.now(), self.chance.roll());
        if let Some(batches) = &mut self.batches {
            for item in out.items.into_iter().rev() {
                batches.gathered.push_front(item);
            }
            // What was mended is taken next time, or mended further; what never began says nothing of Kafka.
            if began && !mended {
                batches.failures = batches.failures.saturating_add(1);
                batches.most = (batches.most / 2).max(1);
                // Half of the delay is fixed: full jitter could come back at once to a broker that has just said no.
                let delay = AGAIN.delay(batches.failures, None, 0.5 + roll / 2.0);
                batches.begin_at = batches.begin_at.max(now.plus(delay));
            }
        }
        self.drop_gathered();
    }

    /// Changes a refused piece so that it may be taken. False if it is only to be tried again, after a while.
    fn mend(&self, leaving: &mut Leaving, read: &Incoming, error: &PublishError) -> bool {
        let now = self.clock.wall();
        let replaced = match error {
            PublishError::TooLarge => {
                let replaced = in_place_of(&leaving.record, &leaving.what, read, &self.dead_letters, now);
                replaced.map(|(record, what)| Leaving { record, what })
            }
            PublishError::Invalid => in_place_of_invalid(leaving, read, &self.dead_letters, now),
            PublishError::BadTime | PublishError::Failed(_) => None,
        };
        if let Some(replaced) = replaced {
            *leaving = replaced;
            return true;
        }
        self.witness.tell(Fact::PublishFailed { topic: &leaving.record.topic, error: &error.to_string() });
        if *error == PublishError::BadTime {
            // It may help, and may not: a topic that takes no time at all is not to be asked without end.
            leaving.record.timestamp = now;
        }
        false
    }

    /// Drops what is gathered of ended lives: their next owners run it.
    pub(super) fn drop_gathered(&mut self) {
        let Some(batches) = &mut self.batches else { return };
        let is_current = |item: &Item<T>| self.ledger.is_current(&item.begun.record.source, item.begun.life);
        let (stay, go): (Vec<_>, Vec<_>) = std::mem::take(&mut batches.gathered).into_iter().partition(is_current);
        batches.gathered = stay.into();
        for Item { begun, .. } in go {
            self.forget(&begun);
        }
    }
}

/// What is published in place of a piece whose topic takes no record like it. `None`: nothing is left to change.
fn in_place_of_invalid(leaving: &Leaving, read: &Incoming, dead_letters: &Letterbox, now: UnixMillis) -> Option<Leaving> {
    let Leaving { record, what } = leaving;
    let (topic, source) = (&record.topic, &read.source);
    let error = |what: &str| format!("`{topic}` takes no record like the {what}, as one without a key where the topic is compacted");
    let event = event_of(record, read);
    let letter = |error: &str| DeadLetter { code: Code::NotTaken, error: error.to_owned().into(), origin: &event };
    let (record, error) = match what {
        Left::DeadLetter { .. } => {
            let keyed = || Leaving { record: Record { key: Some(source.to_string().into()), ..record.clone() }, what: what.clone() };
            return record.key.is_none().then(keyed);
        }
        Left::Outcome => {
            let error = error("outcome");
            (letter(&error).of(read, dead_letters, now), error)
        }
        Left::Parked { .. } | Left::Delivery => {
            let error = error("parked call");
            (letter(&error).of_unsent(record.clone(), dead_letters, now), error)
        }
    };
    Some(Leaving { record, what: Left::DeadLetter { code: Code::NotTaken, error } })
}
