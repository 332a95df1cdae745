//! A breaker's settings, changed while it runs.
//!
//! What names their last change is the entity tag ([`crate::pipeline::tuning::Standing::tag`]): GET of a breaker answers it as `ETag`, and a
//! change that names it in `If-Match` is laid over that one alone.

use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::auth::Actor;
use super::breakers::{Answer, find, reasonable, show, unread};
use super::problem::Wrong;
use super::{Api, Problem, to_its_end};
use crate::config::{Fault, Faults, breaker_table, changed_breaker};
use crate::machine::breaker::Settings;
use crate::pipeline::ports::{Store, World};
use crate::pipeline::tuning::{Chosen, NotTuned, Tuned, Tuning, Wish, tune};

pub(super) async fn change<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    Path(name): Path<String>,
    Extension(Actor(actor)): Extension<Actor>,
    headers: HeaderMap,
    changes: Result<Json<Map<String, Value>>, JsonRejection>,
) -> Result<Answer, Problem> {
    let Json(mut changes) = changes.map_err(|rejection| {
        Problem::bad_request(format!(
            r#"{}; write an object of the keys of a `breaker` table, such as {{"fail_max": 10, "reason": "…"}}"#,
            unread(&rejection)
        ))
    })?;
    let reason = match changes.remove("reason") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(reason)) => reason,
        Some(_) => return Err(Problem::bad_request("the reason must be a text")),
    };
    let decide = move |in_force: &Settings| changed(in_force, &changes).map(|settings| Chosen::Given(Arc::new(settings)));
    make(api, name, (actor, reason), &headers, decide).await
}

/// What changes make of settings; what counts the first verdicts of a process comes too late for one that runs.
fn changed(in_force: &Settings, changes: &Map<String, Value>) -> Result<Settings, Faults> {
    let settings = changed_breaker(in_force, changes);
    if !changes.contains_key("ignore_first") || settings.as_ref().is_ok_and(|settings| settings.ignore_first == in_force.ignore_first) {
        return settings;
    }
    let message = "it is of a process's first verdicts, and read from the config at start alone".to_owned();
    let mut faults = vec![Fault { place: None, key: Some("ignore_first".to_owned()), message }];
    faults.extend(settings.err().into_iter().flat_map(|Faults(others)| others));
    Err(Faults(faults))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    reason: Option<String>,
}

pub(super) async fn reset<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    Path(name): Path<String>,
    Extension(Actor(actor)): Extension<Actor>,
    headers: HeaderMap,
    why: Result<Query<Why>, QueryRejection>,
) -> Result<Answer, Problem> {
    let Query(Why { reason }) = why.map_err(|_| Problem::bad_request("the query takes `reason`, and nothing else"))?;
    make(api, name, (actor, reason.unwrap_or_default()), &headers, |_| Ok(Chosen::Configured)).await
}

/// Makes a change and audits it, both even if nobody waits for the answer any more: a request's time may be over, its client gone, once the
/// store has taken the change.
async fn make<W: World, S: Store>(
    api: Arc<Api<W, S>>,
    name: String,
    (actor, reason): (String, String),
    headers: &HeaderMap,
    decide: impl Fn(&Settings) -> Result<Chosen, Faults> + Send + Sync + 'static,
) -> Result<Answer, Problem> {
    let service = find(&api, &name)?;
    reasonable(&reason)?;
    let over = tags(headers)?;
    to_its_end(async move {
        let wish = Wish { actor: &actor, reason: &reason, over: over.as_deref() };
        let tuned = tune(&api.breakers, api.store.as_deref(), service, &wish, decide).await.map_err(|error| not_tuned(&name, error))?;
        audit(&name, &wish, tuned);
        Ok(show(&api, api.breakers.view(service)).into())
    })
    .await
}

fn not_tuned(name: &str, error: NotTuned<Faults>) -> Problem {
    match error {
        NotTuned::Stale(tag) => Problem::new(
            StatusCode::PRECONDITION_FAILED,
            format!("the settings of `{name}` are at revision {tag} and not at the one that If-Match names; read them again"),
        ),
        NotTuned::Wrong(faults) => wrong(faults),
        NotTuned::Contended => Problem::new(
            StatusCode::CONFLICT,
            format!("the settings of `{name}` are being changed by others; nothing was changed, try again"),
        ),
    }
}

fn audit(name: &str, wish: &Wish<'_>, tuned: Tuned) {
    let Some(Tuning { chosen, revision, .. }) = tuned.tuning else { return };
    let after = match chosen {
        Chosen::Given(settings) => written(&settings),
        Chosen::Configured | Chosen::Unreadable(_) => "the configured settings".to_owned(),
    };
    tracing::info!(
        target: "fusebox::audit",
        service = name,
        actor = wish.actor,
        reason = wish.reason,
        before = written(&tuned.before),
        after,
        revision,
        "a breaker's settings were changed"
    );
}

fn written(settings: &Settings) -> String {
    Value::from(breaker_table(settings)).to_string()
}

fn wrong(faults: Faults) -> Problem {
    let detail = format!("nothing was changed: {}", faults.to_string().replace('\n', "; "));
    let errors = faults.0.into_iter().map(|fault| Wrong { key: fault.key, message: fault.message }).collect();
    Problem::bad_request(detail).with_errors(errors)
}

/// The tags that `If-Match` names; `None`: any will do. None that is given out here has a comma or a quotation mark in it.
fn tags(headers: &HeaderMap) -> Result<Option<Vec<String>>, Problem> {
    let mut tags = None;
    for value in headers.get_all(header::IF_MATCH) {
        let named: &mut Vec<String> = tags.get_or_insert_default();
        for tag in value.to_str().unwrap_or_default().split(',').map(str::trim) {
            if tag == "*" {
                return Ok(None);
            }
            // A weak tag matches nothing, as RFC 9110 has it.
            let weak = tag.strip_prefix("W/");
            let inner = weak.unwrap_or(tag).strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            match (inner.filter(|inner| !inner.contains('"')), weak) {
                (Some(inner), None) => named.push(inner.to_owned()),
                (Some(_), Some(_)) => {}
                (None, _) => {
                    return Err(Problem::bad_request(
                        "If-Match must be the ETag of the breaker, in its quotation marks: If-Match: \"3-…\"",
                    ));
                }
            }
        }
    }
    Ok(tags)
}

#[cfg(test)]
mod tests;
