//! `[processing]`: what is kept in order, and how much is in flight.

use std::num::NonZeroUsize;

use bytesize::ByteSize;

use super::{HOUR, MILLISECOND};
use crate::config::checked::{Guarantee, Ordering, Processing};
use crate::config::faults::Fault;
use crate::config::reader::Section;
use crate::config::shape::{Size, Text, Time, Whole, Word};

/// The largest record that Kafka's own limits (a signed 32-bit size) could let through.
const LARGEST_RECORD: u64 = i32::MAX as u64;

/// What `[processing]` holds.
pub(super) fn read(section: &Section<'_>, warnings: &mut Vec<Fault>) -> Option<Processing> {
    let ordering = section.required(
        "ordering",
        Word(&[("key", Ordering::Key), ("partition", Ordering::Partition), ("unordered", Ordering::Unordered)]),
        "What is processed in order, one at a time: events of a key, of a partition, or nothing.",
    );
    let concurrency = section.required("concurrency", Whole(1..=100_000_u32), "Events running at once.");
    let max_in_flight = section.required(
        "max_in_flight",
        Whole(1..=10_000_000_u32),
        "Records in memory, read ahead or not finished; at this bound partitions pause.",
    );
    let max_in_flight_bytes = section.required(
        "max_in_flight_bytes",
        Size(1_024..=1 << 40),
        "Their bytes, and those that wait for Kafka, twice; at this bound partitions pause.",
    );
    let max_event_bytes = section.required("max_event_bytes", Size(1..=LARGEST_RECORD), "A larger event is dead-lettered.");
    let commit_interval = section.required(
        "commit_interval",
        Time::between(10 * MILLISECOND, HOUR),
        "The longest time between two commits while records finish.",
    );
    let guarantee = guarantee(section, warnings);
    if let (Some(concurrency), Some(bound)) = (concurrency, max_in_flight)
        && concurrency > bound
    {
        section.at_odds(
            &["concurrency", "max_in_flight"],
            format!("`concurrency`, {concurrency}, must not be more than `max_in_flight`, {bound}"),
        );
    }
    if let (Some(event), Some(bound)) = (max_event_bytes, max_in_flight_bytes)
        && event > bound
    {
        let (event, bound) = (ByteSize(event as u64), ByteSize(bound as u64));
        section.at_odds(
            &["max_event_bytes", "max_in_flight_bytes"],
            format!("`max_event_bytes`, {event}, must not be more than `max_in_flight_bytes`, {bound}"),
        );
    }
    Some(Processing {
        ordering: ordering?,
        concurrency: NonZeroUsize::new(concurrency? as usize)?,
        max_in_flight: NonZeroUsize::new(max_in_flight? as usize)?,
        max_in_flight_bytes: NonZeroUsize::new(max_in_flight_bytes?)?,
        max_event_bytes: NonZeroUsize::new(max_event_bytes?)?,
        commit_interval: commit_interval?,
        guarantee: guarantee?,
    })
}

fn guarantee(section: &Section<'_>, warnings: &mut Vec<Fault>) -> Option<Guarantee> {
    let exactly_once = section.required(
        "guarantee",
        Word(&[("at_least_once", false), ("exactly_once", true)]),
        "How often an outcome is there after a crash; `exactly_once` puts it into one Kafka transaction with the commit.",
    );
    let transactional_id = section.optional(
        "transactional_id",
        Text,
        "What this instance's transactions are known by: unique to it while it runs, and the same after its restart.",
    );
    let (exactly_once, transactional_id) = (exactly_once?, transactional_id?);
    if exactly_once {
        return Some(Guarantee::ExactlyOnce { transactional_id });
    }
    if transactional_id.is_some() {
        warnings.push(section.remark("transactional_id", "has no effect: `guarantee` is not \"exactly_once\""));
    }
    Some(Guarantee::AtLeastOnce)
}
