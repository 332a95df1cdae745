//! The order of keys.

use super::*;

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
        let now = self.clock.wall();
        let parking = Parking { reason: Reason::CircuitOpen, attempt: 0, parks: 1, not_before: now, first_parked_at: now };
        self.park_as(0, offset..offset + 1, camera, parking).await;
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
async fn what_is_discarded_goes_out_of_turn_and_a_release_does_not() {
    use crate::machine::orders::{Act, Change, Order};
    use crate::machine::selection::Selection;
    let rig = Rig::with_keys(&["a"], 3).await;
    let order = |number: u128, act| Order {
        id: Uuid::from_u128(number),
        group: "g".to_owned(),
        act,
        selection: Selection::default(),
        ends: [("retry".to_owned(), [(0, 100)].into())].into(),
        at: rig.clock.wall(),
        actor: "ann".to_owned(),
        reason: String::new(),
        rate: None,
        calls: 0,
        counted_all: true,
        cancelled_by: None,
    };
    rig.orders.hear(Change::from(order(1, Act::Release)));
    rig.pause().await;
    assert_eq!(rig.out(), 1, "all are released, and wait for their turns");
    rig.orders.hear(Change::from(order(2, Act::Discard)));
    rig.pause().await;
    assert_eq!((rig.out(), rig.published()), (1, 2), "those that wait are given up, and the one that is out goes on");
    rig.park_key(3, "a").await;
    assert_eq!(rig.published(), 3, "what comes later and is meant too");
    rig.park_key(100, "a").await;
    rig.answer(1).await;
    assert_eq!((rig.out(), rig.published()), (1, 3), "what was parked later");
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
