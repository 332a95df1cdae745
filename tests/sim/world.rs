//! One world from one seed: its events, its trouble, and the program in the middle of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fusebox::event::dead_letter::Letterbox;
use fusebox::event::{Offset, Partition, Topic, TopicPartition, UnixMillis};
use fusebox::machine::brake::{self, Rule};
use fusebox::machine::breaker::{AdaptiveSettings, PolicySettings, Rates, Settings};
use fusebox::machine::disposition::Bounds;
use fusebox::machine::limit::{self, Law, aimd, gradient};
use fusebox::machine::progress::MAX_BYTES;
use fusebox::machine::schedule::Schedule;
use fusebox::machine::time::Tick;
use fusebox::machine::verdict::Rules;
use fusebox::pipeline::behind::Behind;
use fusebox::pipeline::brakes::Board;
use fusebox::pipeline::breakers::Breakers;
use fusebox::pipeline::facts::Fact;
use fusebox::pipeline::guard::{Guard, Manner};
use fusebox::pipeline::orders::OrderBook;
use fusebox::pipeline::ports::{Budget, Chance, Clock, Witness, World};
use fusebox::pipeline::pulse::Pulse;
use fusebox::pipeline::stages::{Fallback, Stage, Stages};
use fusebox::pipeline::stop::Stop;
use fusebox::pipeline::{drain, keeper, process};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::along::read_along;
use crate::bounds::Holdings;
use crate::instance::Instance;
use crate::kafka::{Check, FakePublisher, FakeSubscription, Kafka, Weather, below, record};
use crate::oracle::{Oracle, Report};
use crate::refetch::FakeRefetch;
use crate::services::{FakeCaller, Moment, Services, SlowKey};
use crate::transactions::Broker;
use crate::watch::watch;

pub const EVENTS: &str = "events";
pub const OUTCOMES: &str = "outcomes";
pub const DEAD_LETTERS: &str = "dead-letters";
pub const RETRY: &str = "retry";
pub const LIVE: &str = "live";
pub const DRAIN: &str = "drain";
/// The service whose calls are parked.
pub const PARKING: usize = 1;
const SERVICES: [&str; 3] = ["rag", "notifier", "vms"];
/// The world's epoch: a wall-clock time that no header may take for 0.
const EPOCH: i64 = 1_700_000_000_000;
/// How long a stop may take.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// When trouble ends.
const PEACE: Duration = Duration::from_secs(25);
/// When everything must have come to rest. Of a thousand worlds none took half as long. A wake-up that is lost, and made up for by a
/// timer, shows here too.
const DOOMSDAY: Duration = Duration::from_secs(180);

pub struct Sim;

impl World for Sim {
    type Clock = SimClock;
    type Chance = SimChance;
    type Caller = FakeCaller;
    type Publisher = FakePublisher;
    type Witness = SimWitness;
}

#[derive(Clone, Copy)]
pub struct SimClock(Instant);

impl SimClock {
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

impl Clock for SimClock {
    fn now(&self) -> Tick {
        Tick(0).plus(self.elapsed())
    }
    fn micros(&self) -> u64 {
        u64::try_from(self.elapsed().as_micros()).expect("short")
    }
    fn wall(&self) -> UnixMillis {
        UnixMillis(EPOCH).plus(self.elapsed())
    }
    fn instant(&self, at: Tick) -> Option<Instant> {
        (at != Tick::NEVER).then(|| self.0 + at.since(Tick(0)))
    }
}

#[derive(Clone)]
pub struct SimChance(Arc<Mutex<StdRng>>);

impl Chance for SimChance {
    fn roll(&self) -> f64 {
        self.0.lock().expect("unpoisoned").random()
    }
}

pub struct SimWitness {
    clock: SimClock,
    oracle: Arc<Oracle>,
}

impl Witness for SimWitness {
    fn tell(&self, fact: Fact<'_>) {
        self.oracle.told(self.clock.elapsed(), &fact);
    }
}

pub struct Plan {
    seed: u64,
    partitions: i32,
    concurrency: usize,
    ordering: process::Ordering,
    /// Parked calls keep the order of their keys.
    ordered: bool,
    max_in_flight: usize,
    max_in_flight_bytes: usize,
    service_concurrency: usize,
    policy: PolicySettings,
    /// Probes are weighed together, there may be no end of them, and calls come back slowly.
    half_open_failure_rate: Option<f64>,
    half_open_timeout: Option<Duration>,
    ramp: Duration,
    permits: u32,
    success_threshold: u32,
    tries: u32,
    adaptive: Option<limit::Settings>,
    /// What is left behind and the commit are one.
    exactly_once: bool,
    /// The longest text beside a commit: Kafka's, or so short that partitions must be held.
    max_ahead_bytes: usize,
    /// When partitions are stopped for their bad records; somebody lets them go on after a while.
    brake: Option<brake::Settings>,
    /// Nothing goes wrong but this, and nothing is scarce: what it holds up can be seen.
    slow_key: Option<SlowKey>,
}

impl Plan {
    fn of(seed: u64, dice: &mut StdRng) -> Self {
        let mut plan = Self {
            seed,
            ordered: false,
            exactly_once: seed % 2 == 1,
            partitions: dice.random_range(1..4),
            concurrency: dice.random_range(1..20),
            ordering: match dice.random_range(0..10) {
                0..7 => process::Ordering::Key,
                7..9 => process::Ordering::Partition,
                _ => process::Ordering::Unordered,
            },
            max_in_flight: dice.random_range(3..60),
            max_in_flight_bytes: if dice.random_bool(0.5) { 1 << 20 } else { dice.random_range(100..20_000) },
            service_concurrency: 8,
            policy: policy(dice),
            half_open_failure_rate: dice.random_bool(0.3).then_some(0.5),
            half_open_timeout: dice.random_bool(0.3).then_some(Duration::from_secs(4)),
            ramp: if dice.random_bool(0.3) { Duration::from_secs(3) } else { Duration::ZERO },
            permits: dice.random_range(1..4),
            success_threshold: dice.random_range(1..4),
            tries: dice.random_range(1..3),
            adaptive: match dice.random_range(0..4) {
                0 => Some(Law::Aimd(aimd::Settings { latency: Duration::from_millis(500), backoff_ratio: 0.9 })),
                1 => Some(Law::Gradient(gradient::Settings { tolerance: 1.5, smoothing: 0.2, queue: None })),
                _ => None,
            }
            .map(|law| limit::Settings { law, minimum: 1, initial: 4 }),
            max_ahead_bytes: if dice.random_bool(0.5) { MAX_BYTES } else { dice.random_range(11..20) },
            brake: brake(seed),
            slow_key: None,
        };
        if dice.random_bool(0.9) {
            plan.ordered = plan.ordering != process::Ordering::Unordered && (seed / 2).is_multiple_of(2);
            return plan;
        }
        let takes = dice.random_bool(0.5).then(|| Duration::from_millis(dice.random_range(100..1_900)));
        Self {
            concurrency: 1_000,
            max_in_flight: 1_000,
            max_in_flight_bytes: 1 << 20,
            service_concurrency: 1_000,
            adaptive: None,
            max_ahead_bytes: MAX_BYTES,
            brake: None,
            slow_key: Some(SlowKey { key: "camera-0".to_owned(), takes }),
            // What waits for its transaction is not held up by its lane.
            exactly_once: false,
            ..plan
        }
    }

    /// Half of the drains hold few calls, which are parked for long: some are put aside wherever several wait.
    fn puts_aside(&self) -> bool {
        self.seed % 4 < 2
    }

    pub fn partitions_of(&self, topic: &str) -> Vec<TopicPartition> {
        (0..self.partitions).map(|partition| TopicPartition { topic: Topic::from(topic), partition: Partition(partition) }).collect()
    }
}

/// A third of the records is bad.
fn brake(seed: u64) -> Option<brake::Settings> {
    let mut dice = StdRng::seed_from_u64(seed ^ 0xb4a4e);
    let run = Rule::run(dice.random_range(2..5));
    let rules = match dice.random_range(0..6) {
        0 => vec![run],
        1 => vec![Rule::share(0.5, dice.random_range(4..12))],
        2 => vec![run, Rule::share(0.6, dice.random_range(4..12))],
        _ => return None,
    };
    Some(brake::Settings { rules, hold: Duration::from_millis(dice.random_range(50..5_000)) })
}

/// Lets partitions go on that are stopped, sooner or later, and now and then more of their records than those that are held.
async fn let_go_on(board: Arc<Board>, mut dice: StdRng) {
    loop {
        tokio::time::sleep(Duration::from_millis(below(&mut dice, 4_000))).await;
        for (partition, stopped) in board.stopped() {
            let through = dice.random_bool(0.3).then(|| Offset(stopped.at.0 + dice.random_range(-3..10)));
            board.release(&partition, through, "somebody".to_owned(), "it is known".to_owned()).expect("it is stopped");
        }
    }
}

fn policy(dice: &mut StdRng) -> PolicySettings {
    let slow_call_duration = Duration::from_secs(1);
    let rates = Rates { minimum_calls: dice.random_range(1..8), failure_rate: 0.5, slow_call_rate: 1.0, slow_call_duration };
    let window = Duration::from_secs(dice.random_range(1..6));
    let one = PolicySettings::Consecutive { fail_max: dice.random_range(1..5).try_into().expect("at least one") };
    match dice.random_range(0..8) {
        0 => PolicySettings::Count { size: dice.random_range(1..20), rates },
        1 => PolicySettings::Time { window, rates },
        2 => {
            let (trickle, patience) = (Duration::from_millis(500), Duration::from_secs(dice.random_range(0..3)));
            PolicySettings::Adaptive(AdaptiveSettings { window, multiplier: 2.0, trickle, patience, slow_call_duration })
        }
        3 => PolicySettings::Any(vec![one, PolicySettings::Time { window, rates }]),
        _ => one,
    }
}

pub async fn run(seed: u64) -> Report {
    let mut dice = StdRng::seed_from_u64(seed);
    let plan = Plan::of(seed, &mut dice);
    let stormy = dice.random_bool(0.7) && plan.slow_key.is_none();
    let weather = if stormy {
        Weather {
            lost: dice.random_range(0.0..0.2),
            unacknowledged: dice.random_range(0.0..0.1),
            full: dice.random_range(0.0..0.3),
            slow: dice.random_range(0.0..0.1),
            largest: if dice.random_bool(0.7) { usize::MAX } else { dice.random_range(700..2_000) },
        }
    } else {
        Weather::FAIR
    };
    let clock = SimClock(Instant::now());
    let kafka = Kafka::new(seed, weather);
    let oracle = Arc::new(Oracle::new(Arc::clone(&kafka), plan.permits, plan.ordering, plan.ordered));
    let services = {
        let (oracle, clock) = (Arc::clone(&oracle), clock);
        let observe = move |service: usize, key: &str, moment: Moment| oracle.observed(clock.elapsed(), service, key, moment);
        Services::new(seed, SERVICES.len(), PEACE, plan.slow_key.clone(), Box::new(observe))
    };

    tokio::spawn(produce(Arc::clone(&kafka), Arc::clone(&oracle), plan.partitions, StdRng::seed_from_u64(seed ^ 0xfeed), clock));
    let mut life = 0;
    let mut instance = start(&plan, life, &kafka, &services, &oracle, clock);
    instance.assign_all(&plan);
    let troubled = dice.random_bool(0.7) && plan.slow_key.is_none();
    while clock.elapsed() < PEACE {
        tokio::time::sleep(Duration::from_millis(50 + below(&mut dice, 4_000))).await;
        instance.look(&oracle).await;
        if !troubled {
            continue;
        }
        match below(&mut dice, 5) {
            end @ (0 | 1) => {
                if end == 0 {
                    oracle.count("crashes");
                    instance.crash().await;
                    oracle.died(clock.elapsed());
                } else if instance.stop().await {
                    oracle.stopped();
                } else {
                    assert!(stormy, "G12: all that is published is taken, and a stop leaves something unfinished");
                    oracle.died(clock.elapsed());
                }
                tokio::time::sleep(Duration::from_millis(below(&mut dice, 2_000))).await;
                life += 1;
                instance = start(&plan, life, &kafka, &services, &oracle, clock);
                instance.assign_all(&plan);
            }
            2 => instance.shove(&plan, &mut dice, &oracle, false).await,
            3 => instance.shove(&plan, &mut dice, &oracle, true).await,
            _ => {}
        }
    }
    // What is too large stays too large: only what is published in its place can bring it to rest.
    kafka.state().weather = Weather { largest: weather.largest, ..Weather::FAIR };
    while !oracle.at_rest(&plan.partitions_of(EVENTS), &plan.partitions_of(RETRY)) {
        assert!(
            clock.elapsed() < DOOMSDAY,
            "not at rest by doomsday: {}",
            oracle.unrest(&plan.partitions_of(EVENTS), &plan.partitions_of(RETRY))
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
        instance.look(&oracle).await;
    }
    instance.let_settle(&oracle).await;
    instance.crash().await;
    assert!(!oracle.has_failed(), "a check has failed at the end");
    oracle.judge(&services.journal(), plan.slow_key.as_ref().map(|slow| slow.key.as_str()), plan.exactly_once)
}

/// Publishes events, readable and not, over the first twenty seconds.
async fn produce(kafka: Arc<Kafka>, oracle: Arc<Oracle>, partitions: i32, mut dice: StdRng, clock: SimClock) {
    let keys = 1 + below(&mut dice, 12);
    let events = 20 + below(&mut dice, 100);
    for number in 0..events {
        tokio::time::sleep(Duration::from_millis(below(&mut dice, 40_000 / events))).await;
        let key = format!("camera-{}", below(&mut dice, keys));
        let id = uuid::Uuid::from_u128((u128::from(number) << 64) | 0x4000_8000_0000_0000_0000);
        let good = format!(r#"{{"id":"{id}","camera_id":"{key}","timestamp":"2026-01-01T00:00:00Z","recipients":["a"]}}"#);
        let (value, readable) = match below(&mut dice, 12) {
            0 => (None, false),
            1 => (Some(good.as_bytes()[..good.len() - 3].to_vec()), false),
            2 => (Some(vec![0xff, 0xfe, b'{']), false),
            3 => (Some(br#"{"no":"camera"}"#.to_vec()), false),
            _ => (Some(good.into_bytes()), true),
        };
        let source = kafka.append(record(EVENTS, Some(&key), value, clock.wall().0), partitions);
        oracle.produced(clock.elapsed(), source, key, readable.then_some(id));
    }
    oracle.produced_all();
}

fn start(plan: &Plan, life: u64, kafka: &Arc<Kafka>, services: &Arc<Services>, oracle: &Arc<Oracle>, clock: SimClock) -> Instance {
    let chance = SimChance(Arc::new(Mutex::new(StdRng::seed_from_u64(plan.seed ^ (life << 32) ^ 0xc4a9ce))));
    let witness = Arc::new(SimWitness { clock, oracle: Arc::clone(oracle) });
    let instance = format!("life-{life}");
    let settings = Settings {
        backoff_multiplier: 1.5,
        recovery_timeout_max: Duration::from_secs(10),
        jitter: 0.2,
        permits: plan.permits,
        success_threshold: plan.success_threshold,
        half_open_failure_rate: plan.half_open_failure_rate,
        half_open_timeout: plan.half_open_timeout,
        ramp: plan.ramp,
        ..Settings::new(plan.policy.clone(), Duration::from_secs(2), Duration::from_secs(3))
    };
    let named = SERVICES.iter().map(|name| ((*name).to_owned(), settings.clone()));
    let (breakers, _announcements) = Breakers::<Sim>::new(named, clock, chance.clone(), Arc::clone(&witness), instance.clone());
    let stop = Stop::new();
    let caller = Arc::new(FakeCaller(Arc::clone(services)));
    let (timeout, slow) = (Duration::from_secs(2), Some(Duration::from_millis(300)));
    let manner = Manner {
        timeout,
        slow,
        concurrency: plan.service_concurrency,
        drain_concurrency: 3,
        adaptive: plan.adaptive,
        rules: Rules::default(),
    };
    let guards: Vec<_> = (0..SERVICES.len())
        .map(|service| {
            let (breakers, caller) = (Arc::clone(&breakers), Arc::clone(&caller));
            Arc::new(Guard::new(service, manner.clone(), breakers, caller, clock, Arc::clone(&witness), stop.clone()))
        })
        .collect();
    let (initial, max) = if plan.puts_aside() { (4_000, 12_000) } else { (500, 5_000) };
    let bounds = Bounds {
        max_attempts: 12,
        max_age: Duration::from_secs(3_600),
        schedule: Schedule { initial: Duration::from_millis(initial), max: Duration::from_millis(max) },
    };
    let stage = |service: usize, fallback| Stage {
        service,
        name: SERVICES[service].to_owned(),
        method: "POST".to_owned(),
        path: "/".to_owned(),
        guard: Arc::clone(&guards[service]),
        tries: plan.tries,
        when: None,
        body: None,
        fallback,
    };
    let stand_in = || Fallback::Default { body: serde_json::Map::new() };
    let behind = Arc::new(Behind::new(Topic::from(EVENTS), plan.ordered.then(|| (PARKING, SERVICES[PARKING].to_owned())), stop.clone()));
    let park = Fallback::Park { topic: Topic::from(RETRY), bounds, ordered: plan.ordered };
    let stages = Arc::new(Stages {
        stages: vec![stage(0, stand_in()), stage(PARKING, park), stage(2, stand_in())],
        behind: Arc::clone(&behind),
        outcomes: Topic::from(OUTCOMES),
        dead_letters: Letterbox::plain(Topic::from(DEAD_LETTERS)),
        instance,
        clock,
        chance: chance.clone(),
        witness: Arc::clone(&witness),
    });

    let check: Check = {
        let (oracle, services) = (Arc::clone(oracle), Arc::clone(services));
        Arc::new(move |group, point| oracle.committing(clock.elapsed(), group, point, |id| services.delivered(id)))
    };
    let broker = |group| Broker {
        kafka: Arc::clone(kafka),
        group,
        partitions: plan.partitions,
        check: Arc::clone(&check),
        oracle: Arc::clone(oracle),
        clock,
    };
    let broker = |group| plan.exactly_once.then(|| broker(group));
    let together = plan.exactly_once.then_some(Duration::from_millis(100));
    let most = (plan.max_in_flight, plan.max_in_flight_bytes);
    let drain_most = if plan.puts_aside() { (3, most.1) } else { most };
    let budgets = vec![Budget::new(most.0, most.1), Budget::new(drain_most.0, drain_most.1)];
    let (budget, holdings) = (Arc::clone(&budgets[0]), Holdings::new(most));
    let subscribe = |group, budget: &Arc<Budget>, seed, holdings: &Arc<Holdings>| {
        let (kafka, check, holdings, oracle) = (Arc::clone(kafka), Arc::clone(&check), Arc::clone(holdings), Arc::clone(oracle));
        let (subscription, shoves) = FakeSubscription::new(kafka, group, Arc::clone(budget), seed, check, holdings, oracle);
        (subscription.through(broker(group)).of(plan.partitions), shoves)
    };
    let (subscription, live) = subscribe(LIVE, &budget, plan.seed ^ life, &holdings);
    let (publisher, acks) = FakePublisher::new(Arc::clone(kafka), plan.partitions, holdings, Arc::clone(oracle), clock);
    let hand_over_timeout = Duration::from_millis(1_500);
    let pulses = [("live", Pulse::new(clock.now())), ("drain", Pulse::new(clock.now()))];
    let board = Arc::new(Board::default());
    let operator = let_go_on(Arc::clone(&board), StdRng::seed_from_u64(plan.seed ^ life ^ 0x0bea));
    let live_parts = process::Parts {
        settings: process::Settings {
            ordering: plan.ordering,
            concurrency: plan.concurrency,
            max_event_bytes: 1 << 16,
            commit_interval: Duration::from_millis(300),
            stop_timeout: STOP_TIMEOUT,
            hand_over_timeout,
            max_ahead_bytes: plan.max_ahead_bytes,
            together,
            brake: plan.brake.clone(),
        },
        stages,
        subscription,
        publisher,
        acks,
        budget,
        stop: stop.clone(),
        pulse: Arc::clone(&pulses[0].1),
        board: Arc::clone(&board),
    };
    let (budget, holdings) = (Arc::clone(&budgets[1]), Holdings::of_drain(drain_most));
    let refetch = FakeRefetch::new(Arc::clone(kafka), Arc::clone(&holdings), Arc::clone(oracle), plan.seed ^ life);
    let (subscription, drain) = subscribe(DRAIN, &budget, plan.seed ^ life ^ 1, &holdings);
    let (publisher, acks) = FakePublisher::new(Arc::clone(kafka), plan.partitions, holdings, Arc::clone(oracle), clock);
    let drain_parts = drain::Parts {
        settings: drain::Settings {
            commit_interval: Duration::from_millis(300),
            stop_timeout: STOP_TIMEOUT,
            hand_over_timeout,
            max_ahead_bytes: plan.max_ahead_bytes,
            together,
            dead_letters: Letterbox::plain(Topic::from(DEAD_LETTERS)),
            deliveries: None,
            max_aside: fusebox::machine::shelf::MOST,
        },
        routes: vec![drain::Route {
            service: PARKING,
            name: SERVICES[PARKING].to_owned(),
            guard: Arc::clone(&guards[PARKING]),
            bounds,
            concurrency: manner.drain_concurrency,
            ordered: plan.ordered,
        }],
        subscription,
        refetch: Arc::new(refetch),
        publisher,
        acks,
        budget,
        stop: stop.clone(),
        breakers: Arc::clone(&breakers),
        clock,
        chance,
        witness,
        gauges: drain::Gauges::new(),
        pulse: Arc::clone(&pulses[1].1),
        orders: OrderBook::closed("g"),
    };
    let along = read_along(Arc::clone(kafka), behind, plan.seed ^ life);
    let loops = vec![tokio::spawn(process::run(live_parts)), tokio::spawn(drain::run(drain_parts))];
    let others = vec![
        tokio::spawn(keeper::run_timers(breakers, clock)),
        tokio::spawn(watch(pulses, clock)),
        tokio::spawn(operator),
        tokio::spawn(along),
    ];
    Instance { loops, others, stop, budgets, live, drain }
}
