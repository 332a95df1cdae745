//! What must always be true, checked from outside: by the topics, the commits and the services' journal, never by the program's own counters.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fusebox::event::envelope::Reason;
use fusebox::event::headers::name;
use fusebox::event::{Headers, Incoming, Offset, Record, Source, TopicPartition, envelope};
use fusebox::machine::breaker::{Cause, StateName};
use fusebox::machine::progress::Progress;
use fusebox::pipeline::facts::Fact;
use fusebox::pipeline::ports::CommitPoint;
use fusebox::pipeline::process::Ordering;
use uuid::Uuid;

use crate::handed::{Handed, Lives};
use crate::index::{Index, Outcome};
use crate::kafka::Kafka;
use crate::lanes::{Produced, Turns, judge_haste, judge_order, lane};
use crate::services::{Entry, Moment};
use crate::world::{DEAD_LETTERS, DRAIN, LIVE, OUTCOMES, PARKING, RETRY};

/// What a world was like.
pub struct Report {
    pub counts: BTreeMap<&'static str, u64>,
    pub trace: String,
}

#[derive(Default)]
struct State {
    produced: BTreeMap<Source, Produced>,
    by_id: BTreeMap<Uuid, Source>,
    all_produced: bool,
    counts: BTreeMap<&'static str, u64>,
    trace: String,
    /// An instance died, or lost partitions, so that work may have been repeated.
    repeats: bool,
    /// Calls in flight of each key, of the services that only live events call, each with its partition's life.
    running: BTreeMap<String, (String, u64)>,
    /// The lives of the partitions that are the program's.
    lives: Lives,
    /// The records that were handed over in them.
    handed: Handed,
    /// Partitions that are held for want of room beside their commits.
    held: BTreeSet<TopicPartition>,
    /// Partitions that are stopped for their bad records, and from which on none is a dead letter.
    stopped: BTreeMap<TopicPartition, Offset>,
    /// Those that were, until they are read again: what of them has not begun is not kept.
    halted: BTreeSet<TopicPartition>,
    /// Keys of calls to the service that parks which are in flight, each with the lives that it may be made in.
    parking: Vec<(String, Vec<u64>)>,
    /// Events whose parked call was answered well.
    delivered: BTreeSet<String>,
    /// Calls of the service that parks, of which the order of keys is kept.
    turns: Turns,
    /// When lives ended; each number is given once.
    ended: BTreeMap<u64, Duration>,
    next_life: u64,
    /// Events whose last words Kafka has acknowledged in their partition's life, and when.
    finished: BTreeMap<Source, Duration>,
    /// Records that a commit has said to have finished, by offset or in the text beside it.
    settled: BTreeSet<Source>,
    /// By service: since when it is half-open, and calls begun since then that are in flight.
    half_open: BTreeMap<usize, (Duration, BTreeSet<String>)>,
}

/// What an event leaves behind last, in a life of its partition.
pub struct LastWords {
    source: Source,
    life: u64,
}

pub struct Oracle {
    kafka: Arc<Kafka>,
    permits: u32,
    ordering: Ordering,
    /// Whether parked calls keep the order of their keys.
    ordered: bool,
    state: Mutex<State>,
}

impl Oracle {
    pub fn new(kafka: Arc<Kafka>, permits: u32, ordering: Ordering, ordered: bool) -> Self {
        Self { kafka, permits, ordering, ordered, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a check has failed in a task that nobody waits for.
    pub fn has_failed(&self) -> bool {
        self.state.is_poisoned()
    }

    pub fn count(&self, what: &'static str) {
        *self.state().counts.entry(what).or_default() += 1;
    }

    pub fn produced(&self, at: Duration, source: Source, key: String, id: Option<Uuid>) {
        let mut state = self.state();
        *state.counts.entry(if id.is_some() { "events" } else { "unreadable" }).or_default() += 1;
        if let Some(id) = id {
            state.by_id.insert(id, source.clone());
        }
        state.produced.insert(source, Produced { key, id, at, ended: None });
    }

    pub fn produced_all(&self) {
        self.state().all_produced = true;
    }

    /// Partitions are lost: what has run may run again.
    pub fn lost(&self) {
        let mut state = self.state();
        state.repeats = true;
        state.half_open.clear();
    }

    /// Records are handed to the program.
    pub fn handed(&self, records: &[Incoming]) {
        let state = &mut *self.state();
        for record in records {
            state.handed.take(record, &state.lives);
        }
    }

    /// A partition is held, or no longer.
    pub fn held(&self, partition: &TopicPartition, is_held: bool) {
        let mut state = self.state();
        if is_held {
            *state.counts.entry("holds").or_default() += 1;
            state.held.insert(partition.clone());
        } else {
            state.held.remove(partition);
        }
    }

    /// The partitions that were stopped and are not read again yet.
    pub fn halted(&self) -> Vec<TopicPartition> {
        self.state().halted.iter().cloned().collect()
    }

    /// A partition that was stopped is read again.
    pub fn read_again(&self, partition: &TopicPartition) {
        self.count("read again");
        self.state().halted.remove(partition);
    }

    /// The program has ended as it was asked to: nothing of it is repeated.
    pub fn stopped(&self) {
        let mut state = self.state();
        assert!(state.lives.is_empty() && state.held.is_empty(), "G12: {:?} are left, and {:?} held", state.lives, state.held);
        state.half_open.clear();
        *state.counts.entry("clean stops").or_default() += 1;
    }

    /// Whether a record that was handed over has an end: by now, or told of by a commit.
    pub fn has_ended(&self, group: &'static str, source: &Source, headers: &Headers) -> bool {
        let state = self.state();
        let delivered = |id: &str| state.delivered.contains(id);
        state.settled.contains(source) || has_end(&self.kafka.state().index, group, source, headers, delivered)
    }

    /// The program has died.
    pub fn died(&self, at: Duration) {
        self.lost();
        let mut state = self.state();
        let all: Vec<TopicPartition> = state.lives.keys().cloned().collect();
        state.end_lives(at, &all);
        state.held.clear();
    }

    /// A record is handed to Kafka's client. Gives what is the last of an event.
    pub fn publishing(&self, record: &Record) -> Option<LastWords> {
        let state = &mut *self.state();
        state.handed.publishing(record, &state.lives);
        if let Some(origin) = envelope::origin(&record.headers).filter(|_| record.topic.as_str() == DEAD_LETTERS)
            && state.produced.get(&origin).is_some_and(|produced| produced.id.is_none())
            && let Some(first) = state.stopped.get(&origin.topic_partition())
        {
            assert!(origin.offset < *first, "{origin} is a dead letter, though its partition is stopped from {first} on");
        }
        let source = match record.topic.as_str() {
            OUTCOMES => Outcome::of(record).source,
            DEAD_LETTERS if record.headers.text(name::EVENT_ID).is_none() => envelope::origin(&record.headers)?,
            _ => return None,
        };
        let life = state.lives.get(&source.topic_partition()).copied();
        let life = life.unwrap_or_else(|| panic!("G1: the end of {source} is published, though its partition's life is over"));
        state.handed.speaks_last(&source, &state.lives);
        Some(LastWords { source, life })
    }

    /// Kafka has acknowledged an event's last words.
    pub fn acknowledged(&self, at: Duration, LastWords { source, life }: LastWords) {
        let mut state = self.state();
        state.produced.get_mut(&source).expect("produced").ended.get_or_insert(at);
        if state.lives.get(&source.topic_partition()) == Some(&life) {
            state.finished.insert(source, at);
        }
    }

    pub fn told(&self, at: Duration, fact: &Fact<'_>) {
        let mut state = self.state();
        writeln!(state.trace, "{at:?} {fact:?}").expect("a string takes everything");
        match fact {
            Fact::Assigned { partitions } => state.begin_lives(at, partitions),
            Fact::Revoked { partitions, .. } => state.end_lives(at, partitions),
            Fact::Stopped { partition, stopped } => {
                state.stopped.insert((*partition).clone(), stopped.first);
                state.halted.insert((*partition).clone());
            }
            Fact::Released(release) => {
                state.stopped.remove(&release.partition);
            }
            Fact::Stuck { source, ran, .. } => panic!("{source} is said to hang at {at:?}: it has run for {ran:?}"),
            _ => {}
        }
        let what = match fact {
            Fact::Transition { service, transition } => {
                if transition.to == StateName::HalfOpen {
                    state.half_open.insert(*service, (at, BTreeSet::new()));
                } else {
                    state.half_open.remove(service);
                }
                match transition.cause {
                    Cause::Policy => "trips",
                    Cause::Recovered => "recoveries",
                    _ => return,
                }
            }
            Fact::Stopped { .. } => "stopped partitions",
            Fact::Parked { reason: Reason::Behind, .. } => "calls behind others",
            Fact::Parked { .. } => "parked",
            Fact::Drained { .. } => "drained",
            Fact::DeadLettered { .. } => "dead letters",
            Fact::PublishFailed { .. } => "failed publishes",
            Fact::Late { .. } => "late",
            _ => return,
        };
        *state.counts.entry(what).or_default() += 1;
    }

    /// A call begins or ends at a service.
    pub fn observed(&self, at: Duration, service: usize, key: &str, moment: Moment) {
        let permits = self.permits as usize;
        let state = &mut *self.state();
        let begins = matches!(moment, Moment::Begins);
        if let Some((since, probes)) = state.half_open.get_mut(&service) {
            if begins {
                probes.insert(key.to_owned());
                assert!(
                    probes.len() <= permits,
                    "G8: {} probes of {service} are in flight at {at:?}, half-open since {since:?}",
                    probes.len()
                );
            } else {
                probes.remove(key);
            }
        }
        let id = key.split('/').next().expect("the key begins with the event's id");
        let source = state.by_id.get(&id.parse().expect("a UUID")).cloned().expect("produced");
        if service == PARKING {
            if begins {
                if self.ordered {
                    let dead = |id: &str| self.kafka.state().index.dead_calls.contains(id);
                    state.turns.begins(&source, &state.produced, dead);
                }
                let lives = state.handed.may_call(&source, id, &state.lives);
                assert!(!lives.is_empty(), "{key} is called at {at:?}, and nothing of {source} that may is ours");
                state.parking.push((key.to_owned(), lives));
                return;
            }
            if matches!(moment, Moment::Ends(Some(200))) {
                state.delivered.insert(id.to_owned());
            }
            if matches!(moment, Moment::Ends(Some(200 | 422))) {
                state.turns.settles(&source);
            }
            let of_key = |(other, _): &&(String, Vec<u64>)| other == key;
            let goes_on = |life: &u64| state.ended.get(life).is_none_or(|ended| at <= *ended);
            let may = state.parking.iter().filter(of_key).flat_map(|(_, lives)| lives).any(goes_on);
            assert!(may, "the call of {key} goes on until {at:?}, though the lives that it was made in are over");
            let first = state.parking.iter().position(|(other, _)| other == key).expect("it has begun");
            state.parking.remove(first);
            return;
        }
        let lane = lane(self.ordering, &source, &state.produced[&source].key);
        if begins {
            assert!(!state.settled.contains(&source), "G3: {source} runs again at {at:?}, though its finish is committed");
            let life = state.handed.may_call(&source, "", &state.lives).first().copied();
            let life = life.unwrap_or_else(|| panic!("{key} is called at {at:?} for {source}, which was not handed over, or has ended"));
            let other = state.running.insert(lane.clone(), (key.to_owned(), life));
            assert!(other.is_none(), "G2: {key} runs at {at:?} while {other:?} of the same lane {lane} does");
        } else if let Some((_, life)) = state.running.remove(&lane)
            && let Some(ended) = state.ended.get(&life).copied()
        {
            assert!(at <= ended, "the call of {key} goes on until {at:?}, though its partition's life was over at {ended:?}");
            *state.counts.entry("cut off").or_default() += 1;
        }
    }

    /// A commit is about to be made: nothing below it may be unfinished. `delivered`: whether a parked call's event was.
    pub fn committing(&self, at: Duration, group: &'static str, point: &CommitPoint, delivered: impl Fn(&str) -> bool) {
        let from = self.kafka.committed(group, &point.partition);
        assert!(point.next >= from, "a commit goes back: {} from {from} to {}", point.partition, point.next);
        let kafka = self.kafka.state();
        let partition = (point.partition.topic.clone(), point.partition.partition);
        let log = kafka.logs.get(&partition).expect("only what was read is committed");
        for (offset, record) in log.iter().filter(|(offset, _)| *offset >= from && *offset < point.next) {
            let source = Source { topic: partition.0.clone(), partition: partition.1, offset: *offset };
            let ended = has_end(&kafka.index, group, &source, &record.headers, &delivered);
            assert!(ended, "G1: {} is committed to {}, but {source} has no end", point.partition, point.next);
        }
        // The text beside the offset claims no more than is true, and what it claims is not run again.
        let ahead = Progress::decode(point.next, &point.ahead).expect("its own");
        let mut above = BTreeSet::new();
        for (offset, record) in log.iter().filter(|(offset, _)| *offset >= point.next && ahead.has_finished(*offset)) {
            let source = Source { topic: partition.0.clone(), partition: partition.1, offset: *offset };
            let ended = has_end(&kafka.index, group, &source, &record.headers, &delivered);
            assert!(ended, "G3: the commit of {} says that {source} has finished, and it has no end", point.partition);
            above.insert(source);
        }
        drop(kafka);
        let mut state = self.state();
        // All of what was acknowledged before now is told, and what was told once is told for good.
        let finished = state.finished.iter().filter(|(_, acknowledged)| **acknowledged < at).map(|(source, _)| source);
        let of_partition = |source: &&Source| source.topic_partition() == point.partition && source.offset >= point.next;
        for source in finished.chain(&state.settled).filter(of_partition) {
            assert!(above.contains(source), "G3: {source} has finished, and the commit of {} at {at:?} does not say so", point.partition);
        }
        if !above.is_empty() {
            *state.counts.entry("finished ahead").or_default() += 1;
        }
        state.settled.extend(above);
    }

    /// Whether everything that was produced or parked is committed.
    pub fn at_rest(&self, events: &[TopicPartition], retry: &[TopicPartition]) -> bool {
        self.state().all_produced && self.behind(LIVE, events).is_empty() && self.behind(DRAIN, retry).is_empty()
    }

    fn behind(&self, group: &'static str, partitions: &[TopicPartition]) -> Vec<String> {
        partitions
            .iter()
            .filter_map(|partition| {
                let state = self.kafka.state();
                let last = state
                    .logs
                    .get(&(partition.topic.clone(), partition.partition))
                    .and_then(|log| log.last())
                    .map(|(offset, _)| *offset)?;
                let committed = state.commits.get(&(group, partition.clone())).map_or(Offset(0), |point| point.next);
                (committed <= last).then(|| format!("{partition} is committed to {committed}, and ends at {last}"))
            })
            .collect()
    }

    pub fn unrest(&self, events: &[TopicPartition], retry: &[TopicPartition]) -> String {
        let tail: Vec<String> = self.state().trace.lines().rev().take(10).map(str::to_owned).collect();
        format!("{:?} {:?}\nlast facts: {tail:#?}", self.behind(LIVE, events), self.behind(DRAIN, retry))
    }

    /// When everything has come to rest.
    pub fn judge(&self, journal: &[Entry], slow_key: Option<&str>, exactly_once: bool) -> Report {
        let parked = self.kafka.all(RETRY);
        let kafka = self.kafka.state();
        let (outcomes, dead_events) = (&kafka.index.outcomes, &kafka.index.dead_events);
        let unacknowledged = kafka.failed_publishes > 0;
        let mut state = self.state();
        let exactly = exactly_once || (!state.repeats && !unacknowledged);

        for (source, produced) in &state.produced {
            let ended = outcomes.iter().filter(|outcome| outcome.source == *source).count();
            let dead = dead_events.iter().filter(|(of, _)| of == source).count();
            let too_large = dead_events.iter().filter(|(of, too_large)| of == source && *too_large).count();
            let (ends, others, what) = match produced.id {
                Some(_) => (ended + too_large, dead - too_large, "event"),
                None => (dead, ended + too_large, "unreadable record"),
            };
            assert!(ends >= 1, "G1: the {what} {source} has no end");
            assert_eq!(others, 0, "G1: the {what} {source} has an end of the other kind too");
            assert!(!exactly || ends == 1, "the {what} {source} has {ends} ends, though nothing may be there twice");
        }

        for outcome in outcomes.iter().filter(|outcome| outcome.says_parked()) {
            let there = kafka.index.parks.contains_key(&outcome.event_id) || kafka.index.dead_calls.contains(&outcome.event_id);
            assert!(there, "G1: the outcome of {} says parked, and neither a parked call nor its letter is there", outcome.source);
        }

        for (at, record) in &parked {
            let id = record.headers.text(name::EVENT_ID).expect("an event id");
            let key = format!("{id}/notifier");
            let delivered = journal.iter().any(|entry| entry.key == key && entry.status == Some(200));
            let dead = kafka.index.dead_calls.contains(id);
            assert!(delivered || dead, "G1: the call parked at {at} was neither delivered nor dead-lettered");
            let attempt: usize = record.headers.number(name::ATTEMPT).expect("a count");
            let made = journal.iter().filter(|entry| entry.key == key && entry.status != Some(200)).count();
            assert!(attempt <= made, "G10: the call parked at {at} has spent {attempt} attempts, and {made} calls were made and failed");
            let ours = record.headers.iter().filter(|(header, _)| *header == name::ATTEMPT).count();
            assert_eq!(ours, 1, "headers pile up on {at}");
        }

        assert!(state.held.is_empty(), "{:?} are held for ever", state.held);
        if exactly_once {
            judge_parked(&parked);
        }
        if exactly {
            judge_order(self.ordering, &state.produced, outcomes);
        }
        if let Some(slow_key) = slow_key {
            judge_haste(self.ordering, &state.produced, slow_key);
            *state.counts.entry("worlds of lanes").or_default() += 1;
        }
        Report { counts: std::mem::take(&mut state.counts), trace: std::mem::take(&mut state.trace) }
    }
}

impl State {
    fn begin_lives(&mut self, at: Duration, partitions: &[TopicPartition]) {
        self.end_lives(at, partitions);
        for partition in partitions {
            self.next_life += 1;
            self.lives.insert(partition.clone(), self.next_life);
        }
    }

    fn end_lives(&mut self, at: Duration, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.stopped.remove(partition);
            self.halted.remove(partition);
            if let Some(life) = self.lives.remove(partition) {
                self.ended.insert(life, at);
            }
        }
        // What is not committed when its partition goes may run again.
        self.finished.retain(|source, _| !partitions.contains(&source.topic_partition()));
    }
}

/// Where all is there once, so is each hop of a parked call.
fn judge_parked(parked: &[(Source, Record)]) {
    let mut hops = BTreeSet::new();
    for (at, record) in parked {
        let (id, parks) = (record.headers.text(name::EVENT_ID), record.headers.number::<u32>(name::PARKS));
        assert!(hops.insert((id, parks)), "the call parked at {at} is there twice");
    }
}

/// Whether a record has an end. A parked call has if it was delivered, parked again behind this record, or dead-lettered.
fn has_end(index: &Index, group: &'static str, source: &Source, headers: &Headers, delivered: impl Fn(&str) -> bool) -> bool {
    if group == LIVE {
        return index.ends.contains(source);
    }
    let id = headers.text(name::EVENT_ID).expect("an event id");
    let parks = headers.number(name::PARKS).expect("a count");
    delivered(id) || index.parks.get(id).is_some_and(|most| *most > parks) || index.dead_calls.contains(id)
}
