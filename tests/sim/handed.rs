//! What was handed to the program in which life of its partition: only in that life may it call a service, or publish anything, for it. What has
//! come back in another life and was not handed over again is nobody's.

use std::collections::BTreeMap;

use fusebox::event::headers::name;
use fusebox::event::{Headers, Incoming, Record, Source, TopicPartition, envelope};

use crate::world::{DEAD_LETTERS, OUTCOMES, RETRY};

/// The lives of the partitions that are the program's.
pub type Lives = BTreeMap<TopicPartition, u64>;

/// The records that were handed over.
#[derive(Default)]
pub struct Handed {
    /// Each with the life that it was handed over in last.
    lives: BTreeMap<Source, Given>,
    /// Where the parked call stands that was handed over last, by event and how often it was parked.
    parked: BTreeMap<(String, u32), Source>,
}

struct Given {
    life: u64,
    /// It is an event's, and has published its last words. Copies of one parked call cannot be told apart.
    has_spoken: bool,
}

impl Handed {
    pub fn take(&mut self, record: &Incoming, lives: &Lives) {
        let life = lives.get(&record.source.topic_partition()).copied();
        let life = life.unwrap_or_else(|| panic!("{} is handed over, and nobody was told that its partition came", record.source));
        self.lives.insert(record.source.clone(), Given { life, has_spoken: false });
        if let Some(key) = parked(&record.headers) {
            self.parked.insert(key, record.source.clone());
        }
    }

    /// Whether the life that a record was handed over in goes on.
    pub fn is_current(&self, source: &Source, lives: &Lives) -> bool {
        self.lives.get(source).is_some_and(|given| lives.get(&source.topic_partition()) == Some(&given.life))
    }

    /// The lives in which a call may be made: the event's own, until its last words, and those of its parked calls.
    pub fn may_call(&self, event: &Source, id: &str, lives: &Lives) -> Vec<u64> {
        let parked = self.parked.range((id.to_owned(), 0)..=(id.to_owned(), u32::MAX)).map(|(_, source)| source);
        let may = std::iter::once(event).chain(parked).filter(|source| self.is_current(source, lives));
        may.filter_map(|source| self.lives.get(source)).filter(|given| !given.has_spoken).map(|given| given.life).collect()
    }

    /// A record is handed to Kafka's client, on behalf of one that was handed over.
    pub fn publishing(&self, record: &Record, lives: &Lives) {
        let (topic, about) = (record.topic.as_str(), parked(&record.headers));
        let behind = |parks: u32| about.as_ref().and_then(|(id, _)| self.parked.get(&(id.clone(), parks)));
        let drained: Vec<&Source> = match (topic, about.as_ref().map(|(_, parks)| *parks)) {
            (RETRY, Some(parks)) => behind(parks.saturating_sub(1)).into_iter().collect(),
            // The letter of a parked call, or of a copy that was too large.
            (DEAD_LETTERS, Some(parks)) => [parks.saturating_sub(1), parks].into_iter().filter_map(behind).collect(),
            _ => Vec::new(),
        };
        let live = match topic {
            OUTCOMES => None,
            _ => envelope::origin(&record.headers),
        };
        let mut whose = drained.iter().copied().chain(&live).filter(|source| self.is_current(source, lives));
        assert!(
            topic == OUTCOMES || whose.next().is_some(),
            "a record for {topic} is published for {drained:?} or {live:?}, which were begun in lives that are over"
        );
    }

    /// An event's last words are published.
    pub fn speaks_last(&mut self, source: &Source, lives: &Lives) {
        assert!(self.is_current(source, lives), "the end of {source} is published, which was begun in a life that is over");
        if let Some(given) = self.lives.get_mut(source) {
            given.has_spoken = true;
        }
    }
}

/// The event and how often its call was parked, of a parked call or what became of it.
fn parked(headers: &Headers) -> Option<(String, u32)> {
    Some((headers.text(name::EVENT_ID)?.to_owned(), headers.number(name::PARKS)?))
}
