//! `[topics]`, and the rule that each topic has one purpose.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{DAY, HOUR};
use crate::config::checked::{Ordering, Topics};
use crate::config::faults::Origin;
use crate::config::path::KeyPath;
use crate::config::reader::Section;
use crate::config::shape::{Time, TopicName, Whole};
use crate::event::Topic;

/// What `[topics]` holds. Every topic is claimed for its purpose, also when another key is at fault.
pub(super) fn read(section: &Section<'_>, claims: &mut Claims) -> Option<Topics> {
    let events = section.required("events", TopicName, "Read: the events.");
    let outcomes = section.required("outcomes", TopicName, "Written: one record for each event, saying what became of it.");
    let dead_letters = section.required("dead_letters", TopicName, "Written: what was given up, with the reason.");
    let deliveries = section.optional(
        "deliveries",
        TopicName,
        "Written: one record for every parked call when it ends, delivered or not. Off unless named.",
    );
    let orders = section.required("orders", TopicName, "Written and read: what operators order for parked calls; compacted.");
    let partitions = section.required("partitions", Whole(1..=100_000_u32), "Partitions of each topic that `migrate` creates.");
    let replication_factor = section.optional(
        "replication_factor",
        Whole(1..=100_u32),
        "Replicas of each topic that `migrate` creates; the broker's default unless given.",
    );
    let retention = section.required(
        "retention",
        Time::between(HOUR, 3_650 * DAY),
        "How long Kafka keeps a record of the topics that `migrate` creates. Must be longer than every `max_age` of a retry.",
    );
    claims.claim(section, "events", events.as_ref());
    claims.claim(section, "outcomes", outcomes.as_ref());
    claims.claim(section, "dead_letters", dead_letters.as_ref());
    claims.claim(section, "orders", orders.as_ref());
    claims.claim(section, "deliveries", deliveries.as_ref().and_then(Option::as_ref));
    let (path, origin) = section.locate("retention");
    claims.retention = retention.map(|time| Retention { time, path, origin });
    Some(Topics {
        events: events?,
        outcomes: outcomes?,
        dead_letters: dead_letters?,
        deliveries: deliveries?,
        orders: orders?,
        partitions: NonZeroU32::new(partitions?)?,
        replication_factor: replication_factor?.and_then(NonZeroU32::new),
        retention: retention?,
    })
}

/// Which topics are taken, and how long they keep a record: what services that park must agree with.
#[derive(Debug, Default)]
pub(super) struct Claims {
    taken: Vec<Claim>,
    /// `None` if it could not be read.
    retention: Option<Retention>,
    /// What is kept in order of events; `None` if it could not be read.
    pub(super) ordering: Option<Ordering>,
}

#[derive(Debug)]
struct Retention {
    time: Duration,
    path: KeyPath,
    origin: Origin,
}

#[derive(Debug)]
struct Claim {
    topic: Topic,
    path: KeyPath,
    origin: Origin,
}

impl Claims {
    /// Claims a topic for a key's purpose.
    pub(super) fn claim(&mut self, section: &Section<'_>, name: &str, topic: Option<&Topic>) {
        if let Some(topic) = topic {
            let (path, origin) = section.locate(name);
            self.taken.push(Claim { topic: topic.clone(), path, origin });
        }
    }

    /// Notes a park that may last longer than the topics keep a record: Kafka would delete the call without a trace. The fault
    /// stands at the retention if that was written and the park's length is a default.
    pub(super) fn must_outlast(&self, section: &Section<'_>, name: &str, park: Option<Duration>) {
        if let (Some(park), Some(retention)) = (park, &self.retention)
            && park >= retention.time
        {
            let (path, origin) = section.locate(name);
            let (park, kept) = (humantime::format_duration(park), humantime::format_duration(retention.time));
            let message = format!(
                "`{path}`, {park}, must be shorter than `{}`, {kept}: Kafka would delete calls that are still parked",
                retention.path
            );
            let (path, origin) = if origin == Origin::Default { (&retention.path, &retention.origin) } else { (&path, &origin) };
            section.fault_at(path, origin, message);
        }
    }

    /// Notes each topic with two purposes: records of one kind would be read as the other. The fault stands at the key that was
    /// written, if the other one is a default.
    pub(super) fn check(&self, root: &Section<'_>) {
        for (place, later) in self.taken.iter().enumerate() {
            let Some(earlier) = self.taken[..place].iter().find(|earlier| earlier.topic == later.topic) else { continue };
            let (at, other) =
                if later.origin == Origin::Default && earlier.origin != Origin::Default { (earlier, later) } else { (later, earlier) };
            root.fault_at(&at.path, &at.origin, format!("\"{}\" is the topic of `{}` already; each needs its own", at.topic, other.path));
        }
    }
}
