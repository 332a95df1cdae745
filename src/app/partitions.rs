//! The partitions of the events, for the API: what the loop says of them, what its consumer has read, and what the brokers say.

use std::sync::Arc;

use futures_util::future::FutureExt as _;

use super::backlog::Backlog;
use super::status::Watch;
use crate::config::Config;
use crate::edge::api::partitions::{Desk, Place};
use crate::pipeline::brakes::Board;

pub(super) fn desk(config: &Config, board: &Arc<Board>, watch: &Arc<Watch>, backlog: &Arc<Backlog>) -> Desk {
    let (watch, backlog) = (Arc::clone(watch), Arc::clone(backlog));
    Desk {
        board: Arc::clone(board),
        topic: config.topics.events.clone(),
        brakes: config.dead_letters.brake.is_some(),
        places: Box::new(move || {
            let (watch, backlog) = (Arc::clone(&watch), Arc::clone(&backlog));
            async move {
                let read = watch.positions("events");
                let place = |lag: &crate::edge::kafka::PartitionLag| Place {
                    partition: lag.partition.partition,
                    position: read.iter().find(|reading| reading.partition == lag.partition).and_then(|reading| reading.position),
                    committed: lag.committed,
                    end: Some(lag.end),
                    lag: Some(lag.lag()),
                };
                backlog.of_events().await.iter().map(place).collect()
            }
            .boxed()
        }),
    }
}
