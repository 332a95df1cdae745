use super::*;
use crate::event::dead_letter::{Code, DeadLetter};
use crate::event::{Headers, Offset, Partition, Topic, UnixMillis};
use crate::pipeline::fakes::{Always, Notes, Nowhere, PausedClock, Small};
use crate::pipeline::ports::{Batch, Intake, Subscription};
use std::sync::Mutex;

/// What a consumer was told, as text, and the batches that it was handed.
#[derive(Default)]
pub(super) struct Told(Mutex<Vec<String>>, pub(super) Mutex<Vec<Batch>>);

impl Told {
    fn all(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("unpoisoned"))
    }
}

impl Subscription for Told {
    async fn next(&mut self) -> Option<Intake> {
        None
    }
    fn commit(&self, _points: Vec<CommitPoint>) {}
    fn transact(&self, batch: Batch) {
        self.1.lock().expect("unpoisoned").push(batch);
    }
    fn stop_taking(&self) {}
    fn hold(&self, partition: &TopicPartition) {
        self.0.lock().expect("unpoisoned").push(format!("hold {}", partition.partition));
    }
    fn let_go(&self, partition: &TopicPartition) {
        self.0.lock().expect("unpoisoned").push(format!("let go {}", partition.partition));
    }
    fn read_again(&self, point: CommitPoint) {
        self.0.lock().expect("unpoisoned").push(format!("again {}", point.partition.partition));
    }
    fn size(&self, _topic: &Topic) -> Option<usize> {
        None
    }
    async fn close(self, _points: Vec<CommitPoint>) -> bool {
        true
    }
}

pub(super) struct Rig {
    pub(super) finisher: Finisher<Small, ()>,
    pub(super) budget: Arc<Budget>,
    pub(super) told: Told,
    pub(super) witness: Arc<Notes>,
}

impl Rig {
    fn told(&mut self) -> Vec<String> {
        self.finisher.tell_holds(&self.told);
        self.told.all()
    }

    fn finish(&mut self, begun: Begun) {
        self.finisher.finish(begun, Vec::new(), ());
    }
}

/// With room for nine bytes, and two partitions.
pub(super) fn rig() -> Rig {
    let budget = Budget::new(1_000, 1 << 20);
    let witness = Arc::new(Notes::default());
    let clock = PausedClock::new();
    let mut finisher =
        Finisher::new(Nowhere, 22, Arc::clone(&budget), Letterbox::plain(Topic::from("dead")), clock, Always(0.5), Arc::clone(&witness));
    finisher.assign(vec![Assignment::fresh(partition(0)), Assignment::fresh(partition(1))]);
    Rig { finisher, budget, told: Told::default(), witness }
}

pub(super) fn partition(number: i32) -> TopicPartition {
    TopicPartition { topic: Topic::from("t"), partition: Partition(number) }
}

/// Records so far apart that a bit for each offset between them would be more than a byte for each of them.
pub(super) fn records(budget: &Budget, partition: i32, numbers: std::ops::Range<i64>) -> Vec<Incoming> {
    let source = |number: i64| Source { topic: Topic::from("t"), partition: Partition(partition), offset: Offset(number * 10) };
    let record = |number| Incoming { source: source(number), key: None, value: None, headers: Headers::new(), timestamp: None };
    let records: Vec<_> = numbers.map(record).collect();
    records.iter().for_each(|record| budget.take(record.size()));
    records
}

fn numbers(begun: &[Begun]) -> Vec<i64> {
    begun.iter().map(|begun| begun.record.source.offset.0 / 10).collect()
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_waits_in_order_and_begins_when_it_does() {
    let mut rig = rig();
    let mut begun = rig.finisher.take(records(&rig.budget, 0, 0..15));
    assert_eq!(numbers(&begun), (0..8).collect::<Vec<_>>(), "eight are told apart, and where they end");
    assert_eq!((rig.told(), rig.finisher.let_in().len()), (vec!["hold 0".to_owned()], 0));
    assert_eq!(numbers(&rig.finisher.take(records(&rig.budget, 1, 0..3))), [0, 1, 2], "another partition goes on");
    assert!(rig.finisher.take(records(&rig.budget, 0, 15..16)).is_empty(), "what was on its way waits too");

    // The one in front is stuck. With each of the others that finishes, one begins.
    for next in 8..=15 {
        rig.finish(begun.remove(1));
        let came = rig.finisher.let_in();
        assert_eq!(numbers(&came), [next]);
        begun.extend(came);
    }
    assert_eq!(rig.told(), Vec::<String>::new(), "nothing waits, but there is no room yet for more than a few");
    for _ in 0..3 {
        rig.finish(begun.remove(1));
        assert!(rig.finisher.let_in().is_empty());
    }
    assert_eq!(rig.told(), ["let go 0"]);
    let told = rig.finisher.moved().into_iter().find(|point| point.partition == partition(0)).expect("it has moved");
    let known = crate::machine::progress::Progress::decode(told.next, &told.ahead).expect("its own");
    let unfinished: Vec<i64> = (0..16).filter(|number| !known.has_finished(Offset(number * 10))).collect();
    assert_eq!((told.next, unfinished), (Offset(0), [vec![0], numbers(&begun[1..])].concat()), "every finish is told");
}

#[tokio::test(start_paused = true)]
async fn what_waits_goes_with_its_partition() {
    let mut rig = rig();
    let begun = rig.finisher.take(records(&rig.budget, 0, 0..20));
    assert_eq!(rig.told(), ["hold 0"]);
    let size = begun[0].record.size();
    rig.finisher.let_held_go(|going| *going == partition(1));
    assert_eq!(rig.budget.held(), (20, 20 * size));
    rig.finisher.let_held_go(|going| *going == partition(0));
    assert_eq!((rig.budget.held(), rig.told()), ((8, 8 * size), vec!["let go 0".to_owned()]));
    assert!(rig.finisher.let_in().is_empty());
    // Lost, and back: what ran is cut off, and the hold that comes is of the new life.
    rig.finisher.lose(&[partition(0)]);
    assert!(rig.finisher.have_lives_ended() && !rig.finisher.have_lives_ended());
    for begun in &begun {
        assert!(rig.finisher.is_over(&begun.stub()));
        rig.finisher.drop_stub(&begun.stub());
    }
    assert_eq!(rig.budget.held(), (0, 0));
    rig.finisher.assign(vec![Assignment::fresh(partition(0))]);
    assert_eq!(rig.finisher.take(records(&rig.budget, 0, 0..20)).len(), 8);
    assert_eq!(rig.told(), ["hold 0"]);
}

#[tokio::test(start_paused = true)]
async fn what_an_ended_life_leaves_behind_is_dropped_and_its_lane_is_free() {
    let mut rig = rig();
    let mut begun = rig.finisher.take(records(&rig.budget, 0, 0..2));
    let record =
        Record { topic: Topic::from("o"), partition: None, key: None, value: None, headers: Headers::new(), timestamp: UnixMillis(1) };
    let leaving = |what| Leaving { record: record.clone(), what };
    let outcome = rig.finisher.finish(begun.remove(0), vec![leaving(Left::Outcome)], ());
    let parked = rig.finisher.finish(begun.remove(0), vec![leaving(Left::Delivery), leaving(Left::Outcome)], ());
    assert_eq!((outcome, &parked, rig.finisher.len()), (Finish::Left(None), &Finish::Held(1), 2));
    assert!(rig.finisher.left().is_empty() && rig.finisher.next_retry().is_some());
    rig.finisher.lose(&[partition(0)]);
    assert_eq!((rig.finisher.left(), rig.finisher.len(), rig.finisher.next_retry()), (vec![1], 0, None));
    assert_eq!(rig.budget.held(), (0, 0));
}

#[test]
fn the_letter_of_a_drained_call_still_says_which_event_it_belongs_to() {
    let at = |topic: &str, offset| Source { topic: Topic::from(topic), partition: Partition(2), offset: Offset(offset) };
    let event = at("events", 7);
    let read = Incoming {
        source: at("retry", 40),
        key: None,
        value: Some("call".into()),
        headers: Headers::new(),
        timestamp: Some(UnixMillis(1)),
    };
    let letter = DeadLetter { code: Code::Expired, error: "why".into(), origin: &event };
    let letterbox = Letterbox::plain(Topic::from("dead"));
    let made = letter.of(&read, &letterbox, UnixMillis(9));
    let too_large = [
        (made.clone(), Left::DeadLetter { code: Code::Expired, error: "why".into() }),
        (Record { topic: Topic::from("retry"), ..made }, Left::Parked { service: 0, reason: crate::event::envelope::Reason::Timeout }),
    ];
    for (record, what) in too_large {
        let (instead, _) = in_place_of(&record, &what, &read, &letterbox, UnixMillis(9)).expect("a smaller one");
        assert_eq!(crate::event::envelope::origin(&instead.headers), Some(event.clone()), "{what:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_ends_as_a_letter_ends_when_what_it_parked_is_there() {
    let mut rig = rig();
    let record =
        Record { topic: Topic::from("o"), partition: None, key: None, value: None, headers: Headers::new(), timestamp: UnixMillis(1) };
    let leaving = |what| Leaving { record: record.clone(), what };
    let letter = || Left::DeadLetter { code: Code::InvalidField, error: String::new() };
    let parked = || Left::Parked { service: 0, reason: crate::event::envelope::Reason::Timeout };
    let mut begun = rig.finisher.take(records(&rig.budget, 0, 0..3));
    assert_eq!(rig.finisher.finish(begun.remove(0), vec![leaving(parked()), leaving(letter())], ()), Finish::Held(0));
    // Alone, or beside the record of a parked call's end, a letter waits for nobody.
    assert_eq!(rig.finisher.finish(begun.remove(0), vec![leaving(letter())], ()), Finish::Left(None));
    assert_eq!(rig.finisher.finish(begun.remove(0), vec![leaving(letter()), leaving(Left::Delivery)], ()), Finish::Left(None));
}
