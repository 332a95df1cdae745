//! The order of keys.

use super::*;
use crate::machine::orders::{Act, Order};
use crate::machine::selection::Selection;

/// About everything that is parked below offset 100.
fn order(rig: &Rig, number: u128, act: Act) -> Order {
    ordered::order(rig, number, act, Selection::default(), 100)
}

/// Due since a while ago, milliseconds, when it was parked.
fn parking(rig: &Rig, ago: i64) -> Parking {
    let at = UnixMillis(rig.clock.wall().0.saturating_sub(ago));
    Parking { reason: Reason::CircuitOpen, attempt: 0, parks: 1, not_before: at, first_parked_at: at }
}

impl Rig {
    /// So many parked calls of each of these cameras, in turn, all due: offsets from `first` on.
    async fn with_keys(cameras: &[&str], each: i64) -> Self {
        let rig = Self::start_with(1, Budget::new(1_000, 1 << 20), Duration::from_secs(1), true);
        rig.assign([0]).await;
        for (number, camera) in (0..).zip(cameras.iter().cycle().take(cameras.len() * usize::try_from(each).expect("few"))) {
            rig.park_key(number, camera).await;
        }
        rig
    }

    async fn park_key(&self, offset: i64, camera: &str) {
        self.park_as(0, offset..offset + 1, camera, parking(self, 0)).await;
    }

    fn published(&self) -> usize {
        self.published.lock().expect("unpoisoned").len()
    }
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_key_go_one_at_a_time() {
    let rig = Rig::with_keys(&["a", "b"], 5).await;
    for left in (1..=5).rev() {
        assert_eq!(rig.out(), 2, "one of each key, {left} are left");
        rig.answer(2).await;
    }
    assert_eq!((rig.out(), rig.published()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_keeps_its_place_and_holds_its_key_alone() {
    let rig = Rig::with_keys(&["a", "b"], 3).await;
    // The first call is that of a.
    rig.answer_with(500, 1).await;
    assert_eq!((rig.out(), rig.published()), (1, 0), "no copy goes behind those that follow it");
    for _ in 0..3 {
        rig.answer(1).await;
    }
    assert_eq!(rig.out(), 0, "all of b has gone, and a waits");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.out(), 1);
    rig.answer(1).await;
    assert_eq!(rig.out(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_frees_its_key() {
    let rig = Rig::with_keys(&["a"], 2).await;
    for _ in 0..3 {
        rig.answer_with(500, 1).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    rig.answer_with(422, 1).await;
    let letters: Vec<_> = rig.published.lock().expect("unpoisoned").clone();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].headers.text(crate::event::headers::name::ERROR_CODE), Some("rejected_by_service"));
    assert_eq!(letters[0].headers.text(crate::event::headers::name::ATTEMPT), Some("4"), "what was counted in memory");
    assert_eq!(rig.out(), 1, "the next of the key");
}

#[tokio::test(start_paused = true)]
async fn what_is_ordered_waits_for_its_turn() {
    let rig = Rig::with_keys(&["a"], 3).await;
    rig.orders.hear(order(&rig, 1, Act::Release).into());
    rig.pause().await;
    assert_eq!(rig.out(), 1, "all are released, and wait");
    let discard = order(&rig, 2, Act::Discard);
    rig.orders.hear(discard.clone().into());
    rig.park_key(3, "a").await;
    assert_eq!((rig.out(), rig.published()), (1, 0), "whoever reads that the last has ended takes it of all of them");
    rig.park_key(100, "a").await;
    rig.answer(1).await;
    assert_eq!((rig.published(), rig.out(), rig.came()), (3, 1, vec![0, 100]), "those that are meant are given up at once when it comes");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_discarded_after_all_is_made_in_its_turn() {
    let rig = Rig::with_keys(&["a"], 3).await;
    let discard = order(&rig, 1, Act::Discard);
    rig.orders.hear(discard.clone().into());
    rig.pause().await;
    rig.orders.hear(Order { cancelled_by: Some("bob".to_owned()), ..discard }.into());
    rig.pause().await;
    for left in (0..3).rev() {
        assert_eq!((rig.out(), rig.published()), (1, 0), "{left} come after it");
        rig.answer(1).await;
    }
    assert_eq!(rig.came(), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_ends_in_its_turn_too() {
    let rig = Rig::with_keys(&["a"], 1).await;
    let mut unreadable = rig.record(0, 1, "a", parking(&rig, 0));
    unreadable.value = Some("what?".into());
    rig.hand(vec![unreadable]).await;
    rig.park_key(2, "a").await;
    assert_eq!((rig.out(), rig.published()), (1, 0));
    rig.answer(1).await;
    assert_eq!((rig.out(), rig.published(), rig.came()), (1, 1, vec![0, 2]));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_has_grown_too_old_goes_at_once() {
    let rig = Rig::with_keys(&[], 0).await;
    rig.breakers.order(0, crate::pipeline::breakers::Order::Reset(crate::machine::breaker::Automatic::Open), "ops", "drill");
    for offset in 0..20 {
        rig.park_as(0, offset..offset + 1, "a", parking(&rig, 2 * 3_600_000)).await;
    }
    tokio::time::sleep(ROUND * 2).await;
    assert_eq!((rig.published(), rig.out()), (20, 0), "nobody waits a second for each");
}

/// A budget of forty records, and a key with five times as many in front of another.
#[tokio::test(start_paused = true)]
async fn a_key_with_more_calls_than_are_held_holds_up_no_other() {
    let rig = Rig::start_with(1, Budget::new(40, 1 << 20), Duration::from_secs(1), true);
    rig.assign([0]).await;
    for offset in 0..200 {
        let camera = if offset == 197 { "b" } else { "a" };
        assert!(!rig.budget.is_full(), "{offset}");
        rig.hand(vec![rig.record(0, offset, camera, parking(&rig, 0))]).await;
    }
    assert_eq!((rig.out(), rig.came()), (2, vec![0, 197]));
    tokio::time::sleep(ROUND * 2).await;
    let Gauge { held, shelved, .. } = rig.gauges.of(0);
    assert!(held == 200 && shelved >= 160 && rig.budget.held().0 <= 40, "{held} {shelved} {:?}", rig.budget.held());
    // They come back in their turns, some at a time.
    rig.answer(2).await;
    while rig.out() > 0 {
        assert_eq!(rig.out(), 1);
        rig.answer(1).await;
        rig.pause().await;
    }
    let a: Vec<i64> = rig.came().into_iter().filter(|offset| *offset != 197).collect();
    assert_eq!(a, (0..200).filter(|offset| *offset != 197).collect::<Vec<_>>());
    assert_eq!(rig.budget.held(), (0, 0));
    assert!(rig.log.again.load(Relaxed) <= 200, "each is read again once: {:?}", rig.log.again);
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_from_the_topic_holds_up_nobody_of_its_key() {
    let rig = Rig::start_with(1, Budget::new(8, 1 << 20), Duration::from_secs(1), true);
    rig.assign([0]).await;
    for offset in 0..30 {
        rig.hand(vec![rig.record(0, offset, "a", parking(&rig, 0))]).await;
    }
    rig.log.records.lock().expect("unpoisoned").retain(|source, _| !(10..20).contains(&source.offset.0));
    for _ in 0..20 {
        // Each that is gone may take a question of its own.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(rig.out(), 1, "{:?}", rig.came());
        rig.answer(1).await;
    }
    assert_eq!(rig.came(), (0..10).chain(20..30).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_comes_back_begins_anew() {
    let rig = Rig::with_keys(&["a"], 3).await;
    rig.tell(Intake::Lost(vec![partition(0)])).await;
    assert_eq!(rig.out(), 0);
    rig.assign([0]).await;
    for offset in 0..3 {
        rig.park_key(offset, "a").await;
    }
    for _ in 0..3 {
        assert_eq!(rig.out(), 1);
        rig.answer(1).await;
    }
    let gone = rig.revoke([0]).await;
    assert!(gone.load(Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_goes_leaves_what_waits_to_the_next() {
    let rig = Rig::with_keys(&["a"], 3).await;
    let gone = rig.revoke([0]).await;
    assert!(!gone.load(Relaxed), "one is out");
    rig.answer_with(500, 1).await;
    assert_eq!((gone.load(Relaxed), rig.out(), rig.published()), (true, 0, 0));
    rig.assign([0]).await;
    rig.park_key(0, "a").await;
    assert_eq!(rig.out(), 1);
}
