//! Breakers as the program has them, shared as the program shares them, in a runtime of their own.

use std::sync::Arc;
use std::time::Duration;

use fusebox::config::{self, Config, Sources};
use fusebox::edge::chance::ThreadChance;
use fusebox::edge::clock::SystemClock;
use fusebox::edge::redis::RedisStore;
use fusebox::event::Record;
use fusebox::pipeline::breakers::{Announcement, Breakers, Subject};
use fusebox::pipeline::facts::Fact;
use fusebox::pipeline::keeper::{Keeper, StoreHealth, StoreState, run_timers};
use fusebox::pipeline::ports::{
    Call, CallError, Caller, EvidenceStore, LeaseStore, Publisher, QueueFull, Reply, Store, Token, Witness, World,
};
use fusebox::pipeline::{evidence, leases};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// A world in which nobody calls, publishes or takes notes.
pub struct Bare;

impl World for Bare {
    type Clock = SystemClock;
    type Chance = ThreadChance;
    type Caller = Nothing;
    type Publisher = Nothing;
    type Witness = Nothing;
}

/// What does nothing.
pub struct Nothing;

impl Caller for Nothing {
    async fn call(&self, _: Call<'_>) -> Result<Reply, CallError> {
        Err(CallError::Connect)
    }
}

impl Publisher for Nothing {
    fn publish(&self, _: &Record, _: Token) -> Result<(), QueueFull> {
        Err(QueueFull)
    }
}

impl Witness for Nothing {
    fn tell(&self, _: Fact<'_>) {}
}

/// The shipped config with this Redis, this breaker for each service, and these names in place of its services', if there are any.
pub fn config(redis: &str, prefix: &str, breaker: &str) -> Config {
    let more = std::env::var("BENCH_BREAKER").unwrap_or_default();
    let mut toml = format!("[kafka]\nbrokers = \"127.0.0.1:9\"\n[redis]\nurl = \"{redis}\"\nprefix = \"{prefix}\"\n");
    for service in ["rag", "rulegen", "notifier", "vms"] {
        toml += &format!("[services.{service}]\nurl = \"http://127.0.0.1:9\"\n[services.{service}.breaker]\n{breaker}\n{more}\n");
    }
    let file = std::env::temp_dir().join(format!("{prefix}.toml"));
    std::fs::write(&file, toml).expect("written");
    let loaded = config::load(Sources { files: vec![file.clone()], env: std::iter::empty(), overrides: Vec::new() });
    drop(std::fs::remove_file(file));
    loaded.expect("a config").config
}

pub type Announced = mpsc::UnboundedReceiver<Announcement>;

/// The breakers of a config's services, or of so many that are all like its first.
pub fn breakers(config: &Config, many: Option<usize>) -> (Arc<Breakers<Bare>>, Announced, SystemClock) {
    let subjects: Vec<Subject> = match many {
        None => config.services.iter().map(|service| (service.name.clone(), service.breaker.clone()).into()).collect(),
        Some(many) => {
            let breaker = &config.services[0].breaker;
            (0..many).map(|number| (format!("service-{number}"), breaker.clone()).into()).collect()
        }
    };
    let clock = SystemClock::new();
    let (breakers, announced) = Breakers::new(subjects, clock, ThreadChance, Arc::new(Nothing), "bench".to_owned());
    (breakers, announced, clock)
}

/// Everything that shares breakers, at work. Dropped, it ends.
pub struct Sharing {
    _runtime: Runtime,
    health: Arc<StoreHealth>,
}

/// A runtime of one thread that is not the caller's.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name(SHARING).enable_all().build().expect("a runtime")
}

impl Sharing {
    /// As the program does it: what is stored first, then everything else.
    pub fn start<S: Store + LeaseStore + EvidenceStore>(
        config: &Config,
        instance: &str,
        (breakers, announced, clock): (&Arc<Breakers<Bare>>, Announced, SystemClock),
        wrap: impl FnOnce(RedisStore<SystemClock>) -> S,
    ) -> Self {
        let redis = config.redis.as_ref().expect("a Redis");
        let runtime = runtime();
        let store = {
            let _entered = runtime.enter();
            Arc::new(wrap(RedisStore::open(redis, instance.to_owned(), clock).expect("a config that can work")))
        };
        let witness = Arc::new(Nothing);
        let (mut keeper, health) = Keeper::new(Arc::clone(breakers), announced, Arc::clone(&store), redis.poll_interval, clock, witness);
        breakers.join_fleet();
        runtime.block_on(keeper.restore());
        runtime.spawn(keeper.run(std::future::pending()));
        runtime.spawn(evidence::run(
            Arc::clone(breakers),
            Arc::clone(&store),
            Arc::clone(&health),
            clock,
            redis.poll_interval,
            std::future::pending(),
        ));
        runtime.spawn(leases::run(Arc::clone(breakers), store, Arc::clone(&health), clock, ThreadChance, std::future::pending()));
        runtime.spawn(run_timers(Arc::clone(breakers), clock));
        Self { _runtime: runtime, health }
    }

    /// Whether the store answered when it was last asked.
    pub fn is_up(&self) -> bool {
        self.health.state() == StoreState::Up
    }
}

/// The name of the threads in which sharing runs.
const SHARING: &str = "sharing";

/// CPU time of this process's threads that run now, so far.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    /// Of all of them.
    pub all: Duration,
    /// Of those in which sharing runs.
    pub sharing: Duration,
}

impl Cpu {
    pub fn so_far() -> Self {
        let (mut all, mut sharing) = (Duration::ZERO, Duration::ZERO);
        for task in std::fs::read_dir("/proc/self/task").expect("Linux").flatten() {
            let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let spent = read("schedstat")
                .split_whitespace()
                .next()
                .and_then(|nanos| nanos.parse().ok())
                .map_or(Duration::ZERO, Duration::from_nanos);
            all += spent;
            if read("comm").trim() == SHARING {
                sharing += spent;
            }
        }
        Self { all, sharing }
    }
}
