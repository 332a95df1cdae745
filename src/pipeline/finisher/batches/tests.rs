use super::super::tests::{Rig, partition, records, rig};
use super::*;
use crate::event::dead_letter::Code;
use crate::event::headers::name;
use crate::event::{Headers, Offset, Record, Source, Topic, UnixMillis};
use crate::pipeline::finisher::Park;
use crate::pipeline::ports::Assignment;
use crate::pipeline::stages::Left;

const INTERVAL: Duration = Duration::from_millis(100);

fn together() -> Rig {
    let rig = rig();
    Rig { finisher: rig.finisher.together(Some(INTERVAL)), ..rig }
}

fn leaving(what: Left, value: &'static [u8]) -> Leaving {
    let record = Record {
        topic: Topic::from("o"),
        partition: None,
        key: None,
        value: Some(value.into()),
        headers: Headers::new(),
        timestamp: UnixMillis(1),
    };
    Leaving { record, what }
}

impl Rig {
    /// The batch that is handed over, if one is: its values, and how far it commits each partition.
    fn batch(&mut self) -> Option<(Vec<String>, Vec<(i32, i64)>)> {
        self.finisher.transact(&self.told);
        let Batch { records, points } = self.told.1.lock().expect("unpoisoned").pop()?;
        let value = |record: &Record| String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
        let mut points: Vec<_> = points.iter().map(|point| (point.partition.partition.0, point.next.0)).collect();
        points.sort_unstable();
        Some((records.iter().map(|(_, record)| value(record)).collect(), points))
    }

    fn unfinished(&self) -> usize {
        self.finisher.unfinished(&self.finisher.lives(&[partition(0), partition(1)]))
    }
}

fn texts<const N: usize>(values: [&str; N]) -> Vec<String> {
    values.map(str::to_owned).to_vec()
}

fn failed() -> Result<Placed, Aborted> {
    Err(Aborted { began: true, refused: Vec::new() })
}

#[tokio::test(start_paused = true)]
async fn what_finishes_goes_together_and_counts_until_it_is_committed() {
    let mut rig = together();
    let mut begun = rig.finisher.take(records(&rig.budget, 0, 0..3));
    let both = vec![leaving(Left::Delivery, b"a"), leaving(Left::Outcome, b"b")];
    for leaves in [both, Vec::new(), vec![leaving(Left::Outcome, b"c")]] {
        assert_eq!(rig.batch(), None, "one is out, or there is nothing");
        rig.finisher.finish(begun.remove(0), leaves, ());
        assert!(rig.finisher.moved().is_empty(), "nothing is committed by itself");
        if begun.len() == 2 {
            assert_eq!(rig.batch(), Some((texts(["a", "b"]), vec![(0, 1)])));
            assert_eq!((rig.unfinished(), rig.finisher.next_transaction()), (3, None), "it is not committed yet");
        }
    }
    assert_eq!((rig.finisher.len(), rig.finisher.transacted(Ok(Vec::new())).len(), rig.unfinished()), (3, 1, 2));
    assert_eq!(rig.batch(), None, "too early");
    tokio::time::sleep(INTERVAL).await;
    assert_eq!(rig.batch(), Some((texts(["c"]), vec![(0, 21)])), "what leaves nothing is committed with the others");
    assert_eq!((rig.finisher.transacted(Ok(Vec::new())).len(), rig.unfinished(), rig.finisher.len()), (2, 0, 0));
    assert_eq!((rig.budget.held(), rig.finisher.next_transaction()), ((0, 0), None));
}

#[tokio::test(start_paused = true)]
async fn what_was_not_committed_goes_again_in_its_order_after_a_while() {
    let mut rig = together();
    let mut begun = rig.finisher.take(records(&rig.budget, 0, 0..2));
    rig.finisher.finish(begun.remove(0), vec![leaving(Left::Outcome, b"a")], ());
    assert!(rig.batch().is_some());
    rig.finisher.finish(begun.remove(0), vec![leaving(Left::Outcome, b"b")], ());
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert!(rig.finisher.transacted(failed()).is_empty());
        let now = rig.finisher.clock.now();
        let at = rig.finisher.next_transaction().expect("it goes again");
        waits.push(at.since(now).as_millis());
        rig.finisher.clock.sleep_until(at).await;
        assert_eq!(rig.batch(), Some((texts(["a", "b"]), vec![(0, 11)])));
    }
    assert_eq!(waits, [150, 300, 600, 1_200, 2_400, 4_800, 7_500, 7_500]);
    assert_eq!((rig.finisher.transacted(Ok(Vec::new())).len(), rig.budget.held()), (2, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn fewer_go_together_after_a_failure_but_none_that_is_marked_stays_behind() {
    let mut rig = together();
    let mut begun = rig.finisher.take(records(&rig.budget, 0, 0..8));
    let mut gather = |rig: &mut Rig, count: usize| {
        for begun in begun.drain(..count) {
            rig.finisher.finish(begun, vec![leaving(Left::Outcome, b"a")], ());
        }
    };
    let next = async |rig: &mut Rig| {
        rig.finisher.clock.sleep_until(rig.finisher.next_transaction().expect("there is one")).await;
        rig.batch().expect("it has begun").0.len()
    };
    gather(&mut rig, 2);
    assert_eq!(next(&mut rig).await, 2);
    for failures in 0..20 {
        rig.finisher.transacted(failed());
        if failures == 15 {
            gather(&mut rig, 6);
        }
        assert_eq!(next(&mut rig).await, 2, "nothing is added to what Kafka may be too slow for");
    }
    for expected in [2, 4] {
        assert!(!rig.finisher.transacted(Ok(Vec::new())).is_empty());
        assert_eq!(next(&mut rig).await, expected, "as many again, by and by");
    }
}

#[tokio::test(start_paused = true)]
async fn what_ends_with_its_life_is_not_sent_again() {
    let mut rig = together();
    let of = |rig: &mut Rig, number| rig.finisher.take(records(&rig.budget, number, 0..1)).remove(0);
    let (gone, stays) = (of(&mut rig, 0), of(&mut rig, 1));
    rig.finisher.finish(gone, vec![leaving(Left::Outcome, b"gone")], ());
    rig.finisher.finish(stays, vec![leaving(Left::Outcome, b"stays")], ());
    assert_eq!(rig.batch(), Some((texts(["gone", "stays"]), vec![(0, 1), (1, 1)])));
    rig.finisher.lose(&[partition(0)]);
    assert_eq!(rig.finisher.len(), 2, "what is out may still be committed");
    rig.finisher.transacted(failed());
    rig.finisher.assign(vec![Assignment::fresh(partition(0))]);
    let waits = of(&mut rig, 0);
    rig.finisher.finish(waits, vec![leaving(Left::Outcome, b"waits")], ());
    tokio::time::sleep(INTERVAL * 2).await;
    assert_eq!(rig.batch(), Some((texts(["stays", "waits"]), vec![(0, 1), (1, 1)])));
    // A partition that goes with what is out: what was committed of it is told as such, and finishes nothing of the next life.
    let lives = rig.finisher.lives(&[partition(0)]);
    assert!(rig.finisher.release(&lives).is_empty(), "no commit by itself");
    assert_eq!((rig.finisher.transacted(Ok(Vec::new())).len(), rig.budget.held()), (1, (0, 0)));
    // What is gathered when its life ends goes at once.
    let last = rig.finisher.take(records(&rig.budget, 1, 1..2)).remove(0);
    rig.finisher.finish(last, vec![leaving(Left::Outcome, b"last")], ());
    rig.finisher.lose(&[partition(1)]);
    assert_eq!((rig.finisher.len(), rig.budget.held(), rig.batch()), (0, (0, 0), None));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_mended_and_goes_again_soon() {
    let mut rig = together();
    let mut begun = rig.finisher.take(records(&rig.budget, 0, 0..2));
    rig.finisher.finish(begun.remove(0), vec![leaving(Left::Delivery, b"a"), leaving(Left::Outcome, b"much too large")], ());
    rig.finisher.finish(begun.remove(0), vec![leaving(Left::Outcome, b"late")], ());
    assert!(rig.batch().is_some());
    let refused = vec![(Token(1), PublishError::TooLarge), (Token(2), PublishError::BadTime)];
    rig.finisher.transacted(Err(Aborted { began: true, refused }));
    let mended = rig.finisher.clock.wall();
    tokio::time::sleep(INTERVAL).await;
    rig.finisher.transact(&rig.told);
    let batch = rig.told.1.lock().expect("unpoisoned").pop().expect("a batch");
    let [(_, delivery), (Token(1), letter), (Token(2), late)] = batch.records.as_slice() else { panic!("{batch:?}") };
    assert_eq!((delivery.topic.as_str(), letter.topic.as_str()), ("o", "dead"));
    assert_eq!(letter.headers.text(name::ERROR_CODE), Some(Code::TooLarge.as_str()));
    assert_eq!(late.timestamp, mended);
    assert_eq!(rig.finisher.transacted(Ok(Vec::new())).len(), 2);
    let told = rig.witness.0.lock().expect("unpoisoned").join("\n");
    assert_eq!(told.matches("DeadLettered").count(), 1, "{told}");
}

impl Rig {
    /// Answers what is out with this refusal of its first record, and gives the wait and the record that goes then.
    async fn refuse(&mut self, error: &PublishError) -> (u128, Record) {
        let refused = vec![(Token(0), error.clone())];
        self.finisher.transacted(Err(Aborted { began: true, refused }));
        let at = self.finisher.next_transaction().expect("it goes again");
        let wait = at.since(self.finisher.clock.now()).as_millis();
        self.finisher.clock.sleep_until(at).await;
        self.finisher.transact(&self.told);
        (wait, self.told.1.lock().expect("unpoisoned").pop().expect("a batch").records.remove(0).1)
    }

    fn told_of_failures(&self) -> usize {
        self.witness.0.lock().expect("unpoisoned").join("\n").matches("PublishFailed").count()
    }
}

#[tokio::test(start_paused = true)]
async fn what_its_topic_never_takes_becomes_a_dead_letter_and_then_one_with_a_key() {
    let mut rig = together();
    let begun = rig.finisher.take(records(&rig.budget, 0, 0..1)).remove(0);
    rig.finisher.finish(begun, vec![leaving(Left::Outcome, b"a")], ());
    assert!(rig.batch().is_some());
    let (wait, letter) = rig.refuse(&PublishError::Invalid).await;
    assert_eq!((wait, letter.topic.as_str(), letter.key.as_deref()), (100, "dead", None));
    assert_eq!(letter.headers.text(name::ERROR_CODE), Some(Code::NotTaken.as_str()));
    assert!(letter.headers.text(name::ERROR).is_some_and(|error| error.contains("`o`")));
    let (wait, letter) = rig.refuse(&PublishError::Invalid).await;
    assert_eq!((wait, letter.topic.as_str(), letter.key.is_some()), (100, "dead", true));
    assert_eq!(rig.told_of_failures(), 0);
    // Nothing is left to change.
    let (wait, again) = rig.refuse(&PublishError::Invalid).await;
    assert_eq!((wait, &again, rig.told_of_failures()), (150, &letter, 1));
    assert_eq!((rig.finisher.transacted(Ok(Vec::new())).len(), rig.budget.held()), (1, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_again_and_again_waits_longer_and_is_told() {
    for error in [PublishError::BadTime, PublishError::Failed("no right".to_owned())] {
        let mut rig = together();
        let begun = rig.finisher.take(records(&rig.budget, 0, 0..1)).remove(0);
        rig.finisher.finish(begun, vec![leaving(Left::Outcome, b"a")], ());
        assert!(rig.batch().is_some());
        for (told, expected) in [150, 300, 600].into_iter().enumerate() {
            assert_eq!(rig.refuse(&error).await.0, expected, "{error}");
            assert_eq!(rig.told_of_failures(), told + 1, "{error}");
        }
        // Who waits for it to go waits for nothing else, and what fails then begins with short waits.
        rig.finisher.transacted(failed());
        rig.finisher.hurry();
        assert!(rig.batch().is_some());
        assert_eq!(rig.refuse(&error).await.0, 150, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_never_began_is_no_failure() {
    let mut rig = together();
    let begun = rig.finisher.take(records(&rig.budget, 0, 0..1)).remove(0);
    rig.finisher.finish(begun, vec![leaving(Left::Outcome, b"a")], ());
    for _ in 0..3 {
        assert!(rig.batch().is_some());
        rig.finisher.transacted(Err(Aborted { began: false, refused: Vec::new() }));
        tokio::time::sleep(INTERVAL).await;
    }
    assert!(rig.batch().is_some());
    rig.finisher.transacted(failed());
    let at = rig.finisher.next_transaction().expect("it goes again");
    assert_eq!(at.since(rig.finisher.clock.now()).as_millis(), 150);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_moved_without_a_record_goes_too_and_is_waited_for() {
    let mut rig = together();
    let mut begun = rig.finisher.take(records(&rig.budget, 0, 0..2));
    rig.finisher.finish(begun.remove(1), Vec::new(), ());
    rig.finisher.transact(&rig.told);
    let mut committed = rig.told.1.lock().expect("unpoisoned").pop().expect("a batch").points;
    rig.finisher.lose(&[partition(0)]);
    rig.finisher.transacted(Ok(Vec::new()));
    rig.finisher.assign(vec![Assignment { partition: partition(0), committed: committed.pop() }]);
    // The second has finished before. With the first behind it, the next life has it to commit though it ran nothing.
    let again = rig.finisher.take(records(&rig.budget, 0, 1..2));
    assert!(again.is_empty() && rig.finisher.is_empty());
    tokio::time::sleep(INTERVAL).await;
    assert_eq!(rig.batch(), Some((Vec::new(), vec![(0, 11)])));
    assert!(!rig.finisher.is_empty(), "a stop waits for it");
    assert_eq!((rig.finisher.transacted(Ok(Vec::new())).len(), rig.finisher.is_empty()), (0, true));
}

/// A batch is out of so many records, of which the last has parked a call.
fn parking(telling: bool, records_out: i64) -> Rig {
    let rig = together();
    let mut rig = Rig { finisher: rig.finisher.telling_parks(telling), ..rig };
    let mut begun = rig.finisher.take(records(&rig.budget, 0, 0..records_out));
    let last = begun.pop().expect("a record");
    for begun in begun {
        rig.finisher.finish(begun, vec![leaving(Left::Outcome, b"a")], ());
    }
    let parked = leaving(Left::Parked { service: 3, reason: crate::event::envelope::Reason::Timeout }, b"call");
    rig.finisher.finish(last, vec![parked, leaving(Left::Outcome, b"b")], ());
    assert!(rig.batch().is_some());
    rig
}

/// A copy that was undone lies somewhere too; only the last answer says where the one lies that counts.
#[tokio::test(start_paused = true)]
async fn where_a_call_is_parked_is_told_when_it_is_there_to_stay() {
    for telling in [true, false] {
        let mut rig = parking(telling, 2);
        rig.finisher.transacted(failed());
        assert_eq!(rig.finisher.parks(), []);
        tokio::time::sleep(AGAIN.max).await;
        assert!(rig.batch().is_some());
        rig.finisher.transacted(Ok(vec![(Token(2), Offset(9)), (Token(1), Offset(7))]));
        let event = Source { topic: Topic::from("t"), partition: partition(0).partition, offset: Offset(10) };
        let told = Park { service: 3, event, end: ParkEnd::Parked(Some(Offset(7))) };
        assert_eq!(rig.finisher.parks(), if telling { vec![told] } else { Vec::new() }, "and kept for nobody who does not want to know");
        assert_eq!(rig.finisher.parks(), []);
    }
}

/// Until the letter is there, an event that is run again after a crash may still be called for.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_replaced_is_told_of_when_its_letter_is_there() {
    let mut rig = parking(true, 1);
    rig.finisher.transacted(Err(Aborted { began: true, refused: vec![(Token(0), PublishError::TooLarge)] }));
    assert_eq!(rig.finisher.parks(), []);
    tokio::time::sleep(INTERVAL).await;
    assert!(rig.batch().is_some());
    rig.finisher.transacted(Ok(Vec::new()));
    let ends: Vec<ParkEnd> = rig.finisher.parks().into_iter().map(|park| park.end).collect();
    assert_eq!(ends, [ParkEnd::Replaced]);
}

#[tokio::test(start_paused = true)]
async fn of_a_life_that_is_over_nobody_is_told_where_a_call_is_parked() {
    let mut rig = parking(true, 1);
    rig.finisher.lose(&[partition(0)]);
    rig.finisher.assign(vec![Assignment::fresh(partition(0))]);
    rig.finisher.transacted(Ok(vec![(Token(0), Offset(7))]));
    assert_eq!(rig.finisher.parks(), []);
}
