//! Changed settings between instances, the store, and its absence.

use super::*;
use crate::pipeline::tuning::{Chosen, Wish, tune};

impl Instance {
    /// Changes how many failures trip; whether that is a change.
    async fn change(&self, store: &MemoryStore, fail_max: u32, reason: &str) -> bool {
        let wish = Wish { actor: "ops", reason, over: None };
        let fail_max = fail_max.try_into().expect("not zero");
        let decide = |in_force: &Settings| {
            Ok::<_, ()>(Chosen::Given(Arc::new(Settings { policy: PolicySettings::Consecutive { fail_max }, ..in_force.clone() })))
        };
        tune(&self.breakers, Some(store), 0, &wish, decide).await.expect("changed").tuning.is_some()
    }

    async fn back_to_config(&self, store: &MemoryStore) {
        let wish = Wish { actor: "ops", reason: "", over: None };
        tune(&self.breakers, Some(store), 0, &wish, |_| Ok::<_, ()>(Chosen::Configured)).await.expect("changed");
    }

    /// How many failures trip, and at which revision.
    fn goes_by(&self) -> (u32, u64) {
        let (standing, settings) = self.breakers.standing(0);
        let PolicySettings::Consecutive { fail_max } = settings.policy else { panic!("another policy: {settings:?}") };
        (fail_max.get(), standing.revision())
    }

    fn unsaved(&self) -> bool {
        self.breakers.standing(0).0.unsaved_over.is_some()
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_reaches_the_others_and_the_next_life() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let (one, other) = (Instance::start(&store, clock).await, Instance::start(&store, clock).await);
    assert!(one.change(&store, 3, "noisy").await);
    settled().await;
    assert_eq!((one.goes_by(), other.goes_by()), ((3, 1), (3, 1)));
    other.fail();
    other.fail();
    assert_eq!(other.state(), StateName::Closed);
    other.fail();
    assert_eq!(other.state(), StateName::Open, "it decides by it");
    settled().await;
    let next = Instance::start(&store, clock).await;
    assert_eq!((next.goes_by(), next.state()), ((3, 1), StateName::Open));
    other.back_to_config(&store).await;
    settled().await;
    assert_eq!((one.goes_by(), other.goes_by(), next.goes_by()), ((1, 2), (1, 2), (1, 2)), "those of the config");
    assert_eq!(Instance::start(&store, clock).await.goes_by(), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_change_while_the_store_is_away_is_made_here_and_saved_on_its_return() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let (one, other) = (Instance::start(&store, clock).await, Instance::start(&store, clock).await);
    store.set_away(true);
    assert!(one.change(&store, 3, "").await);
    assert!(one.change(&store, 4, "").await);
    assert!(!one.change(&store, 4, "").await);
    settled().await;
    assert_eq!((one.goes_by(), one.unsaved(), other.goes_by()), ((4, 2), true, (1, 0)));
    store.set_away(false);
    reconciled().await;
    assert_eq!((one.goes_by(), one.unsaved(), other.goes_by()), ((4, 2), false, (4, 2)));
    assert_eq!(store.tuning("notifier").map(|stored| stored.revision), Some(2));
}

#[tokio::test(start_paused = true)]
async fn of_changes_on_both_sides_while_the_store_is_away_one_stands_and_the_other_is_told_lost() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let (breakers, announcements, notes) = breakers(clock);
    let (keeper, _) = Keeper::new(Arc::clone(&breakers), announcements, Arc::clone(&store), POLL, clock, Arc::clone(&notes));
    tokio::spawn(keeper.run(std::future::pending()));
    let other = Instance::start(&store, clock).await;
    store.set_away(true);
    assert!(other.change(&store, 7, "theirs").await);
    let wish = Wish { actor: "ops", reason: "ours", over: None };
    for fail_max in [2_u32, 3] {
        let fail_max = fail_max.try_into().expect("not zero");
        let decide = |in_force: &Settings| {
            Ok::<_, ()>(Chosen::Given(Arc::new(Settings { policy: PolicySettings::Consecutive { fail_max }, ..in_force.clone() })))
        };
        tune(&breakers, Some(&*store), 0, &wish, decide).await.expect("changed");
    }
    store.set_away(false);
    // The other one is asked again, and so is the first to see the store.
    assert!(other.change(&store, 8, "theirs again").await);
    reconciled().await;
    reconciled().await;
    assert_eq!(other.goes_by(), (8, 2));
    let (standing, _) = breakers.standing(0);
    assert_eq!((standing.revision(), standing.unsaved_over), (2, None));
    assert_eq!(standing.tuning.map(|tuning| tuning.reason).as_deref(), Some("theirs again"));
    let notes = notes.0.lock().expect("unpoisoned");
    let lost: Vec<_> = notes.iter().filter(|note| note.starts_with("TuningLost")).collect();
    assert!(matches!(&lost[..], [one] if one.contains("\"ours\"") && one.contains("\"theirs again\"")), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_empty_is_given_the_settings_again() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let (one, other) = (Instance::start(&store, clock).await, Instance::start(&store, clock).await);
    assert!(one.change(&store, 3, "").await);
    assert!(one.change(&store, 4, "").await);
    settled().await;
    store.empty();
    reconciled().await;
    assert_eq!(store.tuning("notifier").map(|stored| stored.revision), Some(2));
    assert_eq!((one.goes_by(), other.goes_by()), ((4, 2), (4, 2)));
}

#[tokio::test(start_paused = true)]
async fn what_was_changed_before_the_end_is_saved_if_the_store_is_back() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let instance = Instance::start(&store, clock).await;
    store.set_away(true);
    assert!(instance.change(&store, 3, "").await);
    store.set_away(false);
    instance.ending.cancel();
    instance.keeper.await.expect("ended");
    assert_eq!(store.tuning("notifier").map(|stored| stored.revision), Some(1));
}

impl Instance {
    /// Changes how long it stays open after a trip.
    async fn opens_for(&self, store: &MemoryStore, seconds: u64) {
        let wish = Wish { actor: "ops", reason: "", over: None };
        let recovery_timeout = Duration::from_secs(seconds);
        let decide =
            |in_force: &Settings| Ok::<_, ()>(Chosen::Given(Arc::new(Settings { recovery_timeout, jitter: 0.5, ..in_force.clone() })));
        tune(&self.breakers, Some(store), 0, &wish, decide).await.expect("changed");
    }

    fn opens_until(&self) -> Option<Tick> {
        open_until(&self.breakers.snapshot(0))
    }
}

fn open_until(snapshot: &Snapshot) -> Option<Tick> {
    match snapshot.held {
        Held::Open { until } => Some(until),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_time_that_is_changed_is_the_same_everywhere_and_in_the_store() {
    // Whoever tripped, and whoever else is asked for the change.
    for (asked, seconds) in [(0, 300), (1, 300), (0, 10), (1, 10)] {
        let (store, clock) = (MemoryStore::new(), PausedClock::new());
        let fleet = [Instance::start(&store, clock).await, Instance::start(&store, clock).await, Instance::start(&store, clock).await];
        fleet[0].fail();
        settled().await;
        let tripped = clock.now();
        tokio::time::sleep(Duration::from_secs(2)).await;
        fleet[asked].opens_for(&store, seconds).await;
        settled().await;
        let end = tripped.plus(Duration::from_secs(seconds));
        let until = Some(end);
        let told: Vec<_> = fleet.iter().map(Instance::opens_until).collect();
        assert_eq!(told, [until; 3], "asked of {asked}, {seconds} s");
        assert_eq!(store.snapshot("notifier").as_ref().and_then(open_until), until, "asked of {asked}, {seconds} s");
        let generation = fleet[0].breakers.snapshot(0).generation;
        assert!(fleet.iter().all(|one| one.breakers.snapshot(0).generation == generation), "all agree");
        let changes = store.history().len();
        // Whoever starts now goes by the same, and changes nothing.
        let next = Instance::start(&store, clock).await;
        reconciled().await;
        assert_eq!((next.opens_until(), store.history().len()), (until, changes), "asked of {asked}, {seconds} s");
        tokio::time::sleep(end.since(clock.now())).await;
        settled().await;
        assert!(fleet.iter().all(|one| one.state() == StateName::HalfOpen), "all at once");
    }
}
