//! Orders and pauses as they are shown. What a filter looks for in records may be about people: only how long it is is told.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use uuid::Uuid;

use super::super::{Api, Problem};
use super::find;
use crate::event::UnixMillis;
use crate::machine::orders::{Act, Order, Pause};
use crate::machine::selection::Selection;
use crate::pipeline::ports::{Clock as _, Store, World};

/// An order, and how far it has come.
#[derive(Serialize)]
pub(in super::super) struct Shown {
    id: Uuid,
    act: &'static str,
    until: Option<String>,
    selection: ShownSelection,
    at: String,
    actor: String,
    reason: String,
    rate: Option<u32>,
    calls: u64,
    counted_all: bool,
    /// Calls that it was carried out for: released and delayed ones that have gone since, discarded ones.
    done: u64,
    cancelled_by: Option<String>,
}

/// A selection without what it looks for in records.
#[derive(Serialize)]
pub(super) struct ShownSelection {
    #[serde(flatten)]
    told: Selection,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_length: Option<usize>,
}

impl ShownSelection {
    pub(super) fn of(selection: &Selection) -> Self {
        Self { told: Selection { text: None, ..selection.clone() }, text_length: selection.text.as_ref().map(|text| text.chars().count()) }
    }
}

#[derive(Serialize)]
pub(in super::super) struct All {
    orders: Vec<Shown>,
    pauses: Vec<ShownPause>,
}

#[derive(Serialize)]
pub(in super::super) struct ShownPause {
    service: String,
    at: String,
    actor: String,
    reason: String,
    until: Option<String>,
}

pub(in super::super) async fn list<W: World, S: Store>(State(api): State<Arc<Api<W, S>>>) -> Json<All> {
    let now = api.clock.wall();
    let orders = api.orders.book.orders();
    let pauses = api.orders.services.keys().filter_map(|service| orders.pause(service, now)).map(show_pause).collect();
    Json(All { orders: orders.list().map(|(order, done)| show(order, done)).collect(), pauses })
}

pub(in super::super) async fn one<W: World, S: Store>(
    State(api): State<Arc<Api<W, S>>>,
    Path(id): Path<Uuid>,
) -> Result<Json<Shown>, Problem> {
    find(&api, id).map(|(order, done)| Json(show(&order, done)))
}

pub(super) fn show(order: &Order, done: u64) -> Shown {
    Shown {
        id: order.id,
        act: order.act.as_str(),
        until: if let Act::Delay { until } = order.act { Some(until.to_rfc3339()) } else { None },
        selection: ShownSelection::of(&order.selection),
        at: order.at.to_rfc3339(),
        actor: order.actor.clone(),
        reason: order.reason.clone(),
        rate: order.rate,
        calls: order.calls,
        counted_all: order.counted_all,
        done,
        cancelled_by: order.cancelled_by.clone(),
    }
}

pub(super) fn show_pause(pause: &Pause) -> ShownPause {
    ShownPause {
        service: pause.service.clone(),
        at: pause.at.to_rfc3339(),
        actor: pause.actor.clone(),
        reason: pause.reason.clone(),
        until: pause.until.map(UnixMillis::to_rfc3339),
    }
}
