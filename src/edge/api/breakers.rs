//! The breakers: how they are, how they came to be so, and how somebody wants them to be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::auth::Actor;
use super::{Api, Problem};
use crate::config::breaker_table;
use crate::machine::breaker::{Automatic, Counts, FleetCounts, Held, Lock, LockKind, StateName};
use crate::machine::time::Tick;
use crate::pipeline::breakers::{Order, View};
use crate::pipeline::keeper::StoreState;
use crate::pipeline::ports::{Clock, HistoryEntry, HistoryPage, Store, World};
use crate::pipeline::tuning::Chosen;

/// The longest that a lock may be asked to last, so that a mistyped unit is noticed.
const LONGEST_TTL: Duration = Duration::from_secs(366 * 24 * 3600);

/// The longest reason that is kept.
const LONGEST_REASON: usize = 1_000;

#[derive(Serialize)]
pub(super) struct Health {
    status: &'static str,
    instance: String,
    circuit_breakers: BTreeMap<String, Shown>,
}

/// A breaker, as the API shows it.
#[derive(Serialize)]
pub(super) struct Shown {
    service: String,
    state: StateName,
    generation: u64,
    since: String,
    retry_at: Option<String>,
    trips: u32,
    probes_in_flight: usize,
    counts: Counts,
    /// As a `breaker` table of the config.
    settings: serde_json::Map<String, serde_json::Value>,
    /// 0: they were never changed since they were configured.
    settings_revision: u64,
    /// What names the last change of them, as the entity tag.
    settings_tag: String,
    settings_changed: Option<ShownTuning>,
    lock: Option<ShownLock>,
    fleet: Fleet,
}

/// The last change of the settings.
#[derive(Serialize)]
struct ShownTuning {
    actor: String,
    reason: String,
    at: String,
    instance: String,
    /// `given`; `configured`: back to each instance's config; `unreadable`: by another version, so that what is in force here stays.
    to: &'static str,
    /// Whether the others have it, or can. Without a store, and while it is away, they cannot.
    shared: bool,
}

#[derive(Serialize)]
struct ShownLock {
    kind: &'static str,
    actor: String,
    reason: String,
    expires_at: Option<String>,
}

/// What is known of the breaker's life outside this process.
#[derive(Serialize)]
struct Fleet {
    /// Whether the state is shared.
    shared: bool,
    /// Whether the store answers; null if there is none.
    store_up: Option<bool>,
    /// Whether it has opened on this instance alone: for the fleet it is closed.
    alone: bool,
    /// What all instances see of the service, as last heard; null where they do not tell each other, or nothing was heard yet.
    seen: Option<FleetCounts>,
}

/// A breaker by itself, with what names its settings' last change as the entity tag.
pub(super) struct Answer(Shown);

impl From<Shown> for Answer {
    fn from(shown: Shown) -> Self {
        Self(shown)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let tag = HeaderValue::try_from(format!("\"{}\"", self.0.settings_tag));
        let mut response = Json(self.0).into_response();
        if let Ok(tag) = tag {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }
}

pub(super) async fn health<W: World, S: Store>(State(api): State<Arc<Api<W, S>>>) -> Json<Health> {
    let circuit_breakers: BTreeMap<_, _> =
        (0..api.breakers.len()).map(|service| api.breakers.view(service)).map(|view| (view.service.clone(), show(&api, view))).collect();
    let all_go = circuit_breakers.values().all(|shown| matches!(shown.state, StateName::Closed | StateName::MetricsOnly));
    Json(Health { status: if all_go { "ok" } else { "degraded" }, instance: api.instance.clone(), circuit_breakers })
}

pub(super) async fn one<W: World, S: Store>(State(api): State<Arc<Api<W, S>>>, Path(service): Path<String>) -> Result<Answer, Problem> {
    let service = find(&api, &service)?;
    Ok(Answer(show(&api, api.breakers.view(service))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    cursor: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
pub(super) struct History {
    service: String,
    entries: Vec<ShownEntry>,
    next: Option<String>,
    /// `store`: the fleet's; `memory`: what this instance has seen, because the store is absent or away.
    source: &'static str,
}

#[derive(Serialize)]
struct ShownEntry {
    at: String,
    from: StateName,
    to: StateName,
    cause: &'static str,
    generation: u64,
    instance: String,
    actor: Option<String>,
    reason: Option<String>,
    counts: Counts,
    /// Whether it was that instance's alone: for the fleet the breaker stayed closed.
    alone: bool,
    /// What all instances had seen, where that was weighed.
    fleet: Option<FleetCounts>,
}

pub(super) async fn history<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    Path(name): Path<String>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<History>, Problem> {
    let service = find(&api, &name)?;
    let Query(page) = page.map_err(|_| Problem::bad_request("the query takes `limit` (1 to 1000) and `cursor`, and nothing else"))?;
    let limit = page.limit.unwrap_or(50);
    if !(1..=1_000).contains(&limit) {
        return Err(Problem::bad_request(format!("limit is {limit}; it must lie between 1 and 1000")));
    }
    // A cursor of this process's memory begins with "m"; one of the store's is a stream's id.
    let of_memory = page.cursor.as_ref().and_then(|cursor| cursor.strip_prefix('m'));
    let stored = match (&api.store, of_memory) {
        (Some(store), None) => store.history(&name, page.cursor.as_deref(), limit).await.ok(),
        _ => None,
    };
    let (HistoryPage { entries, next }, source) = match stored {
        Some(stored) => (stored, "store"),
        None => {
            let skip = match of_memory {
                Some(number) => number.parse().map_err(|_| Problem::bad_request("the cursor is not one that was given out"))?,
                None => 0,
            };
            (remembered(api.breakers.remembered(service), skip, limit), "memory")
        }
    };
    let entries = entries.into_iter().map(show_entry).collect();
    Ok(Json(History { service: name, entries, next, source }))
}

fn remembered(all: Vec<HistoryEntry>, skip: usize, limit: usize) -> HistoryPage {
    let next = (all.len() > skip.saturating_add(limit)).then(|| format!("m{}", skip + limit));
    HistoryPage { entries: all.into_iter().skip(skip).take(limit).collect(), next }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with state, and reason and ttl if wanted")]
pub(super) struct Force {
    state: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    ttl: Option<String>,
}

pub(super) async fn force_state<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    Path(name): Path<String>,
    Extension(Actor(actor)): Extension<Actor>,
    force: Result<Json<Force>, JsonRejection>,
) -> Result<Answer, Problem> {
    let service = find(&api, &name)?;
    let Json(force) = force.map_err(|rejection| {
        let why = unread(&rejection);
        Problem::bad_request(format!(r#"{why}; write {{"state": "forced_open", "reason": "…", "ttl": "30m"}}, reason and ttl if wanted"#))
    })?;
    let reason = force.reason.unwrap_or_default();
    reasonable(&reason)?;
    let expires_at = expiry(force.ttl.as_deref(), api.clock.now())?;
    let lock = |kind| Order::Lock(Lock { kind, actor: actor.clone(), reason: reason.clone(), expires_at });
    let order = match (force.state.as_str(), expires_at) {
        ("forced_open", _) => lock(LockKind::ForcedOpen),
        ("forced_closed", _) => lock(LockKind::ForcedClosed),
        ("metrics_only", _) => lock(LockKind::MetricsOnly),
        ("closed", None) => Order::Reset(Automatic::Closed),
        ("open", None) => Order::Reset(Automatic::Open),
        ("half_open", None) => Order::Reset(Automatic::HalfOpen),
        ("auto", None) => Order::Release,
        ("closed" | "open" | "half_open" | "auto", Some(_)) => {
            return Err(Problem::bad_request(format!(
                "a ttl goes with a lock (forced_open, forced_closed, metrics_only); `{}` is no lock and goes on by itself",
                force.state
            )));
        }
        (other, _) => {
            return Err(Problem::bad_request(format!(
                "there is no state `{other}`; it is one of forced_open, forced_closed, metrics_only, closed, open, half_open, auto"
            )));
        }
    };
    let before = api.breakers.state(service);
    let transition = api.breakers.order(service, order, &actor, &reason);
    let shown = show(&api, api.breakers.view(service));
    tracing::info!(
        target: "fusebox::audit",
        service = name,
        actor,
        reason,
        order = force.state,
        before = before.as_str(),
        after = shown.state.as_str(),
        changed = transition.is_some(),
        "a breaker was ordered to change"
    );
    Ok(Answer(shown))
}

fn expiry(ttl: Option<&str>, now: Tick) -> Result<Option<Tick>, Problem> {
    let Some(text) = ttl else { return Ok(None) };
    match humantime::parse_duration(text) {
        Ok(ttl) if ttl.is_zero() || ttl > LONGEST_TTL => {
            Err(Problem::bad_request(format!("the ttl is {text:?}; it must be longer than 0 and at most a year")))
        }
        Ok(ttl) => Ok(Some(now.plus(ttl))),
        Err(_) => Err(Problem::bad_request(format!("the ttl {text:?} is no duration; write \"90s\", \"30m\" or \"2h\""))),
    }
}

/// Why a body could not be read.
pub(super) fn unread(rejection: &JsonRejection) -> String {
    let text = rejection.body_text();
    // What axum puts in front of the reason speaks of its own workings.
    text.rsplit_once("target type: ").map_or(text.as_str(), |(_, why)| why).to_owned()
}

/// Refuses a reason that is too long to be kept.
pub(super) fn reasonable(reason: &str) -> Result<(), Problem> {
    if reason.chars().count() > LONGEST_REASON {
        return Err(Problem::bad_request(format!("the reason is longer than {LONGEST_REASON} characters")));
    }
    Ok(())
}

pub(super) fn find<W: World, S: Store>(api: &Api<W, S>, service: &str) -> Result<usize, Problem> {
    api.breakers.find(service).ok_or_else(|| {
        let known: Vec<&str> = api.breakers.names().collect();
        Problem::new(StatusCode::NOT_FOUND, format!("there is no service `{service}`; there are {}", known.join(", ")))
    })
}

pub(super) fn show<W: World, S: Store>(api: &Api<W, S>, view: View) -> Shown {
    let wall = |tick: Tick| api.clock.wall_of(tick).to_rfc3339();
    let (retry_at, lock) = match &view.snapshot.held {
        Held::Open { until } => (Some(wall(*until)), None),
        Held::Closed | Held::HalfOpen => (None, None),
        Held::Locked(lock) => {
            let retry_at = lock.expires_at.filter(|_| lock.kind == LockKind::ForcedOpen).map(wall);
            let shown = ShownLock {
                kind: lock.kind.state_name().as_str(),
                actor: lock.actor.clone(),
                reason: lock.reason.clone(),
                expires_at: lock.expires_at.map(wall),
            };
            (retry_at, Some(shown))
        }
    };
    let shared = api.store.is_some() && view.standing.unsaved_over.is_none();
    let (settings_revision, settings_tag) = (view.standing.revision(), view.standing.tag());
    let settings_changed = view.standing.tuning.map(|tuning| ShownTuning {
        actor: tuning.actor,
        reason: tuning.reason,
        at: tuning.at.to_rfc3339(),
        instance: tuning.instance,
        to: match tuning.chosen {
            Chosen::Given(_) => "given",
            Chosen::Configured => "configured",
            Chosen::Unreadable(_) => "unreadable",
        },
        shared,
    });
    Shown {
        service: view.service,
        state: view.snapshot.held.name(),
        generation: view.snapshot.generation.0,
        since: wall(view.snapshot.since),
        retry_at,
        trips: view.snapshot.trips,
        probes_in_flight: view.probes,
        counts: view.counts,
        settings: breaker_table(&view.settings),
        settings_revision,
        settings_tag,
        settings_changed,
        lock,
        fleet: Fleet {
            shared: api.store.is_some(),
            store_up: match api.store_health.state() {
                StoreState::Absent => None,
                StoreState::Down => Some(false),
                StoreState::Up => Some(true),
            },
            alone: view.alone,
            seen: view.fleet,
        },
    }
}

fn show_entry(entry: HistoryEntry) -> ShownEntry {
    ShownEntry {
        at: entry.at.to_rfc3339(),
        from: entry.from,
        to: entry.to,
        cause: entry.cause.as_str(),
        generation: entry.generation.0,
        instance: entry.instance,
        actor: entry.actor,
        reason: entry.reason,
        counts: entry.counts,
        alone: entry.alone,
        fleet: entry.fleet,
    }
}
