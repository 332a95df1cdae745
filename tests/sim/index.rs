//! What stands on the topics, read once.

use std::collections::{BTreeMap, BTreeSet};

use fusebox::event::headers::name;
use fusebox::event::{Record, Source, envelope};
use serde::Deserialize;

use crate::world::{DEAD_LETTERS, OUTCOMES, RETRY};

/// What the checks read of an outcome.
#[derive(Deserialize)]
pub struct Outcome {
    pub event_id: String,
    /// The event's coordinates.
    pub source: Source,
    stages: BTreeMap<String, StageOutcome>,
}

#[derive(Deserialize)]
struct StageOutcome {
    parked: bool,
}

impl Outcome {
    pub fn of(record: &Record) -> Self {
        serde_json::from_slice(record.value.as_ref().expect("a value")).expect("an outcome is JSON, with the event's coordinates")
    }

    /// Whether it says that a call was parked.
    pub fn says_parked(&self) -> bool {
        self.stages.values().any(|stage| stage.parked)
    }
}

/// What stands on the topics, read once, for the checks that are made with every commit.
#[derive(Default)]
pub struct Index {
    /// Outcomes, in order.
    pub outcomes: Vec<Outcome>,
    /// Dead letters of events, each with whether it stands for an outcome that was too large.
    pub dead_events: Vec<(Source, bool)>,
    /// Events with an outcome or a dead letter.
    pub ends: BTreeSet<Source>,
    /// How often each event's call has been parked.
    pub parks: BTreeMap<String, u32>,
    /// Events whose call is a dead letter.
    pub dead_calls: BTreeSet<String>,
}

impl Index {
    pub fn take(&mut self, record: &Record) {
        let id = record.headers.text(name::EVENT_ID).map(str::to_owned);
        match (record.topic.as_str(), id) {
            (OUTCOMES, _) => {
                let outcome = Outcome::of(record);
                self.ends.insert(outcome.source.clone());
                self.outcomes.push(outcome);
            }
            (DEAD_LETTERS, Some(id)) => {
                self.dead_calls.insert(id);
            }
            (DEAD_LETTERS, None) => {
                let origin = envelope::origin(&record.headers).expect("a dead letter has coordinates");
                self.ends.insert(origin.clone());
                self.dead_events.push((origin, record.headers.text(name::ERROR_CODE) == Some("too_large")));
            }
            (RETRY, Some(id)) => {
                let parks: u32 = record.headers.number(name::PARKS).expect("a count");
                let most = self.parks.entry(id).or_default();
                *most = parks.max(*most);
            }
            _ => {}
        }
    }
}
