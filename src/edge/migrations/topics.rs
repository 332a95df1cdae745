//! The topics' migration: its file filled in from the config, and a topic that exists weighed against it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;

use super::{NewTopic, Status, TopicDescription};
use crate::config::Config;

/// What a record may have beside its value: key, headers, the batch's own fields. Kafka Connect's and tracing's headers together
/// stay below a few KiB.
const RECORD_OVERHEAD: u64 = 64 * 1024;

/// Kafka's own default of `max.message.bytes`. Less would refuse what a topic created by hand takes.
const LEAST_MESSAGE_BYTES: u64 = 1_048_588;

/// What the file's words stand for.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    /// The names behind each `topic` of the file; none where a topic is not in use.
    pub(super) names: BTreeMap<&'static str, Vec<String>>,
    pub(super) partitions: u32,
    pub(super) replication: Option<u32>,
    pub(super) retention_ms: u64,
    pub(super) event_bytes: u64,
    pub(super) envelope_bytes: u64,
}

impl Figures {
    /// The figures of a config.
    pub(super) fn of(config: &Config) -> Self {
        let topics = &config.topics;
        let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let event = bytes(config.processing.max_event_bytes.get());
        let replies = config.services.iter().fold(0, |sum: u64, service| sum.saturating_add(bytes(service.max_reply_bytes.get())));
        Self {
            names: BTreeMap::from([
                ("topics.events", vec![topics.events.to_string()]),
                ("topics.outcomes", vec![topics.outcomes.to_string()]),
                ("topics.dead_letters", vec![topics.dead_letters.to_string()]),
                ("topics.deliveries", topics.deliveries.iter().map(ToString::to_string).collect()),
                ("topics.orders", vec![topics.orders.to_string()]),
                ("services.*.retry.topic", config.parking().map(|(_, retry)| retry.topic.to_string()).collect()),
            ]),
            partitions: topics.partitions.get(),
            replication: topics.replication_factor.map(std::num::NonZeroU32::get),
            retention_ms: u64::try_from(topics.retention.as_millis()).unwrap_or(u64::MAX),
            event_bytes: message_bytes(event),
            envelope_bytes: message_bytes(event.saturating_add(replies).saturating_mul(2)),
        }
    }

    /// A setting's value with its figure filled in.
    fn fill(&self, value: &str) -> Result<String, String> {
        Ok(match value {
            "{retention}" => self.retention_ms.to_string(),
            "{event_bytes}" => self.event_bytes.to_string(),
            "{envelope_bytes}" => self.envelope_bytes.to_string(),
            other if other.contains('{') => return Err(format!("{other} stands for nothing")),
            other => other.to_owned(),
        })
    }
}

/// A `max.message.bytes` that takes a value of this size. Kafka's is a signed 32-bit integer.
fn message_bytes(value: u64) -> u64 {
    value.saturating_add(RECORD_OVERHEAD).clamp(LEAST_MESSAGE_BYTES, i32::MAX as u64)
}

/// A topic that must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) topic: NewTopic,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    topics: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    topic: String,
    configs: BTreeMap<String, String>,
}

/// The file's topics, filled in; one that stands under two keys of the config is wanted once.
pub(super) fn wanted(file: &str, figures: &Figures) -> Result<Vec<Wanted>, String> {
    let file: File = toml::from_str(file).map_err(|error| error.message().to_owned())?;
    let mut seen = BTreeSet::new();
    let mut wanted = Vec::new();
    for entry in file.topics {
        let names = figures.names.get(entry.topic.as_str()).ok_or_else(|| format!("{} is no key of a topic", entry.topic))?;
        for name in names {
            if !seen.insert(name.clone()) {
                continue;
            }
            let configs =
                entry.configs.iter().map(|(key, value)| Ok((key.clone(), figures.fill(value)?))).collect::<Result<_, String>>()?;
            wanted.push(Wanted {
                topic: NewTopic { name: name.clone(), partitions: figures.partitions, replication: figures.replication, configs },
            });
        }
    }
    Ok(wanted)
}

impl Wanted {
    /// Where the topic stands. More partitions, a longer retention and larger messages than wanted are as good.
    pub(super) fn status(&self, found: Option<&TopicDescription>) -> Status {
        let Some(found) = found else { return Status::Pending };
        let name = &self.topic.name;
        let mut drift = Vec::new();
        if found.partitions < self.topic.partitions {
            drift.push(format!(
                "{} partitions, not {}: kafka-topics.sh --alter --topic {name} --partitions {} (keys move to other partitions: do it while nothing is produced), or lower topics.partitions",
                found.partitions, self.topic.partitions, self.topic.partitions
            ));
        }
        if let Some(replication) = self.topic.replication.filter(|wanted| found.replication < *wanted) {
            drift.push(format!(
                "{} replicas, not {replication}: kafka-reassign-partitions.sh, or lower topics.replication_factor",
                found.replication
            ));
        }
        for (key, wanted) in &self.topic.configs {
            // A broker that does not tell a setting gives no reason to call it wrong.
            let Some(has) = found.configs.get(key).filter(|has| !serves(key, has, wanted)) else { continue };
            drift.push(format!("{key} is {has}, not {wanted}: kafka-configs.sh --alter --topic {name} --add-config {key}={wanted}"));
        }
        if drift.is_empty() { Status::Applied } else { Status::Drifted(drift.join("; ")) }
    }
}

/// Whether a setting serves where another is wanted.
fn serves(key: &str, has: &str, wanted: &str) -> bool {
    let at_least = |unlimited: Option<i64>| match (has.parse::<i64>(), wanted.parse::<i64>()) {
        (Ok(has), Ok(wanted)) => Some(has) == unlimited || has >= wanted,
        _ => has == wanted,
    };
    match key {
        "retention.ms" => at_least(Some(-1)),
        "max.message.bytes" => at_least(None),
        _ => has == wanted,
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NewTopic { name, partitions, .. } = &self.topic;
        write!(f, "topic {name} ({partitions} partition{})", if *partitions == 1 { "" } else { "s" })
    }
}
