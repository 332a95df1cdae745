//! The composition root: opens the edges, restores the breakers, starts the loops, orders the shutdown.
//!
//! [`run`] takes the config, a listener and the signals, so that a test starts the whole program as `main` does.

mod backlog;
mod parked;
mod partitions;
pub mod redrive;
mod shares;
mod stalls;
mod status;
mod survey;
mod wiring;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::shares::Share;
use crate::config::{self, Config};
use crate::edge::api::{self, Access, Api, Credential, Permission};
use crate::edge::chance::ThreadChance;
use crate::edge::clock::SystemClock;
use crate::edge::http::HttpCaller;
use crate::edge::kafka::{self, ConsumerHealth, KafkaPublisher, KafkaSubscription, Producer};
use crate::edge::redis::RedisStore;
use crate::pipeline::brakes::Board;
use crate::pipeline::breakers::Breakers;
use crate::pipeline::keeper::{Keeper, StoreHealth, run_timers};
use crate::pipeline::orders::OrderBook;
use crate::pipeline::ports::{Budget, Clock as _, World};
use crate::pipeline::pulse::Pulse;
use crate::pipeline::stop::{Ended, Stop};
use crate::pipeline::{drain, evidence, health, leases, orders, process};
use crate::telemetry::calls::Recorder;
use crate::telemetry::facts::Teller;
use crate::telemetry::metrics::{Metrics, Series};
use crate::telemetry::pipe::DroppedLines;

/// The ports of the real program.
pub struct Real;

impl World for Real {
    type Clock = SystemClock;
    type Chance = ThreadChance;
    type Caller = HttpCaller<SystemClock>;
    type Publisher = KafkaPublisher;
    type Witness = Teller<SystemClock>;
}

/// Which loops an instance runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Processes events
    Processor,
    /// Drains parked calls
    Retry,
    /// Both
    All,
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Retry => "retry",
            Self::All => "all",
        }
    }
}

/// How an instance is told to stop.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// Stop cleanly.
    pub stop: CancellationToken,
    /// Stop now.
    pub abort: CancellationToken,
}

/// What an instance is started with, beside its config.
pub struct Setting {
    /// Which loops it runs.
    pub role: Role,
    /// Unique to the process.
    pub instance: String,
    /// Where the API listens.
    pub listener: TcpListener,
    /// How it is told to stop.
    pub signals: Signals,
    /// The count of log lines that nobody could take.
    pub dropped: DroppedLines,
    /// Where judged calls are recorded, if they are.
    pub recorder: Option<Recorder>,
    /// Routes beside the API's.
    pub extra: api::Extra,
    /// Whether its Kafka can be asked how topics are set up; the embedded one cannot.
    pub inspects_topics: bool,
    /// Told once it runs.
    pub started: Option<tokio::sync::oneshot::Sender<Started>>,
}

/// What a running instance lets others of its process see.
pub struct Started {
    /// What happens, as it happens.
    pub teller: Arc<Teller<SystemClock>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The breakers.
    pub breakers: Arc<Breakers<Real>>,
    /// The queues of parked calls.
    pub gauges: Arc<drain::Gauges>,
    /// The time all of them go by.
    pub clock: SystemClock,
}

/// A name for a process that no other has.
pub fn instance_name() -> String {
    let id = uuid::Uuid::now_v7().simple().to_string();
    format!("fusebox-{}", &id[..18])
}

/// What is wrong with a config that only its users can tell: properties that librdkafka does not take, URLs that the Redis client does not,
/// certificates that cannot be read. Nothing is connected to. Empty if all of it can be used.
pub fn unusable(config: &Config) -> Vec<String> {
    let mut faults = Vec::new();
    if let Err(error) = Producer::connect(&config.kafka) {
        faults.push(error.to_string());
    } else if config.processing.guarantee != config::Guarantee::AtLeastOnce
        && let Err(error) = KafkaSubscription::check_transactions(&config.kafka)
    {
        faults.push(error.to_string());
    }
    if let Some(Err(error)) = config.redis.as_ref().map(crate::edge::redis::check) {
        faults.push(error.to_string());
    }
    if let Err(error) = HttpCaller::new(&config.services, SystemClock::new()) {
        faults.push(error.to_string());
    }
    faults
}

/// How long to wait for Kafka to take what was published, for Redis to take the last transitions, and for the API's last answers.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs an instance until it is told to stop.
///
/// # Errors
/// What cannot be set up: a certificate that cannot be read, a property that librdkafka does not take. That a server is away is no error.
pub async fn run(config: Arc<Config>, setting: Setting) -> anyhow::Result<Ended> {
    let Setting { role, instance, listener, signals, dropped, recorder, extra, inspects_topics, started } = setting;
    let (clock, chance) = (SystemClock::new(), ThreadChance);
    let metrics = Arc::new(Metrics::new(&Series::of(&config), dropped, recorder.as_ref().map(Recorder::dropped)));
    let teller = Arc::new(Teller::new(Arc::clone(&metrics), clock).recording(recorder));
    let caller = Arc::new(HttpCaller::new(&config.services, clock)?);
    let stop = Stop::new();

    let store = match &config.redis {
        Some(settings) => Some(Arc::new(RedisStore::open(settings, instance.clone(), clock)?)),
        None => None,
    };
    let background = TaskTracker::new();
    // A task that panics ends in silence: whatever works for as long as the process does is watched.
    let mut tasks = Vec::new();
    let ending = CancellationToken::new();
    let (breakers, announcements) = wiring::breakers(&config, clock, chance, &teller, &instance);
    let store_health = match &store {
        None => {
            // Nobody shares them: unread, they would pile up.
            drop(announcements);
            Arc::new(StoreHealth::default())
        }
        Some(store) => {
            breakers.join_fleet();
            let poll = config.redis.as_ref().map_or(Duration::from_secs(2), |redis| redis.poll_interval);
            let (mut keeper, health) =
                Keeper::new(Arc::clone(&breakers), announcements, Arc::clone(store), poll, clock, Arc::clone(&teller));
            // Before the first call: a breaker that was open when the last life ended must not let one through.
            keeper.restore().await;
            tasks.push(("what shares the breakers", background.spawn(keeper.run(ending.clone().cancelled_owned())).abort_handle()));
            let leasing =
                leases::run(Arc::clone(&breakers), Arc::clone(store), Arc::clone(&health), clock, chance, ending.clone().cancelled_owned());
            tasks.push(("what shares the breakers' probes", background.spawn(leasing).abort_handle()));
            let telling =
                evidence::run(Arc::clone(&breakers), Arc::clone(store), Arc::clone(&health), clock, poll, ending.clone().cancelled_owned());
            tasks.push(("what tells the fleet of failures", background.spawn(telling).abort_handle()));
            health
        }
    };
    let timers = background.spawn(until(ending.clone(), run_timers(Arc::clone(&breakers), clock)));
    tasks.push(("what runs the breakers' timers", timers.abort_handle()));

    let asked = wiring::health(&config);
    if !asked.is_empty() {
        let asking = health::run(asked, Arc::clone(&breakers), Arc::clone(&caller), clock, Arc::clone(&teller));
        tasks.push(("what asks services for their health", background.spawn(until(ending.clone(), asking)).abort_handle()));
    }

    let guards = wiring::guards(&config, &breakers, &caller, clock, &teller, &stop);
    let producer = Producer::connect(&config.kafka).context("kafka")?;
    let worker = worker::Worker::start().context("no thread for the loops")?;
    let mut loops: Vec<Loop> = Vec::new();
    let board = Arc::new(Board::default());
    if role != Role::Retry {
        let share = Share::of_events(&config.processing, role);
        let budget = share.budget();
        let subscription = wiring::events(&config, &instance, Arc::clone(&budget), share.ahead(), &metrics, clock)?;
        let (health, pulse) = (subscription.health(), Pulse::new(clock.now()));
        let (publisher, acks) = producer.handle();
        let parts = process::Parts {
            settings: wiring::process_settings(&config),
            stages: wiring::stages(&config, &guards, &stop, &instance, clock, chance, &teller)?,
            subscription,
            publisher,
            acks,
            budget: Arc::clone(&budget),
            stop: stop.clone(),
            pulse: Arc::clone(&pulse),
            board: Arc::clone(&board),
        };
        loops.push(Loop { name: "events", health, budget, pulse, task: worker.spawn(process::run(parts)) });
    }
    let (gauges, book) = (drain::Gauges::new(), Arc::new(OrderBook::of(&config.kafka.group)));
    let order_log = Arc::new(kafka::orders::write(config.topics.orders.clone(), &producer, clock));
    let _reading = kafka::orders::read(&config.kafka, config.topics.orders.clone(), Arc::clone(&book)).context("kafka")?;
    let longest = config.parking().map(|(_, retry)| retry.max_age).max();
    let telling = orders::run(Arc::clone(&book), Arc::clone(&order_log), (config.kafka.group.clone(), instance.clone()), longest, clock);
    tasks.push(("what tells of orders", background.spawn(until(ending.clone(), telling)).abort_handle()));
    let routes = if role == Role::Processor { Vec::new() } else { wiring::routes(&config, &guards) };
    let services = routes.len();
    for route in routes {
        // A consumer and a budget for each service: the backlog of one that is down must not hold up another's.
        let share = Share::of_drain(&config.processing, role, services);
        let budget = share.budget();
        let subscription = wiring::retries(&config, &route.name, &instance, Arc::clone(&budget), share.ahead(), &metrics, clock)?;
        let (health, pulse) = (subscription.health(), Pulse::new(clock.now()));
        let (publisher, acks) = producer.handle();
        let parts = drain::Parts {
            settings: wiring::drain_settings(&config),
            routes: vec![route],
            subscription,
            refetch: Arc::new(parked::again(&config, clock)),
            publisher,
            acks,
            budget: Arc::clone(&budget),
            stop: stop.clone(),
            breakers: Arc::clone(&breakers),
            clock,
            chance,
            witness: Arc::clone(&teller),
            gauges: Arc::clone(&gauges),
            pulse: Arc::clone(&pulse),
            orders: Arc::clone(&book),
        };
        loops.push(Loop { name: "retries", health, budget, pulse, task: worker.spawn(drain::run(parts)) });
    }

    let stalls = stalls::Stalls::new(loops.iter().map(|running| (running.name, Arc::clone(&running.health))));
    let backlog = backlog::Backlog::connect(
        &config,
        Arc::clone(&breakers),
        (Arc::clone(&gauges), Arc::clone(&book)),
        Arc::clone(&metrics),
        clock,
        Arc::clone(&stalls),
        inspects_topics,
    )?;
    let asking = background.spawn(until(ending.clone(), Arc::clone(&backlog).run()));
    tasks.push(("what asks Kafka for the backlog", asking.abort_handle()));
    let ticking = background.spawn(until(ending.clone(), tick(Arc::clone(&teller), Arc::clone(&stalls), producer.clone(), clock)));
    tasks.push(("what looks every second", ticking.abort_handle()));

    let watch = Arc::new(status::Watch {
        instance: instance.clone(),
        loops: loops.iter().map(status::Watched::of).collect(),
        guards,
        board: Arc::clone(&board),
        store: Arc::clone(&store_health),
        backlog: Arc::clone(&backlog),
        stalls,
        tasks,
        ending: ending.clone(),
        producer: producer.clone(),
        stop: stop.clone(),
        clock,
    });
    let redrives = Arc::new(api::dead_letters::Redrives::default());
    let api = Arc::new(Api::<Real, RedisStore<SystemClock>> {
        breakers: Arc::clone(&breakers),
        store,
        store_health,
        clock,
        instance: instance.clone(),
        access: access(&config.http),
        alive: {
            let watch = Arc::clone(&watch);
            Box::new(move || watch.alive())
        },
        ready: {
            let watch = Arc::clone(&watch);
            Box::new(move || watch.ready())
        },
        metrics: {
            let (watch, metrics) = (Arc::clone(&watch), Arc::clone(&metrics));
            Box::new(move || {
                watch.show(&metrics);
                metrics.render()
            })
        },
        orders: wiring::ordering(&config, &book, &order_log),
        letters: redrive::letters(&config, Arc::clone(&redrives), clock),
        parked: parked::reading(&config, clock),
        partitions: partitions::desk(&config, &board, &watch, &backlog),
        retry: {
            let backlog = Arc::clone(&backlog);
            Box::new(move || {
                let backlog = Arc::clone(&backlog);
                Box::pin(async move { backlog.status().await })
            })
        },
    });
    let serving = background.spawn(api::serve(listener, api::router(api).merge(extra), ending.clone().cancelled_owned()));
    background.close();
    tracing::info!(target: "fusebox", id = instance, role = role.as_str(), version = env!("CARGO_PKG_VERSION"), services = config.services.len(), "started");
    if let Some(started) = started {
        drop(started.send(Started { teller: Arc::clone(&teller), metrics, breakers: Arc::clone(&breakers), gauges, clock }));
    }

    let ended = supervise(loops, &signals, &stop, fatal(producer.clone())).await;
    // Each ends after the batch in hand; one that does not is undone, and nothing of it is remembered.
    redrives.stop();
    drop(worker);
    if let Err(records) = producer.close(LAST_WORDS).await {
        tracing::warn!(target: "fusebox", records, "Kafka has not acknowledged everything in time; what belongs to it is redelivered");
    }
    ending.cancel();
    // The keeper gets a moment for what it is just saving; a request that hangs does not hold up the end.
    drop(tokio::time::timeout(LAST_WORDS, background.wait()).await);
    serving.abort();
    match ended {
        Ended::Clean => tracing::info!(target: "fusebox", "stopped"),
        Ended::Unfinished(records) => {
            tracing::warn!(target: "fusebox", records, "stopped with unfinished records; they will be redelivered");
        }
        Ended::Uncommitted => {
            tracing::warn!(target: "fusebox", "stopped, but Kafka has not taken the last commit; some events will run again");
        }
        Ended::ConsumerGone => tracing::error!(target: "fusebox", "stopped because a consumer or its loop has ended"),
    }
    Ok(ended)
}

/// A loop and what is seen of it from outside.
struct Loop {
    name: &'static str,
    health: Arc<ConsumerHealth>,
    budget: Arc<Budget>,
    pulse: Arc<Pulse>,
    task: JoinHandle<Ended>,
}

/// Waits for a stop, or for a loop that ends without one; then for all of them.
async fn supervise(loops: Vec<Loop>, signals: &Signals, stop: &Stop, fatal: impl Future<Output = String>) -> Ended {
    let mut fatal = std::pin::pin!(fatal);
    let held: Vec<_> = loops.iter().map(|running| Arc::clone(&running.budget)).collect();
    let mut tasks: Vec<_> = loops.into_iter().map(|running| running.task).collect();
    let mut worst = Ended::Clean;
    let mut stopping = false;
    while !tasks.is_empty() {
        tokio::select! {
            biased;
            () = signals.abort.cancelled() => return Ended::Unfinished(held.iter().map(|budget| budget.held().0).sum()),
            () = signals.stop.cancelled(), if !stopping => {
                tracing::info!(target: "fusebox", "told to stop: taking nothing new, finishing what is in flight");
                stopping = true;
                stop.request();
            }
            error = &mut fatal, if worst != Ended::ConsumerGone => {
                tracing::error!(target: "fusebox", error, "nothing can be published any more: ending, so that a new process can");
                (worst, stopping) = (Ended::ConsumerGone, true);
                stop.request();
            }
            (ended, index, _) = futures_util::future::select_all(tasks.iter_mut()) => {
                drop(tasks.swap_remove(index));
                // A loop that panicked is gone as one whose consumer ended: the process must not live on without it.
                let ended = ended.unwrap_or(Ended::ConsumerGone);
                worst = worse(worst, ended);
                stopping = true;
                stop.request();
            }
        }
    }
    worst
}

/// Waits until the producer can publish nothing any more.
async fn fatal(producer: Producer) -> String {
    loop {
        if let Some(error) = producer.fatal() {
            return error;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn worse(one: Ended, other: Ended) -> Ended {
    match (one, other) {
        (Ended::ConsumerGone, _) | (_, Ended::ConsumerGone) => Ended::ConsumerGone,
        (Ended::Unfinished(a), Ended::Unfinished(b)) => Ended::Unfinished(a + b),
        (Ended::Unfinished(a), Ended::Clean) | (Ended::Clean, Ended::Unfinished(a)) => Ended::Unfinished(a),
        (Ended::Uncommitted, _) | (_, Ended::Uncommitted) => Ended::Uncommitted,
        (Ended::Clean, Ended::Clean) => Ended::Clean,
    }
}

async fn until(end: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = end.cancelled() => {}
        () = work => {}
    }
}

/// Lets the log say what floods have left out of it, and looks whether the producer still tells what becomes of records.
async fn tick(teller: Arc<Teller<SystemClock>>, stalls: Arc<stalls::Stalls>, producer: Producer, clock: SystemClock) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        teller.tick();
        stalls.look_at(&producer, clock.now());
    }
}

fn access(http: &config::Http) -> Access {
    let credential = |token: &config::Token| Credential {
        name: token.name.clone(),
        permission: match token.role {
            config::Role::Viewer => Permission::View,
            config::Role::Operator => Permission::Operate,
            config::Role::Admin => Permission::Administer,
        },
        sha256: token.sha256,
    };
    Access { anonymous_reads: http.anonymous == config::Anonymous::Viewer, credentials: http.tokens.iter().map(credential).collect() }
}
