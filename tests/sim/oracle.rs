//! What must always be true, checked from outside: by the topics, the commits and the services' journal, never by the program's own counters.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fusebox::event::headers::name;
use fusebox::event::{Offset, Partition, Record, Source, TopicPartition, envelope};
use fusebox::machine::breaker::{Cause, StateName};
use fusebox::machine::progress::Progress;
use fusebox::pipeline::facts::Fact;
use fusebox::pipeline::ports::CommitPoint;
use uuid::Uuid;

use crate::kafka::Kafka;
use crate::services::Entry;
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
    lives: BTreeMap<TopicPartition, u64>,
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

struct Produced {
    key: String,
    id: Option<Uuid>,
}

/// What an event leaves behind last, in a life of its partition.
pub struct LastWords {
    source: Source,
    life: u64,
}

pub struct Oracle {
    kafka: Arc<Kafka>,
    permits: u32,
    state: Mutex<State>,
}

impl Oracle {
    pub fn new(kafka: Arc<Kafka>, permits: u32) -> Self {
        Self { kafka, permits, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no oracle failed")
    }

    pub fn count(&self, what: &'static str) {
        *self.state().counts.entry(what).or_default() += 1;
    }

    pub fn produced(&self, source: Source, key: String, id: Option<Uuid>) {
        let mut state = self.state();
        *state.counts.entry(if id.is_some() { "events" } else { "unreadable" }).or_default() += 1;
        if let Some(id) = id {
            state.by_id.insert(id, source.clone());
        }
        state.produced.insert(source, Produced { key, id });
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

    /// The program has died.
    pub fn died(&self, at: Duration) {
        self.lost();
        let mut state = self.state();
        let all: Vec<TopicPartition> = state.lives.keys().cloned().collect();
        state.end_lives(at, &all);
    }

    /// A record is handed to Kafka's client. Gives what is the last of an event.
    pub fn publishing(&self, record: &Record) -> Option<LastWords> {
        let source = match record.topic.as_str() {
            OUTCOMES => {
                let outcome: serde_json::Value = serde_json::from_slice(record.value.as_ref()?).expect("an outcome is JSON");
                serde_json::from_value(outcome["source"].clone()).expect("an outcome has coordinates")
            }
            DEAD_LETTERS if record.headers.text(name::EVENT_ID).is_none() => envelope::origin(&record.headers)?,
            _ => return None,
        };
        let life = self.state().lives.get(&source.topic_partition()).copied();
        let life = life.unwrap_or_else(|| panic!("G1: the end of {source} is published, though its partition's life is over"));
        Some(LastWords { source, life })
    }

    /// Kafka has acknowledged an event's last words.
    pub fn acknowledged(&self, at: Duration, LastWords { source, life }: LastWords) {
        let mut state = self.state();
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
    pub fn observed(&self, at: Duration, service: usize, key: &str, begins: bool) {
        let permits = self.permits as usize;
        let mut state = self.state();
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
        if service == PARKING {
            return;
        }
        let id: Uuid = key.split('/').next().and_then(|id| id.parse().ok()).expect("the key begins with the event's id");
        let source = state.by_id.get(&id).cloned().expect("produced");
        let lane = state.produced[&source].key.clone();
        if begins {
            assert!(!state.settled.contains(&source), "G3: {source} runs again at {at:?}, though its finish is committed");
            let life = state.lives.get(&source.topic_partition()).copied();
            let life = life.unwrap_or_else(|| panic!("{key} is called at {at:?} for {source}, whose partition is not ours"));
            let other = state.running.insert(lane.clone(), (key.to_owned(), life));
            assert!(other.is_none(), "G2: {key} runs at {at:?} while {other:?} of the same key {lane} does");
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
            let ended = if group == LIVE {
                kafka.index.ends.contains(&source)
            } else {
                // A parked call has ended here if it was delivered, parked again behind this record, or dead-lettered.
                let id = record.headers.text(name::EVENT_ID).expect("an event id");
                let parks = record.headers.number(name::PARKS).expect("a count");
                delivered(id) || kafka.index.parks.get(id).is_some_and(|most| *most > parks) || kafka.index.dead_calls.contains(id)
            };
            assert!(ended, "G1: {} is committed to {}, but {source} has no end", point.partition, point.next);
        }
        // The text beside the offset claims no more than is true, and what it claims is not run again.
        let ahead = Progress::decode(point.next, &point.ahead).expect("its own");
        let above = log.iter().map(|(offset, _)| *offset).filter(|offset| *offset >= point.next && ahead.has_finished(*offset));
        let above: BTreeSet<Source> = above.map(|offset| Source { topic: partition.0.clone(), partition: partition.1, offset }).collect();
        drop(kafka);
        if group == LIVE {
            let kafka = self.kafka.state();
            for source in &above {
                assert!(
                    kafka.index.ends.contains(source),
                    "G3: the commit of {} says that {source} has finished, and it has no end",
                    point.partition
                );
            }
        }
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
    pub fn judge(&self, journal: &[Entry], exactly_once: bool) -> Report {
        let parked = self.kafka.all(RETRY);
        let kafka = self.kafka.state();
        let (outcomes, dead_events) = (&kafka.index.outcomes, &kafka.index.dead_events);
        let unacknowledged = kafka.failed_publishes > 0;
        let mut state = self.state();
        let exactly = exactly_once || (!state.repeats && !unacknowledged);

        for (source, produced) in &state.produced {
            let ended = outcomes.iter().filter(|(of, _)| of == source).count();
            let dead = dead_events.iter().filter(|of| *of == source).count();
            let (ends, others, what) = if produced.id.is_some() { (ended, dead, "event") } else { (dead, ended, "unreadable record") };
            assert!(ends >= 1, "G1: the {what} {source} has no end");
            assert_eq!(others, 0, "G1: the {what} {source} has an end of the other kind too");
            assert!(!exactly || ends == 1, "the {what} {source} has {ends} ends, though nothing may be there twice");
        }

        for (source, outcome) in outcomes {
            if outcome["stages"]["notifier"]["parked"] == true {
                let id = outcome["event_id"].as_str().expect("an id");
                let there = kafka.index.parks.contains_key(id);
                assert!(there, "G1: the outcome of {source} says parked, and nothing is on the retry topic");
            }
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

        if exactly_once {
            judge_parked(&parked);
        }
        if exactly {
            judge_order(&state, outcomes);
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

/// Where nothing is repeated, the outcomes of one key stand in the order of its events.
fn judge_order(state: &State, outcomes: &[(Source, serde_json::Value)]) {
    let mut last: BTreeMap<(&str, Partition), Offset> = BTreeMap::new();
    for (source, _) in outcomes {
        let key = (state.produced[source].key.as_str(), source.partition);
        if let Some(before) = last.insert(key, source.offset) {
            assert!(before < source.offset, "G2: the outcome of {source} stands behind that of offset {before}, of the same key");
        }
    }
}
