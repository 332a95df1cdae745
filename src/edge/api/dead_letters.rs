//! Dead letters: the newest, page by page, and sending them back.
//!
//! What was given up is an event, or a call with one in it: its value, key, headers, and sentences that may quote it are shown to those who may
//! operate, and to nobody else. A redrive runs in the background, one at a time on an instance; over instances, one that begins takes over from one
//! that runs. The last few are kept in memory, for who wants to know how one ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::auth::{Actor, Permission};
use super::breakers::{reasonable, unread};
use super::orders::chosen;
use super::{Api, Problem};
use crate::event::{Incoming, Offset, Partition, UnixMillis};
use crate::pipeline::ports::{Clock as _, Store, World};
use crate::pipeline::redrive::{LeftLetter, Order, Selection, Tally, Told};
use crate::pipeline::stop::Stop;

mod shown;

pub use shown::Letter;

/// Letters on a page, at most: with what is shown of each, some megabytes.
const MOST_LETTERS: usize = 200;

/// How long the answer to a redrive waits for its end.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Redrives that are remembered.
const REMEMBERED: usize = 16;

/// Letters that stay and are named, of one redrive.
const NAMED: usize = 100;

/// Where a page ends, by partition.
pub type Place = BTreeMap<Partition, Offset>;

/// How letters are read and sent back.
pub struct Letters {
    /// Reads a page.
    pub page: Box<dyn Fn(Wished) -> BoxFuture<'static, Result<Found, String>> + Send + Sync>,
    /// Goes through them; what came of it, and what ended it early.
    pub redrive: Redrive,
    /// A name that was never given.
    pub new_id: Box<dyn Fn() -> Uuid + Send + Sync>,
    /// What is redriven, and was.
    pub redrives: Arc<Redrives>,
}

/// What is on a page, and where it ends; `None`: there is nothing more.
type Found = (Vec<Letter>, Option<Place>);

/// A page that somebody wants.
pub struct Wished {
    /// Which letters.
    pub selection: Selection,
    /// How many, at most.
    pub limit: usize,
    /// Where the one before ended.
    pub from: Option<Place>,
    /// What is shown of a letter.
    pub show: Box<dyn Fn(&Incoming) -> Letter + Send>,
}

/// Goes through letters: what is to be done, whether it is only counted, how it is stopped, and who hears of it.
pub type Redrive =
    Box<dyn Fn(Order, bool, Stop, Box<dyn FnMut(Told<'_>) + Send>) -> BoxFuture<'static, (Tally, Option<String>)> + Send + Sync>;

/// The redrives of this instance, the newest last.
#[derive(Default)]
pub struct Redrives(Mutex<VecDeque<Running>>);

struct Running {
    shown: Shown,
    stop: Stop,
}

/// A redrive, and how far it has come.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Shown {
    id: Uuid,
    /// `running`, `done`, `cancelled`, or `failed`.
    state: &'static str,
    /// Why it failed.
    error: Option<String>,
    actor: String,
    reason: String,
    at: String,
    dry_run: bool,
    again: bool,
    rate: Option<u32>,
    selection: ShownSelection,
    #[serde(flatten)]
    tally: Tally,
    /// Of those that stay, the first.
    left_letters: Vec<LeftLetter>,
    cancelled_by: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
struct ShownSelection {
    ids: Vec<String>,
    codes: Vec<String>,
    services: Vec<String>,
    since: Option<String>,
}

impl Redrives {
    fn with<T>(&self, work: impl FnOnce(&mut VecDeque<Running>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins one, unless another runs: then its id.
    fn begin(&self, shown: Shown, stop: Stop) -> Result<(), Uuid> {
        self.with(|all| {
            if let Some(running) = all.iter().find(|one| one.shown.state == RUNNING) {
                return Err(running.shown.id);
            }
            while all.len() >= REMEMBERED {
                all.pop_front();
            }
            all.push_back(Running { shown, stop });
            Ok(())
        })
    }

    fn change(&self, id: Uuid, change: impl FnOnce(&mut Shown)) {
        self.with(|all| {
            if let Some(one) = all.iter_mut().find(|one| one.shown.id == id) {
                change(&mut one.shown);
            }
        });
    }

    fn get(&self, id: Uuid) -> Option<Shown> {
        self.with(|all| all.iter().find(|one| one.shown.id == id).map(|one| one.shown.clone()))
    }

    /// Asks one to stop.
    fn cancel(&self, id: Uuid, actor: &str) -> Option<Shown> {
        self.with(|all| {
            let one = all.iter_mut().find(|one| one.shown.id == id)?;
            if one.shown.state == RUNNING {
                one.shown.cancelled_by = Some(actor.to_owned());
                one.stop.request();
            }
            Some(one.shown.clone())
        })
    }

    /// Asks all to stop: the process ends.
    pub fn stop(&self) {
        self.with(|all| all.iter().for_each(|one| one.stop.request()));
    }
}

const RUNNING: &str = "running";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    limit: Option<usize>,
    cursor: Option<String>,
    code: Option<String>,
    service: Option<String>,
    id: Option<String>,
    since: Option<String>,
}

/// A page of letters.
#[derive(Serialize)]
pub(super) struct Page {
    letters: Vec<Letter>,
    /// What `cursor` takes to go on; null: there is nothing more. Where letters are chosen, a page may be short, or empty, and others follow.
    next: Option<String>,
}

pub(super) async fn list<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    headers: HeaderMap,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let known = "the query takes `limit` (1 to 200), `cursor`, `code`, `service`, `id` and `since`, and nothing else";
    let Query(asked) = asked.map_err(|_| Problem::bad_request(known))?;
    let limit = asked.limit.unwrap_or(50);
    if !(1..=MOST_LETTERS).contains(&limit) {
        return Err(Problem::bad_request(format!("limit is {limit}; it must lie between 1 and {MOST_LETTERS}")));
    }
    let place = asked.cursor.as_deref().map(read_place).transpose()?;
    let one = |wanted: Option<String>| wanted.into_iter().collect();
    let selection =
        Selection { ids: one(asked.id), codes: one(asked.code), services: one(asked.service), since: since(asked.since.as_deref())? };
    let away = |why: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why);
    let may_operate = api.access.check(&headers, Permission::Operate).is_ok();
    let services: BTreeSet<String> = api.breakers.names().map(str::to_owned).collect();
    let show = Box::new(move |letter: &Incoming| if may_operate { Letter::of(letter) } else { Letter::covered(letter, &services) });
    let (letters, next) = (api.letters.page)(Wished { selection, limit, from: place, show }).await.map_err(away)?;
    Ok(Json(Page { letters, next: next.map(|place| write_place(&place)) }))
}

/// `0.1234-1.99`: partitions, each with the offset that the next page begins below.
fn write_place(place: &Place) -> String {
    place.iter().map(|(partition, offset)| format!("{partition}.{offset}")).collect::<Vec<_>>().join("-")
}

fn read_place(text: &str) -> Result<Place, Problem> {
    let part = |part: &str| {
        let (partition, offset) = part.split_once('.')?;
        Some((Partition(partition.parse().ok()?), Offset(offset.parse().ok()?)))
    };
    text.split('-').map(part).collect::<Option<Place>>().ok_or_else(|| Problem::bad_request("the cursor is not one that was given out"))
}

fn since(text: Option<&str>) -> Result<Option<UnixMillis>, Problem> {
    let read = |text: &str| {
        let wrong = || Problem::bad_request(format!("since is {text:?}; write a time such as \"2026-11-03T21:04:05Z\""));
        UnixMillis::from_rfc3339(text).ok_or_else(wrong)
    };
    text.map(read).transpose()
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Filter {
    code: Option<String>,
    service: Option<String>,
    id: Option<String>,
    since: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with ids or filter")]
pub(super) struct Wanted {
    ids: Option<Vec<String>>,
    filter: Option<Filter>,
    #[serde(default)]
    reason: String,
    rate: Option<u32>,
    #[serde(default)]
    again: bool,
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn redrive<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    Extension(Actor(actor)): Extension<Actor>,
    wanted: Result<Json<Wanted>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(wanted) = wanted.map_err(|rejection| {
        Problem::bad_request(format!(
            r#"{}; write {{"ids": ["EVENT_ID", …]}} or {{"filter": {{"code": "…", "service": "…", "since": "…"}}}}, and reason, rate, again and dry_run if wanted"#,
            unread(&rejection)
        ))
    })?;
    reasonable(&wanted.reason)?;
    let selection = selection(wanted.ids, wanted.filter)?;
    let rate = match wanted.rate {
        None => None,
        Some(rate) => Some(NonZeroU32::new(rate).ok_or_else(|| Problem::bad_request("the rate must be at least 1 a second"))?),
    };
    let (id, stop) = ((api.letters.new_id)(), Stop::new());
    let shown = Shown {
        id,
        state: RUNNING,
        error: None,
        actor: actor.clone(),
        reason: wanted.reason.clone(),
        at: api.clock.wall().to_rfc3339(),
        dry_run: wanted.dry_run,
        again: wanted.again,
        rate: wanted.rate,
        selection: ShownSelection {
            ids: selection.ids.clone(),
            codes: selection.codes.clone(),
            services: selection.services.clone(),
            since: selection.since.map(UnixMillis::to_rfc3339),
        },
        tally: Tally::default(),
        left_letters: Vec::new(),
        cancelled_by: None,
    };
    let chosen = serde_json::to_string(&shown.selection).unwrap_or_default();
    api.letters.redrives.begin(shown, stop.clone()).map_err(|running| {
        Problem::new(StatusCode::CONFLICT, format!("one runs here already: GET /api/v1/dead-letters/redrives/{running}, or cancel it"))
    })?;
    tracing::info!(
        target: "fusebox::audit",
        redrive = %id,
        actor,
        reason = wanted.reason,
        selection = chosen,
        again = wanted.again,
        dry_run = wanted.dry_run,
        "dead letters are redriven"
    );
    let order = Order { selection, again: wanted.again, rate };
    let (redrives, running) = (Arc::clone(&api.letters.redrives), work(Arc::clone(&api), id, order, wanted.dry_run, stop, actor));
    let running = tokio::spawn(async move {
        // A defect must not leave it running for ever: no other would be taken.
        if tokio::spawn(running).await.is_err() {
            redrives.change(id, |shown| {
                shown.state = "failed";
                shown.error = Some("it met a defect of Fusebox; the log says which".to_owned());
            });
        }
    });
    // Whoever asked may go away: it goes on.
    let ended = tokio::time::timeout(AT_ONCE, running).await.is_ok();
    let Some(shown) = api.letters.redrives.get(id) else { return Err(gone(id)) };
    let status = match (ended, shown.state) {
        (false, _) => StatusCode::ACCEPTED,
        (true, "failed") => return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, shown.error.unwrap_or_default())),
        (true, _) => StatusCode::OK,
    };
    let mut response = (status, Json(shown)).into_response();
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/dead-letters/redrives/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Does it, and says how it ended.
async fn work<W: World, S: Store>(api: Arc<Api<W, S>>, id: Uuid, order: Order, dry_run: bool, stop: Stop, actor: String) {
    let redrives = Arc::clone(&api.letters.redrives);
    let tell = Box::new(move |told: Told<'_>| {
        redrives.change(id, |shown| match told {
            Told::Left(letter, why) if shown.left_letters.len() < NAMED => shown.left_letters.push(LeftLetter::of(letter, why)),
            Told::Left(..) => {}
            Told::Progress(tally) => shown.tally = tally.clone(),
        });
    });
    let (tally, error) = (api.letters.redrive)(order, dry_run, stop, tell).await;
    let state = match (&error, tally.complete) {
        (Some(_), _) => "failed",
        (None, true) => "done",
        (None, false) => "cancelled",
    };
    let Tally { redriven, redriven_before, left, .. } = tally;
    tracing::info!(
        target: "fusebox::audit",
        redrive = %id, actor, state, error = error.as_deref(), redriven, redriven_before, left, dry_run,
        "a redrive of dead letters has ended"
    );
    api.letters.redrives.change(id, |shown| {
        shown.state = state;
        shown.error = error;
        shown.tally = tally;
    });
}

fn selection(ids: Option<Vec<String>>, filter: Option<Filter>) -> Result<Selection, Problem> {
    chosen(ids.as_ref().map(Vec::len), filter.is_some(), "letters", "a redrive")?;
    let Filter { code, service, id, since: after } = filter.unwrap_or_default();
    Ok(Selection {
        ids: ids.into_iter().flatten().chain(id).collect(),
        codes: code.into_iter().collect(),
        services: service.into_iter().collect(),
        since: since(after.as_deref())?,
    })
}

/// The redrives of this instance, the newest first.
#[derive(Serialize)]
pub(super) struct All {
    redrives: Vec<Shown>,
}

pub(super) async fn redrives<W: World, S: Store>(State(api): State<Arc<Api<W, S>>>, headers: HeaderMap) -> Json<All> {
    let may_operate = api.access.check(&headers, Permission::Operate).is_ok();
    let redrives = api.letters.redrives.with(|all| all.iter().rev().map(|one| one.shown.clone().covered(!may_operate)).collect());
    Json(All { redrives })
}

pub(super) async fn one<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
) -> Result<Json<Shown>, Problem> {
    let may_operate = api.access.check(&headers, Permission::Operate).is_ok();
    api.letters.redrives.get(id).map(|shown| Json(shown.covered(!may_operate))).ok_or_else(|| gone(id))
}

pub(super) async fn cancel<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    Path(id): Path<Uuid>,
    Extension(Actor(actor)): Extension<Actor>,
) -> Result<Json<Shown>, Problem> {
    let shown = api.letters.redrives.cancel(id, &actor).ok_or_else(|| gone(id))?;
    tracing::info!(target: "fusebox::audit", redrive = %id, actor, redriven = shown.tally.redriven, "a redrive was asked to stop");
    Ok(Json(shown))
}

impl Shown {
    /// Without what may quote a letter.
    fn covered(mut self, cover: bool) -> Self {
        if cover {
            self.left_letters.clear();
        }
        self
    }
}

fn gone(id: Uuid) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("this instance knows no redrive {id}; it keeps the last {REMEMBERED}, until it ends"))
}

/// Where nothing is read and nothing goes: for tests of other things.
#[cfg(test)]
impl Letters {
    pub(super) fn none() -> Self {
        Self {
            page: Box::new(|_| Box::pin(async { Err("nobody reads".to_owned()) })),
            redrive: Box::new(|_, _, _, _| Box::pin(async { (Tally::default(), Some("nobody redrives".to_owned())) })),
            new_id: Box::new(Uuid::nil),
            redrives: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_from_its_text() {
        let place = Place::from([(Partition(0), Offset(12)), (Partition(11), Offset(0))]);
        assert_eq!(read_place(&write_place(&place)).ok(), Some(place));
        for wrong in ["", "1", "1.", ".1", "1.x", "1.2-", "m3", "1.2,3.4"] {
            assert!(read_place(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn one_runs_at_a_time_and_the_last_few_are_kept() {
        let redrives = Redrives::default();
        let shown = |id: u128| Shown {
            id: Uuid::from_u128(id),
            state: RUNNING,
            error: None,
            actor: "ops".into(),
            reason: String::new(),
            at: String::new(),
            dry_run: false,
            again: false,
            rate: None,
            selection: ShownSelection { ids: Vec::new(), codes: Vec::new(), services: Vec::new(), since: None },
            tally: Tally::default(),
            left_letters: Vec::new(),
            cancelled_by: None,
        };
        for id in 0..40 {
            let stop = Stop::new();
            assert_eq!(redrives.begin(shown(id), stop.clone()), Ok(()));
            assert_eq!(redrives.begin(shown(1_000), Stop::new()), Err(Uuid::from_u128(id)));
            assert!(redrives.cancel(Uuid::from_u128(id), "ops").is_some() && stop.is_requested());
            redrives.change(Uuid::from_u128(id), |shown| shown.state = "cancelled");
        }
        assert!(redrives.get(Uuid::from_u128(23)).is_none() && redrives.get(Uuid::from_u128(24)).is_some());
        assert!(redrives.cancel(Uuid::from_u128(7), "ops").is_none());
    }
}
