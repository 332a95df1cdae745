//! Liveness, readiness, metrics, and the backlog.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::{Api, Problem};
use crate::pipeline::ports::World;

/// Whether events can be processed, and what each part says.
#[derive(Debug, Clone, Serialize)]
pub struct Readiness {
    /// `ok`: everything; `degraded`: events are processed, something is missing; `down`: they are not.
    pub status: PartState,
    /// Unique to the process.
    pub instance: String,
    /// What each part says.
    pub parts: Vec<Part>,
}

/// One part of the process.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Its state.
    pub state: PartState,
    /// What is wrong and what to do; null if nothing is.
    pub detail: Option<String>,
}

/// A part's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PartState {
    /// It works.
    Ok,
    /// It is missed, but events are processed without it.
    Degraded,
    /// No event is processed without it.
    Down,
}

impl Readiness {
    /// As good as the worst part.
    pub fn of(instance: &str, parts: Vec<Part>) -> Self {
        let status = parts.iter().map(|part| part.state).max().unwrap_or(PartState::Ok);
        Self { status, instance: instance.to_owned(), parts }
    }
}

/// The backlog of all services.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RetryStatus {
    /// By service.
    pub services: Vec<RetryService>,
}

/// The backlog of one service.
#[derive(Debug, Clone, Serialize)]
pub struct RetryService {
    /// The service.
    pub service: String,
    /// Where its calls are parked.
    pub topic: String,
    /// Its breaker's state.
    pub circuit_breaker_state: &'static str,
    /// Parked calls in the whole fleet; null while Kafka cannot be asked.
    pub depth: Option<u64>,
    /// Of those, calls whose time has come by their header; see `looked`.
    pub due: u64,
    /// For how long the oldest has been parked, seconds; null if none is.
    pub oldest_seconds: Option<f64>,
    /// Parked calls that this instance has read and not finished.
    pub held: usize,
    /// Of these, calls that make way in memory for others: they are read again when they are to go.
    pub put_aside: usize,
    /// Parked calls by why they are.
    pub by_reason: BTreeMap<&'static str, u64>,
    /// Parked calls by how often they have failed; 20 stands for more, too.
    pub by_attempts: BTreeMap<u32, u64>,
    /// What `due`, `oldest_seconds`, `by_reason` and `by_attempts` rest on; null: nothing was looked at yet, and they are of what is held here.
    pub looked: Option<Looked>,
    /// Calls put on the topic by the whole fleet, a second, of late.
    pub parked_per_second: f64,
    /// Parked calls finished by the whole fleet, a second, of late: delivered, parked again or given up.
    pub drained_per_second: f64,
    /// Until the backlog is gone, seconds; null while that cannot be said.
    pub time_to_drain_seconds: Option<f64>,
    /// What that rests on, or why it cannot be said; null while Kafka cannot be asked.
    pub time_to_drain_basis: Option<&'static str>,
    /// Until when it is held at the least, as far as that is known: when the breaker probes, or a lock or a pause ends.
    pub held_until: Option<String>,
    /// For how long the topic keeps records; null if without end, or if the broker does not tell.
    pub retention_seconds: Option<f64>,
    /// How much of that the oldest parked record has behind it, 0 to 1.
    pub retention_used: Option<f64>,
}

/// How much of a backlog was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Looked {
    /// So many calls.
    pub calls: u64,
    /// Whether that was all of them: else the figures are estimates, and an older call may have been missed.
    pub exact: bool,
    /// When.
    pub seconds_ago: f64,
}

pub(super) async fn livez<W: World, S: Send + Sync + 'static>(State(api): State<Arc<Api<W, S>>>) -> Response {
    match (api.alive)() {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "ok\n").into_response(),
        Err(why) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

pub(super) async fn readyz<W: World, S: Send + Sync + 'static>(State(api): State<Arc<Api<W, S>>>) -> Response {
    let readiness = (api.ready)();
    let status = if readiness.status == PartState::Down { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(readiness)).into_response()
}

pub(super) async fn metrics<W: World, S: Send + Sync + 'static>(State(api): State<Arc<Api<W, S>>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (api.metrics)()).into_response()
}

pub(super) async fn retry<W: World, S: Send + Sync + 'static>(State(api): State<Arc<Api<W, S>>>) -> Json<RetryStatus> {
    Json((api.retry)().await)
}
