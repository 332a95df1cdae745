//! What the program says of itself: [`metrics`] for machines, [`subscriber`] for the log's lines, [`calls`] for a record of
//! every call, and [`facts`], the witness that turns each thing that happened into one line and its counters.
//!
//! Guarantees:
//! - Telling a fact never waits: not for a reader of the log, not for a scrape, not for a subscriber of [`notice`].
//! - Label values come from the config and from closed enums, never from an event: what a producer sends cannot grow the metrics.
//! - No line carries an event's body; a flood of bad records is a few lines a second and a count ([`flood`]).
//!
//! What it leaves to others: serving the text over HTTP, the clock, and the wording of errors, which arrive as sentences that name
//! no host and no credential. It is the only part of the program that names the `prometheus` crate.

pub mod calls;
#[cfg(test)]
pub(crate) mod capture;
pub mod facts;
pub mod flood;
mod json;
pub mod metrics;
pub mod notice;
mod panics;
pub mod pipe;
pub mod subscriber;
