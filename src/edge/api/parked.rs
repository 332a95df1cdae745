//! The parked calls themselves, page by page, and one with all that is in it.
//!
//! They are read from the retry topics, whoever drains them, so every instance gives the same answer. What an event said (the text of an envelope, its
//! payload) is shown to those who may operate alone; the rest to whoever may read.

mod shown;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::shown::{Listed, Whole};
use super::auth::Permission;
use super::orders::{Filter, known};
use super::{Api, Problem};
use crate::event::{Incoming, Offset, Partition, Source, Topic, envelope};
use crate::machine::paging::{Cursor, Page};
use crate::pipeline::ports::{Clock as _, Store, World};

/// The most that a page has.
const MOST: usize = 200;

/// What a page has unless more is asked for.
const USUAL: usize = 50;

/// An answer of Kafka's, or in words why there is none.
type Answer<T> = BoxFuture<'static, Result<T, String>>;

/// How parked calls are read.
pub struct Reading {
    /// The topics that services' calls are parked on.
    pub topics: BTreeMap<String, Topic>,
    /// Reads a page.
    pub page: Box<dyn Fn(Wanted) -> Answer<Page<Listed>> + Send + Sync>,
    /// Reads one record: it, and whether it has finished.
    pub one: Box<dyn Fn(Source) -> Answer<Option<(Incoming, bool)>> + Send + Sync>,
}

/// Where nothing is parked: for tests of other things.
#[cfg(test)]
impl Reading {
    pub(super) fn none() -> Self {
        Self {
            topics: BTreeMap::new(),
            page: Box::new(|_| Box::pin(async { Err("nobody lists".to_owned()) })),
            one: Box::new(|_| Box::pin(async { Err("nobody lists".to_owned()) })),
        }
    }
}

/// What somebody asked for.
pub struct Wanted {
    /// Of these topics.
    pub topics: Vec<Topic>,
    /// From there on; `None`: from the oldest on.
    pub from: Option<Cursor>,
    /// So many.
    pub limit: usize,
    /// What is shown of a record, if it is meant.
    pub see: Box<dyn FnMut(Incoming) -> Option<Listed> + Send>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    service: Option<String>,
    reason: Option<String>,
    camera: Option<String>,
    event_id: Option<Uuid>,
    older_than: Option<String>,
    #[serde(alias = "attempt")]
    attempts: Option<u32>,
    text: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Listing {
    messages: Vec<Listed>,
    /// The cursor of the next page; null if there is none.
    next: Option<String>,
    /// Whether there is no more: else a page that is short, or empty, is as far as looking went.
    complete: bool,
    /// Parked calls that were looked at for this page.
    scanned: u64,
    /// Whether partitions could not be read: what is on them may be on no page.
    missing: bool,
}

pub(super) async fn list<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    headers: HeaderMap,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Listing>, Problem> {
    let Query(asked) = asked.map_err(|rejection| {
        Problem::bad_request(format!(
            "{}; the query takes service, reason, camera, event_id, older_than (such as 10m), attempts (at least so many), text, limit (1 to {MOST}) and cursor",
            rejection.body_text()
        ))
    })?;
    let limit = asked.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(Problem::bad_request(format!("limit is {limit}; it must lie between 1 and {MOST}")));
    }
    if asked.text.is_some() {
        // Whoever may look for any text finds out what is there, a character at a time.
        api.access.check(&headers, Permission::Operate)?;
    }
    let unknown = || Problem::bad_request("the cursor is not one that was given out");
    let from = asked.cursor.as_deref().map(|text| Cursor::from_text(text).ok_or_else(unknown)).transpose()?;
    let now = api.clock.wall();
    let Asked { service, reason, camera, event_id, older_than, attempts, text, .. } = asked;
    let selection = Filter { service, reason, camera, event_id, older_than, attempts, text }.selection(now)?;
    known(&api, &selection)?;
    let of_service = |name: &String| selection.services.is_empty() || selection.services.contains(name);
    let mut topics: Vec<Topic> = api.parked.topics.iter().filter(|(name, _)| of_service(name)).map(|(_, topic)| topic.clone()).collect();
    topics.sort_unstable();
    topics.dedup();
    if from.as_ref().is_some_and(|from| from.topics().any(|topic| !api.parked.topics.values().any(|known| known == topic))) {
        return Err(unknown());
    }
    let (book, means_all) = (Arc::clone(&api.orders.book), selection == Default::default());
    let see = move |record: Incoming| match envelope::read(record, now) {
        Ok(parked) => selection.has(&parked).then(|| {
            let orders = book.orders();
            Listed::of(&parked, orders.about(&parked), now)
        }),
        // Nobody's call: it is about to be a dead letter, and nothing is known to choose it by.
        Err((record, unreadable)) => means_all.then(|| Listed::unreadable(&record, unreadable.code)),
    };
    let page = (api.parked.page)(Wanted { topics, from, limit, see: Box::new(see) }).await.map_err(away)?;
    let next = (!page.next.is_empty()).then(|| page.next.to_text());
    Ok(Json(Listing {
        complete: next.is_none() && !page.missing,
        messages: page.items,
        next,
        scanned: page.scanned,
        missing: page.missing,
    }))
}

pub(super) async fn one<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    place: Result<Path<(String, i32, i64)>, PathRejection>,
) -> Result<Json<Whole>, Problem> {
    let Path((topic, partition, offset)) =
        place.map_err(|_| Problem::bad_request("write /api/v1/retry/messages/TOPIC/PARTITION/OFFSET, the last two as numbers"))?;
    let Some(topic) = api.parked.topics.values().find(|known| known.as_str() == topic) else {
        let all: Vec<&str> = api.parked.topics.values().map(Topic::as_str).collect();
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("no calls are parked on `{topic}`; there are {}", all.join(", "))));
    };
    let place = Source { topic: topic.clone(), partition: Partition(partition), offset: Offset(offset) };
    let found = (api.parked.one)(place).await.map_err(away)?;
    let Some((record, finished)) = found else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "there is no record at that place; Kafka may have deleted it for its age"));
    };
    let orders = api.orders.book.orders();
    Ok(Json(Whole::of(record, finished, |parked| orders.about(parked).cloned(), api.clock.wall())))
}

fn away(why: String) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)
}
