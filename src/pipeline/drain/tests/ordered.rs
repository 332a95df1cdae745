//! What operators order for the calls that wait.

use std::collections::BTreeMap;

use super::*;
use crate::event::headers::name;
use crate::machine::orders::{Act, Change, Order, Pause};
use crate::machine::selection::Selection;

const HOUR: Duration = Duration::from_secs(3_600);

pub(super) fn order(rig: &Rig, number: u128, act: Act, selection: Selection, before: i64) -> Order {
    Order {
        id: Uuid::from_u128(number),
        group: "g".to_owned(),
        act,
        selection,
        ends: BTreeMap::from([("retry".to_owned(), BTreeMap::from([(0, before)]))]),
        at: rig.clock.wall(),
        actor: "ann".to_owned(),
        reason: "drill".to_owned(),
        rate: None,
        calls: 0,
        counted_all: true,
        cancelled_by: None,
    }
}

fn pause(rig: &Rig, until: Option<UnixMillis>) -> Pause {
    let (group, service) = ("g".to_owned(), "notifier".to_owned());
    Pause { group, service, at: rig.clock.wall(), actor: "ann".into(), reason: String::new(), until }
}

fn of(camera: &str) -> Selection {
    Selection { cameras: [camera.to_owned()].into(), ..Selection::default() }
}

impl Rig {
    /// A rig with calls that fall due in half a second: offsets 0 to 3 of camera a, 4 to 7 of b.
    async fn with_two_cameras() -> Self {
        let rig = Self::start(1);
        rig.assign([0]).await;
        let now = rig.clock.wall();
        let later = Parking {
            reason: Reason::Timeout,
            attempt: 2,
            parks: 1,
            not_before: now.plus(Duration::from_millis(500)),
            first_parked_at: now,
        };
        rig.park_as(0, 0..4, "a", later).await;
        rig.park_as(0, 4..8, "b", later).await;
        assert_eq!(rig.out(), 0);
        rig
    }

    fn resume(&self) {
        let (group, service) = ("g".to_owned(), "notifier".to_owned());
        self.orders.hear(Change::Pause(Pause::end(group, service, self.clock.wall(), String::new())));
    }

    async fn order(&self, order: Order) {
        self.orders.hear(order.into());
        self.pause().await;
    }

    /// The codes of the dead letters so far.
    fn codes(&self) -> Vec<String> {
        let published = self.published.lock().expect("unpoisoned");
        published.iter().map(|record| record.headers.text(name::ERROR_CODE).expect("a dead letter").to_owned()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_released_goes_now_and_the_rest_when_it_is_due() {
    let rig = Rig::with_two_cameras().await;
    rig.order(order(&rig, 1, Act::Release, of("a"), 3)).await;
    assert_eq!(rig.out(), 3, "those of the camera that were there");
    rig.answer(3).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(rig.out(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_is_discarded_is_a_dead_letter_and_nobody_is_called() {
    let rig = Rig::with_two_cameras().await;
    rig.order(order(&rig, 1, Act::Discard, of("b"), 100)).await;
    assert_eq!(rig.codes(), ["discarded"; 4]);
    {
        let published = rig.published.lock().expect("unpoisoned");
        assert_eq!(published[0].headers.text(name::ERROR), Some("discarded by ann: drill"));
        assert_eq!(published[0].headers.text(name::ATTEMPT), Some("2"));
    }
    // Read later, after a restart or behind a bound, it is discarded all the same; parked anew under a later event, it is not.
    rig.park_as(
        0,
        8..9,
        "b",
        Parking { reason: Reason::Timeout, attempt: 3, parks: 2, not_before: UnixMillis(0), first_parked_at: UnixMillis(0) },
    )
    .await;
    assert_eq!(rig.codes().len(), 5);
    let now = rig.clock.wall();
    rig.park_as(0, 200..201, "b", Parking { reason: Reason::Timeout, attempt: 0, parks: 1, not_before: now, first_parked_at: now }).await;
    assert_eq!((rig.codes().len(), rig.out()), (5, 1));
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_what_was_discarded_under_way_is_discarded() {
    let rig = Rig::with_two_cameras().await;
    let given = order(&rig, 1, Act::Discard, of("b"), 8);
    rig.pause().await;
    rig.order(given).await;
    // It had failed at another instance when the order was given, and was parked again behind the ends that it names.
    let parking = Parking { reason: Reason::Timeout, attempt: 3, parks: 2, not_before: UnixMillis(0), first_parked_at: UnixMillis(0) };
    let mut copy = rig.record(0, 3, "b", parking);
    for offset in [20, 30] {
        let parked = envelope::read(copy.clone(), rig.clock.wall()).expect("an envelope");
        copy.headers = parked.again(parking, rig.clock.wall()).headers;
        copy.source.offset = Offset(offset);
    }
    rig.tell(Intake::Records(vec![copy.clone()])).await;
    assert_eq!(rig.codes().len(), 5);
    // Given up and redriven, it is parked anew.
    let letter = DeadLetter { code: Code::Discarded, error: "".into(), origin: &copy.source };
    copy.headers = letter.of(&copy, &Letterbox::plain(Topic::from("dead-letters")), rig.clock.wall()).headers;
    copy.source.offset = Offset(40);
    rig.tell(Intake::Records(vec![copy])).await;
    assert_eq!(rig.codes().len(), 5);
}

/// What a copy says of its reason and attempts came after the order: by these it is neither meant nor spared.
#[tokio::test(start_paused = true)]
async fn a_discard_by_reason_or_attempts_is_about_what_calls_said_when_it_was_given() {
    let rig = Rig::with_two_cameras().await;
    let by_reason = Selection { reasons: ["http_5xx".to_owned()].into(), ..Selection::default() };
    let by_attempts = Selection { attempts_from: Some(5), ..Selection::default() };
    rig.pause().await;
    for (number, selection) in [(1, by_reason), (2, by_attempts)] {
        rig.order(order(&rig, number, Act::Discard, selection, 8)).await;
    }
    let parked = |reason, attempt| Parking { reason, attempt, parks: 2, not_before: UnixMillis(0), first_parked_at: UnixMillis(0) };
    let was = rig.record(0, 3, "b", parked(Reason::Timeout, 1));
    for parking in [parked(Reason::Http5xx, 2), parked(Reason::Timeout, 5)] {
        let mut copy = was.clone();
        let read = envelope::read(copy.clone(), rig.clock.wall()).expect("an envelope");
        copy.headers = read.again(parking, rig.clock.wall()).headers;
        copy.source.offset = Offset(20 + i64::from(parking.attempt));
        rig.tell(Intake::Records(vec![copy])).await;
    }
    assert_eq!(rig.codes(), [] as [String; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_discarded_while_it_is_out_is_not_parked_again() {
    let rig = Rig::with_two_cameras().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(rig.out(), 6);
    let by_reason = Selection { reasons: ["timeout".to_owned()].into(), ..Selection::default() };
    rig.order(order(&rig, 1, Act::Discard, by_reason, 8)).await;
    assert_eq!((rig.out(), rig.codes().len()), (6, 2), "those that wait; nobody is called back");
    rig.answer_with(503, 2).await;
    assert_eq!(rig.codes(), ["discarded"; 4], "and not parked for http_5xx");
    rig.answer(4).await;
    assert_eq!(rig.codes().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_is_delayed_waits_longer_than_a_delay_of_its_own_may_be() {
    let rig = Rig::with_two_cameras().await;
    let until = rig.clock.wall().plus(HOUR / 2);
    rig.order(order(&rig, 1, Act::Delay { until }, of("a"), 100)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.out(), 4, "the other camera's");
    rig.answer(4).await;
    tokio::time::sleep(HOUR / 2).await;
    assert_eq!(rig.out(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_last_word_counts_and_what_is_taken_back_counts_no_more() {
    let rig = Rig::with_two_cameras().await;
    let until = rig.clock.wall().plus(HOUR / 2);
    let delay = order(&rig, 1, Act::Delay { until }, Selection::default(), 100);
    rig.order(delay.clone()).await;
    let release = order(&rig, 2, Act::Release, of("a"), 2);
    rig.order(release).await;
    assert_eq!(rig.out(), 2);
    rig.answer(2).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.out(), 0);
    rig.order(Order { cancelled_by: Some("bob".to_owned()), ..delay }).await;
    assert_eq!(rig.out(), 6, "due by themselves");
}

#[tokio::test(start_paused = true)]
async fn an_order_with_a_rate_takes_its_time_and_stops_when_it_is_taken_back() {
    let rig = Rig::with_two_cameras().await;
    let delay = order(&rig, 1, Act::Delay { until: rig.clock.wall().plus(HOUR / 2) }, of("a"), 100);
    rig.order(delay).await;
    let slow = Order { rate: Some(2), ..order(&rig, 2, Act::Discard, of("b"), 100) };
    rig.order(slow.clone()).await;
    assert_eq!(rig.codes().len(), 1);
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert_eq!(rig.codes().len(), 3);
    rig.order(Order { cancelled_by: Some("bob".to_owned()), ..slow }).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((rig.codes().len(), rig.out()), (3, 1), "the one that is left is made");
}

#[tokio::test(start_paused = true)]
async fn how_far_an_order_has_come_is_told_once_for_each_call() {
    let rig = Rig::with_two_cameras().await;
    rig.order(order(&rig, 1, Act::Discard, of("b"), 100)).await;
    rig.order(order(&rig, 2, Act::Release, of("a"), 100)).await;
    assert_eq!(rig.orders.untold(), [(Uuid::from_u128(1), 4)], "those that are released have not gone");
    rig.answer(4).await;
    let mut done = rig.orders.untold();
    done.sort();
    assert_eq!(done, [(Uuid::from_u128(1), 4), (Uuid::from_u128(2), 4)]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_every_parked_call_until_its_end_or_its_release() {
    let rig = Rig::with_two_cameras().await;
    let until = rig.clock.wall().plus(Duration::from_secs(60));
    let pause = pause(&rig, Some(until));
    rig.orders.hear(Change::Pause(pause.clone()));
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(rig.out(), 0);
    // Orders are carried out all the same, but that nothing is called.
    rig.order(order(&rig, 1, Act::Discard, of("b"), 100)).await;
    rig.order(order(&rig, 2, Act::Release, of("a"), 1)).await;
    assert_eq!((rig.codes().len(), rig.out()), (4, 0));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(rig.out(), 4);
    rig.answer(4).await;

    rig.orders.hear(Change::Pause(Pause { until: None, at: rig.clock.wall(), ..pause }));
    rig.park(0, 300..302).await;
    tokio::time::sleep(HOUR / 2).await;
    assert_eq!(rig.out(), 0);
    rig.resume();
    rig.pause().await;
    assert_eq!(rig.out(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_delay_makes_nothing_due_sooner() {
    let rig = Rig::with_two_cameras().await;
    let until = rig.clock.wall().plus(Duration::from_millis(100));
    rig.order(order(&rig, 1, Act::Delay { until }, Selection::default(), 100)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.out(), 0, "its own time is later");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.out(), 6);
}

#[tokio::test(start_paused = true)]
async fn the_last_word_counts_for_what_is_condemned_too() {
    let rig = Rig::with_two_cameras().await;
    let slow = Order { rate: Some(1), ..order(&rig, 1, Act::Discard, of("b"), 100) };
    rig.order(slow).await;
    assert_eq!(rig.codes().len(), 1);
    rig.order(order(&rig, 2, Act::Release, of("b"), 100)).await;
    assert_eq!(rig.out(), 3);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(rig.codes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rate_counts_calls_that_go_and_a_pause_saves_up_nothing() {
    let rig = Rig::with_two_cameras().await;
    rig.orders.hear(Change::Pause(pause(&rig, None)));
    rig.order(Order { rate: Some(2), ..order(&rig, 1, Act::Release, Selection::default(), 100) }).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(rig.out(), 0);
    rig.resume();
    rig.pause().await;
    assert_eq!(rig.out(), 1);
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert_eq!(rig.out(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_read_again_is_not_counted_again() {
    let rig = Rig::with_two_cameras().await;
    let until = rig.clock.wall().plus(HOUR / 2);
    rig.order(order(&rig, 1, Act::Delay { until }, of("a"), 100)).await;
    let gone = rig.revoke([0]).await;
    assert!(gone.load(Relaxed));
    rig.assign([0]).await;
    let now = rig.clock.wall();
    let parking = Parking { reason: Reason::Timeout, attempt: 2, parks: 1, not_before: now, first_parked_at: now };
    rig.park_as(0, 0..4, "a", parking).await;
    assert_eq!(rig.orders.untold(), [], "none has gone");
    tokio::time::sleep(HOUR / 2).await;
    rig.answer(4).await;
    assert_eq!(rig.orders.untold(), [(Uuid::from_u128(1), 4)]);
}

#[tokio::test(start_paused = true)]
async fn a_discard_is_not_about_what_came_later_whatever_clocks_say() {
    let rig = Rig::with_two_cameras().await;
    rig.order(order(&rig, 1, Act::Discard, of("b"), 100)).await;
    assert_eq!(rig.codes().len(), 4);
    let now = rig.clock.wall();
    let first_parked_at = now.minus(Duration::from_secs(60));
    rig.park_as(0, 100..101, "b", Parking { reason: Reason::Timeout, attempt: 0, parks: 1, not_before: now, first_parked_at }).await;
    assert_eq!((rig.codes().len(), rig.out()), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_the_fleets_and_an_instance_goes_at_its_partitions_part_of_it() {
    let rig = Rig::start(6);
    rig.assign([0, 1, 2]).await;
    let ends = BTreeMap::from([("retry".to_owned(), (0..6).map(|number| (number, 100)).collect())]);
    let given = Order { rate: Some(4), ends, ..order(&rig, 1, Act::Discard, Selection::default(), 100) };
    rig.order(given).await;
    rig.park(1, 0..90).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(rig.codes().len(), 21, "half of four a second, and one at once");
    assert!(rig.revoke([0, 2]).await.load(Relaxed));
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(rig.codes().len(), 27, "a sixth");
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_saves_up_nothing_of_a_rate() {
    let rig = Rig::with_two_cameras().await;
    let set = |to| rig.breakers.order(0, crate::pipeline::breakers::Order::Reset(to), "ops", "drill");
    set(breaker::Automatic::Open);
    rig.order(Order { rate: Some(2), ..order(&rig, 1, Act::Release, Selection::default(), 100) }).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(rig.out(), 0);
    set(breaker::Automatic::Closed);
    let mut went = 0;
    for _ in 0..100 {
        rig.pause().await;
        let out = rig.out();
        went += out;
        rig.answer(out).await;
    }
    assert_eq!(went, 4, "one at once, and two a second for a little less than two seconds");
}
