//! A breaker's settings, changed while it runs.
//!
//! The settings' revision is their entity tag: GET of a breaker answers it as `ETag`, and a change that names it in `If-Match` is made over
//! that revision alone.

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
use super::{Api, Problem};
use crate::config::{Faults, breaker_table, changed_breaker};
use crate::machine::breaker::Settings;
use crate::pipeline::ports::{Store, World};
use crate::pipeline::tuning::{Chosen, NotTuned, Tuning, Wish, tune};

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
    let decide = |in_force: &Settings| changed_breaker(in_force, &changes).map(|settings| Chosen::Given(Arc::new(settings)));
    make(&api, &name, &actor, &reason, &headers, decide).await
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
    make(&api, &name, &actor, &reason.unwrap_or_default(), &headers, |_| Ok(Chosen::Configured)).await
}

async fn make<W: World, S: Store>(
    api: &Api<W, S>,
    name: &str,
    actor: &str,
    reason: &str,
    headers: &HeaderMap,
    decide: impl Fn(&Settings) -> Result<Chosen, Faults>,
) -> Result<Answer, Problem> {
    let service = find(api, name)?;
    reasonable(reason)?;
    let over = revisions(headers)?;
    let wish = Wish { actor, reason, over: over.as_deref() };
    let tuned = tune(&api.breakers, api.store.as_deref(), service, &wish, decide).await.map_err(|error| match error {
        NotTuned::Stale(revision) => Problem::new(
            StatusCode::PRECONDITION_FAILED,
            format!("the settings of `{name}` are at revision {revision} and not at the one that If-Match names; read them again"),
        ),
        NotTuned::Wrong(faults) => wrong(faults),
        NotTuned::Contended => Problem::new(
            StatusCode::CONFLICT,
            format!("the settings of `{name}` are being changed by others; nothing was changed, try again"),
        ),
    })?;
    if let Some(Tuning { chosen, revision, .. }) = tuned.tuning {
        let after = match chosen {
            Chosen::Given(settings) => written(&settings),
            Chosen::Configured | Chosen::Unreadable(_) => "the configured settings".to_owned(),
        };
        tracing::info!(
            target: "fusebox::audit",
            service = name,
            actor,
            reason,
            before = written(&tuned.before),
            after,
            revision,
            "a breaker's settings were changed"
        );
    }
    Ok(show(api, api.breakers.view(service)).into())
}

fn written(settings: &Settings) -> String {
    Value::from(breaker_table(settings)).to_string()
}

fn wrong(faults: Faults) -> Problem {
    let detail = format!("nothing was changed: {}", faults.to_string().replace('\n', "; "));
    let errors = faults.0.into_iter().map(|fault| Wrong { key: fault.key, message: fault.message }).collect();
    Problem::bad_request(detail).with_errors(errors)
}

/// The revisions that `If-Match` names; `None`: any will do.
fn revisions(headers: &HeaderMap) -> Result<Option<Vec<u64>>, Problem> {
    let mut revisions = None;
    for value in headers.get_all(header::IF_MATCH) {
        let named: &mut Vec<u64> = revisions.get_or_insert_default();
        for tag in value.to_str().unwrap_or_default().split(',').map(str::trim) {
            if tag == "*" {
                return Ok(None);
            }
            // A weak tag matches nothing, as RFC 9110 has it.
            let weak = tag.strip_prefix("W/");
            let revision = weak.unwrap_or(tag).strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).and_then(|tag| tag.parse().ok());
            match (revision, weak) {
                (Some(revision), None) => named.push(revision),
                (Some(_), Some(_)) => {}
                (None, _) => {
                    return Err(Problem::bad_request("If-Match must be the ETag of the breaker, in its quotation marks: If-Match: \"3\""));
                }
            }
        }
    }
    Ok(revisions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn the_revisions_that_if_match_names() {
        let any = Some(None);
        let these = |revisions: &[u64]| Some(Some(revisions.to_vec()));
        for (values, expect) in [
            (&[][..], any.clone()),
            (&["*"], any.clone()),
            (&["\"1\"", "*"], any),
            (&["\"0\""], these(&[0])),
            (&["\"3\", \"4\"", "\"5\""], these(&[3, 4, 5])),
            (&["W/\"3\""], these(&[])),
            (&["3"], None),
            (&["\"three\""], None),
            (&["\"-1\""], None),
            (&["\"3"], None),
            (&[""], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_MATCH, HeaderValue::from_static(value));
            }
            assert_eq!(revisions(&headers).ok(), expect, "{values:?}");
        }
    }
}
