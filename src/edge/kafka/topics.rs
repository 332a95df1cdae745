//! Topics: which are there, how they are set, and making them.
//!
//! Asking for a topic never creates it, whatever the broker's `auto.create.topics.enable` says. Every question has a time limit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic as NativeTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::MetadataTopic;

use super::KafkaEdgeError;
use super::error::is_unknown_topic;
use super::properties::{self, Quiet};
use crate::config;
use crate::edge::migrations::{self, TopicError};
use crate::event::{Partition, Topic};

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: Topic,
    /// How many partitions it has.
    pub partitions: usize,
    /// How long it keeps records; `None` where the broker does not tell (it may not be allowed to, or is the embedded one).
    pub retention: Option<Retention>,
    /// The largest batch it takes, bytes.
    pub max_message_bytes: Option<u64>,
    /// `delete`, `compact`, or both.
    pub cleanup_policy: Option<String>,
}

/// How long a topic keeps records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// At least this long.
    For(Duration),
    /// For ever, as far as time goes.
    Forever,
}

impl Retention {
    /// Whether records are kept at least so long.
    pub fn covers(self, wanted: Duration) -> bool {
        match self {
            Self::For(kept) => kept >= wanted,
            Self::Forever => true,
        }
    }
}

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: Topic,
    /// How many partitions.
    pub partitions: u32,
    /// How many replicas of each; `None` leaves it to the broker.
    pub replication: Option<u32>,
    /// `retention.ms`; `None` leaves it to the broker.
    pub retention: Option<Duration>,
    /// `max.message.bytes`; `None` leaves it to the broker.
    pub max_message_bytes: Option<u64>,
}

/// What came of creating a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// It is there now (with `dry_run`: it could be).
    Created,
    /// It was there before; it was not changed.
    Existed,
    /// The broker refused. Why, in its words.
    Refused(String),
}

/// A topic that the program cannot do without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// Which.
    pub topic: Topic,
    /// How long its records must be kept: the longest park, for a retry topic.
    pub retention: Option<Duration>,
    /// It must have as many partitions as this one at least.
    pub beside: Option<Topic>,
}

/// What an inspection found wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Topics that do not exist.
    pub missing: Vec<Topic>,
    /// Topics that delete records sooner than is needed: topic, kept, needed.
    pub too_short: Vec<(Topic, Duration, Duration)>,
    /// Topics that have fewer partitions than are needed: topic, partitions, needed.
    pub too_few: Vec<(Topic, u32, u32)>,
    /// For how long topics keep records of which that matters; those that are not here keep them without end, or the broker does not tell.
    pub kept: Vec<(Topic, Duration)>,
}

impl Inspection {
    /// Whether nothing was found wrong.
    pub fn is_fine(&self) -> bool {
        self.missing.is_empty() && self.too_short.is_empty() && self.too_few.is_empty()
    }
}

/// Asks about topics, and creates them. Its going joins a thread, for up to a tenth of a second: keep it, or drop it outside the runtime.
pub struct TopicAdmin {
    admin: AdminClient<Quiet>,
    // Consumers do not create a topic by asking for it; producers, which an admin client is to librdkafka, do.
    metadata: Arc<BaseConsumer<Quiet>>,
}

impl TopicAdmin {
    /// Makes the clients.
    ///
    /// # Errors
    /// A property that librdkafka does not take.
    pub fn connect(settings: &config::Kafka) -> Result<Self, KafkaEdgeError> {
        let admin = properties::admin(settings).create_with_context(Quiet)?;
        let metadata = Arc::new(properties::onlooker(settings, None).create_with_context(Quiet)?);
        Ok(Self { admin, metadata })
    }

    /// Each topic in the order asked; `None` for one that does not exist. Each request takes at most `within`.
    ///
    /// # Errors
    /// No broker answers, or one refuses to tell.
    pub async fn describe(&self, topics: &[Topic], within: Duration) -> Result<Vec<Option<TopicDescription>>, KafkaEdgeError> {
        let shapes = self.shapes(topics, within).await?;
        let there: Vec<&Topic> = topics.iter().zip(&shapes).filter_map(|(topic, shape)| shape.map(|_| topic)).collect();
        let mut configs = self.configs(&there, within).await;
        let describe = |(name, shape): (&Topic, Option<Shape>)| {
            let config = configs.remove(name.as_str()).unwrap_or_default();
            shape.map(|shape| TopicDescription {
                name: name.clone(),
                partitions: shape.partitions as usize,
                retention: config.get("retention.ms").and_then(|millis| retention(millis)),
                max_message_bytes: config.get("max.message.bytes").and_then(|bytes| bytes.parse().ok()),
                cleanup_policy: config.get("cleanup.policy").cloned(),
            })
        };
        Ok(topics.iter().zip(shapes).map(describe).collect())
    }

    /// Creates topics, one answer each in the order given. With `dry_run` the broker only checks them.
    ///
    /// # Errors
    /// No broker answers within the time.
    pub async fn create(&self, topics: &[NewTopic], dry_run: bool, within: Duration) -> Result<Vec<Created>, KafkaEdgeError> {
        let options = options(within).operation_timeout(Some(within)).validate_only(dry_run);
        let texts: Vec<_> = topics
            .iter()
            .map(|topic| {
                let retention = topic.retention.map(|retention| retention.as_millis().to_string());
                (retention, topic.max_message_bytes.map(|bytes| bytes.to_string()))
            })
            .collect();
        let native: Vec<_> = topics.iter().zip(&texts).map(|(topic, (retention, bytes))| native(topic, retention, bytes)).collect();
        let answers = self.admin.create_topics(&native, &options).await?;
        let answers: BTreeMap<String, Created> = answers
            .into_iter()
            .map(|answer| match answer {
                Ok(name) => (name, Created::Created),
                Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => (name, Created::Existed),
                Err((name, code)) => (name, Created::Refused(code.to_string())),
            })
            .collect();
        let unanswered = || Created::Refused("the broker did not answer for it".into());
        Ok(topics.iter().map(|topic| answers.get(topic.name.as_str()).cloned().unwrap_or_else(unanswered)).collect())
    }

    /// Whether all is there that is needed, for readiness. A retention that the broker does not tell is taken for long enough.
    ///
    /// # Errors
    /// No broker answers, or one refuses to tell.
    pub async fn inspect(&self, needed: &[Needed], within: Duration) -> Result<Inspection, KafkaEdgeError> {
        let topics: Vec<Topic> = needed.iter().map(|needed| needed.topic.clone()).collect();
        let shapes = self.shapes(&topics, within).await?;
        let mut inspection = Inspection::default();
        let mut weighed = Vec::new();
        let partitions = |topic: &Topic| topics.iter().zip(&shapes).find(|(other, _)| *other == topic)?.1.map(|shape| shape.partitions);
        for needed in needed {
            if let Some((has, wanted)) = partitions(&needed.topic).zip(needed.beside.as_ref().and_then(partitions))
                && has < wanted
            {
                inspection.too_few.push((needed.topic.clone(), has, wanted));
            }
        }
        for (needed, shape) in needed.iter().zip(&shapes) {
            match (shape, needed.retention) {
                (None, _) => inspection.missing.push(needed.topic.clone()),
                (Some(_), Some(wanted)) => weighed.push((&needed.topic, wanted)),
                (Some(_), None) => {}
            }
        }
        let configs = self.configs(&weighed.iter().map(|(topic, _)| *topic).collect::<Vec<_>>(), within).await;
        for (topic, wanted) in weighed {
            let config = configs.get(topic.as_str());
            // A topic that is only compacted deletes nothing for its age.
            let deletes = config.and_then(|config| config.get("cleanup.policy")).is_none_or(|policy| policy.contains("delete"));
            if let Some(Retention::For(kept)) = config.and_then(|config| config.get("retention.ms")).and_then(|millis| retention(millis))
                && deletes
            {
                inspection.kept.push((topic.clone(), kept));
                if kept < wanted {
                    inspection.too_short.push((topic.clone(), kept, wanted));
                }
            }
        }
        Ok(inspection)
    }

    async fn shapes(&self, topics: &[Topic], within: Duration) -> Result<Vec<Option<Shape>>, KafkaEdgeError> {
        let (client, topics) = (Arc::clone(&self.metadata), topics.to_vec());
        let shape = |found: &MetadataTopic| Shape {
            partitions: u32::try_from(found.partitions().len()).unwrap_or(u32::MAX),
            replication: found.partitions().first().map_or(0, |first| u32::try_from(first.replicas().len()).unwrap_or(u32::MAX)),
        };
        blocking(move || topics.iter().map(|topic| look(&client, topic, within, shape)).collect()).await
    }

    /// The settings of topics, by topic and name. What the broker does not tell is left out.
    async fn configs(&self, topics: &[&Topic], within: Duration) -> BTreeMap<String, BTreeMap<String, String>> {
        if topics.is_empty() {
            return BTreeMap::new();
        }
        let asked: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic.as_str())).collect();
        let answers = match self.admin.describe_configs(&asked, &options(within)).await {
            Ok(answers) => answers,
            Err(error) => {
                tracing::debug!(%error, "the topics' settings are not told");
                return BTreeMap::new();
            }
        };
        let mut configs = BTreeMap::new();
        for answer in answers.into_iter().flatten() {
            if let OwnedResourceSpecifier::Topic(name) = answer.specifier {
                let entries = answer.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect();
                configs.insert(name, entries);
            }
        }
        configs
    }
}

/// How long one question of a migration may take.
const MIGRATION_WITHIN: Duration = Duration::from_secs(15);

impl migrations::Topics for TopicAdmin {
    async fn describe(&self, names: &[String]) -> Result<Vec<Option<migrations::TopicDescription>>, TopicError> {
        let topics: Vec<Topic> = names.iter().map(|name| Topic::from(name.as_str())).collect();
        let asked = |error: KafkaEdgeError| TopicError { message: error.to_string(), unreachable: error.is_unreachable() };
        let shapes = self.shapes(&topics, MIGRATION_WITHIN).await.map_err(asked)?;
        let there: Vec<&Topic> = topics.iter().zip(&shapes).filter_map(|(topic, shape)| shape.map(|_| topic)).collect();
        let mut configs = self.configs(&there, MIGRATION_WITHIN).await;
        let describe = |(name, shape): (&String, Option<Shape>)| {
            shape.map(|shape| migrations::TopicDescription {
                partitions: shape.partitions,
                replication: shape.replication,
                configs: configs.remove(name).unwrap_or_default(),
            })
        };
        Ok(names.iter().zip(shapes).map(describe).collect())
    }

    async fn create(&self, topic: &migrations::NewTopic) -> Result<(), TopicError> {
        let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
        // -1: as the broker's `default.replication.factor` says.
        let replication = topic.replication.map_or(-1, |replication| i32::try_from(replication).unwrap_or(i32::MAX));
        let mut native = NativeTopic::new(&topic.name, partitions, TopicReplication::Fixed(replication));
        for (name, value) in &topic.configs {
            native = native.set(name, value);
        }
        let options = options(MIGRATION_WITHIN).operation_timeout(Some(MIGRATION_WITHIN));
        let answers = self.admin.create_topics(&[native], &options).await.map_err(KafkaEdgeError::from);
        let answers = answers.map_err(|error| TopicError { message: error.to_string(), unreachable: error.is_unreachable() })?;
        match answers.into_iter().next() {
            Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, code))) => Err(TopicError { message: code.to_string(), unreachable: false }),
            None => Err(TopicError { message: "the broker did not answer".to_owned(), unreachable: false }),
        }
    }
}

/// How a topic is laid out.
#[derive(Debug, Clone, Copy)]
struct Shape {
    partitions: u32,
    replication: u32,
}

fn options(within: Duration) -> AdminOptions {
    AdminOptions::new().request_timeout(Some(within))
}

fn native<'a>(topic: &'a NewTopic, retention: &'a Option<String>, bytes: &'a Option<String>) -> NativeTopic<'a> {
    let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
    // -1: as the broker's `default.replication.factor` says.
    let replication = topic.replication.map_or(-1, |replication| i32::try_from(replication).unwrap_or(i32::MAX));
    let mut native = NativeTopic::new(topic.name.as_str(), partitions, TopicReplication::Fixed(replication));
    if let Some(retention) = retention {
        native = native.set("retention.ms", retention);
    }
    if let Some(bytes) = bytes {
        native = native.set("max.message.bytes", bytes);
    }
    native
}

fn retention(millis: &str) -> Option<Retention> {
    let millis: i64 = millis.parse().ok()?;
    // Kafka writes "no limit" as -1.
    Some(u64::try_from(millis).map_or(Retention::Forever, |millis| Retention::For(Duration::from_millis(millis))))
}

/// A topic's partitions; `None` if it does not exist. Blocks.
pub(super) fn partitions(client: &BaseConsumer<Quiet>, topic: &Topic, within: Duration) -> Result<Option<Vec<Partition>>, KafkaEdgeError> {
    look(client, topic, within, |found| found.partitions().iter().map(|partition| Partition(partition.id())).collect())
}

/// What `read` makes of a topic's metadata; `None` if it does not exist. Blocks.
fn look<T>(
    client: &BaseConsumer<Quiet>,
    topic: &Topic,
    within: Duration,
    read: impl FnOnce(&MetadataTopic) -> T,
) -> Result<Option<T>, KafkaEdgeError> {
    let metadata = client.fetch_metadata(Some(topic.as_str()), within)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic.as_str()) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        Some(code) if is_unknown_topic(code) => Ok(None),
        // A leader is being chosen: the topic is there.
        None | Some(RDKafkaErrorCode::LeaderNotAvailable) => Ok(Some(read(found))),
        Some(code) => Err(code.into()),
    }
}

/// Runs what blocks, beside the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, KafkaEdgeError> + Send + 'static,
) -> Result<T, KafkaEdgeError> {
    match tokio::task::spawn_blocking(ask).await {
        Ok(answer) => answer,
        Err(error) => Err(KafkaEdgeError::Client(format!("the question was not asked to its end: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_as_kafka_writes_it() {
        for (text, expected) in [
            ("604800000", Some(Retention::For(Duration::from_secs(7 * 24 * 3600)))),
            ("0", Some(Retention::For(Duration::ZERO))),
            ("-1", Some(Retention::Forever)),
            ("soon", None),
        ] {
            assert_eq!(retention(text), expected, "{text}");
        }
        assert!(Retention::Forever.covers(Duration::MAX));
        assert!(!Retention::For(Duration::from_secs(1)).covers(Duration::from_secs(2)));
    }
}
