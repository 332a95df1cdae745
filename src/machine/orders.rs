//! What operators have ordered for parked calls, and which of it is in force for one of them.
//!
//! An order is about the calls that were parked when it was given: those before the ends that the retry topics had then; no clock is asked. A copy that
//! is parked again later is another record; a discard is about it all the same, for it says that the call is not to be made, and a copy says where the
//! call was parked first. Of several orders about one call the last one counts. Nothing is kept for each call: whoever reads a parked call, now or after
//! a restart, asks here.
//!
//! Fleets may share the topic of orders: what is of another consumer group is not heard, so it is neither carried out here nor forgotten for its
//! owner.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::selection::Selection;
use crate::event::envelope::Parked;
use crate::event::{Offset, Partition, Source, TopicPartition, UnixMillis};

/// What is to be done with a parked call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "act")]
pub enum Act {
    /// It is due now.
    Release,
    /// It is not due before, nor before its own time.
    Delay {
        /// When.
        until: UnixMillis,
    },
    /// It is not made: it becomes a dead letter, from where `fusebox dead-letters redrive` can bring it back.
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

    /// When a call may go that would wait until `not_before` without it.
    pub fn due(self, not_before: UnixMillis, now: UnixMillis) -> UnixMillis {
        match self {
            // What it waited for is over.
            Self::Release => not_before.min(now),
            Self::Delay { until } => until.max(not_before),
            Self::Discard => not_before,
        }
    }
}

/// An order for parked calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its name.
    pub id: Uuid,
    /// The fleet's consumer group.
    pub group: String,
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
    /// Calls a second, in the whole fleet ([`super::pace`]); `None`: all at once.
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
        let was_there = |(partition, offset): (Partition, Offset)| {
            let ends = self.ends.get(source.topic.as_str());
            ends.and_then(|ends| ends.get(&partition.0)).is_some_and(|end| offset.0 < *end)
        };
        // What a copy says of its reason and attempts was not known then; who parks a call again asks before it does ([`Orders::about`]).
        let says_the_same = self.selection.reasons.is_empty() && self.selection.attempts_from.is_none();
        let known_then =
            was_there((source.partition, source.offset)) || (self.act == Act::Discard && says_the_same && was_there(parked.first));
        self.cancelled_by.is_none() && known_then && self.selection.has(parked)
    }

    /// Whether it may be about the call at this place, as far as that can be said without the call.
    pub fn may_have(&self, place: &Source) -> bool {
        let ends = self.ends.get(place.topic.as_str());
        let was_there = ends.and_then(|ends| ends.get(&place.partition.0)).is_some_and(|end| place.offset.0 < *end);
        // A copy lies somewhere else than where it was parked first.
        self.cancelled_by.is_none() && (was_there || (self.act == Act::Discard && ends.is_some()))
    }

    /// Of the partitions that it is about, how many are among these, and how many there are.
    pub fn part<'a>(&self, owned: impl IntoIterator<Item = &'a TopicPartition>) -> (usize, usize) {
        let has = |owned: &&TopicPartition| self.ends.get(owned.topic.as_str()).is_some_and(|ends| ends.contains_key(&owned.partition.0));
        (owned.into_iter().filter(has).count(), self.ends.values().map(BTreeMap::len).sum())
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

impl Pause {
    /// The end of whatever pause there is.
    pub fn end(group: String, service: String, at: UnixMillis, actor: String) -> Self {
        Self { group, service, at, actor, reason: String::new(), until: Some(UnixMillis(0)) }
    }
}

/// How far an instance has come with an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The order.
    pub order: Uuid,
    /// The fleet's consumer group.
    pub group: String,
    /// The instance.
    pub instance: String,
    /// Calls that it was carried out for there.
    pub done: u64,
}

/// Something that is ordered, or told of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An order, or its cancellation.
    Order(Box<Order>),
    /// An order is of no more use.
    Forgotten(Uuid),
    /// A pause, or its end.
    Pause(Pause),
    /// How far an instance has come.
    Progress(Progress),
    /// How far an instance had come with an order that is of no more use.
    ProgressForgotten {
        /// The order.
        order: Uuid,
        /// The instance.
        instance: String,
    },
}

impl Change {
    /// The fleet that it names, by its consumer group.
    fn group(&self) -> Option<&str> {
        match self {
            Self::Order(order) => Some(&order.group),
            Self::Pause(pause) => Some(&pause.group),
            Self::Progress(progress) => Some(&progress.group),
            // Ids are never given twice.
            Self::Forgotten(_) | Self::ProgressForgotten { .. } => None,
        }
    }
}

impl From<Order> for Change {
    fn from(order: Order) -> Self {
        Self::Order(Box::new(order))
    }
}

/// The most orders that may be in force: each is looked at for each parked call, and may have as many ids as a request takes.
pub const MOST_IN_FORCE: usize = 256;

/// The most orders that are kept after they were taken back.
const MOST_CANCELLED: usize = 64;

/// Everything that is in force in one fleet.
#[derive(Debug, Clone)]
pub struct Orders {
    /// Whose orders are heard.
    group: String,
    /// By when they were given, and by name.
    orders: BTreeMap<(UnixMillis, Uuid), Order>,
    pauses: BTreeMap<String, Pause>,
    progress: BTreeMap<Uuid, BTreeMap<String, u64>>,
}

impl Orders {
    /// Those of a fleet, by its consumer group. None.
    pub fn of(group: &str) -> Self {
        Self { group: group.to_owned(), orders: BTreeMap::new(), pauses: BTreeMap::new(), progress: BTreeMap::new() }
    }

    /// Takes note of a change of this fleet's. What is taken back stays so: a cancellation is heard at once where it is given, and the record from
    /// before it may be read there later; likewise of a service's pauses and their ends the latest stands.
    pub fn hear(&mut self, change: Change) {
        if change.group().is_some_and(|group| group != self.group) {
            return;
        }
        match change {
            Change::Order(order) => {
                let key = (order.at, order.id);
                if self.orders.get(&key).is_none_or(|known| known.cancelled_by.is_none()) {
                    self.orders.insert(key, *order);
                }
            }
            Change::Forgotten(id) => self.orders.retain(|(_, known), _| *known != id),
            Change::Pause(pause) => {
                if self.pauses.get(&pause.service).is_none_or(|known| known.at <= pause.at) {
                    self.pauses.insert(pause.service.clone(), pause);
                }
            }
            Change::ProgressForgotten { order, instance } => {
                if let Some(progress) = self.progress.get_mut(&order) {
                    progress.remove(&instance);
                }
                self.progress.retain(|_, progress| !progress.is_empty());
            }
            Change::Progress(Progress { order, instance, done, .. }) => {
                self.progress.entry(order).or_default().insert(instance, done);
            }
        }
    }

    /// The order that counts for a call, if there is one.
    pub fn about(&self, parked: &Parked) -> Option<&Order> {
        self.orders.values().rev().find(|order| order.has(parked))
    }

    /// Whether an order stands: it is known, and not taken back.
    pub fn stands(&self, id: Uuid) -> bool {
        self.orders.values().any(|order| order.id == id && order.cancelled_by.is_none())
    }

    /// The orders in force.
    pub fn standing(&self) -> impl Iterator<Item = &Order> {
        self.orders.values().filter(|order| order.cancelled_by.is_none())
    }

    /// How many orders are in force.
    pub fn in_force(&self) -> usize {
        self.standing().count()
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

    /// The time to give an order, so that it counts before all that are known, whatever clocks they were given by.
    pub fn next_order_at(&self, now: UnixMillis) -> UnixMillis {
        self.orders.last_key_value().map_or(now, |((last, _), _)| now.max(UnixMillis(last.0.saturating_add(1))))
    }

    /// The time to give a pause, or its end, so that it is later than what it takes the place of, whatever clock that was given by.
    pub fn next_pause_at(&self, service: &str, now: UnixMillis) -> UnixMillis {
        self.pauses.get(service).map_or(now, |known| now.max(UnixMillis(known.at.0.saturating_add(1))))
    }

    /// What is of no more use: orders that can be about no call any more, for none is parked for longer than `longest`; the oldest of many that
    /// were taken back; and how far instances have come with orders that are forgotten. Nothing, if this instance does not know how long calls are
    /// parked.
    pub fn outlived(&self, longest: Option<Duration>, now: UnixMillis) -> Vec<Change> {
        let Some(longest) = longest else { return Vec::new() };
        let (cancelled, in_force): (Vec<&Order>, Vec<&Order>) = self.orders.values().partition(|order| order.cancelled_by.is_some());
        let (too_many, cancelled) = cancelled.split_at(cancelled.len().saturating_sub(MOST_CANCELLED));
        let old = cancelled.iter().copied().chain(in_force).filter(|order| now.since(order.at) > longest);
        let outlived = too_many.iter().copied().chain(old).map(|order| Change::Forgotten(order.id));
        let known: BTreeSet<Uuid> = self.orders.values().map(|order| order.id).collect();
        let idle = self.progress.iter().filter(|(order, _)| !known.contains(order));
        let told = idle.flat_map(|(order, progress)| {
            progress.keys().map(|instance| Change::ProgressForgotten { order: *order, instance: instance.clone() })
        });
        outlived.chain(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(number: u128, at: i64) -> Order {
        Order {
            id: Uuid::from_u128(number),
            group: "g".to_owned(),
            act: Act::Release,
            selection: Selection::default(),
            ends: BTreeMap::new(),
            at: UnixMillis(at),
            actor: String::new(),
            reason: String::new(),
            rate: None,
            calls: 0,
            counted_all: true,
            cancelled_by: None,
        }
    }

    fn progress(number: u128, instance: &str, done: u64) -> Change {
        Change::Progress(Progress { order: Uuid::from_u128(number), group: "g".to_owned(), instance: instance.to_owned(), done })
    }

    #[test]
    fn what_is_of_no_more_use_goes_with_all_that_was_told_of_it() {
        let mut orders = Orders::of("g");
        for change in [order(1, 0).into(), order(2, 5_000).into(), progress(1, "a", 3), progress(1, "b", 4), progress(2, "a", 1)] {
            orders.hear(change);
        }
        assert_eq!(
            orders.list().map(|(order, done)| (order.id.as_u128(), done)).collect::<Vec<_>>(),
            [(2, 1), (1, 7)],
            "the last one first"
        );
        let mut gone = Vec::new();
        // One round forgets the order, the next what was told of it.
        for _ in 0..3 {
            let outlived = orders.outlived(Some(Duration::from_secs(4)), UnixMillis(5_000));
            gone.push(outlived.len());
            outlived.into_iter().for_each(|change| orders.hear(change));
        }
        assert_eq!(gone, [1, 2, 0]);
        assert_eq!(orders.list().count(), 1);
        assert_eq!(orders.progress.len(), 1);
    }

    #[test]
    fn what_is_taken_back_stays_taken_back_whatever_is_heard_late() {
        let mut orders = Orders::of("g");
        let given = order(1, 0);
        for change in [given.clone(), Order { cancelled_by: Some("bob".to_owned()), ..given.clone() }, given] {
            orders.hear(change.into());
        }
        assert!(!orders.stands(Uuid::from_u128(1)));
    }

    #[test]
    fn what_is_of_another_fleet_is_left_alone() {
        let mut orders = Orders::of("another");
        for change in [order(1, 0).into(), progress(1, "a", 3)] {
            orders.hear(change);
        }
        assert_eq!(orders.list().count(), 0);
        let forgotten = orders.outlived(Some(Duration::from_secs(1)), UnixMillis(1_000_000));
        assert_eq!(forgotten, [], "its owner says how long it is of use");
    }

    #[test]
    fn who_parks_nothing_forgets_nothing() {
        let mut orders = Orders::of("g");
        orders.hear(order(1, 0).into());
        assert_eq!(orders.outlived(None, UnixMillis(1_000_000)), []);
    }

    #[test]
    fn of_many_that_were_taken_back_the_oldest_are_forgotten() {
        let mut orders = Orders::of("g");
        for (number, at) in (0_u128..70).zip(0_i64..) {
            let cancelled_by = (number != 1).then(|| "bob".to_owned());
            orders.hear(Order { cancelled_by, ..order(number, at) }.into());
        }
        assert_eq!(orders.in_force(), 1);
        let gone = orders.outlived(Some(Duration::from_secs(4)), UnixMillis(100));
        assert_eq!(gone, [0, 2, 3, 4, 5].map(|number| Change::Forgotten(Uuid::from_u128(number))));
    }

    #[test]
    fn a_pause_ends_at_its_time() {
        let pause =
            |until| Pause { group: "g".into(), service: "s".into(), at: UnixMillis(0), actor: String::new(), reason: String::new(), until };
        let mut orders = Orders::of("g");
        orders.hear(Change::Pause(pause(Some(UnixMillis(10)))));
        assert!(
            orders.pause("s", UnixMillis(9)).is_some()
                && orders.pause("s", UnixMillis(10)).is_none()
                && orders.pause("t", UnixMillis(9)).is_none()
        );
        orders.hear(Change::Pause(pause(None)));
        assert!(orders.pause("s", UnixMillis(i64::MAX)).is_some());
        let at = orders.next_pause_at("s", UnixMillis(-5));
        let end = Pause::end("g".into(), "s".into(), at, String::new());
        orders.hear(Change::Pause(end.clone()));
        assert!(orders.pause("s", UnixMillis(0)).is_none(), "though its clock is behind");
        // What is read late does not count; what is given later does.
        orders.hear(Change::Pause(pause(None)));
        assert!(orders.pause("s", UnixMillis(0)).is_none());
        let at = orders.next_pause_at("s", UnixMillis(0));
        orders.hear(Change::Pause(Pause { at, ..pause(None) }));
        orders.hear(Change::Pause(end));
        assert!(orders.pause("s", UnixMillis(0)).is_some());
    }
}
