//! Calls that make way for others, and come back.

use super::*;
use crate::event::headers::name;
use crate::machine::orders::{Act, Change, Order, Pause};
use crate::machine::selection::Selection;

impl Rig {
    fn due_in(&self, millis: u64) -> Parking {
        let now = self.clock.wall();
        let not_before = now.plus(Duration::from_millis(millis));
        Parking { reason: Reason::Timeout, attempt: 1, parks: 1, not_before, first_parked_at: now }
    }

    /// Reads on as a consumer does: while the budget is not full, and again when half of it is free. Gives the first that was not read.
    async fn read(&self, offsets: std::ops::Range<i64>, due_in: impl Fn(i64) -> u64) -> i64 {
        for offset in offsets.clone() {
            if self.budget.is_full() || self.budget.is_pressed() {
                self.pause().await;
            }
            if self.budget.is_full() || self.budget.is_pressed() {
                return offset;
            }
            self.hand(vec![self.record(0, offset, "c", self.due_in(due_in(offset)))]).await;
        }
        offsets.end
    }

    fn shelved(&self) -> Gauge {
        self.gauges.of(0)
    }

    /// Answers every call at once, from now on, and notes when it came.
    async fn deliver(&self, span: Duration) -> Vec<u64> {
        let mut times = Vec::new();
        let until = self.clock.now().plus(span);
        while self.clock.now() < until {
            let out = self.out();
            times.extend(std::iter::repeat_n(self.clock.now().0, out));
            self.answer(out).await;
        }
        times
    }

    fn order_of(&self, act: Act, selection: Selection, rate: Option<u32>, before: i64) -> Order {
        Order { rate, ..ordered::order(self, 7, act, selection, before) }
    }
}

const MINUTE: u64 = 60_000;

/// A budget of forty records.
async fn rig() -> Rig {
    let rig = Rig::start_with(1, Budget::new(40, 1 << 20), Duration::from_secs(2 * 3_600), false);
    rig.assign([0]).await;
    rig
}

/// A budget of so many bytes, not a whole number of records.
async fn rig_of_bytes(ordered: bool) -> Rig {
    let probe = rig().await;
    let size = probe.record(0, 100, "c", probe.due_in(5 * MINUTE)).size();
    let rig = Rig::start_with(1, Budget::new(1_000, 40 * size + size / 2), Duration::from_secs(2 * 3_600), ordered);
    rig.assign([0]).await;
    rig
}

#[tokio::test(start_paused = true)]
async fn what_is_due_now_goes_though_thousands_that_are_due_later_lie_before_it() {
    let rig = rig().await;
    assert_eq!(rig.read(0..1_000, |_| 5 * MINUTE).await, 1_000, "they hold up nothing");
    rig.hand(vec![rig.record(0, 1_000, "c", rig.due_in(0))]).await;
    assert_eq!(rig.out(), 1);
    tokio::time::sleep(ROUND * 2).await;
    let Gauge { held, due, shelved, .. } = rig.shelved();
    assert_eq!((held, due), (1_001, 0), "all are told of");
    assert!(shelved >= 960 && rig.budget.held().0 <= 40, "{shelved} {:?}", rig.budget.held());
    // Each goes when it is due, once.
    rig.answer(1).await;
    tokio::time::sleep(Duration::from_millis(4 * MINUTE)).await;
    assert_eq!(rig.out(), 0);
    let times = rig.deliver(Duration::from_millis(4 * MINUTE)).await;
    assert_eq!(times.len(), 1_000);
    assert_eq!(rig.budget.held(), (0, 0));
    tokio::time::sleep(ROUND * 2).await;
    assert_eq!(rig.shelved(), Gauge { drained: 1_001, ..Gauge::default() });
    assert_eq!(rig.log.again.load(Relaxed), 1_000 - 20, "each that was put aside was read again once");
}

#[tokio::test(start_paused = true)]
async fn each_goes_within_a_second_of_its_time_in_whatever_order_they_lie() {
    let rig = rig().await;
    let begun = rig.clock.now();
    // Thirteen is prime to a thousand: every time from 30 to 50 s comes once.
    let due = |offset: i64| 30_000 + u64::try_from(offset * 13 % 1_000).expect("small") * 20;
    let left = std::cell::Cell::new(0);
    for offset in 0..1_000 {
        let since = rig.clock.now().since(begun);
        let due_in = due(offset) - u64::try_from(since.as_millis()).expect("small");
        left.set(rig.read(offset..offset + 1, |_| due_in).await);
        assert_eq!(left.get(), offset + 1);
    }
    let mut times = rig.deliver(Duration::from_secs(60)).await;
    times.sort_unstable();
    assert_eq!(times.len(), 1_000);
    let late = (0..).zip(&times).map(|(number, time)| time.saturating_sub(begun.0 + 30_000 + number * 20)).max();
    assert!(late.is_some_and(|late| late < 1_000), "{late:?}");
    assert!(rig.log.again.load(Relaxed) <= 1_000, "no more are read again than were read: {:?}", rig.log.again);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_put_aside_for_a_service_that_takes_nothing() {
    let rig = rig().await;
    let pause = |until| {
        let (group, service) = ("g".to_owned(), "notifier".to_owned());
        Change::Pause(Pause { group, service, at: rig.clock.wall(), actor: "ann".into(), reason: String::new(), until })
    };
    rig.orders.hear(pause(None));
    assert_eq!(rig.read(0..1_000, |_| 5 * MINUTE).await, 40);
    tokio::time::sleep(ROUND * 2).await;
    assert_eq!((rig.shelved().held, rig.shelved().shelved), (40, 0));
    rig.orders.hear(pause(Some(UnixMillis(0))));
    rig.pause().await;
    assert_eq!(rig.read(40..1_000, |_| 5 * MINUTE).await, 1_000);
}

#[tokio::test(start_paused = true)]
async fn what_goes_in_a_moment_makes_way_by_going() {
    let rig = rig().await;
    rig.hand((0..40).map(|offset| rig.record(0, offset, "c", rig.due_in(240))).collect()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(rig.log.again.load(Relaxed), 0);
    let times = rig.deliver(Duration::from_secs(2)).await;
    assert_eq!((times.len(), rig.budget.held()), (40, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_keeps_its_place_keeps_its_attempts_on_the_shelf_and_its_turn() {
    let rig = Rig::start_with(1, Budget::new(40, 1 << 20), Duration::from_secs(2 * 3_600), true);
    rig.assign([0]).await;
    // Two of one key; the first fails until it is due in half a minute, and once more is too often.
    rig.hand((0..2).map(|offset| rig.record(0, offset, "a", Parking { attempt: 4, ..rig.due_in(0) })).collect()).await;
    for _ in 0..3 {
        while rig.out() == 0 {
            rig.pause().await;
        }
        rig.answer_with(500, 1).await;
    }
    for offset in 2..100 {
        rig.hand(vec![rig.record(0, offset, &format!("b{offset}"), rig.due_in(10_000))]).await;
    }
    tokio::time::sleep(ROUND * 2).await;
    assert!(rig.shelved().shelved >= 60 && rig.budget.held().0 <= 40, "{:?}", rig.shelved());
    assert_eq!(rig.deliver(Duration::from_secs(20)).await.len(), 98, "those of other keys");
    while rig.out() == 0 {
        rig.pause().await;
    }
    rig.answer_with(500, 1).await;
    let letter = rig.published.lock().expect("unpoisoned").first().cloned().expect("it was the last time");
    let text = |header| letter.headers.text(header).expect("a header").to_owned();
    assert_eq!((text(name::ERROR_CODE), text(name::ATTEMPT)), ("attempts_exhausted".to_owned(), "8".to_owned()));
    assert_eq!(rig.out(), 1, "the next of its key");
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_record_is_gone_ends_its_turn() {
    let rig = Rig::start_with(1, Budget::new(40, 1 << 20), Duration::from_secs(2 * 3_600), true);
    rig.assign([0]).await;
    rig.hand(vec![rig.record(0, 0, "a", rig.due_in(30_000)), rig.record(0, 1, "a", rig.due_in(0))]).await;
    for offset in 2..100 {
        rig.hand(vec![rig.record(0, offset, &format!("b{offset}"), rig.due_in(10_000))]).await;
    }
    rig.log.records.lock().expect("unpoisoned").retain(|source, _| source.offset.0 > 0);
    let times = rig.deliver(Duration::from_secs(40)).await;
    assert_eq!(times.len(), 99);
}

#[tokio::test(start_paused = true)]
async fn kafka_that_is_away_holds_up_nothing_else_and_nothing_is_lost() {
    let rig = rig().await;
    rig.read(0..200, |offset| if offset < 150 { 10_000 } else { 30_000 }).await;
    rig.log.away.store(true, Relaxed);
    let times = rig.deliver(Duration::from_secs(15)).await;
    assert!(!times.is_empty() && times.len() <= 40, "what is held goes: {}", times.len());
    rig.hand(vec![rig.record(0, 200, "c", rig.due_in(0))]).await;
    assert_eq!(rig.out(), 1);
    rig.log.away.store(false, Relaxed);
    let more = rig.deliver(Duration::from_secs(40)).await;
    assert_eq!((times.len() + more.len(), rig.budget.held()), (201, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_is_finished_and_the_rest_goes() {
    let rig = rig().await;
    rig.read(0..200, |_| 10_000).await;
    rig.log.records.lock().expect("unpoisoned").retain(|source, _| source.offset.0 % 2 == 1);
    let times = rig.deliver(Duration::from_secs(30)).await;
    assert!((100..=140).contains(&times.len()), "{}", times.len());
    assert_eq!(rig.budget.held(), (0, 0));
    tokio::time::sleep(ROUND * 2).await;
    assert_eq!(rig.shelved().held, 0);
    assert!(rig.revoke([0]).await.load(Relaxed), "nothing of it is unfinished");
}

#[tokio::test(start_paused = true)]
async fn partitions_take_what_is_on_the_shelf_with_them() {
    let rig = rig().await;
    rig.read(0..200, |_| 10_000).await;
    assert!(rig.revoke([0]).await.load(Relaxed), "nothing waits for what is due later");
    assert_eq!(rig.budget.held(), (0, 0));
    rig.assign([0]).await;
    rig.read(0..200, |_| 10_000).await;
    rig.tell(Intake::Lost(vec![partition(0)])).await;
    assert_eq!(rig.budget.held(), (0, 0));
    // Again, with the end of the old life untold, and a question out when it ends.
    rig.assign([0]).await;
    rig.read(0..200, |_| 10_000).await;
    tokio::time::sleep(Duration::from_millis(7_000)).await;
    rig.assign([0]).await;
    tokio::time::sleep(ROUND * 2).await;
    assert_eq!(rig.shelved().shelved, 0, "what was begun in the old life is nobody's");
    rig.read(0..200, |_| 10_000).await;
    let times = rig.deliver(Duration::from_secs(60)).await;
    assert_eq!((times.len(), rig.budget.held()), (200, (0, 0)));
    rig.read(200..400, |_| 10_000).await;
    rig.stop.request();
    rig.pause().await;
    assert_eq!(rig.budget.held(), (0, 0), "a stop waits for nothing that is due later");
}

#[tokio::test(start_paused = true)]
async fn an_order_reaches_what_is_on_the_shelf() {
    for open in [false, true] {
        let rig = rig().await;
        rig.read(0..200, |_| 60 * MINUTE).await;
        let at = |offset| rig.record(0, offset, "d", rig.due_in(60 * MINUTE));
        for offset in 200..210 {
            rig.hand(vec![at(offset)]).await;
        }
        rig.read(210..400, |_| 60 * MINUTE).await;
        if open {
            let open = crate::pipeline::breakers::Order::Reset(crate::machine::breaker::Automatic::Open);
            rig.breakers.order(0, open, "ops", "drill");
        }
        let of_d = Selection { cameras: ["d".to_owned()].into(), ..Selection::default() };
        rig.orders.hear(rig.order_of(Act::Discard, of_d, None, 400).into());
        tokio::time::sleep(Duration::from_secs(5)).await;
        let codes: Vec<String> = rig
            .published
            .lock()
            .expect("unpoisoned")
            .iter()
            .map(|record| record.headers.text(name::ERROR_CODE).expect("a dead letter").to_owned())
            .collect();
        assert_eq!(codes, vec!["discarded"; 10], "open: {open}");
        assert_eq!(rig.out(), 0);
        assert!(rig.log.again.load(Relaxed) <= 400, "each is considered once");
        assert_eq!(rig.shelved().held, 390);
        // They wait on, and others can be read.
        if !open {
            assert_eq!(rig.read(400..600, |_| 60 * MINUTE).await, 600);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_released_slowly_waits_on_the_shelf_for_its_turn() {
    let rig = rig().await;
    rig.read(0..200, |_| 60 * MINUTE).await;
    rig.orders.hear(rig.order_of(Act::Release, Selection::default(), Some(2), 200).into());
    let times = rig.deliver(Duration::from_secs(20)).await;
    assert!((38..=42).contains(&times.len()), "{}", times.len());
    // What is due now does not wait for it.
    assert_eq!(rig.read(200..400, |_| 60 * MINUTE).await, 400);
    let times = rig.deliver(Duration::from_secs(120)).await;
    assert_eq!(times.len() + 40, 200);
    let again = rig.log.again.load(Relaxed);
    assert!(again <= 2 * 200, "each is considered once, and read again when it is to go: {again}");
}

/// As large a backlog as there is room for on the shelf, and memory full of calls that go later than those on it.
async fn full() -> (Rig, i64) {
    let rig = Rig::start_holding(1, Budget::new(40, 1 << 20), Duration::from_secs(2 * 3_600), false, 100);
    rig.assign([0]).await;
    for offset in 0..20 {
        rig.hand(vec![rig.record(0, offset, "soon", rig.due_in(5 * MINUTE))]).await;
    }
    let mut next = rig.read(20..125, |_| 5 * MINUTE).await;
    let of_soon = Selection { cameras: ["soon".to_owned()].into(), ..Selection::default() };
    rig.orders.hear(Order { id: Uuid::from_u128(8), ..rig.order_of(Act::Release, of_soon, None, 20) }.into());
    rig.deliver(Duration::from_secs(1)).await;
    for _ in 0..4 {
        next = rig.read(next..next + 40, |_| 60 * MINUTE).await;
        rig.pause().await;
    }
    tokio::time::sleep(ROUND * 2).await;
    assert!(rig.shelved().shelved >= 100 && rig.budget.held().0 >= 38, "{:?} {:?}", rig.shelved(), rig.budget.held());
    (rig, next)
}

#[tokio::test(start_paused = true)]
async fn a_full_shelf_goes_when_it_is_time() {
    let (rig, _) = full().await;
    tokio::time::sleep(Duration::from_millis(4 * MINUTE)).await;
    let times = rig.deliver(Duration::from_millis(2 * MINUTE)).await;
    let late = times.last().expect("they go") - times[0];
    assert!(times.len() == 105 && late < 3_000, "{} within {late} ms", times.len());
}

#[tokio::test(start_paused = true)]
async fn an_order_reaches_what_is_on_a_full_shelf() {
    let (rig, next) = full().await;
    rig.orders.hear(rig.order_of(Act::Discard, Selection::default(), None, 100).into());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.published.lock().expect("unpoisoned").len(), 80, "of {next}, and 20 that have gone");
}

#[tokio::test(start_paused = true)]
async fn a_partition_is_held_before_there_is_no_room_beside_its_commit() {
    let rig = rig().await;
    let is_held = || !rig.held.lock().expect("unpoisoned").is_empty();
    let mut next = 0;
    while !is_held() {
        assert_eq!(rig.read(next..next + 1, |_| 60 * MINUTE).await, next + 1);
        // The rest of what there is room for at once.
        let more = (next + 1..next + 20).map(|offset| rig.record(0, offset, "c", rig.due_in(60 * MINUTE))).collect();
        rig.hand(more).await;
        next += 20;
    }
    assert!((20_000..24_600).contains(&next), "{next}");
    // What was on its way has room still.
    rig.hand((next..next + 20).map(|offset| rig.record(0, offset, "c", rig.due_in(60 * MINUTE))).collect()).await;
    next += 20;
    tokio::time::sleep(ROUND * 2).await;
    assert_eq!(i64::try_from(rig.shelved().held), Ok(next), "all have begun");
}

#[tokio::test(start_paused = true)]
async fn an_order_reaches_what_is_on_the_shelf_where_bytes_are_what_is_bounded() {
    let rig = rig_of_bytes(false).await;
    rig.read(0..200, |_| 60 * MINUTE).await;
    for offset in 200..210 {
        rig.hand(vec![rig.record(0, offset, "d", rig.due_in(60 * MINUTE))]).await;
    }
    rig.read(210..400, |_| 60 * MINUTE).await;
    let of_d = Selection { cameras: ["d".to_owned()].into(), ..Selection::default() };
    rig.orders.hear(rig.order_of(Act::Discard, of_d, None, 400).into());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.published.lock().expect("unpoisoned").len(), 10);
}

/// Keys with more calls than are held, of which two fail again and again.
#[tokio::test(start_paused = true)]
async fn a_key_goes_on_beside_others_that_fail_where_bytes_are_what_is_bounded() {
    let rig = rig_of_bytes(true).await;
    for offset in 0..300 {
        let camera = ["a", "x", "y"][usize::try_from(offset % 3).expect("small")];
        // The next attempt is half a minute off.
        rig.hand(vec![rig.record(0, offset, camera, Parking { attempt: 6, ..rig.due_in(0) })]).await;
    }
    assert_eq!(rig.came(), [0, 1, 2]);
    // The first is a's.
    rig.answer(1).await;
    rig.answer_with(500, 2).await;
    let until = rig.clock.now().plus(Duration::from_secs(20));
    while rig.clock.now() < until && rig.came().len() < 102 {
        let out = rig.out();
        rig.answer(out).await;
    }
    assert!(rig.came().iter().filter(|offset| *offset % 3 == 0).eq((0..300).step_by(3).collect::<Vec<_>>().iter()), "{:?}", rig.came());
}
