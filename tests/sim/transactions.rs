//! Kafka's transactions: a batch's records and commits are there at once after a while, or not at all, as the seed says. One that its process
//! did not live to see the end of ends all the same, one way or the other, before anybody else is told what is committed.

use std::sync::Arc;
use std::time::Duration;

use fusebox::event::TopicPartition;
use fusebox::pipeline::ports::{Aborted, Batch, Intake, Placed, PublishError, Token};
use rand::RngExt;
use tokio::sync::mpsc::UnboundedSender;

use crate::kafka::{Check, Kafka};
use crate::oracle::{LastWords, Oracle};
use crate::world::SimClock;

/// One group's way to Kafka's transactions.
#[derive(Clone)]
pub struct Broker {
    pub kafka: Arc<Kafka>,
    pub group: &'static str,
    pub partitions: i32,
    pub check: Check,
    pub oracle: Arc<Oracle>,
    pub clock: SimClock,
}

/// A transaction under way.
pub struct Open {
    number: u64,
    batch: Batch,
    last_words: Vec<LastWords>,
    /// What will become of it.
    fate: Fate,
    answer: UnboundedSender<Intake>,
}

#[derive(Clone)]
enum Fate {
    Commits,
    Fails,
    /// For the sake of this record.
    Refused(Token, PublishError),
}

impl Broker {
    /// Begins a transaction, if its partitions are the program's.
    pub fn take(&self, batch: Batch, taken: bool, answer: UnboundedSender<Intake>) {
        if !taken {
            self.oracle.count("transactions not begun");
            drop(answer.send(Intake::Transacted(Err(Aborted { began: false, refused: Vec::new() }))));
            return;
        }
        for (_, record) in &batch.records {
            assert!(record.timestamp.0 > 0, "a record without a timestamp is deleted by retention at once");
        }
        let last_words = batch.records.iter().filter_map(|(_, record)| self.oracle.publishing(record)).collect();
        let mut state = self.kafka.state();
        let weather = state.weather;
        let roll: f64 = state.dice.random();
        let fate = match batch.records.len() {
            0 => Fate::Commits,
            _ if roll < weather.lost => Fate::Fails,
            records if roll < weather.lost + weather.unacknowledged => {
                let why = if state.dice.random_bool(0.5) { PublishError::BadTime } else { PublishError::Failed("not just now".to_owned()) };
                Fate::Refused(Token(state.dice.random_range(0..records as u64)), why)
            }
            _ => Fate::Commits,
        };
        let delay = Duration::from_micros(state.dice.random_range(1_000..400_000));
        let number = state.dice.random();
        let before = state.open.insert(self.group, Open { number, batch, last_words, fate, answer });
        drop(state);
        assert!(before.is_none_or(|before| before.answer.is_closed()), "two transactions of one loop are under way");
        let broker = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            broker.end(|open| open.number == number);
        });
    }

    /// What is committed of these partitions is asked for: a transaction that could still change it ends first.
    pub fn end_before(&self, partitions: &[TopicPartition]) {
        self.end(|open| open.batch.points.iter().any(|point| partitions.contains(&point.partition)));
    }

    /// Partitions are another's: a transaction whose offsets have not reached Kafka yet can no longer be committed.
    pub fn fence(&self, partitions: &[TopicPartition]) {
        let mut state = self.kafka.state();
        let late = state.dice.random_bool(0.5);
        if let Some(open) = state.open.get_mut(self.group)
            && late
            && open.batch.points.iter().any(|point| partitions.contains(&point.partition))
        {
            open.fate = Fate::Fails;
        }
    }

    fn end(&self, which: impl Fn(&Open) -> bool) {
        let mut state = self.kafka.state();
        if !state.open.get(self.group).is_some_and(which) {
            return;
        }
        let Some(Open { batch, last_words, fate, answer, .. }) = state.open.remove(self.group) else { return };
        if answer.is_closed() {
            self.oracle.count("transactions left open");
        }
        let refused = match fate {
            Fate::Commits => {
                drop(state);
                let placed = self.commit(batch, last_words);
                drop(answer.send(Intake::Transacted(Ok(placed))));
                return;
            }
            Fate::Fails => Vec::new(),
            Fate::Refused(token, error) => vec![(token, error)],
        };
        // Of what is undone some may have been written.
        let written = state.dice.random_range(0..=batch.records.len());
        drop(state);
        self.oracle.count("transactions aborted");
        for (_, record) in batch.records.into_iter().take(written) {
            self.kafka.append_undone(record, self.partitions);
        }
        drop(answer.send(Intake::Transacted(Err(Aborted { began: true, refused }))));
    }

    fn commit(&self, batch: Batch, last_words: Vec<LastWords>) -> Placed {
        self.oracle.count("transactions");
        let placed = batch.records.into_iter().map(|(token, record)| (token, self.kafka.append(record, self.partitions).offset)).collect();
        for point in batch.points {
            (self.check)(self.group, &point);
            self.kafka.state().commits.insert((self.group, point.partition.clone()), point);
        }
        for words in last_words {
            self.oracle.acknowledged(self.clock.elapsed(), words);
        }
        placed
    }
}
