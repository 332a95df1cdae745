//! A fleet, and what it lives through with each failure.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fusebox::edge::embedded::stub::{Act, Ended, Entry};
use http::StatusCode;
use serde_json::{Value, json};

use super::failures::{Failure, Rig, Seen, TIMEOUT_MS};
use crate::harness::{Event, Instance, Message, World, until};

const SERVICES: [&str; 4] = ["rag", "rulegen", "notifier", "vms"];

/// From one call of an event to its next, at most, ms: less than a call that waits for Redis would take.
const STEP_MS: i64 = 1_000;
const _: () = assert!(STEP_MS < TIMEOUT_MS);

const AWAY: &str = "the store is away";
const BACK: &str = "the store is there";

/// Two instances that share a Redis of their own, which both reach by way of a proxy.
pub struct Fleet {
    rig: Rig,
    world: World,
    one: Instance,
    other: Instance,
}

/// Events that were published, in order; goes on until it is dropped.
struct Load<'a> {
    world: &'a World,
    published: Mutex<Vec<Event>>,
    ending: AtomicBool,
}

impl Load<'_> {
    fn run(&self) {
        let mut number = 0;
        while !self.ending.load(Ordering::Relaxed) {
            self.publish((number..number + 4).map(|number| Event::of(&format!("cam-{}", number % 16)).notifying()).collect());
            number += 4;
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn publish(&self, events: Vec<Event>) {
        self.world.publish(&events);
        self.published.lock().unwrap_or_else(PoisonError::into_inner).extend(events);
    }

    fn count(&self) -> usize {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until so many more events have been published, as a measure of time in which things may go wrong.
    fn goes_on_for(&self, events: usize) {
        let from = self.count();
        until("the load goes on", || self.count() >= from + events);
    }
}

/// Ends a load when it is dropped, by a panic too: its thread is waited for.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Fleet {
    /// A fleet, all of which has its share of the work, whose breakers weigh their own evidence or that of all.
    pub fn start(name: &str, evidence: &str) -> Self {
        let rig = Rig::start();
        let config = format!(
            "[redis]\nurl = \"{}\"\ntimeout = \"{TIMEOUT_MS}ms\"\n[services.notifier.breaker]\nfail_max = 2\nevidence = \"{evidence}\"\n[services.notifier.retry]\nmax_attempts = 1000\n",
            rig.proxy.url()
        );
        let world = World::new(name).redis(&rig.url()).partitions(4).config(&config).start();
        let (one, other) = (world.run(), world.run());
        until("both have their share", || [&one, &other].iter().all(|one| one.part("events").0 == "ok" && one.part("retries").0 == "ok"));
        Self { rig, world, one, other }
    }

    fn both(&self) -> [&Instance; 2] {
        [&self.one, &self.other]
    }

    /// Runs the course for each of these failures, one after the other.
    pub fn lives_through(mut self, failures: &[Failure]) {
        let lock = json!({ "state": "metrics_only", "reason": "before all" });
        assert_eq!(self.one.force("vms", &lock).status, 200);
        let Self { rig, world, one, other } = &mut self;
        let load = Load { world, published: Mutex::default(), ending: AtomicBool::new(false) };
        let mut well = Vec::new();
        std::thread::scope(|scope| {
            let _ending = Ending(&load.ending);
            scope.spawn(|| load.run());
            for (number, failure) in failures.iter().enumerate() {
                let mut course = Course { number, failure, rig, world, fleet: [one, other], load: &load, lines: [Lines::default(); 2] };
                well.push(course.run());
            }
        });
        let published = load.published.into_inner().unwrap_or_else(PoisonError::into_inner);
        judge(&self.world, &published, &well);
        for instance in self.both() {
            let log = instance.log();
            let told: Vec<&str> = log.lines().filter(|line| line.contains("the store is")).collect();
            let port = self.rig.proxy.url();
            assert!(told.iter().all(|line| !line.contains("127.0.0.1") && !line.contains(&port)), "{told:?}");
        }
        assert_eq!((self.one.stop(), self.other.stop()), (0, 0));
    }
}

/// How often an instance has said something of the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lines {
    away: usize,
    back: usize,
    other: usize,
}

impl Lines {
    fn of(instance: &Instance) -> Self {
        let log = instance.log();
        let count = |what: &str| log.lines().filter(|line| line.contains(what)).count();
        // A breaker that opens is a warning too, and none of Redis.
        let warnings = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
        let other = warnings.filter(|line| !line.contains(AWAY) && !line.contains("the breaker is open")).count();
        Self { away: count(AWAY), back: count(BACK), other }
    }
}

/// One failure, from before it begins until nothing is left of it.
struct Course<'a> {
    number: usize,
    failure: &'a Failure,
    rig: &'a mut Rig,
    world: &'a World,
    fleet: [&'a Instance; 2],
    load: &'a Load<'a>,
    lines: [Lines; 2],
}

impl Course<'_> {
    /// Gives those events that were published while Redis failed and every service was well.
    fn run(&mut self) -> Range<usize> {
        let [one, other] = self.fleet;
        let name = self.failure.name;
        self.until("all is well", |course| course.fleet.iter().all(|one| one.get("/readyz").json()["status"] == "ok"));
        self.until("all agree", |course| course.agree());
        self.lines = self.fleet.map(Lines::of);

        let (connections, since) = (self.rig.proxy.accepted(), Instant::now());
        (self.failure.strike)(self.rig);
        let notifier = self.world.stub("notifier");
        notifier.set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
        self.until("both know that the notifier is down", |course| {
            course.fleet.iter().all(|one| one.breaker("notifier")["state"] != "closed")
        });
        // Each is asked something that the other cannot hear of meanwhile.
        let reason = format!("during {name}");
        assert_eq!(one.force("rulegen", &json!({ "state": "metrics_only", "reason": reason })).status, 200);
        let [ours, theirs] = [20, 40].map(|base| base + self.number);
        assert_eq!(one.change_settings("rag", None, &json!({ "fail_max": ours })).status, 200);
        assert_eq!(other.change_settings("vms", None, &json!({ "fail_max": theirs })).status, 200);

        self.is_seen();
        notifier.set(Act::Ok);
        self.until("both know that the notifier is back", |course| {
            course.fleet.iter().all(|one| one.breaker("notifier")["state"] == "closed")
        });
        let from = self.load.count();
        self.load.goes_on_for(8);
        let well = from..self.load.count();
        self.said_once(0);
        let (connections, took) = (self.rig.proxy.accepted() - connections, since.elapsed());
        assert!(connections < 16 + 16 * took.as_secs(), "{name}: {connections} connections in {took:?}");

        (self.failure.mend)(self.rig);
        self.until("the store is there", |course| course.fleet.iter().all(|one| is_well(one)));
        self.until("all agree", |course| course.agree());
        self.load.goes_on_for(8);
        assert!(self.agree(), "{name}: it does not last: {}", self.views());
        self.said_once(1);

        for (service, field, expect) in [
            ("rag", "fail_max", json!(ours)),
            ("vms", "fail_max", json!(theirs)),
            ("rulegen", "lock", json!(reason)),
            ("vms", "lock", json!("before all")),
        ] {
            let shown = one.breaker(service);
            let shown = if field == "lock" { &shown["lock"]["reason"] } else { &shown["settings"][field] };
            assert_eq!(*shown, expect, "{name}: {service}: {}", self.views());
        }
        let history = self.world.redis().history("rulegen");
        assert!(
            history.iter().any(|entry| entry.get("reason") == Some(&reason)),
            "{name}: the order is missing in the history: {history:?}"
        );
        for service in SERVICES {
            let history = self.world.redis().history(service);
            let generations: Vec<u64> = history.iter().map(|entry| entry["generation"].parse().expect("a number")).collect();
            assert!(generations.is_sorted(), "{name}: {service}: {generations:?}");
        }
        well
    }

    /// What instances say of it while it lasts.
    fn is_seen(&self) {
        match self.failure.seen {
            Seen::Nothing | Seen::Briefly => self.load.goes_on_for(16),
            Seen::Away(reasons) => {
                self.until("the store is away", |course| course.fleet.iter().all(|one| is_degraded(one)));
                for one in self.fleet {
                    let (_, detail) = one.part("redis");
                    assert!(reasons.iter().any(|reason| detail.contains(reason)), "{}: {detail}", self.failure.name);
                }
                // Several polls long.
                for _ in 0..4 {
                    self.load.goes_on_for(4);
                    assert!(self.fleet.iter().all(|one| is_degraded(one)), "{}: it comes and goes", self.failure.name);
                }
            }
        }
    }

    /// What was said: once that it went, and `returns` times that it came back.
    fn said_once(&self, returns: usize) {
        for (instance, before) in self.fleet.iter().zip(self.lines) {
            let now = Lines::of(instance);
            let said = (now.away - before.away, now.back - before.back);
            let log = instance.log();
            let lines: Vec<&str> = log.lines().filter(|line| line.contains("the store is")).skip(before.away + before.back).collect();
            assert_eq!(now.other, before.other, "{}: something else was said:\n{log}", self.failure.name);
            match self.failure.seen {
                Seen::Nothing => assert_eq!(said, (0, 0), "{}: {lines:?}", self.failure.name),
                Seen::Briefly => assert!(said == (0, 0) || said == (1, 1), "{}: {lines:?}", self.failure.name),
                Seen::Away(reasons) => {
                    assert_eq!(said, (1, returns), "{}: {lines:?}", self.failure.name);
                    assert!(reasons.iter().any(|reason| lines[0].contains(reason)), "{}: {lines:?}", self.failure.name);
                }
            }
        }
    }

    fn agree(&self) -> bool {
        agree(self.world, &self.fleet)
    }

    fn views(&self) -> String {
        SERVICES
            .map(|service| format!("{service}: {:?} {:?}", self.fleet.map(|one| shown(one, service)), stored(self.world, service)))
            .join("\n")
    }

    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        until(&format!("{}: {what}", self.failure.name), || {
            assert!(self.fleet.iter().all(|one| one.get("/readyz").status == 200), "{}: it is ready all the while", self.failure.name);
            holds(self)
        });
    }
}

/// Whether all instances and Redis show the same of every service.
pub fn agree(world: &World, fleet: &[&Instance]) -> bool {
    SERVICES.iter().all(|service| {
        let stored = stored(world, service);
        fleet.iter().all(|one| shown(one, service) == stored)
    })
}

/// State, generation, the reason of a lock, revision.
type Facts = [String; 4];

fn shown(instance: &Instance, service: &str) -> Facts {
    let breaker = instance.breaker(service);
    let text =
        |value: &Value| value.as_str().map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned);
    [&breaker["state"], &breaker["generation"], &breaker["lock"]["reason"], &breaker["settings_revision"]].map(text)
}

fn stored(world: &World, service: &str) -> Facts {
    let mut hash: HashMap<String, String> = world.redis().breaker(service);
    let mut field = |name: &str, absent: &str| hash.remove(name).unwrap_or_else(|| absent.to_owned());
    // What was never changed is not stored.
    [field("state", "closed"), field("generation", "0"), field("lock_reason", ""), field("settings_revision", "0")]
}

fn gauge(instance: &Instance) -> Option<String> {
    let page = instance.get("/metrics").body;
    page.lines().find_map(|line| line.strip_prefix("fusebox_store_up ")).map(str::to_owned)
}

/// Whether it shares its breakers, in every way in which it says so.
pub fn is_well(instance: &Instance) -> bool {
    instance.get("/readyz").json()["status"] == "ok" && gauge(instance).as_deref() == Some("1")
}

/// Whether it does not, and is ready all the same.
pub fn is_degraded(instance: &Instance) -> bool {
    let answer = instance.get("/readyz");
    let (state, detail) = instance.part("redis");
    let told = !detail.is_empty() && !detail.contains("127.0.0.1");
    answer.status == 200 && answer.json()["status"] == "degraded" && state == "degraded" && told && gauge(instance).as_deref() == Some("0")
}

/// What became of the events: services that were well the whole time answered every one, the notifier did where it was `well`, and has them
/// all in the end; some were refused while it was not; and no event waited.
fn judge(world: &World, published: &[Event], well: &[Range<usize>]) {
    let outcomes = world.outcomes(published.len());
    let slow = slow_ones(&world.read(&world.events), &outcomes);
    assert!(slow * 10 < published.len(), "{slow} of {} events took longer than {STEP_MS} ms", published.len());
    let outcomes: HashMap<String, Value> =
        outcomes.iter().map(Message::json).map(|outcome| (id_in(&outcome, "event_id"), outcome)).collect();
    let mut refused = 0;
    for (number, event) in published.iter().enumerate() {
        let outcome = outcomes.get(&event.id).unwrap_or_else(|| panic!("no outcome of {}", event.id));
        for service in ["rag", "rulegen", "vms"] {
            assert_eq!(outcome["stages"][service]["success"], true, "{service}: {outcome}");
        }
        let stage = &outcome["stages"]["notifier"];
        assert!(stage["success"] == true || stage["parked"] == true, "{outcome}");
        assert!(stage["success"] == true || !well.iter().any(|well| well.contains(&number)), "refused without reason: {outcome}");
        refused += usize::from(stage["error_type"] == "circuit_open");
    }
    assert!(refused >= well.len(), "{refused} calls were refused in {} courses", well.len());
    until("everybody is notified", || {
        let calls = world.calls("notifier");
        let good = calls.iter().filter(|call| call.ended == Some(Ended::Answered(200)));
        good.filter_map(|call| call.idempotency_key.as_deref()).collect::<HashSet<_>>().len() == published.len()
    });
    let (longest, event) = longest_step(world);
    assert!(longest < STEP_MS, "an event waited {longest} ms between two of its calls: {event}");
}

fn id_in(value: &Value, field: &str) -> String {
    value[field].as_str().expect("an id").to_owned()
}

/// How many events took longer from Kafka to Kafka than a step may, with all of their calls.
fn slow_ones(events: &[Message], outcomes: &[Message]) -> usize {
    let published: HashMap<String, i64> = events.iter().map(|event| (id_in(&event.json(), "id"), event.timestamp)).collect();
    outcomes.iter().filter(|outcome| outcome.timestamp - published[&id_in(&outcome.json(), "event_id")] > STEP_MS).count()
}

/// The longest time from the end of an event's call to the beginning of its next, ms, and the event's id.
fn longest_step(world: &World) -> (i64, String) {
    let mut events: HashMap<String, Vec<Entry>> = HashMap::new();
    for call in SERVICES.iter().flat_map(|service| world.calls(service)) {
        let id = call.idempotency_key.as_deref().and_then(|key| key.split('/').next()).expect("a key").to_owned();
        events.entry(id).or_default().push(call);
    }
    let steps = events.into_iter().map(|(id, mut calls)| {
        calls.sort_by_key(|call| call.seq);
        // What the notifier is asked later is its backlog.
        let end = calls.iter().position(|call| call.service == "vms").unwrap_or(0);
        let step = |pair: &[Entry]| pair[0].ended_at.map_or(0, |ended| pair[1].started_at.0 - ended.0);
        (calls[..=end].windows(2).map(step).max().unwrap_or(0), id)
    });
    steps.max().unwrap_or_default()
}
