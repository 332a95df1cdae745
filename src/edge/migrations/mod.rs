//! What must exist before the program runs: the numbered files of `migrations/`, compiled in, one change a file.
//!
//! Guarantees:
//! - Looking changes nothing. Applying creates what is absent and alters nothing that exists: a topic's partitions and retention, and keys of
//!   another release, are their owner's to change; [`Status::Drifted`] says what differs and what to do.
//! - What was applied is read off the servers themselves (a topic exists, the layout's key is written), not off a ledger beside them that
//!   could say otherwise. So applying twice is applying once, and two at once do no harm.
//! - Steps are taken in the files' order and stop at the first that fails.
//!
//! What it leaves to others: talking to Kafka ([`Topics`]) and Redis ([`Layout`]); printing.

mod topics;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;

use crate::config::Config;
use topics::Wanted;

const TOPICS_ID: &str = "0001_create_topics";
const TOPICS: &str = include_str!("../../../migrations/0001_create_topics.toml");
const LAYOUT_ID: &str = "0002_write_redis_layout";
const LAYOUT: &str = include_str!("../../../migrations/0002_write_redis_layout.lua");

/// One thing that must exist.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Step {
    /// The migration it is of: its file's name without the ending.
    pub id: &'static str,
    /// What it is: `topic surveillance.events (6 partitions)`.
    pub title: String,
    /// Where it stands.
    pub status: Status,
}

/// Where a step stands.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is there.
    Applied,
    /// It is not there.
    Pending,
    /// It is there, and not as it should be: what differs, and what to do. Applying leaves it alone.
    Drifted(String),
}

/// A topic as the cluster has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its partitions.
    pub partitions: u32,
    /// Replicas of its first partition.
    pub replication: u32,
    /// Its settings in force, defaults included.
    pub configs: BTreeMap<String, String>,
}

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: u32,
    /// Replicas of each; `None`: as many as the broker's default says.
    pub replication: Option<u32>,
    /// Its settings that differ from the broker's defaults.
    pub configs: BTreeMap<String, String>,
}

/// Kafka, to the extent that topics are looked at and created.
pub trait Topics: Send + Sync {
    /// Each topic as the cluster has it, in the order asked; `None` where there is none.
    fn describe(&self, names: &[String]) -> impl Future<Output = Result<Vec<Option<TopicDescription>>, TopicError>> + Send;

    /// Creates a topic. One that somebody else has created meanwhile is not an error.
    fn create(&self, topic: &NewTopic) -> impl Future<Output = Result<(), TopicError>> + Send;
}

/// Kafka could not be asked, or refused. The text names no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TopicError {
    /// What went wrong.
    pub message: String,
    /// No broker answered.
    pub unreachable: bool,
}

/// Redis, to the extent that the layout's script is run.
pub trait Layout: Send + Sync {
    /// Runs the migration's script without changing anything.
    fn look(&self, script: &str) -> impl Future<Output = Result<Found, LayoutError>> + Send;

    /// Runs it; what it found is as it was before.
    fn apply(&self, script: &str) -> impl Future<Output = Result<Found, LayoutError>> + Send;
}

/// What the layout's script found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// No version.
    Absent,
    /// This release's version.
    Same,
    /// Another.
    Other {
        /// This release's version.
        wanted: String,
        /// The one found.
        found: String,
    },
}

/// Redis could not be asked. The text names no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LayoutError(
    /// What went wrong.
    pub String,
);

/// Why migrations could not be looked at or applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MigrateError {
    /// A migration's file and this release do not fit together: a defect of the build.
    #[error("{id}: {fault}")]
    File {
        /// The migration.
        id: &'static str,
        /// What is wrong with it.
        fault: String,
    },
    /// Kafka could not be asked, or refused.
    #[error("{what}: {source}")]
    Kafka {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: TopicError,
    },
    /// Redis could not be asked.
    #[error("{LAYOUT_ID}: {source}")]
    Redis {
        /// Why it failed.
        source: LayoutError,
    },
}

/// The migrations of one config, over the servers that it names.
#[derive(Debug)]
pub struct Migrations<'a, T, L> {
    wanted: Vec<Wanted>,
    topics: &'a T,
    layout: Option<&'a L>,
}

impl MigrateError {
    /// Whether a needed server did not answer.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::File { .. } => false,
            Self::Kafka { source, .. } => source.unreachable,
            Self::Redis { .. } => true,
        }
    }
}

impl<'a, T: Topics, L: Layout> Migrations<'a, T, L> {
    /// Fills the files in from the config. `layout` is `None` where no `redis.url` is set: then there is nothing to write there.
    ///
    /// # Errors
    /// [`MigrateError::File`].
    pub fn new(config: &Config, topics: &'a T, layout: Option<&'a L>) -> Result<Self, MigrateError> {
        Self::of(topics::wanted(TOPICS, &topics::Figures::of(config)), topics, layout)
    }

    fn of(wanted: Result<Vec<Wanted>, String>, topics: &'a T, layout: Option<&'a L>) -> Result<Self, MigrateError> {
        let wanted = wanted.map_err(|fault| MigrateError::File { id: TOPICS_ID, fault })?;
        Ok(Self { wanted, topics, layout })
    }

    /// Every step with its status, in order. Changes nothing.
    ///
    /// # Errors
    /// A server could not be asked.
    pub async fn plan(&self) -> Result<Vec<Step>, MigrateError> {
        let names: Vec<String> = self.wanted.iter().map(|wanted| wanted.topic.name.clone()).collect();
        let found = self
            .topics
            .describe(&names)
            .await
            .map_err(|source| MigrateError::Kafka { what: "looking at the topics".to_owned(), source })?;
        let mut steps: Vec<Step> = self
            .wanted
            .iter()
            .zip(found)
            .map(|(wanted, found)| Step { id: TOPICS_ID, title: wanted.to_string(), status: wanted.status(found.as_ref()) })
            .collect();
        if let Some(layout) = self.layout {
            let found = layout.look(LAYOUT).await.map_err(|source| MigrateError::Redis { source })?;
            steps.push(layout_step(found));
        }
        Ok(steps)
    }

    /// Applies every pending step, telling `done` of each as it is applied, and gives every step with its status after. Drifted steps stay
    /// as they are.
    ///
    /// # Errors
    /// A server could not be asked, or refused; what `done` was told of stays applied.
    pub async fn apply(&self, mut done: impl FnMut(&Step)) -> Result<Vec<Step>, MigrateError> {
        let mut steps = self.plan().await?;
        for (place, step) in steps.iter_mut().enumerate().filter(|(_, step)| step.status == Status::Pending) {
            match (self.wanted.get(place), self.layout) {
                (Some(wanted), _) => {
                    let what = || format!("creating topic {}", wanted.topic.name);
                    self.topics.create(&wanted.topic).await.map_err(|source| MigrateError::Kafka { what: what(), source })?;
                    step.status = Status::Applied;
                }
                (None, Some(layout)) => match layout.apply(LAYOUT).await.map_err(|source| MigrateError::Redis { source })? {
                    Found::Absent | Found::Same => step.status = Status::Applied,
                    other @ Found::Other { .. } => *step = layout_step(other),
                },
                (None, None) => {}
            }
            if step.status == Status::Applied {
                done(step);
            }
        }
        Ok(steps)
    }
}

fn layout_step(found: Found) -> Step {
    let status = match found {
        Found::Absent => Status::Pending,
        Found::Same => Status::Applied,
        Found::Other { wanted, found } => Status::Drifted(format!(
            "the keys are of layout {found}, this release writes {wanted}: run the release that wrote them, or give this one a redis.prefix of its own"
        )),
    };
    Step { id: LAYOUT_ID, title: "version of the Redis keys' layout".to_owned(), status }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied => f.write_str("applied"),
            Self::Pending => f.write_str("pending"),
            Self::Drifted(detail) => write!(f, "drifted: {detail}"),
        }
    }
}

#[cfg(test)]
mod tests;
