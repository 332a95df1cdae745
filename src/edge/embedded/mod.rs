//! A small world inside the process, for `fusebox dev`, `fusebox stub` and the tests: a Kafka ([`EmbeddedKafka`]), services that fail on
//! request ([`stub`]) and cameras that see things ([`generator`]). Nothing here is used by `fusebox run`.

pub mod control;
mod forward;
pub mod generator;
mod mock;
pub mod stub;

pub use mock::{EmbeddedError, EmbeddedKafka};
