use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::machine::breaker::{Automatic, Lock, LockKind, PolicySettings, Settings, StateName, Verdict};
use crate::pipeline::breakers::Order;
use crate::pipeline::fakes::{Always, MemoryStore, Notes, PausedClock, Small};

const POLL: Duration = Duration::from_secs(2);

/// One instance: its breaker of the service `notifier`, which trips at the first failure, and its keeper.
struct Instance {
    breakers: Arc<Breakers<Small>>,
    health: Arc<StoreHealth>,
    ending: CancellationToken,
    keeper: JoinHandle<()>,
    clock: PausedClock,
}

fn breakers(clock: PausedClock) -> (Arc<Breakers<Small>>, mpsc::UnboundedReceiver<Announcement>, Arc<Notes>) {
    breakers_of(["notifier".to_owned()], clock)
}

fn breakers_of(
    services: impl IntoIterator<Item = String>,
    clock: PausedClock,
) -> (Arc<Breakers<Small>>, mpsc::UnboundedReceiver<Announcement>, Arc<Notes>) {
    breakers_with(services.into_iter().map(|service| (service, trips_at_once())), clock)
}

fn trips_at_once() -> Settings {
    let policy = PolicySettings::Consecutive { fail_max: 1.try_into().expect("not zero") };
    let settings = Settings::new(policy, Duration::from_secs(30), Duration::from_secs(2));
    Settings { recovery_timeout_max: Duration::from_secs(600), ..settings }
}

fn breakers_with(
    services: impl IntoIterator<Item = (String, Settings)>,
    clock: PausedClock,
) -> (Arc<Breakers<Small>>, mpsc::UnboundedReceiver<Announcement>, Arc<Notes>) {
    let witness = Arc::new(Notes::default());
    let (breakers, announcements) = Breakers::new(services, clock, Always(0.0), Arc::clone(&witness), "here".to_owned());
    (breakers, announcements, witness)
}

impl Instance {
    async fn start(store: &Arc<MemoryStore>, clock: PausedClock) -> Self {
        Self::start_with(breakers(clock), store, clock).await
    }

    async fn start_with(
        (breakers, announcements, witness): (Arc<Breakers<Small>>, mpsc::UnboundedReceiver<Announcement>, Arc<Notes>),
        store: &Arc<MemoryStore>,
        clock: PausedClock,
    ) -> Self {
        let (mut keeper, health) = Keeper::new(Arc::clone(&breakers), announcements, Arc::clone(store), POLL, clock, witness);
        let ending = CancellationToken::new();
        let ended = ending.clone().cancelled_owned();
        let keeper = tokio::spawn(async move {
            keeper.restore().await;
            keeper.run(ended).await;
        });
        tokio::spawn(run_timers(Arc::clone(&breakers), clock));
        let instance = Self { breakers, health, ending, keeper, clock };
        settled().await;
        instance
    }

    fn lock(&self, expires_at: Option<Tick>) {
        let lock = Lock { kind: LockKind::ForcedOpen, actor: "ops".to_owned(), reason: "maintenance".to_owned(), expires_at };
        self.breakers.order(0, Order::Lock(lock), "ops", "maintenance");
    }

    fn reset(&self, to: Automatic) {
        self.breakers.order(0, Order::Reset(to), "ops", "drill");
    }

    fn fail(&self) {
        let now = self.clock.now();
        let admission = self.breakers.admit(0, now).expect("admitted");
        admission.settle(Verdict::Failure { retry_after: None }, Duration::ZERO, now);
    }

    fn state(&self) -> StateName {
        self.breakers.state(0)
    }
}

/// Lets everything run that can, without time going on.
async fn settled() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_takes_up_what_is_stored() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let first = Instance::start(&store, clock).await;
    first.fail();
    settled().await;
    let second = Instance::start(&store, clock).await;
    assert_eq!(second.state(), StateName::Open);
    assert!(second.breakers.admit(0, clock.now()).is_err(), "the first call of its life is refused");
    assert_eq!(second.breakers.snapshot(0).generation, first.breakers.snapshot(0).generation);
}

#[tokio::test(start_paused = true)]
async fn the_others_hear_of_a_trip() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let (one, other) = (Instance::start(&store, clock).await, Instance::start(&store, clock).await);
    one.fail();
    settled().await;
    assert_eq!(other.state(), StateName::Open);
    assert_eq!(store.history().len(), 1, "what is adopted is not stored again");
}

#[tokio::test(start_paused = true)]
async fn what_two_decide_at_once_ends_as_one_state() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let (one, other) = (Instance::start(&store, clock).await, Instance::start(&store, clock).await);
    one.fail();
    other.breakers.order(0, Order::Reset(Automatic::HalfOpen), "somebody", "at the same time");
    settled().await;
    tokio::time::sleep(2 * POLL).await;
    settled().await;
    assert_eq!(one.breakers.snapshot(0).generation, other.breakers.snapshot(0).generation);
    assert_eq!(one.state(), other.state());
    assert_eq!(one.state(), StateName::HalfOpen, "an order wins over what was decided at the same time");
    assert_eq!(store.snapshot("notifier").map(|stored| stored.held.name()), Some(StateName::HalfOpen));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_read_and_takes_nothing_is_away_and_that_is_said_once() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let made = breakers(clock);
    let told = Arc::clone(&made.2);
    let instance = Instance::start_with(made, &store, clock).await;
    let said = || told.0.lock().expect("unpoisoned").iter().filter(|fact| fact.starts_with("Store")).cloned().collect::<Vec<_>>();
    store.set_read_only(true);
    tokio::time::sleep(2 * POLL).await;
    assert_eq!((instance.health.state(), said().len()), (StoreState::Up, 1), "whoever has nothing to store misses nothing");
    instance.fail();
    for _ in 0..5 {
        tokio::time::sleep(POLL).await;
        settled().await;
        assert_eq!(instance.health.state(), StoreState::Down);
    }
    store.set_read_only(false);
    tokio::time::sleep(POLL).await;
    settled().await;
    assert_eq!(instance.health.state(), StoreState::Up);
    assert_eq!(store.snapshot("notifier").map(|stored| stored.held.name()), Some(StateName::Open));
    let up = |up: bool, error: &str| format!("Store {{ up: {up}, error: {error:?} }}");
    assert_eq!(said(), [up(true, ""), up(false, "read only"), up(true, "")]);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_breakers_go_on_and_on_its_return_it_is_told() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let instance = Instance::start(&store, clock).await;
    assert_eq!(instance.health.state(), StoreState::Up);
    store.set_away(true);
    instance.fail();
    settled().await;
    assert_eq!(instance.state(), StateName::Open);
    assert_eq!(instance.health.state(), StoreState::Down);
    instance.breakers.order(0, Order::Reset(Automatic::Closed), "somebody", "it works again");
    instance.fail();
    settled().await;
    assert_eq!(store.snapshot("notifier"), None);
    store.set_away(false);
    tokio::time::sleep(2 * POLL).await;
    settled().await;
    assert_eq!(instance.health.state(), StoreState::Up);
    assert_eq!(store.snapshot("notifier").map(|stored| stored.generation), Some(instance.breakers.snapshot(0).generation));
    let kept: Vec<_> = store.history().iter().map(|transition| transition.to).collect();
    assert_eq!(kept, [StateName::Open, StateName::Closed, StateName::Open], "what was decided meanwhile is in the history, in order");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_empty_is_filled() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let instance = Instance::start(&store, clock).await;
    instance.fail();
    settled().await;
    store.empty();
    tokio::time::sleep(2 * POLL).await;
    settled().await;
    assert_eq!(store.snapshot("notifier").map(|stored| stored.held.name()), Some(StateName::Open));
    assert_eq!(instance.state(), StateName::Open);
}

#[tokio::test(start_paused = true)]
async fn a_lock_reaches_the_others_and_outlasts_every_timer() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let (one, other) = (Instance::start(&store, clock).await, Instance::start(&store, clock).await);
    one.fail();
    settled().await;
    other.lock(None);
    settled().await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    settled().await;
    assert_eq!((one.state(), other.state()), (StateName::ForcedOpen, StateName::ForcedOpen));
    one.breakers.order(0, Order::Release, "ops", "done");
    settled().await;
    assert_eq!((one.state(), other.state()), (StateName::HalfOpen, StateName::HalfOpen));
}

#[tokio::test(start_paused = true)]
async fn an_open_time_that_is_over_wakes_those_who_wait_though_nobody_calls() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let instance = Instance::start(&store, clock).await;
    instance.fail();
    let mut changes = instance.breakers.changes();
    tokio::time::timeout(Duration::from_secs(31), changes.changed()).await.expect("in time");
    assert_eq!(instance.state(), StateName::HalfOpen);
}

/// Long enough for the store's return to be noticed, and for what follows from it.
async fn reconciled() {
    tokio::time::sleep(2 * POLL).await;
    settled().await;
}

/// That both instances and the store are of one mind, and of which.
fn agreed(store: &MemoryStore, one: &Instance, other: &Instance) -> StateName {
    let stored = store.snapshot("notifier").expect("stored");
    assert_eq!((one.breakers.snapshot(0).generation, one.state()), (stored.generation, stored.held.name()));
    assert_eq!((other.breakers.snapshot(0).generation, other.state()), (stored.generation, stored.held.name()));
    stored.held.name()
}

/// What each of two instances does while the store is away, and what both are after its return.
#[tokio::test(start_paused = true)]
async fn of_what_is_decided_on_both_sides_while_the_store_is_away_orders_stand_and_locks_above_all() {
    type Deed = fn(&Instance);
    const TRIP: Deed = |instance| instance.fail();
    const LOCK: Deed = |instance| instance.lock(None);
    const CLOSE: Deed = |instance| instance.reset(Automatic::Closed);
    const OPEN: Deed = |instance| instance.reset(Automatic::Open);
    const RELEASE: Deed = |instance| drop(instance.breakers.order(0, Order::Release, "ops", "done"));
    const WAIT: Deed = |_| {};
    for (name, before, here, there, expect) in [
        ("a trip, its timer, and a lock", &[][..], &[WAIT, LOCK][..], &[TRIP, WAIT][..], StateName::ForcedOpen),
        ("a lock over a trip of its own", &[], &[TRIP, LOCK], &[TRIP, WAIT], StateName::ForcedOpen),
        ("a reset, and trips after another", &[], &[LOCK], &[CLOSE, TRIP, WAIT], StateName::ForcedOpen),
        ("a reset and a trip", &[TRIP], &[CLOSE], &[WAIT], StateName::Closed),
        ("a release", &[LOCK], &[RELEASE], &[WAIT], StateName::HalfOpen),
        ("a release, and a lock after another", &[LOCK], &[RELEASE], &[RELEASE, LOCK], StateName::ForcedOpen),
        ("nothing, and a lock taken off by a reset", &[LOCK], &[], &[OPEN], StateName::Open),
    ] {
        for swapped in [false, true] {
            let (store, clock) = (MemoryStore::new(), PausedClock::new());
            let (one, other) = (Instance::start(&store, clock).await, Instance::start(&store, clock).await);
            before.iter().for_each(|deed| deed(&one));
            settled().await;
            store.set_away(true);
            let (here, there) = if swapped { (there, here) } else { (here, there) };
            for (instance, deeds) in [(&one, here), (&other, there)] {
                for deed in deeds {
                    if *deed as usize == WAIT as usize {
                        tokio::time::sleep(Duration::from_secs(31)).await;
                    }
                    deed(instance);
                    settled().await;
                }
            }
            store.set_away(false);
            reconciled().await;
            assert_eq!(agreed(&store, &one, &other), expect, "{name}, swapped: {swapped}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_of_the_stores_absence_ends_everywhere_when_its_time_is_over() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let (one, other) = (Instance::start(&store, clock).await, Instance::start(&store, clock).await);
    store.set_away(true);
    one.lock(Some(clock.now().plus(Duration::from_secs(60))));
    other.fail();
    tokio::time::sleep(Duration::from_secs(31)).await;
    store.set_away(false);
    reconciled().await;
    assert_eq!(agreed(&store, &one, &other), StateName::ForcedOpen);
    tokio::time::sleep(Duration::from_secs(30)).await;
    reconciled().await;
    assert_eq!(agreed(&store, &one, &other), StateName::HalfOpen);
}

/// One that was restarted without the store has not heard of the orders before it.
#[tokio::test(start_paused = true)]
async fn a_lock_by_one_that_knows_of_no_earlier_orders_stands_all_the_same() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let one = Instance::start(&store, clock).await;
    for _ in 0..3 {
        one.reset(Automatic::Closed);
    }
    one.fail();
    settled().await;
    store.set_away(true);
    let other = Instance::start(&store, clock).await;
    other.fail();
    other.lock(None);
    store.set_away(false);
    reconciled().await;
    assert_eq!(agreed(&store, &one, &other), StateName::ForcedOpen);
}

#[tokio::test(start_paused = true)]
async fn an_order_given_while_the_store_is_read_is_not_lost() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let one = Instance::start(&store, clock).await;
    one.reset(Automatic::Closed);
    one.fail();
    settled().await;
    store.hold_loads(true);
    let other = Instance::start(&store, clock).await;
    other.lock(None);
    settled().await;
    store.hold_loads(false);
    reconciled().await;
    assert_eq!(agreed(&store, &one, &other), StateName::ForcedOpen);
    assert_eq!(store.history().last().and_then(|kept| kept.actor.clone()).as_deref(), Some("ops"));
}

#[tokio::test(start_paused = true)]
async fn a_change_while_a_lost_state_is_put_back_is_in_the_history() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let instance = Instance::start(&store, clock).await;
    store.hold_loads(true);
    tokio::time::sleep(POLL).await;
    settled().await;
    instance.reset(Automatic::Closed);
    instance.fail();
    store.hold_loads(false);
    settled().await;
    let kept: Vec<_> = store.history().iter().map(|transition| transition.to).collect();
    assert_eq!(kept, [StateName::Closed, StateName::Open]);
}

#[tokio::test(start_paused = true)]
async fn what_was_decided_before_the_end_is_stored() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let instance = Instance::start(&store, clock).await;
    instance.fail();
    instance.lock(None);
    instance.ending.cancel();
    instance.keeper.await.expect("ended");
    assert_eq!(store.snapshot("notifier").map(|stored| stored.held.name()), Some(StateName::ForcedOpen));
    assert_eq!(store.history().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_lost_wakes_those_who_wait_at_its_leases_end() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let instance = Instance::start(&store, clock).await;
    instance.reset(Automatic::HalfOpen);
    settled().await;
    // Nobody takes leases here.
    instance.breakers.do_without_leases(0);
    let _lost = instance.breakers.admit(0, clock.now()).expect("a probe");
    assert!(instance.breakers.admit(0, clock.now()).is_err());
    let mut changes = instance.breakers.changes();
    tokio::time::timeout(Duration::from_secs(3), changes.changed()).await.expect("in time");
    assert!(instance.breakers.admit(0, clock.now()).is_ok());
}

/// Changes by several threads are announced in their order, each with its own state.
#[tokio::test(start_paused = true)]
async fn announcements_come_in_order_with_their_own_states() {
    let (breakers, mut announcements, _) = breakers(PausedClock::new());
    std::thread::scope(|scope| {
        for to in [Automatic::Closed, Automatic::Open, Automatic::HalfOpen] {
            let breakers = &breakers;
            scope.spawn(move || (0..2_000).for_each(|_| drop(breakers.order(0, Order::Reset(to), "ops", "drill"))));
        }
    });
    let mut last = Generation::default();
    for _ in 0..6_000 {
        let Announcement { snapshot, transition, .. } = announcements.try_recv().expect("announced");
        assert_eq!((snapshot.generation, snapshot.held.name()), (transition.generation, transition.to));
        assert!(last < transition.generation);
        last = transition.generation;
    }
}

mod many;
mod nodes;
mod tunings;
