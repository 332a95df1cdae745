//! Partitions that are stopped because too many of their records are bad ([`crate::machine::brake`]), and those whose bad records are held
//! until that is certain.
//!
//! A partition that is stopped is held: nothing of it is taken any more, what of it has not begun is let go, and what runs finishes. None of its bad
//! records is given up, so no commit passes them, and nothing of them is in memory. When somebody has said that it may go on, it is read again
//! from its commit on, in a new life ([`Subscription::read_again`](super::ports::Subscription::read_again)).
//!
//! Guarantees: what is handed in comes back exactly once: to be given up, or to be let go. Where no record is bad, nothing is remembered. What is told
//! and asked from outside goes over the [`Board`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::ports::Assignment;
use crate::event::dead_letter::Code;
use crate::event::{Offset, Source, TopicPartition, UnixMillis};
use crate::machine::brake::{Bad, Brake, Rule, Settings};
use crate::machine::time::Tick;

/// Why and where a partition is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// The first bad record that is held.
    pub first: Offset,
    /// The one that was too many.
    pub at: Offset,
    /// What was wrong with that.
    pub code: Code,
    /// Bad records that are held.
    pub bad: usize,
    /// By which rule.
    pub rule: Rule,
    /// Since when.
    pub since: UnixMillis,
}

/// Somebody lets a stopped partition go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Which.
    pub partition: TopicPartition,
    /// The stop that is meant, by its [`Stopped::at`]: of a later one they know nothing.
    pub at: Offset,
    /// Up to here bad records are given up without being weighed.
    pub through: Offset,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// Why a partition cannot be let go on here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReleased {
    /// It is not this instance's.
    NotHere,
    /// It is not stopped.
    NotStopped,
}

/// The loop's partitions, as others see them; and what others ask of it.
#[derive(Debug, Default)]
pub struct Board {
    state: Mutex<Shown>,
    asked: Notify,
}

#[derive(Debug, Default)]
struct Shown {
    partitions: BTreeMap<TopicPartition, Option<Stopped>>,
    releases: Vec<Release>,
}

impl Board {
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every partition, with why it is stopped if it is.
    pub fn partitions(&self) -> Vec<(TopicPartition, Option<Stopped>)> {
        self.shown().partitions.iter().map(|(partition, stopped)| (partition.clone(), stopped.clone())).collect()
    }

    /// The partitions that are stopped.
    pub fn stopped(&self) -> Vec<(TopicPartition, Stopped)> {
        self.partitions().into_iter().filter_map(|(partition, stopped)| Some((partition, stopped?))).collect()
    }

    /// Lets a partition go on, soon. Bad records up to the one that stopped it, or up to `through` if that lies behind, are given up.
    ///
    /// # Errors
    /// There is nothing to let go on.
    pub fn release(
        &self,
        partition: &TopicPartition,
        through: Option<Offset>,
        actor: String,
        reason: String,
    ) -> Result<(Stopped, Offset), NotReleased> {
        let mut shown = self.shown();
        let stopped = shown.partitions.get(partition).ok_or(NotReleased::NotHere)?.clone().ok_or(NotReleased::NotStopped)?;
        let through = through.unwrap_or(stopped.at).max(stopped.at);
        shown.releases.push(Release { partition: partition.clone(), at: stopped.at, through, actor, reason });
        drop(shown);
        self.asked.notify_one();
        Ok((stopped, through))
    }

    /// Waits until something is asked.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    fn set(&self, partition: &TopicPartition, stopped: Option<Stopped>) {
        self.shown().partitions.insert(partition.clone(), stopped);
    }
}

/// What becomes of a bad record that was handed in.
#[derive(Debug, PartialEq, Eq)]
pub enum Weighed<T> {
    /// These are given up, in order.
    GivenUp(Vec<T>),
    /// The partition stops. The first are given up, in order; the others are let go.
    Stops(Vec<T>, Stopped, Vec<T>),
}

/// The partitions that have bad records which are not behind them.
#[derive(Debug)]
pub struct Brakes<T> {
    /// `None`: nothing is weighed.
    settings: Option<Settings>,
    partitions: BTreeMap<TopicPartition, State<T>>,
    /// Partitions that are stopped.
    stopped: usize,
    /// How often partitions have come or gone.
    heard: u64,
    board: Arc<Board>,
}

#[derive(Debug)]
enum State<T> {
    Weighs(Brake<T>),
    Stands {
        at: Offset,
        /// It may go on, and bad records up to here are given up.
        through: Option<Offset>,
        /// When its consumer was asked to read it again, by [`Brakes::heard`].
        asked: Option<u64>,
    },
}

impl<T> Brakes<T> {
    /// No partitions.
    pub fn new(settings: Option<Settings>, board: Arc<Board>) -> Self {
        Self { settings, partitions: BTreeMap::new(), stopped: 0, heard: 0, board }
    }

    /// Whether records are weighed.
    pub fn are_on(&self) -> bool {
        self.settings.is_some()
    }

    /// Whether there is nothing to ask a good record for.
    pub fn are_at_rest(&self) -> bool {
        self.partitions.is_empty()
    }

    /// Whether any partition is stopped.
    pub fn have_stopped(&self) -> bool {
        self.stopped > 0
    }

    /// Whether a partition is stopped.
    pub fn has_stopped(&self, partition: &TopicPartition) -> bool {
        self.have_stopped() && matches!(self.partitions.get(partition), Some(State::Stands { .. }))
    }

    /// What is asked from outside.
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }

    /// Partitions came. True if they are one that goes on.
    pub fn came(&mut self, assignments: &[Assignment]) -> bool {
        self.heard += 1;
        let mut goes_on = false;
        for Assignment { partition, .. } in assignments {
            if let Some(State::Stands { through: Some(through), asked: Some(_), .. }) = self.remove(partition) {
                self.partitions.insert(partition.clone(), State::Weighs(Brake::released(through)));
                goes_on = true;
            }
            self.board.set(partition, None);
        }
        goes_on
    }

    /// Partitions go, or have gone: what is held of them was let go.
    pub fn gone(&mut self, partitions: &[TopicPartition]) {
        self.heard += 1;
        for partition in partitions {
            self.remove(partition);
            self.board.shown().partitions.remove(partition);
        }
    }

    fn remove(&mut self, partition: &TopicPartition) -> Option<State<T>> {
        let removed = self.partitions.remove(partition);
        self.stopped -= usize::from(matches!(removed, Some(State::Stands { .. })));
        removed
    }

    /// Gives what is held of partitions, which will not be given up here.
    pub fn let_go(&mut self, leaves: impl Fn(&TopicPartition) -> bool) -> Vec<T> {
        let mut held = Vec::new();
        self.partitions.retain(|partition, state| match state {
            State::Weighs(brake) if leaves(partition) => {
                held.extend(brake.take_held());
                false
            }
            _ => true,
        });
        held
    }

    /// A record had finished in an earlier life.
    pub fn skipped(&mut self, source: &Source) {
        if let State::Weighs(brake) = self.partitions.entry(source.topic_partition()).or_insert_with(|| State::Weighs(Brake::default())) {
            brake.skip(source.offset);
        }
    }

    /// A good record was read. Gives the bad ones that are given up now, in order.
    pub fn good(&mut self, source: &Source) -> Vec<T> {
        let partition = source.topic_partition();
        let (Some(settings), Some(State::Weighs(brake))) = (&self.settings, self.partitions.get_mut(&partition)) else { return Vec::new() };
        let free = brake.good(source.offset, settings);
        if brake.is_at_rest() {
            self.partitions.remove(&partition);
        }
        free
    }

    /// A bad record was read, of a partition that is not stopped.
    pub fn bad(&mut self, source: &Source, code: Code, record: T, now: Tick, wall: UnixMillis, first: impl Fn(&T) -> Offset) -> Weighed<T> {
        let Some(settings) = &self.settings else { return Weighed::GivenUp(vec![record]) };
        let partition = source.topic_partition();
        let state = self.partitions.entry(partition.clone()).or_insert_with(|| State::Weighs(Brake::default()));
        let State::Weighs(brake) = state else { return Weighed::GivenUp(vec![record]) };
        let (mut free, bad) = brake.bad(source.offset, record, now, settings);
        match bad {
            Bad::Held => Weighed::GivenUp(free),
            Bad::Passes(record) => {
                free.push(record);
                Weighed::GivenUp(free)
            }
            Bad::Trips(rule, held) => {
                let first = held.first().map_or(source.offset, first);
                let stopped = Stopped { first, at: source.offset, code, bad: held.len(), rule, since: wall };
                *state = State::Stands { at: source.offset, through: None, asked: None };
                self.stopped += 1;
                self.board.set(&partition, Some(stopped.clone()));
                Weighed::Stops(free, stopped, held)
            }
        }
    }

    /// Gives the bad records that have been held for as long as may be, in order.
    pub fn due(&mut self, now: Tick) -> Vec<T> {
        let Some(settings) = &self.settings else { return Vec::new() };
        let mut due = Vec::new();
        for state in self.partitions.values_mut() {
            if let State::Weighs(brake) = state {
                due.extend(brake.due(now, settings));
            }
        }
        due
    }

    /// When [`Brakes::due`] will have something to give.
    pub fn next_due(&self) -> Option<Tick> {
        let settings = self.settings.as_ref()?;
        let next = |state: &State<T>| match state {
            State::Weighs(brake) => brake.next_due(settings),
            State::Stands { .. } => None,
        };
        self.partitions.values().filter_map(next).min()
    }

    /// Takes in what was asked from outside; gives what is carried out.
    pub fn take_orders(&mut self) -> Vec<Release> {
        let asked = std::mem::take(&mut self.board.shown().releases);
        let mut taken = Vec::new();
        for release in asked {
            // One that has gone, or that has been let go on since, is none of this order's.
            if let Some(State::Stands { at, through, .. }) = self.partitions.get_mut(&release.partition)
                && *at == release.at
            {
                *through = Some(release.through);
                taken.push(release);
            }
        }
        taken
    }

    /// Partitions that are to be read again. A question is lost where partitions came or went meanwhile, and is asked again then.
    pub fn ready(&self) -> Vec<TopicPartition> {
        let is_ready = |state: &State<T>| matches!(state, State::Stands { through: Some(_), asked, .. } if *asked != Some(self.heard));
        if self.have_stopped() {
            self.partitions.iter().filter(|(_, state)| is_ready(state)).map(|(partition, _)| partition.clone()).collect()
        } else {
            Vec::new()
        }
    }

    /// The consumer was asked to read a partition again.
    pub fn asked(&mut self, partition: &TopicPartition) {
        if let Some(State::Stands { asked, .. }) = self.partitions.get_mut(partition) {
            *asked = Some(self.heard);
        }
    }
}

#[cfg(test)]
mod tests;
