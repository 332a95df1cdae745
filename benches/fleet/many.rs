//! Ten thousand services: what comparing them with Redis costs, what it costs when all of them trip at once, and whom that holds up.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fusebox::edge::clock::SystemClock;
use fusebox::edge::redis::RedisStore;
use fusebox::machine::breaker::{Automatic, Snapshot, StateName, Told, Transition, Verdict};
use fusebox::pipeline::breakers::{Breakers, Order};
use fusebox::pipeline::ports::{
    Clock as _, EvidenceStore, Heard, HistoryPage, Kept, LeaseStore, LeaseWish, Leasing, Saved, SavedTuning, Store, StoreError, Telling,
};
use fusebox::pipeline::tuning::Tuning;
use tokio::sync::mpsc;

use super::server::{Onlooker, url};
use super::world::{Bare, Cpu, Sharing, breakers, config};
use super::{median, runs};

const SERVICES: usize = 10_000;

/// Polls that are measured together.
const POLLS: u32 = 2;

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store that notes when what was stored, and may be told to have connected anew.
struct Noted {
    inner: RedisStore<SystemClock>,
    notes: Arc<Notes>,
}

#[derive(Default)]
struct Notes {
    loads: AtomicU64,
    saves: AtomicU64,
    /// Services whose last order is stored, by the reason that it carries.
    orders: Mutex<HashSet<String>>,
    connect: Mutex<Option<mpsc::Sender<Heard>>>,
}

impl Notes {
    fn connect_anew(&self) {
        let connect = self.connect.lock().expect("unpoisoned").clone().expect("watched");
        connect.try_send(Heard::Connected).expect("room");
    }

    /// How long an order takes to be stored that is given now.
    fn order(&self, breakers: &Breakers<Bare>, service: usize, reason: &str) -> Duration {
        let began = Instant::now();
        breakers.order(service, Order::Reset(Automatic::Closed), "bench", reason);
        wait("an order is stored", || self.orders.lock().expect("unpoisoned").contains(reason));
        began.elapsed()
    }
}

impl Store for Noted {
    async fn load(&self, services: &[String]) -> Vec<Result<Kept, StoreError>> {
        let loaded = self.inner.load(services).await;
        self.notes.loads.fetch_add(1, Ordering::Relaxed);
        loaded
    }
    async fn save(&self, service: &str, snapshot: &Snapshot, transition: Option<&Transition>) -> Result<Saved, StoreError> {
        let saved = self.inner.save(service, snapshot, transition).await;
        self.notes.saves.fetch_add(1, Ordering::Relaxed);
        if let Some(reason) = transition.and_then(|transition| transition.reason.clone()) {
            self.notes.orders.lock().expect("unpoisoned").insert(reason);
        }
        saved
    }
    async fn note(&self, service: &str, transition: &Transition) -> Result<(), StoreError> {
        self.inner.note(service, transition).await
    }
    async fn save_tuning(&self, service: &str, tuning: &Tuning, over: u64) -> Result<SavedTuning, StoreError> {
        self.inner.save_tuning(service, tuning, over).await
    }
    async fn history(&self, service: &str, cursor: Option<&str>, limit: usize) -> Result<HistoryPage, StoreError> {
        Store::history(&self.inner, service, cursor, limit).await
    }
    fn watch(&self) -> mpsc::Receiver<Heard> {
        let (tell, told) = mpsc::channel(256);
        *self.notes.connect.lock().expect("unpoisoned") = Some(tell.clone());
        let mut heard = self.inner.watch();
        tokio::spawn(async move {
            while let Some(news) = heard.recv().await {
                if tell.send(news).await.is_err() {
                    return;
                }
            }
        });
        told
    }
}

impl EvidenceStore for Noted {
    async fn tell(&self, tellings: &[Telling]) -> Vec<Result<Vec<Told>, StoreError>> {
        self.inner.tell(tellings).await
    }
}

impl LeaseStore for Noted {
    async fn lease(&self, service: &str, wish: LeaseWish) -> Result<Leasing, StoreError> {
        self.inner.lease(service, wish).await
    }
    async fn give_back(&self, service: &str, leases: &[u64]) -> Result<(), StoreError> {
        self.inner.give_back(service, leases).await
    }
}

/// Looks until it sees, often enough for its looking to count little among milliseconds.
fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// What was spent from here on, ours and Redis'.
struct Meter<'a> {
    onlooker: &'a mut Onlooker,
    done: super::server::Done,
    cpu: Duration,
    began: Instant,
}

/// Milliseconds of time, of this process's CPU and of Redis', and commands.
#[derive(Debug, Clone, Copy)]
struct Cost {
    took: f64,
    ours: f64,
    theirs: f64,
    commands: f64,
    with_inner: f64,
}

impl<'a> Meter<'a> {
    fn start(onlooker: &'a mut Onlooker) -> Self {
        let done = onlooker.done();
        Self { onlooker, done, cpu: Cpu::so_far().all, began: Instant::now() }
    }

    fn stop(self) -> Cost {
        let (took, ours) = (self.began.elapsed(), Cpu::so_far().all - self.cpu);
        let work = self.onlooker.done().since(&self.done);
        let millis = |span: Duration| span.as_secs_f64() * 1e3;
        Cost {
            took: millis(took),
            ours: millis(ours),
            theirs: millis(work.cpu),
            commands: work.commands as f64,
            with_inner: work.with_inner as f64,
        }
    }
}

impl Cost {
    fn each(self, of: u32) -> Self {
        let of = f64::from(of);
        Self {
            took: self.took / of,
            ours: self.ours / of,
            theirs: self.theirs / of,
            commands: self.commands / of,
            with_inner: self.with_inner / of,
        }
    }
}

fn tell(name: &str, costs: &[Cost]) {
    let of = |figure: fn(&Cost) -> f64| median(costs.iter().map(figure).collect());
    println!(
        "{name:<52} {:>8.1} ms {:>8.1} ms CPU here {:>8.1} ms CPU in Redis {:>8.0} commands, {:.0} with those of scripts",
        of(|cost| cost.took),
        of(|cost| cost.ours),
        of(|cost| cost.theirs),
        of(|cost| cost.commands),
        of(|cost| cost.with_inner)
    );
}

fn tell_waits(name: &str, waits: &[Duration]) {
    let mut waits: Vec<f64> = waits.iter().map(|wait| wait.as_secs_f64() * 1e3).collect();
    waits.sort_by(f64::total_cmp);
    println!("{name:<52} median {:.1} ms, most {:.1} ms, of {}", waits[waits.len() / 2], waits[waits.len() - 1], waits.len());
}

/// One fleet of two, from nothing stored to all open.
#[derive(Default)]
struct Figures {
    absent: Vec<Cost>,
    stored: Vec<Cost>,
    polls: Vec<Cost>,
    quiet: Vec<Cost>,
    orders: Vec<Cost>,
    burst: Vec<Cost>,
    tripping: Vec<Duration>,
    behind: Vec<Duration>,
    heard: Vec<Duration>,
    idle: Vec<Duration>,
    sweeping: Vec<Duration>,
}

impl Figures {
    fn add(&mut self) {
        let prefix = format!("bench-{:x}", super::kafka::micros_now());
        let config = config(&url(), &prefix, "fail_max = 1\nrecovery_timeout = \"10m\"\nrecovery_timeout_max = \"10m\"");
        let (mut onlooker, notes) = (Onlooker::of(&url()), Arc::new(Notes::default()));
        let (one, announced, clock) = breakers(&config, Some(SERVICES));
        let noted = |notes: &Arc<Notes>| {
            let notes = Arc::clone(notes);
            |inner| Noted { inner, notes }
        };
        let sharing = Sharing::start(&config, "one", (&one, announced, clock), noted(&notes));
        let loads = || notes.loads.load(Ordering::Relaxed);
        // The subscription's own round behind the first.
        let per_round = SERVICES.div_ceil(256) as u64;
        wait("the rounds of the start", || loads() >= 2 * per_round);

        let sweep = |onlooker: &mut Onlooker| {
            let (meter, before) = (Meter::start(onlooker), loads());
            notes.connect_anew();
            wait("a sweep", || loads() >= before + per_round);
            meter.stop()
        };
        self.absent.push(sweep(&mut onlooker));

        let meter = Meter::start(&mut onlooker);
        for number in 0..50 {
            std::thread::sleep(Duration::from_millis(3));
            notes.order(&one, number, &format!("quiet {number}"));
        }
        self.quiet.push(meter.stop().each(50));

        // Everything trips. Another instance hears of it; an order is given when the last one has.
        let (other, their_announcements, their_clock) = breakers(&config, Some(SERVICES));
        let their_notes = Arc::new(Notes::default());
        let theirs = Sharing::start(&config, "other", (&other, their_announcements, their_clock), noted(&their_notes));
        wait("the other's rounds", || their_notes.loads.load(Ordering::Relaxed) >= 2 * per_round);
        let meter = Meter::start(&mut onlooker);
        let now = clock.now();
        for service in 0..SERVICES {
            let admission = one.admit(service, now).expect("closed");
            admission.settle(Verdict::Failure { retry_after: None }, Duration::from_millis(1), now);
        }
        self.tripping.push(meter.began.elapsed());
        let began = meter.began;
        self.behind.push(notes.order(&one, 0, "behind a burst"));
        let mut heard = 1;
        wait("the other has heard", || {
            heard += (heard..SERVICES).take_while(|service| other.state(*service) == StateName::Open).count();
            heard == SERVICES
        });
        self.heard.push(began.elapsed());
        self.burst.push(meter.stop());
        drop(theirs);

        self.stored.push(sweep(&mut onlooker));
        let meter = Meter::start(&mut onlooker);
        std::thread::sleep(POLLS * config.redis.as_ref().expect("a Redis").poll_interval);
        self.polls.push(meter.stop().each(POLLS));

        let meter = Meter::start(&mut onlooker);
        for number in 0..50 {
            std::thread::sleep(Duration::from_millis(3));
            self.idle.push(notes.order(&one, number, &format!("idle {number}")));
        }
        self.orders.push(meter.stop().each(50));
        for number in 0..50 {
            notes.connect_anew();
            self.sweeping.push(notes.order(&one, number, &format!("sweeping {number}")));
        }
        drop(sharing);
        onlooker.clear(&prefix);
    }
}

pub fn measure() {
    let mut figures = Figures::default();
    for _ in 0..runs() {
        figures.add();
    }
    println!("{SERVICES} services, two instances, medians of {}", runs());
    tell("a sweep, nothing stored", &figures.absent);
    tell("a sweep, all stored", &figures.stored);
    tell("each 2 s, a poll (256 services compared)", &figures.polls);
    tell("an order every 3 ms, each; the others closed", &figures.quiet);
    tell("an order every 3 ms, each; the others open", &figures.orders);
    tell("all trip, until both know (both instances' CPU)", &figures.burst);
    tell_waits("all trip: for those who call, of all", &figures.tripping);
    tell_waits("all trip: another instance has heard of all", &figures.heard);
    tell_waits("an order until it is stored: nothing else to do", &figures.idle);
    tell_waits("an order until it is stored: while a sweep runs", &figures.sweeping);
    tell_waits("an order until it is stored: behind all that tripped", &figures.behind);
    println!();
}
