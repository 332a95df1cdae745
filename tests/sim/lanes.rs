//! What is kept in order, and what may hold up what: a record waits for those in front of it in its lane, and for nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fusebox::event::{Offset, Source};
use fusebox::pipeline::process::Ordering;

use crate::index::Outcome;

/// How long an event may take that nothing holds up: three calls of 30 ms, an acknowledgement or two of 20 ms, and the wait to be read.
const HASTE: Duration = Duration::from_millis(200);

/// A record of the input topic, as it came and went.
pub struct Produced {
    pub key: String,
    /// `None`: it cannot be read.
    pub id: Option<uuid::Uuid>,
    pub at: Duration,
    /// When Kafka first acknowledged its last words.
    pub ended: Option<Duration>,
}

/// The lane of a record.
pub fn lane(ordering: Ordering, source: &Source, key: &str) -> String {
    match ordering {
        Ordering::Key => format!("{} {key}", source.partition),
        Ordering::Partition => source.partition.to_string(),
        Ordering::Unordered => source.to_string(),
    }
}

/// Where nothing is repeated, the outcomes of one lane stand in the order of its events.
pub fn judge_order(ordering: Ordering, produced: &BTreeMap<Source, Produced>, outcomes: &[Outcome]) {
    let mut last: BTreeMap<String, Offset> = BTreeMap::new();
    for Outcome { source, .. } in outcomes {
        let lane = lane(ordering, source, &produced[source].key);
        if let Some(before) = last.insert(lane, source.offset) {
            assert!(before < source.offset, "G2: the outcome of {source} stands behind that of offset {before}, of the same lane");
        }
    }
}

/// Where nothing goes wrong but the calls of one key, every other event ends soon after the one in front of it in its lane.
pub fn judge_haste(ordering: Ordering, produced: &BTreeMap<Source, Produced>, slow_key: &str) {
    let mut free: BTreeMap<String, Duration> = BTreeMap::new();
    for (source, Produced { key, id, at, ended }) in produced {
        let ended = ended.expect("it has an end");
        if id.is_none() {
            assert!(ended <= *at + HASTE, "G3: {source} cannot be read, came at {at:?} and ended at {ended:?}");
            continue;
        }
        let free = free.entry(lane(ordering, source, key)).or_insert(*at);
        let could = *at.max(free);
        *free = ended.max(could);
        let prompt = key == slow_key || ended <= could + HASTE;
        assert!(prompt, "G3: {source} of {key} could have gone at {could:?}, and ended at {ended:?}, held up by calls of {slow_key}");
    }
}

/// The calls of a service that keeps the order of its keys, parked ones among them.
#[derive(Default)]
pub struct Turns {
    called: BTreeSet<Source>,
    settled: BTreeSet<Source>,
}

impl Turns {
    /// A call is made: of its key, every event in front of its own was answered for good, or its call is a dead letter. What is called once more may be.
    pub fn begins(&mut self, source: &Source, produced: &BTreeMap<Source, Produced>, is_dead: impl Fn(&str) -> bool) {
        if !self.called.insert(source.clone()) {
            return;
        }
        let key = &produced[source].key;
        let partition = Source { offset: Offset(0), ..source.clone() };
        for (before, Produced { id, .. }) in produced.range(partition..source.clone()).filter(|(_, produced)| produced.key == *key) {
            let Some(id) = id else { continue };
            let has_ended = self.settled.contains(before) || is_dead(&id.to_string());
            assert!(has_ended, "order: {source} of {key} is called, and {before} in front of it has not ended");
        }
    }

    /// A call was answered for good.
    pub fn settles(&mut self, source: &Source) {
        self.settled.insert(source.clone());
    }
}
