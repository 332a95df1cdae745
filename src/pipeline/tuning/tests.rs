use std::time::Duration;

use super::*;
use crate::machine::breaker::{PolicySettings, StateName, Transition, Verdict};
use crate::pipeline::fakes::{Always, MemoryStore, Notes, PausedClock, Small};
use crate::pipeline::ports::{Clock as _, StoreError};

const LEASE: Duration = Duration::from_secs(2);

fn settings(fail_max: u32) -> Settings {
    let fail_max = fail_max.try_into().expect("not zero");
    Settings::new(PolicySettings::Consecutive { fail_max }, Duration::from_secs(30), LEASE)
}

fn given(fail_max: u32) -> Chosen {
    Chosen::Given(Arc::new(Settings { lease: Duration::ZERO, ..settings(fail_max) }))
}

fn tuning(revision: u64, instance: &str) -> Tuning {
    Tuning { revision, chosen: given(1), actor: "ops".to_owned(), reason: String::new(), at: UnixMillis(0), instance: instance.to_owned() }
}

fn breakers(instance: &str) -> (Arc<Breakers<Small>>, Arc<Notes>, PausedClock) {
    let (clock, witness) = (PausedClock::new(), Arc::new(Notes::default()));
    let services = [("rag".to_owned(), settings(9)), ("notifier".to_owned(), settings(5))];
    let (breakers, _) = Breakers::new(services, clock, Always(0.0), Arc::clone(&witness), instance.to_owned());
    (breakers, witness, clock)
}

const SERVICE: usize = 1;

fn wish(over: Option<&[String]>) -> Wish<'_> {
    Wish { actor: "ops", reason: "a drill", over }
}

/// What the service's breaker goes by: how many failures trip it, at which revision, and what the store has yet to take.
fn stands(breakers: &Breakers<Small>) -> (u32, u64, Option<u64>) {
    let (standing, settings) = breakers.standing(SERVICE);
    assert_eq!(settings.lease, LEASE, "each instance keeps its own lease");
    let PolicySettings::Consecutive { fail_max } = settings.policy else { panic!("another policy: {settings:?}") };
    (fail_max.get(), standing.revision(), standing.unsaved_over)
}

fn owned(tags: &[&str]) -> Vec<String> {
    tags.iter().map(|tag| (*tag).to_owned()).collect()
}

fn stale(tag: &str) -> NotTuned<&'static str> {
    NotTuned::Stale(tag.to_owned())
}

async fn change(
    breakers: &Breakers<Small>,
    store: Option<&MemoryStore>,
    over: Option<&[&str]>,
    chosen: Chosen,
) -> Result<bool, NotTuned<&'static str>> {
    let over = over.map(owned);
    tune(breakers, store, SERVICE, &wish(over.as_deref()), |_| Ok(chosen.clone())).await.map(|tuned| tuned.tuning.is_some())
}

#[test]
fn what_is_stored_meets_what_is_known() {
    let known = |revision| Standing { tuning: Some(tuning(revision, "a")), ..Standing::default() };
    let unsaved = |revision, over| Standing { unsaved_over: Some(over), ..known(revision) };
    for (standing, stored, expect) in [
        (Standing::default(), tuning(1, "b"), Meeting::Newer),
        (known(3), tuning(3, "a"), Meeting::Known),
        (known(3), tuning(2, "b"), Meeting::Known),
        (known(3), tuning(3, "b"), Meeting::Superseding),
        (known(3), tuning(4, "b"), Meeting::Newer),
        (unsaved(3, 2), tuning(3, "a"), Meeting::Saved),
        (unsaved(3, 2), tuning(2, "b"), Meeting::Known),
        (unsaved(3, 2), tuning(1, "b"), Meeting::Known),
        (unsaved(3, 2), tuning(3, "b"), Meeting::Superseding),
        (unsaved(5, 2), tuning(3, "b"), Meeting::Superseding),
        (unsaved(3, 2), tuning(9, "b"), Meeting::Superseding),
    ] {
        assert_eq!(standing.meet(&stored), expect, "{standing:?} and {stored:?}");
    }
}

#[test]
fn what_is_found_below_what_was_stored_stands_if_it_was_made_later() {
    let made = |revision, instance, at| Tuning { at: UnixMillis(at), ..tuning(revision, instance) };
    let known = |unsaved_over| Standing { tuning: Some(made(3, "a", 5)), unsaved_over, numbered: 3 };
    for (standing, found, expect) in [
        (known(None), made(1, "b", 6), Meeting::Superseding),
        (known(None), made(1, "b", 4), Meeting::Known),
        (known(None), made(4, "b", 4), Meeting::Newer),
        (known(None), made(3, "a", 6), Meeting::Known),
        (known(Some(1)), made(1, "b", 6), Meeting::Known),
        (Standing::default(), made(1, "b", 6), Meeting::Newer),
    ] {
        assert_eq!(standing.find(&found), expect, "{standing:?} and {found:?}");
    }
}

/// The store is emptied; who starts then knows of nothing, and is asked for a change before the others have put theirs back.
#[tokio::test(start_paused = true)]
async fn a_change_after_the_store_was_emptied_is_not_undone_by_what_others_knew_before() {
    let (before, emptied) = (MemoryStore::new(), MemoryStore::new());
    let ((one, notes, clock), (other, ..)) = (breakers("one"), breakers("other"));
    for fail_max in [2, 3] {
        assert_eq!(change(&one, Some(&before), None, given(fail_max)).await, Ok(true));
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(clock.wall() > UnixMillis(0));
    assert_eq!(change(&other, Some(&emptied), None, given(7)).await, Ok(true));
    one.take_up_found(SERVICE, &emptied.tuning("notifier").expect("stored"));
    assert_eq!(stands(&one), (7, 1, None));
    assert!(notes.0.lock().expect("unpoisoned").iter().any(|note| note.starts_with("TuningLost")));
    assert_eq!(change(&one, Some(&emptied), Some(&["1-other"]), given(8)).await, Ok(true));
    assert_eq!(stands(&one), (8, 3, None), "no number is given out twice");
}

#[test]
fn what_is_saved_is_waited_for_no_longer() {
    let unsaved = |revision, over| Standing { tuning: Some(tuning(revision, "a")), unsaved_over: Some(over), ..Standing::default() };
    for (mut standing, saved, expect) in [
        (unsaved(3, 2), tuning(3, "a"), None),
        // One more was made while this one was on its way.
        (unsaved(4, 2), tuning(3, "a"), Some(3)),
        (Standing { unsaved_over: None, ..unsaved(4, 2) }, tuning(3, "a"), None),
    ] {
        standing.note_saved(&saved);
        assert_eq!(standing.unsaved_over, expect, "{standing:?} and {saved:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_store_changes_are_numbered_and_checked_here() {
    let (breakers, _, _) = breakers("here");
    let none = None::<&MemoryStore>;
    assert_eq!(stands(&breakers), (5, 0, None));
    assert_eq!(change(&breakers, none, None, Chosen::Configured).await, Ok(false), "nothing was changed yet");
    assert_eq!(change(&breakers, none, None, given(5)).await, Ok(true), "the lease differs on its way, and is put right");
    let same = Chosen::Given(Arc::new(settings(5)));
    assert_eq!(change(&breakers, none, None, same).await, Ok(false), "those are in force");
    assert_eq!(change(&breakers, none, Some(&["0"]), given(3)).await, Err(stale("1-here")));
    assert_eq!(change(&breakers, none, Some(&[]), given(3)).await, Err(stale("1-here")));
    assert_eq!(change(&breakers, none, Some(&["7-here", "1-here"]), given(3)).await, Ok(true));
    assert_eq!(stands(&breakers), (3, 2, None));
    let wrong = tune(&breakers, none, SERVICE, &wish(None), |_| Err::<Chosen, _>("makes no sense")).await;
    assert_eq!(wrong, Err(NotTuned::Wrong("makes no sense")));
    assert_eq!(stands(&breakers), (3, 2, None));
    assert_eq!(change(&breakers, none, None, Chosen::Configured).await, Ok(true));
    assert_eq!(change(&breakers, none, None, Chosen::Configured).await, Ok(false));
    assert_eq!(stands(&breakers), (5, 3, None));
    assert_eq!(breakers.standing(0).0, Standing::default(), "the other service's stay");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_weighed_at_once() {
    let (breakers, _, clock) = breakers("here");
    let now = clock.now();
    for _ in 0..3 {
        breakers.admit(SERVICE, now).expect("admitted").settle(Verdict::Failure { retry_after: None }, Duration::ZERO, now);
    }
    assert_eq!(breakers.state(SERVICE), StateName::Closed);
    let mut changes = breakers.changes();
    assert_eq!(change(&breakers, None, None, given(3)).await, Ok(true));
    assert_eq!(breakers.state(SERVICE), StateName::Open);
    changes.changed().await;
    // Open, it is told when its time is over by the changed settings: whoever waits for that must look again.
    let until = breakers.retry_at(SERVICE);
    let mut changes = breakers.changes();
    let sooner = Chosen::Given(Arc::new(Settings { recovery_timeout: Duration::from_secs(1), ..settings(3) }));
    assert_eq!(change(&breakers, None, None, sooner).await, Ok(true));
    assert!(breakers.retry_at(SERVICE) < until);
    changes.changed().await;
}

/// Each instance believes that the settings were never changed when the second one is asked.
#[tokio::test(start_paused = true)]
async fn a_change_is_laid_over_what_is_stored_and_not_over_what_was_heard() {
    let store = MemoryStore::new();
    let ((one, ..), (other, ..)) = (breakers("one"), breakers("other"));
    assert_eq!(change(&one, Some(&store), Some(&["0"]), given(2)).await, Ok(true));
    assert_eq!(stands(&other), (5, 0, None), "it has not heard of it");
    assert_eq!(change(&other, Some(&store), Some(&["0"]), given(3)).await, Err(stale("1-one")));
    assert_eq!(stands(&other), (2, 1, None), "now it has");
    assert_eq!(change(&other, Some(&store), None, given(3)).await, Ok(true));
    assert_eq!((stands(&other), stands(&one)), ((3, 2, None), (2, 1, None)));
    one.take_up(SERVICE, &store.tuning("notifier").expect("stored"));
    assert_eq!(stands(&one), (3, 2, None));
    assert_eq!(one.standing(SERVICE).0.tuning.map(|tuning| tuning.instance).as_deref(), Some("other"));
    assert_eq!(store.tuning("rag"), None);
}

/// A store into which others write between each reading and the writing that follows.
struct Busy {
    inner: Arc<MemoryStore>,
    writes: std::sync::atomic::AtomicU64,
}

impl Store for Busy {
    async fn load(&self, services: &[String]) -> Vec<Result<crate::pipeline::ports::Kept, StoreError>> {
        self.inner.load(services).await
    }
    async fn save(
        &self,
        _: &str,
        _: &crate::machine::breaker::Snapshot,
        _: Option<&crate::machine::breaker::Transition>,
    ) -> Result<crate::pipeline::ports::Saved, StoreError> {
        Err(StoreError(String::new()))
    }
    async fn note(&self, service: &str, transition: &Transition) -> Result<(), StoreError> {
        self.inner.note(service, transition).await
    }
    async fn save_tuning(&self, service: &str, ours: &Tuning, over: u64) -> Result<SavedTuning, StoreError> {
        let left = self.writes.load(std::sync::atomic::Ordering::Relaxed);
        if left > 0 {
            self.writes.store(left - 1, std::sync::atomic::Ordering::Relaxed);
            self.inner.save_tuning(service, &tuning(over + 1, "busy"), over).await?;
        }
        self.inner.save_tuning(service, ours, over).await
    }
    async fn history(&self, _: &str, _: Option<&str>, _: usize) -> Result<crate::pipeline::ports::HistoryPage, StoreError> {
        Err(StoreError(String::new()))
    }
    fn watch(&self) -> tokio::sync::mpsc::Receiver<crate::pipeline::ports::Heard> {
        self.inner.watch()
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_meets_another_is_laid_over_it_unless_it_asked_for_the_one_before() {
    for (writes, over, expect, revision) in [
        (1, None, Ok(true), 2),
        (1, Some(&["0"][..]), Err(stale("1-busy")), 1),
        (7, None, Ok(true), 8),
        (u64::MAX, None, Err(NotTuned::Contended), 8),
    ] {
        let store = Busy { inner: MemoryStore::new(), writes: writes.into() };
        let (breakers, ..) = breakers("here");
        let done = tune(&breakers, Some(&store), SERVICE, &wish(over.map(owned).as_deref()), |_| Ok::<_, &str>(given(4)))
            .await
            .map(|tuned| tuned.tuning.is_some());
        assert_eq!(done, expect, "{writes} {over:?}");
        assert_eq!(store.inner.tuning("notifier").map(|stored| stored.revision), Some(revision));
        assert_eq!(stands(&breakers).1, revision, "{writes} {over:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_changed_without_the_store_is_unsaved_and_the_next_change_takes_it_along() {
    let store = MemoryStore::new();
    let (breakers, ..) = breakers("here");
    assert_eq!(change(&breakers, Some(&store), None, given(2)).await, Ok(true));
    store.set_away(true);
    assert_eq!(change(&breakers, Some(&store), Some(&["1"]), given(3)).await, Ok(true));
    assert_eq!(change(&breakers, Some(&store), Some(&["2-here"]), given(4)).await, Ok(true));
    assert_eq!(stands(&breakers), (4, 3, Some(1)));
    store.set_away(false);
    assert_eq!(change(&breakers, Some(&store), Some(&["3-here"]), given(6)).await, Ok(true));
    assert_eq!(stands(&breakers), (6, 4, None));
    assert_eq!(store.tuning("notifier").map(|stored| stored.revision), Some(4));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_changes_nothing_but_the_revision_and_is_said_once() {
    let (breakers, notes, _) = breakers("here");
    let unreadable = Tuning { chosen: Chosen::Unreadable("mood".to_owned()), ..tuning(4, "newer") };
    breakers.take_up(SERVICE, &unreadable);
    breakers.take_up(SERVICE, &unreadable);
    assert_eq!(stands(&breakers), (5, 4, None));
    assert_eq!(notes.0.lock().expect("unpoisoned").len(), 1);
    // Even the settings that are in force are a change of what is stored.
    let same = Chosen::Given(Arc::new(settings(5)));
    assert_eq!(change(&breakers, None, None, same).await, Ok(true));
    assert_eq!(stands(&breakers), (5, 5, None));
}

#[test]
fn a_tag_names_one_change_and_a_number_one_that_no_other_can_have() {
    let at = |instance: &str, unsaved_over| Standing { tuning: Some(tuning(3, instance)), unsaved_over, ..Standing::default() };
    for (standing, tag, expect) in [
        (Standing::default(), "0", true),
        (Standing::default(), "3-a", false),
        (at("a", None), "3-a", true),
        (at("a", Some(2)), "3-a", true),
        (at("a", None), "3-b", false),
        (at("a", None), "2-a", false),
        (at("a", None), "3", true),
        (at("a", None), "03", false),
        (at("a", None), "+3", false),
        (at("a", Some(2)), "3", false),
        (at("a\", \u{fc}", None), "3-a____", true),
    ] {
        assert_eq!(standing.is_named(tag), expect, "{tag} {standing:?}");
    }
}

/// Each instance is cut off from the store and the other, and gives out the same revision.
#[tokio::test(start_paused = true)]
async fn a_change_that_was_read_at_one_instance_is_not_taken_for_the_other_of_its_number() {
    let store = MemoryStore::new();
    let ((one, ..), (other, ..)) = (breakers("one"), breakers("other"));
    store.set_away(true);
    assert_eq!(change(&one, Some(&store), Some(&["0"]), given(2)).await, Ok(true));
    assert_eq!(change(&other, Some(&store), Some(&["0"]), given(3)).await, Ok(true));
    for tag in ["1-one", "1"] {
        assert_eq!(change(&other, Some(&store), Some(&[tag]), given(4)).await, Err(stale("1-other")));
    }
    assert_eq!(change(&one, Some(&store), Some(&["1-one"]), given(4)).await, Ok(true));
    // What the other one has made is stored first; the number of a change that was lost by that is not given out again.
    store.set_away(false);
    assert_eq!(store.save_tuning("notifier", &tuning(1, "other"), 0).await, Ok(SavedTuning::Stored));
    one.take_up(SERVICE, &store.tuning("notifier").expect("stored"));
    assert_eq!(change(&one, Some(&store), Some(&["1-one"]), given(4)).await, Err(stale("1-other")));
    store.set_away(true);
    assert_eq!(change(&one, Some(&store), Some(&["1"]), given(5)).await, Ok(true));
    assert_eq!(change(&one, Some(&store), Some(&["2-one"]), given(6)).await, Err(stale("3-one")));
}

#[tokio::test(start_paused = true)]
async fn what_another_change_of_the_same_number_has_replaced_meanwhile_is_not_laid_over_it_unseen() {
    let store = MemoryStore::new();
    let (breakers, ..) = breakers("one");
    store.set_away(true);
    assert_eq!(change(&breakers, Some(&store), None, given(2)).await, Ok(true));
    let over = owned(&["1-one"]);
    let wish = wish(Some(&over));
    let done = tune(&breakers, Some(&*store), SERVICE, &wish, |_| {
        breakers.take_up(SERVICE, &tuning(1, "other"));
        Ok::<_, &str>(given(4))
    });
    assert_eq!(done.await, Err(stale("1-other")));
}
