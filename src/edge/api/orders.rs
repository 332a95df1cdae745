//! Orders for parked calls: due now, due later, discarded; and pauses of a service's draining.
//!
//! A change is written, heard here and audited to its end, whoever has gone meanwhile that asked for it.
//!
//! An order is counted, written to the log that every instance reads, and carried out by whoever drains the calls that it is about. So it may be
//! given to any instance, and the answer says how many calls it is about, not that they have gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::auth::Actor;
use super::breakers::{reasonable, unread};
use super::{Api, Problem, to_its_end};
use crate::event::UnixMillis;
use crate::machine::orders::{Act, Change, MOST_IN_FORCE, Order, Pause};
use crate::machine::selection::Selection;
use crate::pipeline::orders::OrderBook;
use crate::pipeline::ports::{Clock as _, Store, World};

mod shown;

use shown::{Shown, ShownPause, ShownSelection, show, show_pause};
pub(super) use shown::{list, one};

/// The most ids that an order may name.
const MOST_IDS: usize = 1_000;

/// How parked calls are counted, and where orders for them are written.
pub struct Ordering {
    /// What is ordered.
    pub book: Arc<OrderBook>,
    /// The fleet's consumer group.
    pub group: String,
    /// The services whose calls are parked, and for how long one may be.
    pub services: BTreeMap<String, Duration>,
    /// Counts those that are meant.
    pub count: Box<dyn Fn(Selection) -> BoxFuture<'static, Result<Counted, String>> + Send + Sync>,
    /// A name that was never given.
    pub new_id: Box<dyn Fn() -> Uuid + Send + Sync>,
    /// Writes a change to the log.
    pub write: Box<dyn Fn(Change) -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

/// Where nothing is ordered: for tests of other things.
#[cfg(test)]
impl Ordering {
    pub(super) fn none() -> Self {
        Self {
            book: OrderBook::closed("g"),
            group: "g".to_owned(),
            services: BTreeMap::new(),
            new_id: Box::new(Uuid::nil),
            count: Box::new(|_| Box::pin(async { unreachable!("nobody orders") })),
            write: Box::new(|_| Box::pin(async { unreachable!("nobody orders") })),
        }
    }
}

/// Parked calls, as counted.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// Those that are meant.
    pub calls: u64,
    /// Whether all that are parked were looked at.
    pub all: bool,
    /// By topic and partition, the offset that the next record would have had.
    pub ends: BTreeMap<String, BTreeMap<i32, i64>>,
}

/// Which calls, in the words of a request.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Filter {
    pub(super) service: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) camera: Option<String>,
    pub(super) event_id: Option<Uuid>,
    pub(super) older_than: Option<String>,
    pub(super) attempts: Option<u32>,
    pub(super) text: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with ids or filter")]
pub(super) struct Wanted {
    ids: Option<BTreeSet<Uuid>>,
    filter: Option<Filter>,
    #[serde(default)]
    reason: String,
    /// Calls a second, in the whole fleet.
    rate: Option<u32>,
    /// Of a delay: from now on.
    #[serde(rename = "for")]
    lasts: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// What an order is about, or would be.
#[derive(Serialize)]
pub(super) struct Given {
    /// None if it was only counted.
    order: Option<Uuid>,
    calls: u64,
    /// Whether these are all: of a long backlog not everything is looked at, and the order is about the rest as well.
    counted_all: bool,
    dry_run: bool,
}

pub(super) async fn release<W: World, S: Store>(
    state: State<Arc<Api<W, S>>>,
    actor: Extension<Actor>,
    wanted: Result<Json<Wanted>, JsonRejection>,
) -> Result<(StatusCode, Json<Given>), Problem> {
    give(state, actor, wanted, |_, wanted, _| at_once(Act::Release, wanted)).await
}

pub(super) async fn discard<W: World, S: Store>(
    state: State<Arc<Api<W, S>>>,
    actor: Extension<Actor>,
    wanted: Result<Json<Wanted>, JsonRejection>,
) -> Result<(StatusCode, Json<Given>), Problem> {
    give(state, actor, wanted, |_, wanted, _| at_once(Act::Discard, wanted)).await
}

pub(super) async fn delay<W: World, S: Store>(
    state: State<Arc<Api<W, S>>>,
    actor: Extension<Actor>,
    wanted: Result<Json<Wanted>, JsonRejection>,
) -> Result<(StatusCode, Json<Given>), Problem> {
    give(state, actor, wanted, |api, wanted, selection| {
        if wanted.rate.is_some() {
            return Err(Problem::bad_request("a delay has no rate: it calls nobody"));
        }
        let chosen = api.orders.services.iter().filter(|(service, _)| selection.is_of(service));
        let longest = chosen.map(|(_, max_age)| *max_age).min().unwrap_or_default();
        match wanted.lasts.as_deref().map(humantime::parse_duration) {
            Some(Ok(lasts)) if !lasts.is_zero() && lasts < longest => Ok(Act::Delay { until: api.clock.wall().plus(lasts) }),
            Some(Ok(_)) => {
                let longest = humantime::format_duration(longest);
                Err(Problem::bad_request(format!(
                    "`for` must be longer than 0 and shorter than max_age, {longest} for the services it may be about: the calls would be given up"
                )))
            }
            Some(Err(_)) | None => Err(Problem::bad_request("a delay needs `for`, a duration such as \"90s\", \"30m\" or \"2h\"")),
        }
    })
    .await
}

fn at_once(act: Act, wanted: &Wanted) -> Result<Act, Problem> {
    if wanted.lasts.is_some() { Err(Problem::bad_request("`for` goes with a delay")) } else { Ok(act) }
}

async fn give<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    Extension(Actor(actor)): Extension<Actor>,
    wanted: Result<Json<Wanted>, JsonRejection>,
    act: impl FnOnce(&Api<W, S>, &Wanted, &Selection) -> Result<Act, Problem>,
) -> Result<(StatusCode, Json<Given>), Problem> {
    let Json(wanted) = wanted.map_err(|rejection| {
        Problem::bad_request(format!(
            r#"{}; write {{"ids": ["EVENT_ID", …]}} or {{"filter": {{"service": "…", "reason": "…", "camera": "…", "older_than": "10m", "attempts": 3, "text": "…"}}}}, and reason, rate and dry_run if wanted"#,
            unread(&rejection)
        ))
    })?;
    reasonable(&wanted.reason)?;
    if wanted.rate == Some(0) {
        return Err(Problem::bad_request("the rate must be at least 1 a second"));
    }
    let at = api.clock.wall();
    let selection = selection(&api, &wanted, at)?;
    let act = act(&api, &wanted, &selection)?;
    if !wanted.dry_run && api.orders.book.orders().in_force() >= MOST_IN_FORCE {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            format!(
                "{MOST_IN_FORCE} orders are in force, and no more may be: see `fusebox retry orders`, and take back with `fusebox retry cancel` \
                 what is done; each is forgotten after max_age"
            ),
        ));
    }
    let away = |why: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("{why}; nothing was ordered"));
    let Counted { calls, all, ends } = (api.orders.count)(selection.clone()).await.map_err(away)?;
    let given = |order| Given { order, calls, counted_all: all, dry_run: wanted.dry_run };
    if wanted.dry_run || (all && calls == 0) {
        return Ok((StatusCode::OK, Json(given(None))));
    }
    let order = Order {
        id: (api.orders.new_id)(),
        group: api.orders.group.clone(),
        act,
        selection,
        ends,
        at: api.orders.book.orders().next_order_at(at),
        actor,
        reason: wanted.reason,
        rate: wanted.rate,
        calls,
        counted_all: all,
        cancelled_by: None,
    };
    let id = order.id;
    make(api, order.clone().into(), move || {
        tracing::info!(
            target: "fusebox::audit",
            order = %id,
            act = order.act.as_str(),
            actor = order.actor,
            reason = order.reason,
            calls,
            counted_all = all,
            rate = order.rate,
            selection = serde_json::to_string(&ShownSelection::of(&order.selection)).unwrap_or_default(),
            "parked calls were ordered about"
        );
    })
    .await?;
    Ok((StatusCode::ACCEPTED, Json(given(Some(id)))))
}

fn selection<W: World, S: Store>(api: &Api<W, S>, wanted: &Wanted, now: UnixMillis) -> Result<Selection, Problem> {
    chosen(wanted.ids.as_ref().map(BTreeSet::len), wanted.filter.is_some(), "calls", "an order")?;
    let mut selection = wanted.filter.as_ref().map(|filter| filter.selection(now)).transpose()?.unwrap_or_default();
    selection.event_ids.extend(wanted.ids.iter().flatten().copied());
    known(api, &selection)?;
    Ok(selection)
}

/// Refuses what names nothing, and more ids than `who` takes. `things` are what is chosen.
pub(super) fn chosen(ids: Option<usize>, has_filter: bool, things: &str, who: &str) -> Result<(), Problem> {
    match ids {
        Some(ids) if ids > MOST_IDS => Err(Problem::bad_request(format!("there are {ids} ids; {who} takes at most {MOST_IDS}"))),
        Some(1..) => Ok(()),
        None if has_filter => Ok(()),
        Some(_) | None => Err(Problem::bad_request(format!(r#"say which {things}: `ids`, or a `filter`; {{"filter": {{}}}} means all"#))),
    }
}

/// Refuses services and reasons that there are not.
pub(super) fn known<W: World, S: Store>(api: &Api<W, S>, selection: &Selection) -> Result<(), Problem> {
    if let Some(unknown) = selection.services.iter().find(|service| !api.orders.services.contains_key(*service)) {
        return Err(parks_nothing(api, unknown, StatusCode::BAD_REQUEST));
    }
    if let [unknown, ..] = selection.unknown_reasons()[..] {
        let known: Vec<&str> = crate::event::envelope::Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        return Err(Problem::bad_request(format!("nothing is parked for the reason `{unknown}`; there are {}", known.join(", "))));
    }
    Ok(())
}

impl Filter {
    pub(super) fn selection(&self, now: UnixMillis) -> Result<Selection, Problem> {
        let older_than = self.older_than.as_deref().map(humantime::parse_duration).transpose();
        let older_than = older_than.map_err(|_| Problem::bad_request("older_than is no duration; write \"90s\", \"30m\" or \"2h\""))?;
        Ok(Selection {
            services: self.service.iter().cloned().collect(),
            event_ids: self.event_id.into_iter().collect(),
            cameras: self.camera.iter().cloned().collect(),
            reasons: self.reason.iter().cloned().collect(),
            parked_before: older_than.map(|age| now.minus(age)),
            attempts_from: self.attempts,
            text: self.text.clone(),
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Why {
    reason: String,
    ttl: Option<String>,
}

pub(super) async fn cancel<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    Path(id): Path<Uuid>,
    Extension(Actor(actor)): Extension<Actor>,
) -> Result<Json<Shown>, Problem> {
    let (order, done) = find(&api, id)?;
    let cancelled = Order { cancelled_by: Some(actor.clone()), ..order };
    make(api, cancelled.clone().into(), move || {
        tracing::info!(target: "fusebox::audit", order = %id, actor, done, "an order about parked calls was taken back");
    })
    .await?;
    Ok(Json(show(&cancelled, done)))
}

pub(super) async fn pause<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    Path(service): Path<String>,
    Extension(Actor(actor)): Extension<Actor>,
    why: Result<Json<Why>, JsonRejection>,
) -> Result<Json<ShownPause>, Problem> {
    let Json(Why { reason, ttl }) = why.map_err(|rejection| {
        Problem::bad_request(format!(r#"{}; write {{"reason": "…", "ttl": "30m"}}, both if wanted"#, unread(&rejection)))
    })?;
    reasonable(&reason)?;
    parks(&api, &service)?;
    let at = api.clock.wall();
    let until = match ttl.as_deref().map(humantime::parse_duration) {
        None => None,
        Some(Ok(ttl)) if !ttl.is_zero() => Some(at.plus(ttl)),
        Some(_) => return Err(Problem::bad_request("the ttl must be a duration longer than 0, such as \"30m\"")),
    };
    let at = api.orders.book.orders().next_pause_at(&service, at);
    let pause = Pause { group: api.orders.group.clone(), service, at, actor, reason, until };
    let shown = show_pause(&pause);
    make(api, Change::Pause(pause.clone()), move || {
        tracing::info!(target: "fusebox::audit", service = pause.service, actor = pause.actor, reason = pause.reason, "draining was paused");
    })
    .await?;
    Ok(Json(shown))
}

#[derive(Serialize)]
pub(super) struct Resumed {
    service: String,
    paused: bool,
}

pub(super) async fn resume<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    Path(service): Path<String>,
    Extension(Actor(actor)): Extension<Actor>,
) -> Result<Json<Resumed>, Problem> {
    parks(&api, &service)?;
    let resumed = Resumed { service: service.clone(), paused: false };
    let at = api.orders.book.orders().next_pause_at(&service, api.clock.wall());
    let change = Change::Pause(Pause::end(api.orders.group.clone(), service.clone(), at, actor.clone()));
    make(api, change, move || tracing::info!(target: "fusebox::audit", service, actor, "draining goes on")).await?;
    Ok(Json(resumed))
}

fn parks<W: World, S: Store>(api: &Api<W, S>, service: &str) -> Result<(), Problem> {
    if api.orders.services.contains_key(service) { Ok(()) } else { Err(parks_nothing(api, service, StatusCode::NOT_FOUND)) }
}

fn parks_nothing<W: World, S: Store>(api: &Api<W, S>, service: &str, status: StatusCode) -> Problem {
    let known: Vec<&str> = api.orders.services.keys().map(String::as_str).collect();
    Problem::new(status, format!("no service `{service}` parks its calls; there are {}", known.join(", ")))
}

fn find<W: World, S: Store>(api: &Api<W, S>, id: Uuid) -> Result<(Order, u64), Problem> {
    let orders = api.orders.book.orders();
    let found = orders.find(id).map(|(order, done)| (order.clone(), done));
    found.ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, format!("there is no order {id}; one that can be about no call any more is forgotten"))
    })
}

/// Writes a change, takes note of it here, so that whoever asks next finds it though it is not read from the log yet, and audits it.
async fn make<W: World, S: Store>(api: Arc<Api<W, S>>, change: Change, audit: impl FnOnce() + Send + 'static) -> Result<(), Problem> {
    to_its_end(async move {
        (api.orders.write)(change.clone()).await.map_err(|why| {
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the order could not be written: {why}. Its topic is `topics.orders`; `fusebox migrate` creates it"),
            )
        })?;
        api.orders.book.hear(change);
        audit();
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests;
