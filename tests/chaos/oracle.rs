//! What must hold, judged from outside: by topics, committed offsets with what stands beside them, and the stubs' journals.
//!
//! - Nothing is missing: every event has an outcome or is a dead letter, every notification is delivered or a dead letter, and in the end
//!   everything is committed. No commit ever passes a record that has not ended, nor claims one finished beside it.
//! - Order: the first call of each event of a key, and the first outcome, come in the order of the partition; no two events of a key are
//!   called for at once.
//! - Repeats are few: as many outcomes twice as an instance may have had in flight, or could not commit, for each time that one was killed or
//!   lost its partitions; none without that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use fusebox::edge::embedded::stub::{Ended, Entry};
use fusebox::event::Offset;
use fusebox::event::headers::name;
use fusebox::machine::progress::Progress;

use crate::harness::{Message, World};
use crate::stream::Published;

/// How late a stub may notice that a client has gone: until then the call looks as if it went on.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);

/// What was done that excuses repeats.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// Instances that were killed.
    pub kills: usize,
    /// Times that an instance may have lost its partitions without noticing: two of them may then run the same events at once.
    pub losses: usize,
    /// Outcomes that each of them may repeat.
    pub repeats_each: usize,
}

impl Allowed {
    fn repeats(self) -> usize {
        (self.kills + self.losses) * self.repeats_each
    }
}

/// What was seen of a scenario that passed.
#[derive(Debug)]
pub struct Seen {
    /// Events published.
    pub events: usize,
    /// Outcomes beyond the first of an event.
    pub repeated: usize,
    /// Calls of the first service beyond the first of an event.
    pub called_again: usize,
    /// Calls for two events of a key at once.
    pub at_once: usize,
    /// Calls that were parked.
    pub parked: usize,
    /// Events that became dead letters.
    pub letters: usize,
    /// What excused repeats.
    pub allowed: Allowed,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, repeated, called_again, at_once, parked, letters, allowed: Allowed { kills, losses, .. } } = self;
        write!(
            f,
            "{events} events, {repeated} outcomes repeated, {called_again} called again, {at_once} at once with their key's, {parked} calls \
             parked, {letters} dead letters; {kills} kills, {losses} losses"
        )
    }
}

fn has(message: &Message, header: &str) -> bool {
    message.headers.iter().any(|(name, _)| name == header)
}

/// Where each record of the events topic that has ended stands: those with an outcome, and those with a dead letter.
fn ended(outcomes: &[Message], letters: &[Message], events: &str) -> HashSet<(i32, i64)> {
    let of_outcome = |outcome: &Message| {
        let source = &outcome.json()["source"];
        assert_eq!(source["topic"], events, "{outcome:?}");
        let number = |field: &str| source[field].as_i64().unwrap_or_else(|| panic!("no {field}: {source}"));
        (i32::try_from(number("partition")).expect("few"), number("offset"))
    };
    // One with a service is a call's end, not its event's.
    let of_events = letters.iter().filter(|letter| !has(letter, name::SERVICE) && letter.header(name::ORIGIN_TOPIC) == events);
    let of_letter =
        |letter: &Message| (i32::try_from(letter.number(name::ORIGIN_PARTITION)).expect("few"), letter.number(name::ORIGIN_OFFSET));
    outcomes.iter().map(of_outcome).chain(of_events.map(of_letter)).collect()
}

/// Checks what is committed as of now against what has ended since. Gives how many records are committed.
#[track_caller]
pub fn audit(world: &World) -> usize {
    // First what is committed, then what has ended: it may only have become more.
    let committed = world.committed();
    let ended = ended(&world.read(&world.outcomes), &world.read(&world.dead_letters), &world.events);
    let mut count = 0;
    for (partition, committed) in committed {
        let Some(next) = committed.offset else { continue };
        let beside = Progress::decode(Offset(next), &committed.metadata).expect("written by this version");
        let last = beside.last().map_or(next - 1, |last| last.0.max(next - 1));
        for offset in (0..=last).filter(|offset| *offset < next || beside.has_finished(Offset(*offset))) {
            count += 1;
            assert!(ended.contains(&(partition, offset)), "{partition}/{offset} is committed ({committed:?}) and has not ended");
        }
    }
    count
}

/// Judges a world in which nothing moves any more.
#[track_caller]
pub fn judge(world: &World, published: &[Published], allowed: &Allowed) -> Seen {
    let (outcomes, letters) = (world.read(&world.outcomes), world.read(&world.dead_letters));
    assert_eq!(audit(world), published.len(), "committed");
    for (partition, committed) in world.committed() {
        assert_eq!(committed.metadata, "", "{partition}: nothing stands above the end");
    }
    let ended = ended(&outcomes, &letters, &world.events);
    let missing: Vec<_> = published.iter().filter(|event| !ended.contains(&event.place)).collect();
    assert!(missing.is_empty(), "{} events have no end: {missing:?}", missing.len());
    assert_eq!(ended.len(), published.len(), "what has ended was published");

    let events: HashMap<&str, &Published> = published.iter().map(|event| (event.id.as_str(), event)).collect();
    notified(world, published, &letters);
    let repeated = outcomes_in_order(&outcomes, &events);
    let calls = live_calls(world, &events);
    let called_again = calls_in_order(&calls);
    let at_once = at_once(&calls);
    let seen = Seen {
        events: published.len(),
        repeated,
        called_again,
        at_once: at_once.len(),
        parked: world.count(&world.retries),
        letters: ended.len() - first_outcomes(&outcomes, &events).len(),
        allowed: *allowed,
    };
    assert!(repeated <= allowed.repeats(), "too many repeats: {seen}");
    if allowed.losses == 0 {
        assert!(at_once.is_empty(), "events of one key are called for at once: {at_once:#?}");
    }
    seen
}

/// Every notification is delivered, or is a dead letter.
#[track_caller]
fn notified(world: &World, published: &[Published], letters: &[Message]) {
    let given_up = letters.iter().filter(|letter| has(letter, name::EVENT_ID)).map(|letter| letter.header(name::EVENT_ID).to_owned());
    let calls = world.calls("notifier");
    let delivered = calls.iter().filter(|call| call.ended == Some(Ended::Answered(200))).map(|call| id_of(call).to_owned());
    let settled: HashSet<String> = delivered.chain(given_up).collect();
    let missing: Vec<_> = published.iter().filter(|event| event.notifies && !settled.contains(&event.id)).collect();
    assert!(missing.is_empty(), "{} notifications are missing: {missing:?}", missing.len());
}

fn id_of(call: &Entry) -> &str {
    call.idempotency_key.as_deref().and_then(|key| key.split('/').next()).expect("every call has a key")
}

/// The first outcome of each event, as they lie on their topic.
fn first_outcomes<'a>(outcomes: &[Message], events: &HashMap<&str, &'a Published>) -> Vec<&'a Published> {
    let mut seen = HashSet::new();
    let ids = outcomes.iter().map(|outcome| outcome.json()["event_id"].as_str().expect("an id").to_owned());
    ids.map(|id| *events.get(id.as_str()).unwrap_or_else(|| panic!("{id} was not published")))
        .filter(|event| seen.insert(event.place))
        .collect()
}

/// The first outcomes of each key are in order. Gives how many there are beyond the first.
#[track_caller]
fn outcomes_in_order(outcomes: &[Message], events: &HashMap<&str, &Published>) -> usize {
    let first = first_outcomes(outcomes, events);
    in_order("outcomes", &first);
    outcomes.len() - first.len()
}

#[track_caller]
fn in_order(what: &str, events: &[&Published]) {
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    for event in events {
        let before = last.insert(&event.key, event.place.1);
        assert!(before.is_none_or(|before| before < event.place.1), "{what} of {}: {} after {before:?}", event.key, event.place.1);
    }
}

/// The calls of the services that only live events call, in order, each with its event.
fn live_calls<'a>(world: &World, events: &HashMap<&str, &'a Published>) -> Vec<(Entry, &'a Published)> {
    let calls = ["rag", "vms"].into_iter().flat_map(|service| world.calls(service));
    let mut calls: Vec<_> = calls
        .map(|call| {
            let event = *events.get(id_of(&call)).unwrap_or_else(|| panic!("called for what was not published: {call:?}"));
            (call, event)
        })
        .collect();
    calls.sort_by_key(|(call, _)| call.seq);
    calls
}

/// The first call of each event comes in the order of its key. Gives how many calls of the first service there are beyond these.
#[track_caller]
fn calls_in_order(calls: &[(Entry, &Published)]) -> usize {
    let first_service: Vec<_> = calls.iter().filter(|(call, _)| call.service == "rag").collect();
    let mut seen = HashSet::new();
    let first: Vec<&Published> = first_service.iter().filter(|(_, event)| seen.insert(event.place)).map(|(_, event)| *event).collect();
    in_order("calls", &first);
    first_service.len() - first.len()
}

/// Calls that began while one for another event of their key had not ended.
fn at_once(calls: &[(Entry, &Published)]) -> Vec<String> {
    let mut found = Vec::new();
    let mut running: HashMap<&str, Vec<(i64, &Entry, &Published)>> = HashMap::new();
    for (call, event) in calls {
        let running = running.entry(&event.key).or_default();
        running.retain(|(until, ..)| *until > call.started_at.0);
        let others = running.iter().filter(|(_, _, other)| other.place != event.place);
        found.extend(
            others.map(|(_, other, of)| format!("{} began {:?} of {:?} while {other:?} of {of:?} ran", event.key, call, event.place)),
        );
        let slack = if call.ended == Some(Ended::ClientGone) { i64::try_from(NOTICED_WITHIN.as_millis()).expect("short") } else { 0 };
        running.push((call.ended_at.map_or(call.started_at.0, |at| at.0) - slack, call, event));
    }
    found
}
