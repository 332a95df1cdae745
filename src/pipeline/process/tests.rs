use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use super::*;
use crate::event::dead_letter::Letterbox;
use crate::event::{Headers, Offset, Source, Topic, UnixMillis};
use crate::machine::brake::{self, Rule};
use crate::machine::breaker::{self, PolicySettings};
use crate::machine::verdict::Rules;
use crate::pipeline::behind::Behind;
use crate::pipeline::breakers::Breakers;
use crate::pipeline::fakes::{Always, Notes, Nowhere, PausedClock};
use crate::pipeline::guard::{Guard, Manner};
use crate::pipeline::ports::{Assignment, Batch, Call, CallError, Caller, CommitPoint, Reply};
use crate::pipeline::stages::{Fallback, Stage};

/// A world in which timers have a defect: what is farther away than two seconds never comes. Services never answer.
struct Broken;

impl World for Broken {
    type Clock = ShortTimers;
    type Chance = Always;
    type Caller = Silent;
    type Publisher = Nowhere;
    type Witness = Notes;
}

#[derive(Clone, Copy)]
struct ShortTimers(PausedClock);

impl Clock for ShortTimers {
    fn now(&self) -> Tick {
        self.0.now()
    }
    fn wall(&self) -> UnixMillis {
        self.0.wall()
    }
    fn instant(&self, at: Tick) -> Option<Instant> {
        let far = at.since(self.now()) > Duration::from_secs(2);
        self.0.instant(if far { Tick::NEVER } else { at })
    }
}

struct Silent;

impl Caller for Silent {
    async fn call(&self, _call: Call<'_>) -> Result<Reply, CallError> {
        std::future::pending().await
    }
}

/// Hands on what it is given, then nothing for ever.
struct Given(mpsc::UnboundedReceiver<Intake>);

impl Subscription for Given {
    async fn next(&mut self) -> Option<Intake> {
        self.0.recv().await
    }
    fn commit(&self, _points: Vec<CommitPoint>) {}
    fn transact(&self, _batch: Batch) {}
    fn stop_taking(&self) {}
    fn hold(&self, _partition: &TopicPartition) {}
    fn let_go(&self, _partition: &TopicPartition) {}
    fn read_again(&self, _point: CommitPoint) {}
    fn size(&self, _topic: &Topic) -> Option<usize> {
        None
    }
    async fn close(self, _points: Vec<CommitPoint>) -> bool {
        true
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);

fn stages(clock: ShortTimers, witness: &Arc<Notes>, stop: &Stop) -> Arc<Stages<Broken>> {
    let settings = breaker::Settings {
        recovery_timeout_max: TIMEOUT,
        ..breaker::Settings::new(PolicySettings::Consecutive { fail_max: 5.try_into().expect("not zero") }, TIMEOUT, TIMEOUT)
    };
    let services = [("vms".to_owned(), settings)];
    let (breakers, _) = Breakers::<Broken>::new(services, clock, Always(0.0), Arc::clone(witness), "here".to_owned());
    let manner = Manner { timeout: TIMEOUT, slow: None, concurrency: 1, drain_concurrency: 0, adaptive: None, rules: Rules::default() };
    let guard = Guard::new(0, manner, breakers, Arc::new(Silent), clock, Arc::clone(witness), stop.clone());
    let stage = Stage {
        service: 0,
        name: "vms".to_owned(),
        method: "POST".to_owned(),
        path: "/".to_owned(),
        guard: Arc::new(guard),
        tries: 1,
        when: None,
        body: None,
        fallback: Fallback::Skip,
    };
    Arc::new(Stages {
        behind: Arc::new(Behind::new(Topic::from("events"), [], Stop::new())),
        stages: vec![stage],
        outcomes: Topic::from("outcomes"),
        dead_letters: Letterbox::plain(Topic::from("dead-letters")),
        instance: "here".to_owned(),
        clock,
        chance: Always(0.0),
        witness: Arc::clone(witness),
    })
}

fn parts(
    clock: ShortTimers,
    witness: &Arc<Notes>,
    stop: &Stop,
    given: mpsc::UnboundedReceiver<Intake>,
    budget: &Arc<Budget>,
    pulse: &Arc<Pulse>,
) -> Parts<Broken, Given> {
    Parts {
        settings: Settings {
            ordering: Ordering::Key,
            concurrency: 4,
            max_event_bytes: 1 << 20,
            max_ahead_bytes: crate::machine::progress::MAX_BYTES,
            together: None,
            commit_interval: Duration::from_secs(3_600),
            stop_timeout: Duration::from_secs(60),
            hand_over_timeout: TIMEOUT,
            brake: None,
        },
        stages: stages(clock, witness, stop),
        subscription: Given(given),
        publisher: Nowhere,
        acks: crate::pipeline::acks::channel().1,
        budget: Arc::clone(budget),
        stop: stop.clone(),
        pulse: Arc::clone(pulse),
        board: Arc::default(),
    }
}

/// A partition that comes again, though nobody said that it went: what waits of its former life would hide what is read again before it.
#[tokio::test(start_paused = true)]
async fn a_new_life_begins_without_what_waits_of_the_old_one() {
    let (clock, witness, stop) = (ShortTimers(PausedClock::new()), Arc::new(Notes::default()), Stop::new());
    let (intake, given) = mpsc::unbounded_channel();
    let (budget, pulse) = (Budget::new(100, 1 << 20), Pulse::new(clock.now()));
    let _running = tokio::spawn(run(parts(clock, &witness, &stop, given, &budget, &pulse)));
    let record = |offset| {
        let source = Source { topic: Topic::from("events"), partition: Partition(0), offset: Offset(offset) };
        let value = format!(r#"{{"camera_id":"camera {offset}"}}"#);
        let record = Incoming { source, key: None, value: Some(value.into()), headers: Headers::new(), timestamp: None };
        budget.take(record.size());
        record
    };
    let partition = TopicPartition { topic: Topic::from("events"), partition: Partition(0) };
    let assigned = || Intake::Assigned(vec![Assignment::fresh(partition.clone())]);
    let tell = async |told| {
        assert!(intake.send(told).is_ok());
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    tell(assigned()).await;
    // Four run, six may run next, ten have not begun.
    tell(Intake::Records((0..10).map(record).collect())).await;
    tell(Intake::Records((10..20).map(record).collect())).await;
    assert_eq!(budget.held().0, 20);
    tell(assigned()).await;
    assert_eq!(budget.held(), (0, 0), "all are let go");
}

/// They were weighed when they came first.
#[tokio::test(start_paused = true)]
async fn bad_records_that_were_redriven_stop_no_partition() {
    let (clock, witness, stop) = (ShortTimers(PausedClock::new()), Arc::new(Notes::default()), Stop::new());
    let (intake, given) = mpsc::unbounded_channel();
    let (budget, pulse) = (Budget::new(100, 1 << 20), Pulse::new(clock.now()));
    let mut parts = parts(clock, &witness, &stop, given, &budget, &pulse);
    parts.settings.brake = Some(brake::Settings { rules: vec![Rule::run(3)], hold: Duration::from_secs(60) });
    let board = Arc::clone(&parts.board);
    let _running = tokio::spawn(run(parts));
    let record = |offset, redriven| {
        let source = Source { topic: Topic::from("events"), partition: Partition(0), offset: Offset(offset) };
        let mut headers = Headers::new();
        if redriven {
            headers.set(crate::event::headers::name::REDRIVES, "1");
        }
        let record = Incoming { source, key: None, value: Some("no json".into()), headers, timestamp: None };
        budget.take(record.size());
        record
    };
    let partition = TopicPartition { topic: Topic::from("events"), partition: Partition(0) };
    let tell = async |told| {
        assert!(intake.send(told).is_ok());
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    tell(Intake::Assigned(vec![Assignment::fresh(partition)])).await;
    tell(Intake::Records((0..10).map(|offset| record(offset, true)).collect())).await;
    assert!(board.stopped().is_empty());
    tell(Intake::Records((10..13).map(|offset| record(offset, false)).collect())).await;
    assert_eq!(board.stopped().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_comes_round_whatever_happens_and_names_what_hangs() {
    let (clock, witness, stop) = (ShortTimers(PausedClock::new()), Arc::new(Notes::default()), Stop::new());
    let (intake, given) = mpsc::unbounded_channel();
    let (budget, pulse) = (Budget::new(10, 1 << 20), Pulse::new(clock.now()));
    let parts = parts(clock, &witness, &stop, given, &budget, &pulse);
    let running = tokio::spawn(run(parts));
    let comes_round = async |seconds| {
        for _ in 0..seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(pulse.silence(clock.now().plus(crate::pipeline::pulse::LONGEST_SILENCE - Duration::from_secs(2))), None);
        }
    };
    comes_round(100).await;
    assert_eq!(pulse.stuck(), 0, "idle");

    let source = Source { topic: Topic::from("events"), partition: Partition(3), offset: Offset(7) };
    let id = Uuid::from_u128(0x4000_8000_0000_0000_0001);
    let value = format!(r#"{{"id":"{id}","camera_id":"c"}}"#);
    let record = Incoming { source, key: None, value: Some(value.into()), headers: Headers::new(), timestamp: None };
    budget.take(record.size());
    let assigned = Intake::Assigned(vec![Assignment::fresh(record.source.topic_partition())]);
    assert!(intake.send(assigned).is_ok() && intake.send(Intake::Records(vec![record])).is_ok());
    let told = |witness: &Notes| {
        witness.0.lock().expect("unpoisoned").iter().filter(|fact| fact.starts_with("Stuck")).cloned().collect::<Vec<_>>()
    };
    // A turn and a call of ten seconds each, twice.
    comes_round(39).await;
    assert_eq!((pulse.stuck(), told(&witness).len()), (0, 0));
    comes_round(3).await;
    assert_eq!((pulse.stuck(), told(&witness).len()), (1, 1));
    let line = &told(&witness)[0];
    assert!(line.contains("service: 0") && line.contains("Offset(7)") && line.contains(&id.to_string()), "{line}");
    comes_round(30).await;
    assert_eq!(told(&witness).len(), 1, "once");
    comes_round(30).await;
    assert_eq!(told(&witness).len(), 2, "and again when it has run for twice as long");

    stop.request();
    comes_round(59).await;
    assert!(!running.is_finished());
    assert_eq!(running.await.expect("no panic"), Ended::Unfinished(1));
    assert_eq!((pulse.silence(Tick(u64::MAX - 1)), pulse.stuck()), (None, 0), "it has ended, which its task says");
}
