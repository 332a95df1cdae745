//! `POST /dev/services/{name}`: makes a stub service fail, hang or slow down, and `GET` says how it is. Part of `fusebox dev` alone.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::stub::{Behaviour, Stub, Stubs};
use crate::edge::api::Problem;

/// The routes, beside the API's.
pub fn routes(stubs: Arc<Stubs>) -> Router {
    Router::new().route("/dev/services", get(all)).route("/dev/services/{name}", get(one).post(set)).with_state(stubs)
}

async fn all(State(stubs): State<Arc<Stubs>>) -> Json<Value> {
    Json(json!({ "services": stubs.iter().map(show).collect::<Vec<_>>() }))
}

async fn one(State(stubs): State<Arc<Stubs>>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    Ok(Json(show(find(&stubs, &name)?)))
}

async fn set(
    State(stubs): State<Arc<Stubs>>,
    Path(name): Path<String>,
    behaviour: Result<Json<Behaviour>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let stub = find(&stubs, &name)?;
    let Json(behaviour) = behaviour.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    stub.set(behaviour);
    Ok(Json(show(stub)))
}

fn find<'a>(stubs: &'a Stubs, name: &str) -> Result<&'a Stub, Problem> {
    stubs.get(name).ok_or_else(|| {
        let known: Vec<&str> = stubs.iter().map(Stub::service).collect();
        Problem::new(StatusCode::NOT_FOUND, format!("there is no stub service `{name}`; there are {}", known.join(", ")))
    })
}

fn show(stub: &Stub) -> Value {
    json!({ "service": stub.service(), "url": stub.url(), "behaviour": stub.behaviour(), "counts": stub.counts() })
}
