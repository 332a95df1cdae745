//! The program's own keeper, lease taker and breakers, several of each, over the scripts' twin: seeded worlds in which the store is slow, loses
//! answers, goes away and is emptied, messages are late or lost, and instances die. What the models say of steps written by hand is asked here of
//! what runs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fusebox::event::UnixMillis;
use fusebox::machine::breaker::{
    Automatic, Lock, LockKind, PolicySettings, Scope, Settings, Snapshot, StateName, Told, Transition, Verdict,
};
use fusebox::machine::time::Tick;
use fusebox::pipeline::breakers::{Breakers, Order};
use fusebox::pipeline::facts::Fact;
use fusebox::pipeline::keeper::{Keeper, run_timers};
use fusebox::pipeline::ports::{
    Call, CallError, Caller, Clock, EvidenceStore, Heard, HistoryPage, Kept, LeaseStore, LeaseWish, Leasing, Publisher, QueueFull, Reply,
    Saved, SavedTuning, Store, StoreError, Telling, Token, Witness, World,
};
use fusebox::pipeline::tuning::{Chosen, Tuning, Wish, tune};
use fusebox::pipeline::{evidence, leases};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::store::{Answer, Ask, Change, Keys, Save, Without};
use super::wire::{snapshot_of, state_of, tell_of, told_of};

const SEEDS: u64 = 200;
const INSTANCES: usize = 3;
const TIMEOUT: Duration = Duration::from_millis(200);
/// How long a store that is away keeps who asks it waiting.
const SILENCE: Duration = Duration::from_millis(100);

struct Fleet;

impl World for Fleet {
    type Clock = Own;
    type Chance = Rolls;
    type Caller = Nobody;
    type Publisher = Nobody;
    type Witness = Nobody;
}

struct Nobody;

impl Caller for Nobody {
    async fn call(&self, _: Call<'_>) -> Result<Reply, CallError> {
        Err(CallError::Connect)
    }
}

impl Publisher for Nobody {
    fn publish(&self, _: &fusebox::event::Record, _: Token) -> Result<(), QueueFull> {
        Err(QueueFull)
    }
}

impl Witness for Nobody {
    fn tell(&self, _: Fact<'_>) {}
}

/// A host's clock, with an origin of its own.
#[derive(Debug, Clone, Copy)]
struct Own {
    origin: Instant,
    ahead: u64,
}

impl Clock for Own {
    fn now(&self) -> Tick {
        Tick(self.ahead).plus(self.origin.elapsed())
    }
    fn wall(&self) -> UnixMillis {
        UnixMillis(1_000_000).plus(self.origin.elapsed())
    }
    fn instant(&self, at: Tick) -> Option<Instant> {
        (at != Tick::NEVER).then(|| self.origin + at.since(Tick(self.ahead)))
    }
}

#[derive(Clone)]
struct Rolls(Arc<Mutex<Chance>>);

impl Rolls {
    fn with<R>(&self, roll: impl FnOnce(&mut Chance) -> R) -> R {
        roll(&mut self.0.lock().expect("whole"))
    }

    fn span(&self, most_ms: u64) -> Duration {
        Duration::from_millis(self.with(|chance| chance.below(most_ms)))
    }
}

impl fusebox::pipeline::ports::Chance for Rolls {
    fn roll(&self) -> f64 {
        f64::from(u32::try_from(self.with(|chance| chance.below(1 << 20))).expect("20 bits")) / f64::from(1_u32 << 20)
    }
}

#[derive(Default)]
struct Redis {
    keys: Keys,
    away: bool,
    /// One answer in so many is lost.
    loses: Option<u64>,
    listeners: Vec<(String, Own, mpsc::Sender<Heard>)>,
    /// The probes at the service: each with the time at which it is over at the latest.
    probes: Vec<(u64, Instant)>,
    most: usize,
    sent: u64,
    works: bool,
    without: Without,
}

/// One instance's way to the store.
struct Link {
    name: String,
    clock: Own,
    redis: Arc<Mutex<Redis>>,
    rolls: Rolls,
}

impl Link {
    async fn run<R>(&self, script: impl FnOnce(&mut Redis, i64) -> R) -> Result<R, StoreError> {
        let slow = self.rolls.with(|chance| chance.one_in(50));
        sleep(self.rolls.span(if slow { 150 } else { 10 })).await;
        if self.redis.lock().expect("whole").away {
            sleep(SILENCE).await;
            return Err(StoreError("away".to_owned()));
        }
        let (answer, lost) = {
            let mut redis = self.redis.lock().expect("whole");
            let now = 1_000_000 + i64::try_from(self.clock.origin.elapsed().as_millis()).expect("short");
            redis.keys.expire(now);
            let lost = redis.loses.is_some_and(|times| self.rolls.with(|chance| chance.one_in(times)));
            (script(&mut redis, now), lost)
        };
        sleep(self.rolls.span(if slow { 150 } else { 10 })).await;
        if lost { Err(StoreError("lost".to_owned())) } else { Ok(answer) }
    }

    /// Tells the others: late, or never.
    fn tell(&self, redis: &Redis, news: impl Fn(&Own) -> Heard + Send + Sync + 'static) {
        let news = Arc::new(news);
        for (name, clock, listener) in &redis.listeners {
            if *name == self.name || self.rolls.with(|chance| chance.one_in(10)) {
                continue;
            }
            let (delay, news, clock, listener) = (self.rolls.span(80), Arc::clone(&news), *clock, listener.clone());
            tokio::spawn(async move {
                sleep(delay).await;
                let _ = listener.send(news(&clock)).await;
            });
        }
    }
}

fn tuning_of(change: &Change, now: UnixMillis) -> Tuning {
    let read = |text: &str| {
        let (fail_max, open_ms) = text.split_once(' ')?;
        let (fail_max, open_ms) = (fail_max.parse::<u32>().ok()?.try_into().ok()?, open_ms.parse().ok()?);
        let policy = PolicySettings::Consecutive { fail_max };
        Some(Settings { policy, recovery_timeout: Duration::from_millis(open_ms), ..settings(1) })
    };
    let chosen = read(&change.settings).map_or(Chosen::Configured, |settings| Chosen::Given(Arc::new(settings)));
    let Change { revision, actor, reason, instance, age, .. } = change.clone();
    Tuning { revision, chosen, actor, reason, at: UnixMillis(now.0 - age), instance }
}

fn change_of(tuning: &Tuning, now: UnixMillis) -> Change {
    let settings = match &tuning.chosen {
        Chosen::Given(settings) => match settings.policy {
            PolicySettings::Consecutive { fail_max } => format!("{fail_max} {}", settings.recovery_timeout.as_millis()),
            _ => unreachable!("none else is given"),
        },
        Chosen::Configured | Chosen::Unreadable(_) => String::new(),
    };
    let Tuning { revision, actor, reason, instance, at, .. } = tuning.clone();
    Change { revision, settings, actor, reason, instance, age: now.0 - at.0 }
}

impl Store for Link {
    async fn load(&self, _: &[String]) -> Vec<Result<Kept, StoreError>> {
        let found = self.run(|redis, now| (redis.keys.state(now).expect("sound"), redis.keys.change(now))).await;
        vec![found.map(|(state, change)| {
            let state = state.map(|state| snapshot_of(&state, self.clock.now()));
            Kept { state, tuning: change.map(|change| tuning_of(&change, self.clock.wall())) }
        })]
    }

    async fn save(&self, _: &str, snapshot: &Snapshot, _: Option<&Transition>) -> Result<Saved, StoreError> {
        let state = state_of(snapshot, self.clock.now());
        let found = self
            .run(|redis, now| {
                let save = Save { state: state.clone(), instance: self.name.clone(), transition: None };
                let found = redis.keys.save(now, &save, redis.without);
                if found.is_none() {
                    self.tell(redis, move |clock| Heard::Changed { service: "rag".into(), snapshot: snapshot_of(&state, clock.now()) });
                }
                found
            })
            .await?;
        Ok(found.map_or(Saved::Stored, |found| Saved::Superseded(snapshot_of(&found, self.clock.now()))))
    }

    async fn note(&self, _: &str, _: &Transition) -> Result<(), StoreError> {
        self.run(|_, _| ()).await
    }

    async fn save_tuning(&self, _: &str, tuning: &Tuning, over: u64) -> Result<SavedTuning, StoreError> {
        let change = change_of(tuning, self.clock.wall());
        let found = self
            .run(|redis, now| {
                let found = redis.keys.save_change(now, &change, over, redis.without);
                if found.is_none() {
                    self.tell(redis, move |clock| Heard::Tuned { service: "rag".into(), tuning: tuning_of(&change, clock.wall()) });
                }
                found
            })
            .await?;
        let read = |change: Change| tuning_of(&change, self.clock.wall());
        Ok(found.map_or(SavedTuning::Stored, |found| SavedTuning::Superseded(found.map(read))))
    }

    async fn history(&self, _: &str, _: Option<&str>, _: usize) -> Result<HistoryPage, StoreError> {
        Ok(HistoryPage::default())
    }

    fn watch(&self) -> mpsc::Receiver<Heard> {
        let (listener, heard) = mpsc::channel(256);
        self.redis.lock().expect("whole").listeners.push((self.name.clone(), self.clock, listener));
        heard
    }
}

impl LeaseStore for Link {
    async fn lease(&self, _: &str, wish: LeaseWish) -> Result<Leasing, StoreError> {
        let ask = Ask {
            generation: wish.generation.0,
            permits: wish.permits,
            lease: wish.lease,
            duration: i64::try_from(wish.duration.as_millis()).expect("short"),
            instance: self.name.clone(),
            urgent: wish.urgent,
        };
        Ok(match self.run(|redis, now| redis.keys.lease(now, &ask, redis.without)).await? {
            Answer::Granted => Leasing::Granted,
            Answer::Stale => Leasing::Stale,
            Answer::Full { free_in } => {
                Leasing::Full { free_in: free_in.and_then(|span| u64::try_from(span).ok()).map(Duration::from_millis) }
            }
        })
    }

    async fn give_back(&self, _: &str, leases: &[u64]) -> Result<(), StoreError> {
        self.run(|redis, now| redis.keys.give_back(now, &self.name, leases)).await.map(|_| ())
    }
}

impl EvidenceStore for Link {
    async fn tell(&self, tellings: &[Telling]) -> Vec<Result<Vec<Told>, StoreError>> {
        let tell = |Telling { testimony, lasts, .. }: &Telling| (tell_of(testimony, *lasts, &self.name), testimony.generation);
        let tells: Vec<_> = tellings.iter().map(tell).collect();
        let told = self.run(|redis, now| tells.iter().map(|(tell, of)| told_of(redis.keys.tell(now, tell, redis.without), *of)).collect());
        match told.await {
            Ok(told) => Vec::into_iter(told).map(Ok).collect(),
            Err(error) => tellings.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

struct Instance {
    breakers: Arc<Breakers<Fleet>>,
    link: Arc<Link>,
    tasks: JoinSet<()>,
}

/// Of three worlds, one asks for a quorum, and one adds up what all see.
fn of_fleet(seed: u64, permits: u32) -> Settings {
    let settings = settings(permits);
    match seed % 3 {
        0 => Settings { quorum: 2, ..settings },
        1 => Settings { evidence: Scope::Fleet, ..settings },
        _ => settings,
    }
}

fn settings(permits: u32) -> Settings {
    let policy = PolicySettings::Consecutive { fail_max: 2.try_into().expect("not zero") };
    let settings = Settings::new(policy, Duration::from_millis(500), TIMEOUT + Duration::from_secs(1));
    Settings { permits, success_threshold: permits, ..settings }
}

impl Instance {
    async fn start(name: String, clock: Own, redis: &Arc<Mutex<Redis>>, rolls: &Rolls, settings: Settings) -> Self {
        let witness = Arc::new(Nobody);
        let subjects = [("rag".to_owned(), settings)];
        let (breakers, announcements) = Breakers::<Fleet>::new(subjects, clock, rolls.clone(), Arc::clone(&witness), name.clone());
        breakers.join_fleet();
        let link = Arc::new(Link { name, clock, redis: Arc::clone(redis), rolls: rolls.clone() });
        let poll = Duration::from_millis(500);
        let (mut keeper, health) = Keeper::new(Arc::clone(&breakers), announcements, Arc::clone(&link), poll, clock, witness);
        keeper.restore().await;
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper.run(std::future::pending()));
        let (probes, seen) = (Arc::clone(&breakers), Arc::clone(&breakers));
        tasks.spawn(leases::run(probes, Arc::clone(&link), Arc::clone(&health), clock, rolls.clone(), std::future::pending()));
        tasks.spawn(evidence::run(seen, Arc::clone(&link), health, clock, poll, std::future::pending()));
        tasks.spawn(run_timers(Arc::clone(&breakers), clock));
        tasks.spawn(traffic(Arc::clone(&breakers), Arc::clone(&link)));
        Self { breakers, link, tasks }
    }

    async fn crash(&mut self) {
        self.tasks.shutdown().await;
        self.link.redis.lock().expect("whole").listeners.retain(|(name, ..)| *name != self.link.name);
    }
}

/// Calls, one at a time and then another.
async fn traffic(breakers: Arc<Breakers<Fleet>>, link: Arc<Link>) {
    let mut calls = JoinSet::new();
    loop {
        sleep(Duration::from_millis(5) + link.rolls.span(60)).await;
        let (breakers, link) = (Arc::clone(&breakers), Arc::clone(&link));
        calls.spawn(async move {
            let Ok(admission) = breakers.admit(0, link.clock.now()) else { return };
            let (number, works) = {
                let mut redis = link.redis.lock().expect("whole");
                redis.sent += 1;
                let number = redis.sent;
                // What is open alone has probes of its own.
                if admission.is_probe() && !breakers.view(0).alone {
                    let now = Instant::now();
                    redis.probes.retain(|(_, over)| *over > now);
                    redis.probes.push((number, now + TIMEOUT));
                    redis.most = redis.most.max(redis.probes.len());
                }
                (number, redis.works)
            };
            let took = link.rolls.span(200);
            sleep(took).await;
            link.redis.lock().expect("whole").probes.retain(|(known, _)| *known != number);
            let verdict = if works { Verdict::Success } else { Verdict::Failure { retry_after: None } };
            admission.settle(verdict, took, link.clock.now());
        });
        while calls.try_join_next().is_some() {}
    }
}

/// Something happens to an instance that others hear of, or do not.
async fn order(instance: &Instance, chance: u64) {
    let lock = |kind, expires_at| Order::Lock(Lock { kind, actor: "ann".to_owned(), reason: String::new(), expires_at });
    let soon = instance.link.clock.now().plus(Duration::from_millis(700));
    let order = match chance % 5 {
        0 => lock(LockKind::ForcedOpen, Some(soon)),
        1 => lock(LockKind::ForcedClosed, None),
        2 => Order::Reset(Automatic::HalfOpen),
        3 => Order::Release,
        _ => {
            let wish = Wish { actor: "ann", reason: "", over: None };
            let fail_max = (1 + u32::try_from(chance % 7).expect("small")).try_into().expect("not zero");
            let policy = PolicySettings::Consecutive { fail_max };
            // An open time that ends well after the one before it is told of.
            let recovery_timeout = Duration::from_millis(if chance.is_multiple_of(2) { 500 } else { 2_500 });
            let decide = |known: &Settings| {
                Ok::<_, ()>(Chosen::Given(Arc::new(Settings { policy: policy.clone(), recovery_timeout, ..known.clone() })))
            };
            drop(tune(&instance.breakers, Some(&*instance.link), 0, &wish, decide).await);
            return;
        }
    };
    instance.breakers.order(0, order, "ann", "");
}

/// What came of a world.
#[derive(Debug, Default)]
struct Report {
    /// Probes at once, at most, and how many of them were too many.
    most: usize,
    too_many: usize,
    calls: u64,
}

/// Runs a world; `calm` is one in which the store always answers.
async fn run(seed: u64, calm: bool, without: Without) -> Report {
    let origin = Instant::now();
    let rolls = Rolls(Arc::new(Mutex::new(Chance(seed))));
    let permits = 1 + u32::try_from(seed % 2).expect("small");
    let redis = Arc::new(Mutex::new(Redis { works: true, loses: (!calm).then_some(40), without, ..Redis::default() }));
    let clock = |host: usize| Own { origin, ahead: 50_000 * host as u64 };
    let mut fleet = Vec::new();
    for host in 0..INSTANCES {
        fleet.push(Instance::start(format!("{host}-0"), clock(host), &redis, &rolls, of_fleet(seed, permits)).await);
    }
    for step in 0..60_u64 {
        sleep(rolls.span(500)).await;
        let host = usize::try_from(rolls.with(|chance| chance.below(INSTANCES as u64))).expect("small");
        match rolls.with(|chance| chance.below(if calm { 8 } else { 11 })) {
            0..4 => redis.lock().expect("whole").works ^= true,
            4 | 5 => {
                let what = rolls.with(Chance::next);
                order(&fleet[host], what).await;
            }
            6 => {
                fleet[host].crash().await;
                fleet[host] = Instance::start(format!("{host}-{step}"), clock(host), &redis, &rolls, of_fleet(seed, permits)).await;
            }
            7 => {}
            8 | 9 => redis.lock().expect("whole").away ^= true,
            _ => redis.lock().expect("whole").keys = Keys::default(),
        }
    }
    {
        let mut redis = redis.lock().expect("whole");
        (redis.works, redis.away, redis.loses) = (true, false, None);
    }
    // Nothing goes wrong any more: locks are taken off, and there is time for open times, leases and polls.
    for _ in 0..12 {
        sleep(Duration::from_secs(1)).await;
        for instance in &fleet {
            instance.breakers.order(0, Order::Release, "ann", "");
        }
    }
    sleep(Duration::from_secs(2)).await;
    let now = i64::try_from(origin.elapsed().as_millis()).expect("short");
    let redis = redis.lock().expect("whole");
    let stored = redis.keys.state(now).expect("sound").map(|state| (state.generation, state.state));
    let change = redis.keys.change(now).map(|change| (change.revision, change.instance));
    for instance in &fleet {
        let snapshot = instance.breakers.snapshot(0);
        assert_eq!(instance.breakers.state(0), StateName::Closed, "seed {seed}: it closes");
        if let Some(stored) = &stored {
            assert_eq!(*stored, (snapshot.generation.0, "closed".to_owned()), "seed {seed}: all agree");
        }
        let (standing, _) = instance.breakers.standing(0);
        let known = standing.tuning.map(|tuning| (tuning.revision, tuning.instance));
        assert_eq!(known, change, "seed {seed}: all go by one change");
    }
    Report { most: redis.most, too_many: redis.most.saturating_sub(permits as usize), calls: redis.sent }
}

fn worlds(seeds: u64, calm: bool, without: Without) -> Report {
    let mut all = Report::default();
    for seed in 0..seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let Report { most, too_many, calls } = runtime.block_on(run(seed, calm, without));
        all = Report { most: all.most.max(most), too_many: all.too_many.max(too_many), calls: all.calls + calls };
    }
    println!("{seeds} worlds: {all:?}");
    assert!(all.most >= 2 && all.calls > 1_000, "they say something: {all:?}");
    all
}

#[test]
fn what_runs_keeps_to_the_protocol_while_the_store_answers() {
    assert_eq!(worlds(SEEDS, true, Without::default()).too_many, 0);
}

#[test]
fn what_runs_comes_to_agree_whatever_happens_to_the_store() {
    worlds(SEEDS, false, Without::default());
}

#[test]
fn a_store_that_does_not_count_is_told() {
    assert!(worlds(20, true, Without { count: true, ..Without::default() }).too_many > 0);
}
