//! Kafka, through librdkafka: reading in a group, writing with acknowledgements, topics, lag, and reading a topic to its end.
//!
//! What holds for all of it:
//! - Kafka that cannot be reached is not an error of starting: librdkafka goes on trying for ever, and [`ConsumerHealth`] says so.
//! - Nothing here blocks the async runtime: librdkafka's blocking calls run on threads of their own.
//! - No error and no log line above `debug` names a broker's address or the value of a property: librdkafka's own lines do, so
//!   they are written at `debug`, and what people need of them is said once per change in words of our own.
//!
//! What a record means, when it is finished and what follows from an error is left to [`crate::pipeline`].

pub mod along;
mod consumer;
mod error;
mod lag;
mod newest;
pub mod orders;
mod parked;
mod properties;
mod publisher;
mod record;
mod redriver;
mod tail;
mod topics;
mod unfinished;

pub use consumer::{Ahead, ConsumerHealth, ConsumerOptions, KafkaSubscription, OnCommit, Reading, Readings, Settled};
pub use error::KafkaEdgeError;
pub use lag::{LagSampler, PartitionLag};
pub use newest::{Extent, Page, Place, newest};
pub use parked::{Found, ParkedReader, Reach, Sampled};
pub use properties::session_timeout;
pub use publisher::{KafkaPublisher, Producer};
pub use redriver::{Redriver, memories};
pub use tail::{Start, Tail, read};
pub use topics::{Created, Inspection, Needed, NewTopic, Retention, TopicAdmin, TopicDescription};
pub use unfinished::{Looked, look};
