//! The partitions of the events: how far each is, which are stopped because too many of their records are bad, and letting those go on.
//!
//! A partition is let go on by the instance that has it, and no other knows that it is stopped: any other answers 404.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::auth::Actor;
use super::breakers::{reasonable, unread};
use super::{Api, Problem};
use crate::event::{Offset, Partition, Topic, TopicPartition};
use crate::pipeline::brakes::{Board, NotReleased, Stopped};
use crate::pipeline::ports::{Store, World};

/// Where the loop's partitions are seen.
pub struct Desk {
    /// What the loop says of them.
    pub board: Arc<Board>,
    /// The topic.
    pub topic: Topic,
    /// Whether a partition is ever stopped.
    pub brakes: bool,
    /// How far each partition of the topic is, also those of others.
    pub places: Box<dyn Fn() -> BoxFuture<'static, Vec<Place>> + Send + Sync>,
}

/// Where there are no partitions: for tests of other things.
#[cfg(test)]
impl Desk {
    pub(super) fn none() -> Self {
        Self { board: Arc::default(), topic: Topic::from("events"), brakes: false, places: Box::new(|| Box::pin(async { Vec::new() })) }
    }
}

/// How far a partition is, as far as that is known.
#[derive(Debug, Clone)]
pub struct Place {
    /// Which.
    pub partition: Partition,
    /// Behind the last record that was read here.
    pub position: Option<Offset>,
    /// Where its group goes on.
    pub committed: Option<Offset>,
    /// The offset that its next record will have.
    pub end: Option<Offset>,
    /// Records between the two.
    pub lag: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct All {
    instance: String,
    topic: String,
    /// Whether `dead_letters.brake` is configured.
    brake: bool,
    partitions: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    partition: i32,
    position: Option<Offset>,
    committed: Option<Offset>,
    end: Option<Offset>,
    lag: Option<u64>,
    braked: Option<ShownStop>,
}

#[derive(Serialize)]
struct ShownStop {
    since: String,
    /// The first bad record that is held.
    first: Offset,
    /// The one that was too many, and what was wrong with it.
    at: Offset,
    code: &'static str,
    /// Bad records that are held.
    bad: usize,
}

pub(super) async fn list<W: World, S: Store>(State(api): State<Arc<Api<W, S>>>) -> Json<All> {
    let desk = &api.partitions;
    let places = (desk.places)().await;
    let partitions = desk.board.partitions().into_iter().map(|(partition, stopped)| {
        let place = places.iter().find(|place| place.partition == partition.partition);
        Shown {
            partition: partition.partition.0,
            position: place.and_then(|place| place.position),
            committed: place.and_then(|place| place.committed),
            end: place.and_then(|place| place.end),
            lag: place.and_then(|place| place.lag),
            braked: stopped.as_ref().map(show),
        }
    });
    Json(All { instance: api.instance.clone(), topic: desk.topic.to_string(), brake: desk.brakes, partitions: partitions.collect() })
}

fn show(stopped: &Stopped) -> ShownStop {
    let Stopped { first, at, code, bad, rule: _, since } = stopped;
    ShownStop { since: since.to_rfc3339(), first: *first, at: *at, code: code.as_str(), bad: *bad }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with reason, and through if wanted")]
pub(super) struct Wanted {
    #[serde(default)]
    reason: String,
    through: Option<Through>,
}

/// How far bad records may be given up without being weighed.
#[derive(Deserialize, Clone, Copy)]
#[serde(untagged, expecting = "through must be an offset, or \"end\"")]
enum Through {
    Offset(Offset),
    Word(Word),
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Word {
    End,
}

#[derive(Serialize)]
pub(super) struct Released {
    partition: i32,
    /// The stop that it is about.
    #[serde(flatten)]
    stop: ShownStop,
    /// Up to here bad records are given up without being weighed.
    through: Offset,
}

pub(super) async fn release<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    Path(number): Path<String>,
    Extension(Actor(actor)): Extension<Actor>,
    wanted: Result<Json<Wanted>, JsonRejection>,
) -> Result<(StatusCode, Json<Released>), Problem> {
    let Json(Wanted { reason, through }) = wanted.map_err(|rejection| {
        Problem::bad_request(format!(r#"{}; write {{"reason": "…"}}, and "through": OFFSET or "end" if wanted"#, unread(&rejection)))
    })?;
    reasonable(&reason)?;
    let desk = &api.partitions;
    let number: i32 = number
        .parse()
        .map_err(|_| Problem::new(StatusCode::NOT_FOUND, format!("there is no partition `{number}`; partitions are numbers, from 0")))?;
    let partition = TopicPartition { topic: desk.topic.clone(), partition: Partition(number) };
    let through = match through {
        None => None,
        Some(Through::Offset(offset)) => Some(offset),
        Some(Through::Word(Word::End)) => Some(last(desk, partition.partition).await?),
    };
    let (stopped, through) =
        desk.board.release(&partition, through, actor.clone(), reason.clone()).map_err(|why| not_released(&partition, why))?;
    tracing::info!(
        target: "fusebox::audit",
        %partition,
        first = stopped.first.0,
        at = stopped.at.0,
        through = through.0,
        actor,
        reason,
        "a stopped partition was let go on"
    );
    Ok((StatusCode::ACCEPTED, Json(Released { partition: number, stop: show(&stopped), through })))
}

/// The last record of a partition, as the brokers say now.
async fn last(desk: &Desk, partition: Partition) -> Result<Offset, Problem> {
    let places = (desk.places)().await;
    let end = places.iter().find(|place| place.partition == partition).and_then(|place| place.end);
    end.map(|end| Offset(end.0 - 1)).ok_or_else(|| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "Kafka does not say where the partition ends; name an offset, or try again")
    })
}

fn not_released(partition: &TopicPartition, why: NotReleased) -> Problem {
    match why {
        NotReleased::NotHere => Problem::new(
            StatusCode::NOT_FOUND,
            format!(
                "{partition} is not this instance's; ask the one that has it: its /api/v1/partitions lists it, its /readyz says that it is stopped"
            ),
        ),
        NotReleased::NotStopped => Problem::new(StatusCode::CONFLICT, format!("{partition} is not stopped: there is nothing to let go on")),
    }
}
