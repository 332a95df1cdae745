use std::sync::Mutex;

use super::*;
use crate::event::dead_letter::{Code, DeadLetter, Letterbox};
use crate::event::{Headers, Offset, Source};
use crate::pipeline::fakes::PausedClock;

/// Kafka, as far as redriving goes: what is there, and what it says to the next batches.
#[derive(Default)]
struct Kafka {
    records: Mutex<Vec<Record>>,
    points: Mutex<Vec<CommitPoint>>,
    batches: Mutex<Vec<usize>>,
    /// Values that no topic takes.
    refuses: Vec<&'static str>,
    /// Whether the others of a batch are there when one is refused.
    by_themselves: bool,
    /// Batches before nothing goes any more.
    goes: Option<usize>,
}

impl Redrives for Kafka {
    async fn redrive(&self, records: Vec<Record>, points: Vec<CommitPoint>) -> Result<(), NotRedriven> {
        let is_refused = |record: &Record| self.refuses.iter().any(|value| record.value.as_deref() == Some(value.as_bytes()));
        let refused: Vec<_> = records.iter().enumerate().filter(|(_, record)| is_refused(record)).collect();
        if !refused.is_empty() {
            let refused: Vec<_> = refused.into_iter().map(|(place, _)| (place, PublishError::TooLarge)).collect();
            let mut gone = Vec::new();
            if self.by_themselves {
                gone = (0..records.len()).filter(|place| refused.iter().all(|(other, _)| other != place)).collect();
                self.records.lock().expect("not poisoned").extend(gone.iter().map(|place| records[*place].clone()));
            }
            return Err(NotRedriven::Refused { refused, gone });
        }
        let mut batches = self.batches.lock().expect("not poisoned");
        if self.goes.is_some_and(|goes| batches.len() >= goes) {
            return Err(NotRedriven::Failed { why: "away".into(), unreachable: true });
        }
        batches.push(records.len());
        self.records.lock().expect("not poisoned").extend(records);
        *self.points.lock().expect("not poisoned") = points;
        Ok(())
    }
}

impl Kafka {
    fn values(&self) -> Vec<String> {
        let records = self.records.lock().expect("not poisoned");
        records.iter().map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()).collect()
    }

    fn memories(&self) -> BTreeMap<Partition, Memory> {
        let points = self.points.lock().expect("not poisoned");
        let read = |point: &CommitPoint| Memory::read(Some((point.next, &point.ahead)), Offset(0), Offset(1_000)).expect("its own");
        points.iter().map(|point| (point.partition.partition, read(point))).collect()
    }
}

fn letter(offset: i64, code: Code, value: &str) -> Incoming {
    let source = Source { topic: Topic::from("events"), partition: Partition(0), offset: Offset(offset) };
    let event = Incoming {
        source: source.clone(),
        key: None,
        value: Some(value.to_owned().into()),
        headers: Headers::new(),
        timestamp: Some(UnixMillis(1)),
    };
    let letter = DeadLetter { code, error: "why".into(), origin: &source };
    let made = letter.of(&event, &Letterbox::plain(Topic::from("dead")), UnixMillis(offset * 1_000));
    let source = Source { topic: Topic::from("dead"), partition: Partition(0), offset: Offset(offset) };
    Incoming { source, key: made.key, value: made.value, headers: made.headers, timestamp: Some(made.timestamp) }
}

fn routes() -> Routes {
    Routes {
        events: Topic::from("events"),
        parking: Vec::new(),
        ordered: [].into(),
        services: ["notifier".to_owned()].into(),
        max_redrives: 3,
    }
}

async fn go(
    letters: Vec<Incoming>,
    order: &Order,
    kafka: Option<&Kafka>,
    memories: BTreeMap<Partition, Memory>,
    stop: &Stop,
) -> (Tally, Result<(), Trouble<()>>) {
    let (sender, mut receiver) = mpsc::channel(letters.len().max(1));
    for letter in letters {
        sender.try_send(Ok(letter)).expect("room");
    }
    drop(sender);
    let routes = routes();
    let clock = PausedClock::new();
    let desk = Desk { topic: Topic::from("dead"), routes: &routes, memories, publisher: kafka, clock, stop: stop.clone() };
    run(&mut receiver, order, desk, &mut |_| {}).await
}

fn ten() -> Vec<Incoming> {
    (0..10).map(|n| letter(n, if n % 2 == 0 { Code::InvalidJson } else { Code::StageFailed }, &n.to_string())).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_chosen_goes_once() {
    let (kafka, stop) = (Kafka::default(), Stop::new());
    let order = Order { selection: Selection { codes: vec!["stage_failed".into()], ..Selection::default() }, ..Order::default() };
    let (tally, result) = go(ten(), &order, Some(&kafka), BTreeMap::new(), &stop).await;
    assert!(result.is_ok() && tally.complete);
    assert_eq!((tally.looked_at, tally.redriven, kafka.values()), (10, 5, ["1", "3", "5", "7", "9"].map(str::to_owned).to_vec()));
    // The next process has only what Kafka keeps.
    let (tally, _) = go(ten(), &order, Some(&kafka), kafka.memories(), &stop).await;
    assert_eq!((tally.redriven, tally.redriven_before), (0, 5));
    let (tally, _) = go(ten(), &Order::default(), Some(&kafka), kafka.memories(), &stop).await;
    assert_eq!((tally.redriven, tally.redriven_before), (5, 5));
    let (tally, _) = go(ten(), &Order { again: true, ..order }, Some(&kafka), kafka.memories(), &stop).await;
    assert_eq!((tally.redriven, tally.redriven_before, kafka.values().len()), (5, 0, 15));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_counts_and_does_nothing() {
    let (tally, result) = go(ten(), &Order::default(), None, BTreeMap::new(), &Stop::new()).await;
    assert!(result.is_ok());
    let share = |code: &str| Share { code: code.into(), service: String::new(), letters: 5 };
    assert_eq!(tally.by, [share("invalid_json"), share("stage_failed")]);
}

#[tokio::test(start_paused = true)]
async fn what_a_topic_refuses_stays_and_the_rest_goes() {
    for by_themselves in [false, true] {
        let kafka = Kafka { refuses: vec!["3", "4"], by_themselves, ..Kafka::default() };
        let (tally, result) = go(ten(), &Order::default(), Some(&kafka), BTreeMap::new(), &Stop::new()).await;
        assert!(result.is_ok());
        assert_eq!((tally.redriven, tally.left, tally.left_for.get("refused")), (8, 2, Some(&2)));
        assert_eq!(kafka.values(), ["0", "1", "2", "5", "6", "7", "8", "9"], "each once");
        let kafka = Kafka { points: Mutex::new(kafka.points.lock().expect("not poisoned").clone()), ..Kafka::default() };
        let (_, _) = go(ten(), &Order::default(), Some(&kafka), kafka.memories(), &Stop::new()).await;
        assert_eq!(kafka.values(), ["3", "4"], "when the topic takes them");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_ends_early_is_gone_on_with() {
    let letters: Vec<Incoming> = (0..900).map(|n| letter(n, Code::StageFailed, &n.to_string())).collect();
    let kafka = Kafka { goes: Some(2), ..Kafka::default() };
    let (tally, result) = go(letters.clone(), &Order::default(), Some(&kafka), BTreeMap::new(), &Stop::new()).await;
    assert!(matches!(result, Err(Trouble::Publish { unreachable: true, .. })) && !tally.complete);
    assert_eq!(tally.redriven, 128);
    let rest = Kafka::default();
    let (tally, _) = go(letters, &Order::default(), Some(&rest), kafka.memories(), &Stop::new()).await;
    assert_eq!((tally.redriven, tally.redriven_before), (772, 128));
    assert_eq!([kafka.values(), rest.values()].concat(), (0..900).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept_and_a_stop_is_heard() {
    let letters: Vec<Incoming> = (0..40).map(|n| letter(n, Code::StageFailed, "x")).collect();
    let order = Order { rate: NonZeroU32::new(10), ..Order::default() };
    let kafka = Kafka::default();
    let began = tokio::time::Instant::now();
    let (tally, _) = go(letters.clone(), &order, Some(&kafka), BTreeMap::new(), &Stop::new()).await;
    assert!(tally.redriven == 40 && began.elapsed() >= Duration::from_millis(3_900), "{:?}", began.elapsed());
    assert!(kafka.batches.lock().expect("not poisoned").iter().all(|batch| *batch <= 2));
    let stop = Stop::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(1_050)).await;
        stopping.request();
    });
    let (tally, result) = go(letters, &order, Some(&Kafka::default()), BTreeMap::new(), &stop).await;
    assert!(result.is_ok() && !tally.complete && (10..=14).contains(&tally.redriven), "{tally:?}");
}

/// A memory with little room left, and the offset that it reaches to.
fn nearly_full() -> (Memory, i64) {
    let (mut memory, mut at, mut dice) = (Memory::default(), 0, 88_172_645_463_325_252_u64);
    loop {
        let before = (memory.clone(), at);
        for _ in 0..512 {
            at += 1;
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            memory.look(Offset(at));
            if dice.is_multiple_of(2) { memory.redrive(Offset(at)) } else { memory.stay(Offset(at)) }
        }
        if memory.commit().is_none() {
            return before;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_full_is_left_and_said_so() {
    let (memory, at) = nearly_full();
    let code = |n| if n % 2 == 0 { Code::StageFailed } else { Code::InvalidJson };
    let letters: Vec<Incoming> = (at + 1..at + 20_001).map(|n| letter(n, code(n * n / 7), "x")).collect();
    let chosen = Selection { codes: vec!["stage_failed".into()], ..Selection::default() };
    let order = Order { selection: chosen.clone(), ..Order::default() };
    let kafka = Kafka::default();
    let meant = u64::try_from(letters.iter().filter(|letter| chosen.takes(letter)).count()).expect("few");
    let (tally, result) = go(letters, &order, Some(&kafka), BTreeMap::from([(Partition(0), memory)]), &Stop::new()).await;
    assert!(result.is_ok(), "{result:?}");
    assert!(tally.redriven > 0 && tally.left > 0 && tally.redriven + tally.left == meant, "{tally:?}");
    assert_eq!(tally.left_for, BTreeMap::from([("no_room", tally.left)]));
    // All that went is remembered.
    let memory = kafka.memories().remove(&Partition(0)).expect("it was committed");
    let last = at + 20_000;
    let remembered = (at + 1..=last).filter(|n| code(n * n / 7) == Code::StageFailed && memory.has(Offset(*n))).count();
    assert_eq!(remembered as u64, tally.redriven);
}
