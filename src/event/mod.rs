//! The nouns: what travels through Fusebox, as plain data.
//!
//! An [`Incoming`] record is decoded into an [`Event`]; what became of it leaves as [`Record`]s: an outcome, parked
//! calls ([`envelope`]), a dead letter ([`dead_letter`]). Nothing here knows Kafka, a clock or an async runtime.

pub mod cloudevents;
pub mod coordinates;
pub mod dead_letter;
pub mod decode;
pub mod delivery;
mod detection;
pub mod envelope;
pub mod foreign;
pub mod headers;
pub(crate) mod json;
pub mod known;
pub mod outcome;
pub mod record;
pub mod redrive;
pub mod time;

pub use coordinates::{Offset, Partition, Source, Topic, TopicPartition};
pub use decode::{Event, Unreadable};
pub use headers::Headers;
pub use record::{Incoming, Record};
pub use time::UnixMillis;
