//! The notifier is away for long enough that many calls are parked, and comes back unable to take more than some at once: the backlog is drained
//! without knocking it over, while live calls go on as if nothing were drained.
//!
//! Nobody tells the program how many it takes, and the settings are those that are shipped: that few calls are refused in a row, which would open the breaker
//! again, is the drain's doing.
//!
//! Live calls come one by one, at the same rate all the while. Each one's latency is from its publishing to its answer by the stub; those during
//! the draining are compared with those of the same run before the outage.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fusebox::edge::embedded::stub::{Act, Ended, Entry};
use http::StatusCode;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};

use crate::harness::{Event, World, server, until, within};

/// Calls that the service takes at once; it answers 503 to any above that.
const CAPACITY: usize = 20;

/// How long one takes, ms.
const WORK_MS: u64 = 30;

/// Live calls a second: three of them at the service at a time.
const LIVE: u64 = 100;

/// What makes the backlog is published in so many records at once.
const BATCH: usize = 500;

/// The settings that are shipped, but that the notifier is the only stage.
const CONFIG: &str = r#"
[[pipeline]]
service = "notifier"
when = "size(event.recipients) > 0"
body = "{ 'camera': event.camera_id, 'recipients': event.recipients }"
"#;

/// What a run is to be like.
struct Plan {
    name: &'static str,
    instances: usize,
    parked: usize,
    /// How long live calls are watched before the outage.
    before: Duration,
    /// How long the outage takes at least.
    outage: Duration,
    /// How long draining may take.
    drained_within: Duration,
    /// By how much a live call may take longer than twice what it took before, at the slowest twentieth, ms: what else a machine does that this has not to
    /// itself.
    slack_ms: i64,
}

fn wall() -> i64 {
    fusebox::edge::clock::wall_of(std::time::SystemTime::now()).0
}

fn event_id(call: &Entry) -> &str {
    call.idempotency_key.as_deref().and_then(|key| key.split('/').next()).expect("every call has a key")
}

/// Publishes one live event after the other until told to stop; gives each one's id, and when it was published.
fn live(world: &World, stop: &AtomicBool) -> Vec<(String, i64)> {
    let producer: ThreadedProducer<DefaultProducerContext> =
        ClientConfig::new().set("bootstrap.servers", server("KAFKA_BROKERS")).set("linger.ms", "0").create().expect("a producer");
    let (mut next, mut published) = (Instant::now(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        // One that comes late is followed at the same distance: to make up for it would be a burst, which is no steady rate.
        next = Instant::now() + Duration::from_micros(1_000_000 / LIVE);
        let event = Event::of(&format!("live-{}", published.len() % 1_000)).notifying();
        let (key, value, now) = (event.key.expect("a key"), event.value.expect("a value"), wall());
        // Whether Kafka has it is seen by its call: to wait here would hold up the next.
        let sent = producer.send(BaseRecord::to(&world.events).key(&key).payload(&value).timestamp(now));
        sent.map_err(|(error, _)| error).expect("room in the producer's queue");
        published.push((event.id, now));
    }
    producer.flush(Duration::from_secs(60)).expect("Kafka has them");
    published
}

/// The slowest twentieth begins there.
fn p95(mut all: Vec<i64>) -> i64 {
    assert!(!all.is_empty(), "nothing to compare");
    all.sort_unstable();
    all[(all.len() - 1) * 95 / 100]
}

fn trips(world: &World) -> usize {
    world.redis().transitions("notifier").iter().filter(|transition| transition.starts_with("closed→open")).count()
}

fn run(plan: &Plan) {
    let world = World::new(plan.name).partitions(6).config(CONFIG).start();
    let notifier = world.stub("notifier");
    let serve = Act::Capacity { max: CAPACITY, ms: WORK_MS };
    notifier.set(serve.clone());
    let mut fleet: Vec<_> = (0..plan.instances).map(|_| world.run()).collect();
    until("each has its part of the backlog", || world.drain_shares().len() == plan.instances);

    let stop = AtomicBool::new(false);
    let (live, backlog, watched, recovered, drained, trips_before) = thread::scope(|scope| {
        // Stopped also where what follows fails.
        let stop = Stop(&stop);
        let live = scope.spawn(|| live(&world, stop.0));
        until("live calls come", || notifier.counts().answered.get(&200).is_some_and(|answered| *answered > LIVE));
        let from = wall();
        thread::sleep(plan.before);
        let watched = (from, wall());

        notifier.set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
        let outage = Instant::now();
        until("the breaker is open", || world.redis().state("notifier") == "open");
        let mut backlog: Vec<String> = Vec::new();
        while backlog.len() < plan.parked {
            let events: Vec<_> = (0..BATCH).map(|number| Event::of(&format!("cam-{number}")).notifying()).collect();
            world.publish(&events);
            backlog.extend(events.into_iter().map(|event| event.id));
        }
        within(Duration::from_secs(600), "all are parked", || (world.count(&world.retries) >= plan.parked).then_some(()));
        println!("{}: {} parked {:.0} s after the outage began", plan.name, plan.parked, outage.elapsed().as_secs_f64());
        thread::sleep(plan.outage.saturating_sub(outage.elapsed()));

        let trips_before = trips(&world);
        notifier.set(serve.clone());
        let back = Instant::now();
        until("the breaker is closed", || world.redis().state("notifier") == "closed");
        let recovered = wall();
        println!("{}: closed {:.1} s after the service came back", plan.name, back.elapsed().as_secs_f64());
        within(plan.drained_within, "the backlog is delivered", || {
            thread::sleep(Duration::from_millis(200));
            (world.retries_left() <= BATCH).then_some(())
        });
        let drained = wall();
        println!("{}: drained in {:.0} s", plan.name, back.elapsed().as_secs_f64());
        stop.0.store(true, Ordering::Relaxed);
        (live.join().expect("published"), backlog, watched, recovered, drained, trips_before)
    });

    within(Duration::from_secs(60), "everything is finished", || {
        thread::sleep(Duration::from_millis(200));
        (world.count(&world.outcomes) >= live.len() + backlog.len() && world.is_committed()).then_some(())
    });
    for instance in &mut fleet {
        assert_eq!(instance.stop(), 0, "{}", instance.log());
    }
    let calls = world.calls("notifier");
    let mut answered: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.ended == Some(Ended::Answered(200))) {
        answered.entry(event_id(call)).or_default().push(call.ended_at.expect("it has ended").0);
    }
    let all: BTreeSet<&str> = live.iter().map(|(id, _)| id.as_str()).chain(backlog.iter().map(String::as_str)).collect();
    let missing = all.iter().filter(|id| !answered.contains_key(*id)).count();
    assert_eq!((missing, world.count(&world.dead_letters)), (0, 0), "nothing is lost");
    let repeated = answered.values().filter(|times| times.len() > 1).count();
    assert_eq!((repeated, answered.len(), world.count(&world.outcomes)), (0, all.len(), all.len()), "and nothing is repeated");

    let parked: HashSet<String> = world.read(&world.retries).iter().map(|call| call.header("fusebox-event-id").to_owned()).collect();
    let latencies = |(from, to): (i64, i64)| {
        // Those that were parked were no live calls.
        let there = live.iter().filter(|(id, at)| (from..to).contains(at) && !parked.contains(id));
        there.map(|(id, at)| answered[id.as_str()][0] - at).collect::<Vec<_>>()
    };
    let (before, during) = (p95(latencies(watched)), p95(latencies((recovered, drained))));
    let also_parked = live.iter().filter(|(id, at)| (recovered..drained).contains(at) && parked.contains(id)).count();
    let above = calls.iter().filter(|call| call.started_at.0 >= recovered && call.ended == Some(Ended::Answered(503))).count();
    let again = trips(&world) - trips_before;
    println!(
        "{}: live p95 {before} ms before, {during} ms while draining ({also_parked} of {} parked); {above} answers of 503, {again} trips; {} drained a \
         second; repeated: {repeated}",
        plan.name,
        latencies((recovered, drained)).len(),
        backlog.len() as i64 * 1_000 / (drained - recovered).max(1),
    );
    assert!(again <= 2, "it tripped {again} times while it drained");
    assert!(during <= 2 * before + plan.slack_ms, "live calls took {during} ms while it drained, and {before} ms before");
}

/// Raises the flag when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_backlog_is_drained_beside_live_calls_in_short() {
    run(&Plan {
        name: "backlog",
        instances: 2,
        parked: 3_000,
        before: Duration::from_secs(4),
        outage: Duration::ZERO,
        drained_within: Duration::from_secs(120),
        // Beside other tests.
        slack_ms: 200,
    });
}

#[test]
#[ignore = "minutes: make chaos"]
fn a_backlog_of_a_hundred_thousand_is_drained_beside_live_calls() {
    run(&Plan {
        name: "backlog-long",
        instances: 2,
        parked: 100_000,
        before: Duration::from_secs(30),
        outage: Duration::from_secs(120),
        drained_within: Duration::from_secs(900),
        slack_ms: 0,
    });
}
