//! A store of several nodes, one of which is away: its services wait for it, and no others.

use super::*;
use crate::pipeline::keeper::unsaved::KEPT;

const NODES: usize = 3;

/// Three services on each of three nodes, by their numbers.
fn names() -> impl Iterator<Item = String> {
    (0..3 * NODES).map(|number| format!("service-{number}"))
}

struct World {
    store: Arc<MemoryStore>,
    here: Instance,
    there: Instance,
    said: Arc<Notes>,
}

impl World {
    async fn start(away: Option<usize>) -> Self {
        let (store, clock) = (MemoryStore::new(), PausedClock::new());
        store.set_nodes(NODES);
        store.set_node_away(away);
        let parts = breakers_of(names(), clock);
        let said = Arc::clone(&parts.2);
        let here = Instance::start_with(parts, &store, clock).await;
        let there = Instance::start_with(breakers_of(names(), clock), &store, clock).await;
        Self { store, here, there, said }
    }

    fn order(&self, service: usize, to: Automatic, reason: &str) {
        self.here.breakers.order(service, Order::Reset(to), "ops", reason);
    }

    fn is_stored(&self, service: usize, state: StateName) -> bool {
        self.store.snapshot(&format!("service-{service}")).is_some_and(|stored| stored.held.name() == state)
    }

    fn reasons(&self) -> Vec<String> {
        self.store.history().into_iter().filter_map(|transition| transition.reason).collect()
    }

    fn said(&self) -> Vec<String> {
        self.said.0.lock().expect("unpoisoned").iter().filter(|fact| fact.starts_with("Store")).cloned().collect()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_decided_of_a_node_that_is_away_waits_and_all_else_is_stored_and_heard() {
    let world = World::start(None).await;
    assert_eq!((world.here.health.state(), world.said()), (StoreState::Up, vec!["Store { up: true, error: \"\" }".to_owned()]));
    world.store.set_node_away(Some(1));
    // The first is of the node that is away, and so is one between the others; each of them twice.
    for reason in ["first", "second"] {
        for service in [1, 0, 4, 2, 3] {
            world.order(service, if reason == "first" { Automatic::HalfOpen } else { Automatic::Closed }, reason);
        }
        settled().await;
    }
    for service in [0, 2, 3] {
        assert!(world.is_stored(service, StateName::Closed), "{service}: at once");
        assert_eq!(world.there.breakers.snapshot(service), world.here.breakers.snapshot(service), "{service}: and heard");
    }
    assert_eq!(world.reasons(), ["first", "first", "first", "second", "second", "second"]);
    for (service, name) in names().enumerate() {
        assert_eq!(world.here.health.serves(service), service % NODES != 1, "{name}");
    }
    assert_eq!(world.here.health.state(), StoreState::Down);
    // Polls ask it, say nothing more, and find what nobody has told of the others.
    let untold = Snapshot { generation: Generation(900), held: Held::HalfOpen, trips: 1, since: Tick(0) };
    world.store.put_untold("service-5", &untold);
    tokio::time::sleep(3 * POLL).await;
    settled().await;
    for instance in [&world.here, &world.there] {
        assert_eq!(instance.breakers.snapshot(5).generation, Generation(900));
    }
    world.store.set_node_away(None);
    tokio::time::sleep(POLL).await;
    settled().await;
    assert!(names().enumerate().all(|(service, _)| world.here.health.serves(service)));
    for service in [1, 4] {
        assert!(world.is_stored(service, StateName::Closed), "{service}");
        assert_eq!(world.there.breakers.snapshot(service), world.here.breakers.snapshot(service), "{service}");
    }
    assert_eq!(world.reasons()[6..], ["first", "first", "second", "second"], "in their order, none left out");
    assert_eq!(
        world.said()[1..],
        ["Store { up: false, error: \"1 of 3 nodes: a node is away\" }", "Store { up: true, error: \"\" }"],
        "once each"
    );
}

#[tokio::test(start_paused = true)]
async fn a_start_takes_up_what_the_nodes_hold_that_are_there() {
    let world = World::start(None).await;
    (0..9).for_each(|service| world.order(service, Automatic::HalfOpen, "before"));
    settled().await;
    world.store.set_node_away(Some(0));
    let late = Instance::start_with(breakers_of(names(), world.here.clock), &world.store, world.here.clock).await;
    assert_eq!((late.health.state(), late.health.fault().as_str()), (StoreState::Down, "1 of 3 nodes: a node is away"));
    for (service, name) in names().enumerate() {
        let expect = if service % NODES == 0 { StateName::Closed } else { StateName::HalfOpen };
        assert_eq!(late.breakers.state(service), expect, "{name}");
        assert_eq!(late.health.serves(service), service % NODES != 0, "{name}");
    }
}

/// More changes of one node than are remembered do not hold up the others' either.
#[tokio::test(start_paused = true)]
async fn changes_that_wait_take_no_room_from_those_that_do_not() {
    let world = World::start(Some(2)).await;
    for round in 0..200 {
        let to = if round % 2 == 0 { Automatic::HalfOpen } else { Automatic::Closed };
        [2, 5, 8].into_iter().for_each(|service| world.order(service, to, "lost"));
    }
    world.order(0, Automatic::HalfOpen, "stored");
    settled().await;
    assert!(world.is_stored(0, StateName::HalfOpen));
    world.store.set_node_away(None);
    tokio::time::sleep(POLL).await;
    settled().await;
    assert_eq!(world.reasons().len(), 1 + KEPT, "the newest of those that waited");
    for service in [2, 5, 8] {
        assert_eq!(world.there.breakers.snapshot(service), world.here.breakers.snapshot(service), "{service}");
    }
}

/// Of a node that is there everything is known, however much waits for another.
#[tokio::test(start_paused = true)]
async fn more_changes_than_are_remembered_of_one_node_keep_no_news_of_the_others_from_being_heard() {
    let world = World::start(None).await;
    world.here.lock(None);
    settled().await;
    assert_eq!(world.there.breakers.state(0), StateName::ForcedOpen);
    world.store.set_node_away(Some(1));
    for round in 0..=KEPT {
        world.order(1, if round % 2 == 0 { Automatic::HalfOpen } else { Automatic::Closed }, "waits");
    }
    settled().await;
    world.there.breakers.order(0, Order::Release, "ops", "done");
    settled().await;
    assert_eq!(world.here.breakers.snapshot(0), world.there.breakers.snapshot(0), "the release is heard");
    world.there.lock(None);
    settled().await;
    world.store.put_untold("service-0", &Snapshot { generation: Generation(900_000_000), held: Held::HalfOpen, trips: 1, since: Tick(0) });
    tokio::time::sleep(POLL).await;
    settled().await;
    assert_eq!(world.here.breakers.snapshot(0).generation, Generation(900_000_000), "and what a poll finds is taken up");
}

/// Left out of the history by the changes of another service, a lock is not left out of the state.
#[tokio::test(start_paused = true)]
async fn a_lock_whose_change_was_left_out_stands_by_itself_all_the_same() {
    for read_first in [false, true] {
        let world = World::start(Some(0)).await;
        world.here.lock(None);
        for round in 0..=KEPT {
            world.order(3, if round % 2 == 0 { Automatic::HalfOpen } else { Automatic::Closed }, "waits");
        }
        settled().await;
        // Of orders by somebody who has not heard of it, and above it.
        let unheard = Snapshot { generation: Generation(900_000_000), held: Held::Closed, trips: 0, since: Tick(0) };
        world.store.put_untold("service-0", &unheard);
        world.store.set_read_only(read_first);
        world.store.set_node_away(None);
        if read_first {
            tokio::time::sleep(2 * POLL).await;
            settled().await;
            assert_eq!(world.here.breakers.state(0), StateName::ForcedOpen, "as long as it cannot be stored");
            world.store.set_read_only(false);
        }
        reconciled().await;
        for instance in [&world.here, &world.there] {
            assert_eq!(instance.breakers.state(0), StateName::ForcedOpen, "read first: {read_first}");
        }
        assert!(world.is_stored(0, StateName::ForcedOpen));
    }
}

/// A node that is silent takes its whole time limit whenever it is asked.
#[tokio::test(start_paused = true)]
async fn a_silent_node_holds_up_no_others_once_it_is_known() {
    const LIMIT: Duration = Duration::from_millis(500);
    let world = World::start(None).await;
    world.store.set_silence(LIMIT);
    world.store.set_node_away(Some(1));
    world.order(1, Automatic::HalfOpen, "waits");
    tokio::time::sleep(LIMIT + POLL).await;
    let mut late = 0;
    for step in 0..100 {
        let to = if step % 2 == 0 { StateName::HalfOpen } else { StateName::Closed };
        world.order(0, if step % 2 == 0 { Automatic::HalfOpen } else { Automatic::Closed }, "goes");
        settled().await;
        late += usize::from(!world.is_stored(0, to));
        tokio::time::sleep(POLL / 20).await;
    }
    assert_eq!(late, 0, "of a hundred, in five polls");
    world.store.set_node_away(None);
    tokio::time::sleep(LIMIT + POLL).await;
    settled().await;
    assert!(world.is_stored(1, StateName::HalfOpen));
    assert_eq!(world.here.health.state(), StoreState::Up);
}
