//! What operators have ordered for parked calls, and which of it is in force for one of them.
//!
//! An order is about the calls that were parked when it was given: those before the ends that the retry topics had then. A copy that is parked
//! again later is another record; a discard is about it all the same, for it says that the call is not to be made. Of several orders about one call
//! the last one counts. Nothing is kept for each call: whoever reads a parked call, now or after a restart, asks here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::selection::Selection;
use crate::event::UnixMillis;
use crate::event::envelope::Parked;

/// What is to be done with a parked call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "act")]
pub enum Act {
    /// It is due now.
    Release,
    /// It is not due before.
    Delay {
        /// When.
        until: UnixMillis,
    },
    /// It is not made: it becomes a dead letter, from where it can be redriven.
    Discard,
}

impl Act {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Delay { .. } => "delay",
            Self::Discard => "discard",
        }
    }
}

/// An order for parked calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its name.
    pub id: Uuid,
    /// What is to be done.
    #[serde(flatten)]
    pub act: Act,
    /// With which calls.
    pub selection: Selection,
    /// By topic and partition, the offset that the next record would have had: it is about those before.
    pub ends: BTreeMap<String, BTreeMap<i32, i64>>,
    /// When it was given.
    pub at: UnixMillis,
    /// Who gave it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Calls a second, on each instance that drains; `None`: all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Calls that it was about, as counted when it was given.
    pub calls: u64,
    /// Whether all of them were counted; else there are more.
    pub counted_all: bool,
    /// Who took it back, if somebody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<String>,
}

impl Order {
    /// Whether it is about this call.
    pub fn has(&self, parked: &Parked) -> bool {
        let source = &parked.record.source;
        let before = self.ends.get(source.topic.as_str()).and_then(|ends| ends.get(&source.partition.0));
        let known_then = before.is_some_and(|end| source.offset.0 < *end)
            || (self.act == Act::Discard && self.ends.contains_key(source.topic.as_str()) && parked.parking.first_parked_at < self.at);
        self.cancelled_by.is_none() && known_then && self.selection.has(parked)
    }
}

/// That no parked call of a service is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// The fleet's consumer group: two fleets may share a topic of orders.
    pub group: String,
    /// The service.
    pub service: String,
    /// Since when.
    pub at: UnixMillis,
    /// Who wants it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Until when; `None`: until somebody lets it go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixMillis>,
}

/// How far an instance has come with an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The order.
    pub order: Uuid,
    /// The instance.
    pub instance: String,
    /// Calls that it was carried out for there.
    pub done: u64,
}

/// Something that is ordered, or told of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An order, or its cancellation.
    Order(Order),
    /// An order is of no more use.
    Forgotten(Uuid),
    /// A pause.
    Pause(Pause),
    /// A service's parked calls go on.
    Resumed {
        /// The fleet's consumer group.
        group: String,
        /// The service.
        service: String,
    },
    /// How far an instance has come.
    Progress(Progress),
}

/// Everything that is in force.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    /// By when they were given, and by name.
    orders: BTreeMap<(UnixMillis, Uuid), Order>,
    pauses: BTreeMap<String, Pause>,
    progress: BTreeMap<Uuid, BTreeMap<String, u64>>,
}

impl Orders {
    /// Takes note of a change.
    pub fn hear(&mut self, change: Change) {
        match change {
            Change::Order(order) => drop(self.orders.insert((order.at, order.id), order)),
            Change::Forgotten(id) => {
                self.orders.retain(|(_, known), _| *known != id);
                self.progress.remove(&id);
            }
            Change::Pause(pause) => drop(self.pauses.insert(pause.service.clone(), pause)),
            Change::Resumed { service, .. } => drop(self.pauses.remove(&service)),
            Change::Progress(Progress { order, instance, done }) => drop(self.progress.entry(order).or_default().insert(instance, done)),
        }
    }

    /// The order that counts for a call, if there is one.
    pub fn about(&self, parked: &Parked) -> Option<&Order> {
        self.orders.values().rev().find(|order| order.has(parked))
    }

    /// Whether there is no order at all.
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    /// Orders, the last one first, and how many calls each was carried out for.
    pub fn list(&self) -> impl Iterator<Item = (&Order, u64)> {
        self.orders.values().rev().map(|order| (order, self.progress.get(&order.id).map_or(0, |done| done.values().sum())))
    }

    /// An order by its name.
    pub fn find(&self, id: Uuid) -> Option<(&Order, u64)> {
        self.list().find(|(order, _)| order.id == id)
    }

    /// The pause of a service, if there is one at `now`.
    pub fn pause(&self, service: &str, now: UnixMillis) -> Option<&Pause> {
        self.pauses.get(service).filter(|pause| pause.until.is_none_or(|until| until > now))
    }

    /// Orders that can be about no call any more, for none is parked for longer than `longest`.
    pub fn outlived(&self, longest: Duration, now: UnixMillis) -> Vec<Uuid> {
        self.orders.values().filter(|order| now.since(order.at) > longest).map(|order| order.id).collect()
    }
}
