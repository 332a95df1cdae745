use std::sync::Arc;

use futures_util::future::FutureExt as _;

use super::*;
use crate::event::Headers;
use crate::event::headers::name;
use crate::pipeline::fakes::PausedClock;

const SERVICE: usize = 3;

fn source(topic: &str, partition: i32, offset: i64) -> Source {
    Source { topic: Topic::from(topic), partition: Partition(partition), offset: Offset(offset) }
}

fn partition(number: i32) -> TopicPartition {
    source("events", number, 0).topic_partition()
}

/// A parked call of an event.
fn call(event: &Source, at: i64) -> Incoming {
    let mut headers = Headers::new();
    headers.set(name::SERVICE, "notifier");
    headers.set(name::ORIGIN_TOPIC, event.topic.to_string());
    headers.set(name::ORIGIN_PARTITION, event.partition.0.to_string());
    headers.set(name::ORIGIN_OFFSET, event.offset.0.to_string());
    Incoming { source: source("retry", event.partition.0, at), key: Some("key".into()), value: None, headers, timestamp: None }
}

struct Rig {
    behind: Arc<Behind>,
    clock: PausedClock,
    stop: Stop,
}

impl Rig {
    /// Partitions 0 and 1 have come.
    fn new() -> Self {
        let (clock, stop) = (PausedClock::new(), Stop::new());
        let behind = Arc::new(Behind::new(Topic::from("events"), [(SERVICE, "notifier".to_owned())], stop.clone()));
        behind.came([partition(0), partition(1)].iter(), clock.now());
        Self { behind, clock, stop }
    }

    fn life(&self, number: i32) -> Life {
        self.behind.wanted(SERVICE).into_iter().find(|life| life.partition == Partition(number)).expect("it is wanted")
    }

    /// Where the next call of the key goes; `None`: its event waits.
    fn place(&self, number: i32) -> Option<Place> {
        self.behind.place(SERVICE, &source("events", number, 100), b"key", &self.clock).now_or_never()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_is_known_before_anything_is_called() {
    let rig = Rig::new();
    assert_eq!((rig.place(0), rig.place(1)), (None, None));
    let behind = Arc::clone(&rig.behind);
    let clock = rig.clock;
    let waiting = tokio::spawn(async move { behind.place(SERVICE, &source("events", 0, 7), b"key", &clock).await });
    tokio::task::yield_now().await;
    let life = rig.life(0);
    rig.behind.read(SERVICE, life, &call(&source("events", 0, 3), 40));
    rig.behind.caught_up(SERVICE, life);
    assert_eq!(waiting.await.expect("no panic"), Place::Behind);
    assert_eq!((rig.place(0), rig.place(1)), (Some(Place::Behind), None), "one partition says nothing of another");
    rig.behind.ended(SERVICE, life, |at| at <= Offset(40));
    assert_eq!((rig.place(0), rig.behind.awaits_ends(SERVICE, life)), (Some(Place::Free), false));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_longer_than_patience_lasts() {
    let rig = Rig::new();
    let (event, began) = (source("events", 0, 7), rig.clock.now());
    assert_eq!(rig.behind.place(SERVICE, &event, b"key", &rig.clock).await, Place::Behind);
    assert!(rig.clock.now().since(began) >= PATIENCE);
    assert_eq!(rig.place(0), Some(Place::Behind), "patience is the partition's, not the event's");
    // It is known late.
    rig.behind.caught_up(SERVICE, rig.life(0));
    assert_eq!(rig.place(0), Some(Place::Free));
    rig.stop.request();
    assert_eq!(rig.behind.place(SERVICE, &source("events", 1, 7), b"key", &rig.clock).await, Place::Behind, "a stop waits for nobody");
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_here_counts_at_once() {
    let rig = Rig::new();
    let (life, event) = (rig.life(0), source("events", 0, 7));
    rig.behind.caught_up(SERVICE, life);
    rig.behind.parks(SERVICE, &event, b"key");
    assert_eq!(rig.place(0), Some(Place::Behind));
    // Calls of other events tell nothing of it, wherever those were read.
    for other in [source("events", 0, 6), source("events", 1, 7), source("others", 0, 7)] {
        rig.behind.read(SERVICE, life, &call(&other, 40));
        rig.behind.ended(SERVICE, life, |at| at <= Offset(40));
        assert_eq!(rig.place(0), Some(Place::Behind), "{other}");
    }
    // Nor does a copy that counts for nothing.
    rig.behind.read(SERVICE, life, &call(&event, 41));
    rig.behind.ended(SERVICE, life, |at| at <= Offset(41));
    assert_eq!(rig.place(0), Some(Place::Behind));
    rig.behind.park_ended(SERVICE, &event, ParkEnd::Parked(Some(Offset(42))));
    rig.behind.ended(SERVICE, life, |at| at <= Offset(41));
    assert_eq!(rig.place(0), Some(Place::Behind));
    rig.behind.ended(SERVICE, life, |at| at <= Offset(42));
    assert_eq!(rig.place(0), Some(Place::Free));
    // Its topic takes it not, and it is a dead letter.
    rig.behind.parks(SERVICE, &event, b"key");
    rig.behind.park_ended(SERVICE, &event, ParkEnd::Replaced);
    assert_eq!(rig.place(0), Some(Place::Free));
}

#[tokio::test(start_paused = true)]
async fn what_was_read_for_a_life_that_is_over_says_nothing_of_the_next() {
    let rig = Rig::new();
    let old = rig.life(0);
    rig.behind.gone(&[partition(0)]);
    assert_eq!(rig.place(0), Some(Place::Behind), "what still runs of it");
    rig.behind.came([partition(0)].iter(), rig.clock.now());
    assert_ne!(rig.life(0), old);
    rig.behind.caught_up(SERVICE, old);
    assert_eq!(rig.place(0), None);
    rig.behind.caught_up(SERVICE, rig.life(0));
    rig.behind.read(SERVICE, old, &call(&source("events", 0, 3), 40));
    assert_eq!(rig.place(0), Some(Place::Free));
}

/// They end whenever they do, before those in front of them or after.
#[tokio::test(start_paused = true)]
async fn calls_of_other_services_on_the_topic_say_nothing_of_its_own() {
    let rig = Rig::new();
    let life = rig.life(0);
    rig.behind.read(SERVICE, life, &call(&source("events", 0, 3), 40));
    let mut other = call(&source("events", 0, 4), 41);
    other.headers.set(name::SERVICE, "vms");
    let mut foreign = call(&source("events", 0, 5), 42);
    foreign.headers = Headers::new();
    for record in [other, foreign] {
        rig.behind.read(SERVICE, life, &record);
    }
    rig.behind.caught_up(SERVICE, life);
    rig.behind.ended(SERVICE, life, |at| at > Offset(40));
    assert_eq!(rig.place(0), Some(Place::Behind));
    rig.behind.ended(SERVICE, life, |_| true);
    assert_eq!(rig.place(0), Some(Place::Free));
}
