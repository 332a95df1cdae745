//! Thousands of services: what is asked of the store at once, what is heard and decided meanwhile, and that nothing is lost for it.

use super::*;
use crate::machine::breaker::Held;
use crate::pipeline::keeper::rounds::AT_ONCE;
use crate::pipeline::keeper::unsaved::KEPT;

const SERVICES: usize = 1_000;

fn names() -> impl Iterator<Item = String> {
    (0..SERVICES).map(|number| format!("service-{number}"))
}

async fn instance(store: &Arc<MemoryStore>, clock: PausedClock) -> Instance {
    Instance::start_with(breakers_of(names(), clock), store, clock).await
}

impl Instance {
    fn fail_at(&self, service: usize) {
        let now = self.clock.now();
        let admission = self.breakers.admit(service, now).expect("admitted");
        admission.settle(Verdict::Failure { retry_after: None }, Duration::ZERO, now);
    }

    fn fail_everywhere(&self) {
        (0..SERVICES).for_each(|service| self.fail_at(service));
    }

    fn count(&self, state: StateName) -> usize {
        (0..SERVICES).filter(|service| self.breakers.state(*service) == state).count()
    }
}

fn stored(store: &MemoryStore, state: StateName) -> usize {
    names().filter(|name| store.snapshot(name).is_some_and(|stored| stored.held.name() == state)).count()
}

#[tokio::test(start_paused = true)]
async fn a_start_reads_all_by_a_few_questions_and_a_poll_asks_one() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let first = instance(&store, clock).await;
    assert_eq!(store.take_loads(), [256, 256, 256, 232]);
    first.fail_everywhere();
    settled().await;
    assert_eq!(
        (stored(&store, StateName::Open), store.history().len()),
        (SERVICES, SERVICES),
        "all, and none of them without its transition"
    );

    let second = instance(&store, clock).await;
    assert_eq!(second.count(StateName::Open), SERVICES, "before the first call");
    store.take_loads();
    for expect in [&[256][..], &[256], &[256], &[256], &[256]] {
        // Two instances poll.
        tokio::time::sleep(POLL).await;
        settled().await;
        assert_eq!(store.take_loads(), [expect, expect].concat());
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_poll_finds_untold_has_all_of_them_compared() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let instance = instance(&store, clock).await;
    instance.fail_everywhere();
    settled().await;
    store.take_loads();
    store.empty();
    tokio::time::sleep(POLL).await;
    settled().await;
    assert_eq!(store.take_loads(), [256, 256, 256, 232]);
    assert_eq!(stored(&store, StateName::Open), SERVICES, "within one poll");
}

#[tokio::test(start_paused = true)]
async fn more_than_is_remembered_is_stored_all_the_same_when_the_store_is_back() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let (one, other) = (instance(&store, clock).await, instance(&store, clock).await);
    store.set_away(true);
    one.fail_everywhere();
    settled().await;
    store.set_away(false);
    reconciled().await;
    reconciled().await;
    assert_eq!(stored(&store, StateName::Open), SERVICES);
    assert_eq!(store.history().len(), KEPT, "older changes are left out of the history");
    assert_eq!((one.count(StateName::Open), other.count(StateName::Open)), (SERVICES, SERVICES));
    store.take_loads();
    tokio::time::sleep(POLL).await;
    settled().await;
    assert_eq!(store.take_loads().iter().sum::<usize>(), 2 * AT_ONCE, "all has been compared, and goes on in turn");
}

/// For some polls no more is read than whose turn it is, and what asks whether a node is back. `also` holds after each.
async fn compares_in_turn(store: &MemoryStore, also: impl Fn()) {
    store.take_loads();
    for _ in 0..4 {
        tokio::time::sleep(POLL).await;
        settled().await;
        let loads = store.take_loads();
        assert!(loads.iter().sum::<usize>() <= AT_ONCE + 1, "{loads:?}");
        also();
    }
}

/// What a node has missed, or was not asked of while it was away, is compared when it answers again; and until then no more than ever.
#[tokio::test(start_paused = true)]
async fn after_a_nodes_absence_its_services_are_compared_and_meanwhile_the_others_in_turn() {
    const LAST: usize = SERVICES - 1;
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    store.set_nodes(2);
    let instance = instance(&store, clock).await;
    store.set_node_away(Some(1));
    tokio::time::sleep(2 * POLL).await;
    settled().await;
    compares_in_turn(&store, || {}).await;
    let untold = |generation| Snapshot { generation: Generation(generation), held: Held::HalfOpen, trips: 1, since: Tick(0) };
    store.put_untold(&format!("service-{LAST}"), &untold(900));
    store.set_node_away(None);
    tokio::time::sleep(POLL).await;
    settled().await;
    assert_eq!(instance.breakers.snapshot(LAST).generation, Generation(900), "by the first poll");
    let loads = store.take_loads();
    assert!(loads.iter().sum::<usize>() <= SERVICES / 2 + AT_ONCE + 1, "those of the node, and whose turn it was: {loads:?}");
    // A difference of a node that is there is none of the one that is away.
    store.set_node_away(Some(1));
    tokio::time::sleep(2 * POLL).await;
    settled().await;
    (0..SERVICES).step_by(2).for_each(|service| store.put_untold(&format!("service-{service}"), &untold(1_000)));
    tokio::time::sleep(POLL).await;
    settled().await;
    let behind = (0..SERVICES).step_by(2).filter(|service| instance.breakers.snapshot(*service).generation != Generation(1_000));
    assert_eq!(behind.count(), 0, "what a poll found untold has all of them compared");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_nothing_is_read_in_turn_and_compared_when_it_takes_again() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let instance = instance(&store, clock).await;
    store.set_read_only(true);
    instance.fail_everywhere();
    tokio::time::sleep(2 * POLL).await;
    settled().await;
    compares_in_turn(&store, || assert_eq!(instance.health.state(), StoreState::Down)).await;
    store.set_read_only(false);
    tokio::time::sleep(POLL).await;
    settled().await;
    assert_eq!((stored(&store, StateName::Open), instance.health.state()), (SERVICES, StoreState::Up));
}

#[tokio::test(start_paused = true)]
async fn between_two_questions_of_a_round_comes_what_is_decided_here_and_elsewhere() {
    const SLOW: Duration = Duration::from_millis(100);
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let (one, other) = (instance(&store, clock).await, instance(&store, clock).await);
    one.fail_at(0);
    settled().await;
    store.empty();
    store.take_loads();
    store.delay_loads(SLOW);
    tokio::time::sleep(POLL + SLOW * 3 / 2).await;
    settled().await;
    assert_eq!(store.take_loads(), [256; 4], "each has found a difference, and asks its second question of four");
    one.fail_at(SERVICES - 1);
    tokio::time::sleep(SLOW).await;
    settled().await;
    assert_eq!(store.snapshot("service-999").map(|stored| stored.held.name()), Some(StateName::Open));
    assert_eq!(store.take_loads(), [256; 2], "in the middle of the round");
    tokio::time::sleep(SLOW).await;
    settled().await;
    assert_eq!(other.breakers.state(SERVICES - 1), StateName::Open);
    assert_eq!(store.take_loads(), [232; 2], "the last question of the round is under way");
}

#[tokio::test(start_paused = true)]
async fn what_is_decided_while_a_poll_reads_is_no_difference() {
    const SLOW: Duration = Duration::from_millis(100);
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let instance = instance(&store, clock).await;
    store.take_loads();
    store.delay_loads(SLOW);
    tokio::time::sleep(POLL + SLOW / 2).await;
    instance.fail_at(0);
    tokio::time::sleep(SLOW).await;
    settled().await;
    assert_eq!(store.take_loads(), [256], "the poll is over");
    assert_eq!(store.history().len(), 1);
}

/// Changes of one breaker are never under way together, whatever else is.
#[tokio::test(start_paused = true)]
async fn a_breakers_changes_are_stored_in_their_order() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let instance = instance(&store, clock).await;
    for service in [3, 4, 3, 3, 5, 4] {
        let to = if instance.breakers.snapshot(service).held == Held::Closed { Automatic::Open } else { Automatic::Closed };
        instance.breakers.order(service, Order::Reset(to), "ops", "drill");
    }
    settled().await;
    let history: Vec<_> = store.history().iter().map(|kept| (kept.from, kept.to)).collect();
    assert_eq!(history.len(), 6, "a change that is overtaken is superseded, and missing: {history:?}");
    for service in [3, 4, 5] {
        let known = instance.breakers.snapshot(service);
        assert_eq!(store.snapshot(&format!("service-{service}")), Some(known));
    }
}

/// A breaker that opens alone and closes again, for as long as the store is away, and one that changes for all.
#[tokio::test(start_paused = true)]
async fn what_is_one_instances_alone_makes_no_change_be_forgotten() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let services = [("one".to_owned(), trips_at_once()), ("other".to_owned(), Settings { quorum: 2, ..trips_at_once() })];
    let made = breakers_with(services, clock);
    made.0.join_fleet();
    let instance = Instance::start_with(made, &store, clock).await;
    store.set_away(true);
    tokio::time::sleep(POLL).await;
    settled().await;
    instance.fail_at(0);
    for _ in 0..KEPT {
        instance.fail_at(1);
        settled().await;
        tokio::time::sleep(Duration::from_secs(31)).await;
        settled().await;
        instance.breakers.admit(1, clock.now()).expect("a probe").settle(Verdict::Success, Duration::ZERO, clock.now());
        settled().await;
    }
    store.set_away(false);
    reconciled().await;
    let history = store.history();
    assert!(history.iter().any(|entry| !entry.alone && entry.to == StateName::Open), "the change of the other one");
    let alone: Vec<_> = history.iter().filter(|entry| entry.alone).map(|entry| (entry.from, entry.to)).collect();
    assert!(alone.len() <= KEPT && alone.len() > KEPT / 2, "{}", alone.len());
    assert!(
        alone.iter().all(|states| [(StateName::Closed, StateName::Open), (StateName::HalfOpen, StateName::Closed)].contains(states)),
        "that it opened alone, and that it closed: {alone:?}"
    );
    assert!(instance.breakers.remembered(1).iter().any(|entry| entry.to == StateName::HalfOpen), "here all is remembered");
}
