//! How questions about parked calls reach Kafka, operators' and those of drains that have put calls aside: through clients of their own, within bounds of
//! their own.

use std::time::Duration;

use futures_util::future::FutureExt as _;

use super::wiring;
use crate::config::Config;
use crate::edge::api::parked::{Reading, Wanted};
use crate::edge::clock::SystemClock;
use crate::edge::kafka::{ParkedReader, Reach};

/// Questions at once: somebody who looks for a text must not hold up whoever pages.
const AT_ONCE: usize = 2;

/// What a fetch brings of a partition at most: a page of envelopes of a few KiB.
const FETCH: u32 = 256 << 10;

/// How far one page looks: some seconds of a request's ten, and as much as a fast broker brings in that time.
const REACH: Reach = Reach { records: 200_000, bytes: 128 << 20, within: Duration::from_millis(2_500) };

/// Reads again what a drain has put aside. It is no member of the group, and has no connection before the first question.
pub(super) fn again(config: &Config, clock: SystemClock) -> ParkedReader {
    ParkedReader::new(&config.kafka, &wiring::retry_group(config), 1, FETCH, clock)
}

/// Reads parked calls for the API.
pub(super) fn reading(config: &Config, clock: SystemClock) -> Reading {
    let reader = ParkedReader::new(&config.kafka, &wiring::retry_group(config), AT_ONCE, FETCH, clock);
    let (pages, ones) = (reader.clone(), reader);
    Reading {
        topics: config.parking().map(|(service, retry)| (service.name.clone(), retry.topic.clone())).collect(),
        page: Box::new(move |Wanted { topics, from, limit, see }| {
            let reader = pages.clone();
            async move { reader.page(topics, from, limit, REACH, see).await.map_err(|error| error.to_string()) }.boxed()
        }),
        one: Box::new(move |place| {
            let reader = ones.clone();
            async move {
                let found = reader.one(place).await.map_err(|error| error.to_string())?;
                Ok(found.map(|found| (found.record, found.finished)))
            }
            .boxed()
        }),
    }
}
