//! The store against a real Redis: `REDIS_URL`, or a `redis-server` of a test's own where that is not set, or where the test kills or
//! freezes it. Each test has a prefix of its own. None sleeps to be right: what takes time is polled for, up to a deadline.

#[path = "edge_redis/evidence.rs"]
mod evidence;
#[path = "edge_redis/leases.rs"]
mod leases;
#[path = "edge_redis/many.rs"]
mod many;
#[path = "edge_redis/nodes.rs"]
mod nodes;
#[path = "edge_redis/several.rs"]
mod several;
#[path = "edge_redis/tls.rs"]
mod tls;
#[path = "edge_redis/views.rs"]
mod views;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fusebox::config;
use fusebox::edge::migrations::{Found, Layout};
use fusebox::edge::redis::{RedisLayout, RedisStore};
use fusebox::event::UnixMillis;
use fusebox::machine::breaker::{
    Breaker, Cause, Counts, Generation, Held, Lock, LockKind, PolicySettings, Settings, Snapshot, StateName, Transition, Verdict,
};
use fusebox::machine::time::Tick;
use fusebox::pipeline::ports::{Clock, Heard, Kept, Saved, SavedTuning, Store, StoreError};
use fusebox::pipeline::tuning::{Chosen, Tuning};
use redis::Commands;
use tokio::sync::mpsc;

/// Long enough for a loaded machine, short enough to notice that something never comes.
const DEADLINE: Duration = Duration::from_secs(20);
const TIMEOUT: Duration = Duration::from_millis(400);
/// What an operation may take beside its timeout on a loaded machine.
const SLACK: Duration = Duration::from_millis(1_500);

/// A clock that stands still: what a test reads back differs from what it wrote by Redis' time alone.
#[derive(Debug, Clone)]
struct Still(Tick);

impl Clock for Still {
    fn now(&self) -> Tick {
        self.0
    }
    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
    fn instant(&self, _at: Tick) -> Option<tokio::time::Instant> {
        None
    }
}

/// A redis-server on a port of its own, ended by its process id. What it writes to the disk goes when it is dropped.
struct Server {
    child: Child,
    port: u16,
    args: Vec<String>,
    directory: tempfile::TempDir,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        let port = low_port();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let directory = tempfile::tempdir().expect("a directory");
        Self { child: spawn(port, directory.path(), &args), port, args, directory }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    fn kill(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("ended");
    }

    fn restart(&mut self) {
        self.child = spawn(self.port, self.directory.path(), &self.args);
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill runs").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL ends a frozen process too.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One for a node of a cluster: they talk to each other on a port that is higher by ten thousand. Outgoing connections are
/// given neither.
fn low_port() -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut ports = std::iter::repeat_with(|| rand::random_range(10_240..22_768));
    ports.find(|port| is_free(*port) && is_free(port + 10_000)).expect("without an end")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn spawn(port: u16, directory: &std::path::Path, args: &[String]) -> Child {
    // A file comes first, where there is one.
    let (file, args): (Vec<_>, Vec<_>) = args.iter().partition(|arg| arg.ends_with(".conf") && arg.contains(std::path::MAIN_SEPARATOR));
    let of_data: &[&str] = if args.iter().any(|arg| *arg == "--sentinel") { &[] } else { &["--save", "", "--appendonly", "no"] };
    let child = Command::new("redis-server")
        .args(file)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
        .arg(directory)
        .args(of_data)
        .args(args)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed");
    let from = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(from.elapsed() < DEADLINE, "redis-server does not come up");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

/// A Redis that may be shared with other tests and a prefix that is not.
struct Fixture {
    _own: Option<Server>,
    url: String,
    prefix: String,
}

impl Fixture {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let prefix = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        match std::env::var("REDIS_URL") {
            Ok(url) => Self { _own: None, url, prefix },
            Err(_) => {
                let server = Server::start(&[]);
                Self { url: server.url(), _own: Some(server), prefix }
            }
        }
    }

    fn config(&self) -> config::Redis {
        config(&self.url, &self.prefix)
    }

    fn store(&self, instance: &str) -> RedisStore<Still> {
        store_at(&self.config(), instance, Tick(1_000_000))
    }

    /// A connection of the test's own, to look and to do damage.
    fn raw(&self) -> redis::Connection {
        raw(&self.url)
    }

    fn key(&self, service: &str, what: &str) -> String {
        format!("{}:{{{service}}}:{what}", self.prefix)
    }
}

fn config(url: &str, prefix: &str) -> config::Redis {
    config::Redis {
        url: url.into(),
        sentinels: None,
        prefix: prefix.into(),
        timeout: TIMEOUT,
        poll_interval: Duration::from_millis(200),
        history: NonZeroUsize::new(100).expect("not zero"),
        ca: None,
        identity: None,
    }
}

fn store_at(config: &config::Redis, instance: &str, now: Tick) -> RedisStore<Still> {
    RedisStore::open(config, instance.to_owned(), Still(now)).expect("a config that can work")
}

fn raw(url: &str) -> redis::Connection {
    redis::Client::open(url).and_then(|client| client.get_connection()).expect("Redis is there")
}

/// Adds the user `ann`, password `pw`, with the handbook's rights, and more.
fn add_user(admin: &mut redis::Connection, more: &[&str]) {
    let handbook = include_str!("../docs/operations.md");
    let (_, rest) = handbook.split_once("ACL SETUSER fusebox on").expect("the handbook has a user");
    let (rules, _) = rest.split_once("```").expect("in a block");
    let rules = rules.replace('\\', " ").replace('\'', "").replace("PASSWORD", "pw");
    let rules: Vec<&str> = rules.split_whitespace().chain(more.iter().copied()).collect();
    let () = redis::cmd("ACL").arg("SETUSER").arg("ann").arg("on").arg(rules).query(admin).expect("a user");
}

fn names(services: &[&str]) -> Vec<String> {
    services.iter().map(|service| (*service).to_owned()).collect()
}

fn snapshot(generation: u64, held: Held) -> Snapshot {
    Snapshot { generation: Generation(generation), held, trips: 2, since: Tick(990_000) }
}

fn lock(kind: LockKind, expires_at: Option<Tick>) -> Held {
    Held::Locked(Lock { kind, actor: "ann".into(), reason: "deploy — λ \"quoted\"\n".into(), expires_at })
}

fn transition(generation: u64) -> Transition {
    Transition {
        from: StateName::Closed,
        to: StateName::Open,
        cause: Cause::Policy,
        generation: Generation(generation),
        at: Tick(995_000),
        counts: Counts { calls: generation, failures: 3, slow: 1, consecutive_failures: 2 },
        actor: None,
        reason: None,
        alone: false,
        fleet: None,
    }
}

/// Polls until `look` gives something.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let from = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(from.elapsed() < DEADLINE, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What is stored of all of them; an error if any cannot be read.
async fn load(store: &RedisStore<Still>, services: &[String]) -> Result<Vec<Kept>, StoreError> {
    store.load(services).await.into_iter().collect()
}

/// The stored state of one service.
async fn state_of(store: &RedisStore<Still>, service: &str) -> Result<Option<Snapshot>, StoreError> {
    load(store, &names(&[service])).await.map(|kept| kept[0].state.clone())
}

/// The last change of one service's settings.
async fn tuning_of(store: &RedisStore<Still>, service: &str) -> Result<Option<Tuning>, StoreError> {
    load(store, &names(&[service])).await.map(|kept| kept[0].tuning.clone())
}

async fn next(heard: &mut mpsc::Receiver<Heard>) -> Heard {
    tokio::time::timeout(DEADLINE, heard.recv()).await.expect("something is heard in time").expect("the watch goes on")
}

/// A state without its times, and the times.
fn times(snapshot: &Snapshot) -> (Snapshot, Vec<Tick>) {
    let mut bare = snapshot.clone();
    let mut times = vec![std::mem::take(&mut bare.since)];
    match &mut bare.held {
        Held::Open { until } => times.push(std::mem::take(until)),
        Held::Locked(Lock { expires_at: Some(at), .. }) => times.push(std::mem::take(at)),
        Held::Locked(_) | Held::Closed | Held::HalfOpen => {}
    }
    (bare, times)
}

#[tokio::test]
async fn every_state_comes_back_with_what_is_left_of_its_times() {
    let fixture = Fixture::new();
    let writer = fixture.store("a");
    // Another host, whose monotonic clock has nothing in common with the writer's.
    let reader = store_at(&fixture.config(), "b", Tick(77_000_000));
    let from = Instant::now();
    for (place, held) in [
        Held::Closed,
        Held::Open { until: Tick(1_060_000) },
        Held::HalfOpen,
        lock(LockKind::ForcedOpen, None),
        lock(LockKind::ForcedOpen, Some(Tick(1_030_000))),
        lock(LockKind::ForcedClosed, Some(Tick(4_600_000))),
        lock(LockKind::ForcedClosed, None),
        lock(LockKind::MetricsOnly, None),
        Held::Open { until: Tick(1_030_000) },
        Held::Closed,
    ]
    .into_iter()
    .enumerate()
    {
        let sent = snapshot(place as u64 + 1, held);
        assert_eq!(writer.save("rag", &sent, None).await, Ok(Saved::Stored));
        let got = load(&reader, &names(&["rag", "none"])).await.expect("loaded");
        assert_eq!(got[1], Kept::default());
        let got = got[0].state.clone().expect("stored");
        let ((sent, sent_times), (got, got_times)) = (times(&sent), times(&got));
        assert_eq!(got, sent);
        assert_eq!(got_times.len(), sent_times.len());
        let passed = u64::try_from(from.elapsed().as_millis()).expect("short") + 2;
        for (sent, got) in sent_times.iter().zip(&got_times) {
            let expect = 77_000_000 + sent.0 - 1_000_000;
            assert!(
                (expect.saturating_sub(passed)..=expect).contains(&got.0),
                "{sent:?} became {got:?}, not {expect} or up to {passed} ms less"
            );
        }
    }
}

#[tokio::test]
async fn what_ran_out_meanwhile_is_over_now() {
    let fixture = Fixture::new();
    let (writer, reader) = (fixture.store("a"), store_at(&fixture.config(), "b", Tick(50)));
    // A second later on Redis' clock: as if the one that wrote had stopped and another found it.
    assert_eq!(writer.save("rag", &snapshot(1, Held::Open { until: Tick(1_000_001) }), None).await, Ok(Saved::Stored));
    let key = fixture.key("rag", "breaker");
    let at: i64 = fixture.raw().hget(&key, "retry_at").expect("a time");
    let () = fixture.raw().hset(&key, "retry_at", at - 1_000).expect("moved");
    let got = state_of(&reader, "rag").await.expect("loaded");
    assert_eq!(got.as_ref().map(|got| got.held.clone()), Some(Held::Open { until: Tick(50) }));
    assert_eq!(got.as_ref().map(|got| got.since), Some(Tick(0)), "it began before this process's clock did");
}

#[tokio::test]
async fn an_older_or_equal_generation_is_superseded() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.store("a"), fixture.store("b"));
    let mut heard = fixture.store("c").watch();
    assert_eq!(next(&mut heard).await, Heard::Connected);
    assert_eq!(a.save("rag", &snapshot(5, Held::HalfOpen), Some(&transition(5))).await, Ok(Saved::Stored));
    for generation in [5, 4, 0] {
        for store in [&a, &b] {
            let Ok(Saved::Superseded(stored)) = store.save("rag", &snapshot(generation, Held::Closed), Some(&transition(generation))).await
            else {
                panic!("generation {generation} was stored over 5");
            };
            assert_eq!((stored.generation, stored.held), (Generation(5), Held::HalfOpen));
        }
    }
    // Beyond what a float or a text comparison tells apart.
    for generation in [9, 10, 9_007_199_254_740, 999_999_999_999_998, 999_999_999_999_999] {
        assert_eq!(b.save("rag", &snapshot(generation, Held::Closed), None).await, Ok(Saved::Stored), "{generation}");
        assert!(matches!(a.save("rag", &snapshot(generation, Held::Closed), None).await, Ok(Saved::Superseded(_))), "{generation}");
    }
    assert!(a.save("rag", &snapshot(u64::MAX, Held::Closed), None).await.is_err(), "more digits than the scripts read");
    assert_eq!(a.history("rag", None, 10).await.expect("read").entries.len(), 1, "what is superseded leaves no entry");
    for generation in [5, 9, 10] {
        assert!(
            matches!(next(&mut heard).await, Heard::Changed { snapshot, .. } if snapshot.generation == Generation(generation)),
            "only what is stored is told"
        );
    }
}

/// Whichever comes first: a lock, or what another instance went through by itself before it heard of it.
#[tokio::test]
async fn a_lock_is_stored_over_what_was_decided_without_it_and_not_the_other_way_round() {
    let settings = Settings {
        recovery_timeout_max: Duration::from_millis(10),
        ..Settings::new(
            PolicySettings::Consecutive { fail_max: 1.try_into().expect("not zero") },
            Duration::from_millis(10),
            Duration::from_secs(1),
        )
    };
    let breaker = || Breaker::new(settings.clone(), Tick(1_000_000));
    let (mut locked, mut flapping) = (breaker(), breaker());
    let Held::Locked(order) = lock(LockKind::ForcedOpen, None) else { unreachable!("a lock") };
    locked.lock(order, Tick(1_000_000));
    for now in 1_000_000..1_000_500 {
        if let Ok(permit) = flapping.admit(Tick(now), || 0.0).0 {
            flapping.settle(permit, Verdict::Failure { retry_after: None }, Duration::ZERO, Tick(now), || 0.0);
        }
    }
    let (ours, theirs) = (locked.snapshot(), flapping.snapshot());
    assert!(theirs.trips > 10);
    let fixture = Fixture::new();
    let (a, b) = (fixture.store("a"), fixture.store("b"));
    for (service, order) in [("rag", [(&a, &ours), (&b, &theirs)]), ("vms", [(&b, &theirs), (&a, &ours)])] {
        for (store, snapshot) in order {
            store.save(service, snapshot, None).await.expect("Redis is there");
        }
        let loaded = state_of(&a, service).await.expect("Redis is there");
        assert_eq!(loaded.as_ref().map(|stored| (stored.generation, stored.held.clone())), Some((ours.generation, ours.held.clone())));
        // Its release is stored over it, whoever gives it.
        let mut released = breaker();
        released.adopt(&ours, Cause::Adopted, Tick(1_000_000));
        released.release("bob", "over", Tick(1_000_000));
        assert_eq!(b.save(service, &released.snapshot(), None).await, Ok(Saved::Stored));
    }
}

#[tokio::test]
async fn of_concurrent_savers_of_one_generation_exactly_one_stores() {
    let fixture = Fixture::new();
    let stores: Vec<_> = (0..4).map(|number| fixture.store(&format!("i{number}"))).collect();
    for round in 1..=150 {
        let saves = stores.iter().enumerate().map(|(number, store)| {
            let until = Tick(2_000_000 + 100_000 * number as u64);
            async move { store.save("rag", &snapshot(round, Held::Open { until }), Some(&transition(round))).await.expect("Redis is there") }
        });
        let results = futures_util::future::join_all(saves).await;
        let winner = results.iter().position(|saved| *saved == Saved::Stored).expect("one stores");
        assert_eq!(results.iter().filter(|saved| **saved == Saved::Stored).count(), 1, "round {round}");
        for saved in &results {
            let Saved::Superseded(seen) = saved else { continue };
            let Held::Open { until } = seen.held else { panic!("{seen:?}") };
            assert_eq!((until.0 + 50_000 - 2_000_000) / 100_000, winner as u64, "the others are shown the winner's state");
        }
        let kept = stores[0].history("rag", None, 2).await.expect("read").entries;
        assert_eq!(kept[0].instance, format!("i{winner}"));
        assert!(kept.get(1).is_none_or(|before| before.generation == Generation(round - 1)), "one entry a generation");
    }
}

#[tokio::test]
async fn a_change_is_heard_by_the_others_and_damaged_messages_are_passed_over() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.store("a"), fixture.store("b"));
    let (mut by_a, mut by_b) = (a.watch(), b.watch());
    assert_eq!(next(&mut by_a).await, Heard::Connected);
    assert_eq!(next(&mut by_b).await, Heard::Connected);

    let database = redis::Client::open(fixture.url.as_str()).expect("a URL").get_connection_info().redis_settings().db();
    let channel = format!("{}:transitions:{database}", fixture.prefix);
    for damaged in ["", "{}", "null", "\u{0}", "{\"layout\":1,\"service\":\"rag\",\"instance\":\"x\",\"generation\":-1}"] {
        let listeners: i64 = fixture.raw().publish(&channel, damaged).expect("published");
        assert_eq!(listeners, 2);
    }
    let sent = snapshot(1, lock(LockKind::ForcedOpen, Some(Tick(1_030_000))));
    assert_eq!(a.save("rag", &sent, Some(&transition(1))).await, Ok(Saved::Stored));
    assert_eq!(next(&mut by_b).await, Heard::Changed { service: "rag".into(), snapshot: sent });
    // What comes first at `a` is what `b` says next: its own was left out.
    assert_eq!(b.save("vms", &snapshot(7, Held::HalfOpen), None).await, Ok(Saved::Stored));
    assert_eq!(next(&mut by_a).await, Heard::Changed { service: "vms".into(), snapshot: snapshot(7, Held::HalfOpen) });
}

#[tokio::test]
async fn a_receiver_that_is_dropped_ends_its_subscription() {
    let server = Server::start(&[]);
    let store = store_at(&config(&server.url(), "p"), "a", Tick(0));
    let mut heard = store.watch();
    assert_eq!(next(&mut heard).await, Heard::Connected);
    let subscribers = || async {
        let counts: (String, i64) = redis::cmd("PUBSUB").arg("NUMSUB").arg("p:transitions:0").query(&mut raw(&server.url())).expect("told");
        counts.1
    };
    assert_eq!(subscribers().await, 1);
    drop(heard);
    eventually("the subscription's end", || async { (subscribers().await == 0).then_some(()) }).await;
}

#[tokio::test]
async fn a_receiver_that_falls_behind_is_told_to_read_anew() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.store("a"), fixture.store("b"));
    let mut heard = b.watch();
    assert_eq!(next(&mut heard).await, Heard::Connected);
    for generation in 1..=600 {
        assert_eq!(a.save("rag", &snapshot(generation, Held::HalfOpen), None).await, Ok(Saved::Stored));
    }
    let mut changes = 0;
    while next(&mut heard).await != Heard::Connected {
        changes += 1;
        assert!(changes <= 600, "everything came, however far behind");
    }
    assert!(changes >= 200, "what there was room for came first: {changes}");
}

#[tokio::test]
async fn a_redis_that_dies_and_comes_back_is_taken_up_again() {
    let mut server = Server::start(&[]);
    let (a, b) = (store_at(&config(&server.url(), "p"), "a", Tick(0)), store_at(&config(&server.url(), "p"), "b", Tick(0)));
    let mut heard = b.watch();
    assert_eq!(next(&mut heard).await, Heard::Connected);
    assert_eq!(a.save("rag", &snapshot(3, Held::HalfOpen), None).await, Ok(Saved::Stored));
    assert!(matches!(next(&mut heard).await, Heard::Changed { .. }));
    assert!(a.is_up());

    server.kill();
    for _ in 0..3 {
        let from = Instant::now();
        let error = load(&a, &names(&["rag"])).await.expect_err("nothing is there").to_string();
        assert!(from.elapsed() < TIMEOUT + SLACK, "{:?}", from.elapsed());
        assert!(!error.contains("127.0.0.1") && !error.contains(&server.port.to_string()), "{error}");
    }
    assert!(!a.is_up());

    server.restart();
    let loaded = eventually("an answer", || async { state_of(&a, "rag").await.ok() }).await;
    assert_eq!(loaded, None, "this Redis keeps nothing over a restart");
    assert!(a.is_up());
    assert_eq!(next(&mut heard).await, Heard::Connected);
    assert_eq!(a.save("rag", &snapshot(3, Held::HalfOpen), None).await, Ok(Saved::Stored), "scripts are loaded again");
    assert!(matches!(next(&mut heard).await, Heard::Changed { .. }));
}

#[tokio::test]
async fn opening_waits_for_nothing_and_redis_may_come_later() {
    let mut server = Server::start(&[]);
    server.kill();
    let from = Instant::now();
    let store = store_at(&config(&server.url(), "p"), "a", Tick(0));
    let mut heard = store.watch();
    assert!(from.elapsed() < Duration::from_millis(250), "{:?}", from.elapsed());
    let error = store.history("rag", None, 1).await.expect_err("nothing is there");
    assert_eq!(error.0, "Redis refused the connection");
    // Nothing waits in a line: a thousand at once are answered together.
    let from = Instant::now();
    let one = names(&["rag"]);
    let answers = futures_util::future::join_all((0..1_000).map(|_| load(&store, &one))).await;
    assert!(answers.iter().all(|answer| answer.is_err()) && from.elapsed() < TIMEOUT + SLACK, "{:?}", from.elapsed());
    server.restart();
    eventually("an answer", || async { load(&store, &names(&["rag"])).await.ok() }).await;
    assert_eq!(next(&mut heard).await, Heard::Connected);
}

#[tokio::test]
async fn a_frozen_redis_gives_errors_in_time_and_goes_on_when_thawed() {
    let server = Server::start(&[]);
    let (a, b) = (store_at(&config(&server.url(), "p"), "a", Tick(0)), store_at(&config(&server.url(), "p"), "b", Tick(0)));
    let mut heard = b.watch();
    assert_eq!(next(&mut heard).await, Heard::Connected);
    assert_eq!(a.save("rag", &snapshot(1, Held::HalfOpen), None).await, Ok(Saved::Stored));
    assert!(matches!(next(&mut heard).await, Heard::Changed { .. }));

    server.signal("-STOP");
    for round in 0..4 {
        let from = Instant::now();
        let error = a.save("rag", &snapshot(2, Held::Closed), None).await.expect_err("nobody answers");
        assert!(from.elapsed() < TIMEOUT + SLACK, "round {round}: {:?}", from.elapsed());
        assert!(error.0.starts_with("Redis did not answer within"), "{error}");
    }
    // Opened while it is frozen: the kernel accepts the connection, and nobody answers on it.
    let c = store_at(&config(&server.url(), "p"), "c", Tick(0));
    let from = Instant::now();
    load(&c, &names(&["rag"])).await.expect_err("nobody answers");
    assert!(from.elapsed() < TIMEOUT + SLACK, "{:?}", from.elapsed());

    // By now several heartbeats went unanswered: a subscription that had not noticed would not be renewed below.
    server.signal("-CONT");
    for store in [&a, &c] {
        eventually("an answer", || async { load(store, &names(&["rag"])).await.ok() }).await;
    }
    while next(&mut heard).await != Heard::Connected {}
    // The save that was given up may have been carried out after the thaw; the fence makes it harmless to ask again.
    let saved = a.save("rag", &snapshot(2, Held::Closed), None).await.expect("Redis is there");
    let stored = state_of(&a, "rag").await.expect("Redis is there").expect("stored");
    assert!(matches!(saved, Saved::Stored | Saved::Superseded(_)));
    assert_eq!((stored.generation, stored.held), (Generation(2), Held::Closed));
}

#[tokio::test]
async fn what_is_flushed_under_it_is_written_again() {
    let server = Server::start(&[]);
    let store = store_at(&config(&server.url(), "p"), "a", Tick(1_000_000));
    assert_eq!(store.save("rag", &snapshot(4, Held::Closed), Some(&transition(4))).await, Ok(Saved::Stored));
    let () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut raw(&server.url())).expect("flushed");
    assert!(matches!(store.save("rag", &snapshot(4, Held::Closed), None).await, Ok(Saved::Superseded(_))), "the script is loaded again");
    let () = redis::cmd("FLUSHALL").query(&mut raw(&server.url())).expect("flushed");
    assert_eq!(state_of(&store, "rag").await, Ok(None));
    assert_eq!(store.history("rag", None, 10).await.expect("read").entries, []);
    assert_eq!(
        store.save("rag", &snapshot(4, Held::Closed), Some(&transition(4))).await,
        Ok(Saved::Stored),
        "nothing is there to supersede it"
    );
}

#[tokio::test]
async fn history_is_capped_and_paged_newest_first() {
    let fixture = Fixture::new();
    let store = fixture.store("a");
    let forced = Transition { actor: Some("ann".into()), reason: Some("deploy".into()), cause: Cause::Forced, ..transition(1) };
    assert_eq!(store.save("vms", &snapshot(1, Held::HalfOpen), Some(&forced)).await, Ok(Saved::Stored));
    let page = store.history("vms", None, 10).await.expect("read");
    let entry = &page.entries[0];
    assert_eq!((page.entries.len(), page.next), (1, None));
    assert_eq!((entry.actor.as_deref(), entry.reason.as_deref(), entry.cause), (Some("ann"), Some("deploy"), Cause::Forced));
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after it").as_millis();
    let ago = i64::try_from(since_epoch).expect("fits") - entry.at.0;
    assert!((5_000..5_000 + 20_000).contains(&ago), "the transition was 5 s before it was saved, not {ago} ms");

    for generation in 1..=450 {
        assert_eq!(store.save("rag", &snapshot(generation, Held::HalfOpen), Some(&transition(generation))).await, Ok(Saved::Stored));
    }
    // A cap by whole nodes of 100 entries: at least what was asked for, less than two nodes more.
    let kept: usize = fixture.raw().xlen(fixture.key("rag", "history")).expect("a stream");
    assert!((100..300).contains(&kept), "{kept}");

    let (mut cursor, mut generations) = (None, Vec::new());
    loop {
        let page = store.history("rag", cursor.as_deref(), 33).await.expect("read");
        assert!(page.entries.len() <= 33 && !page.entries.is_empty());
        generations.extend(page.entries.iter().map(|entry| entry.generation.0));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(generations, (451 - kept as u64..=450).rev().collect::<Vec<_>>(), "every entry once, without a gap");
    assert_eq!(store.history("rag", None, 0).await.expect("read").entries, []);
    assert!(store.history("rag", Some("+ COUNT 1"), 1).await.is_err(), "not a cursor");
    assert_eq!(store.history("rag", None, kept).await.expect("read").next, None, "the last page says so");

    // A damaged entry is left out, and does not end the paging.
    let _: String = fixture.raw().xadd(fixture.key("rag", "history"), "*", &[("from", "ajar")]).expect("added");
    let page = store.history("rag", None, 1).await.expect("read");
    assert_eq!(page.entries, []);
    let page = store.history("rag", page.next.as_deref(), 1).await.expect("read");
    assert_eq!(page.entries[0].generation, Generation(450));
}

#[tokio::test]
async fn damage_counts_as_absent_and_is_saved_over() {
    let fixture = Fixture::new();
    let (store, mut raw) = (fixture.store("a"), fixture.raw());
    let (breaker, history) = (fixture.key("rag", "breaker"), fixture.key("rag", "history"));
    let mut damages: Vec<(String, redis::Cmd)> = Vec::new();
    for (field, value) in [
        ("layout", "2"),
        ("layout", "01"),
        ("generation", "many"),
        ("generation", "-1"),
        ("generation", "0x10"),
        ("generation", "1e3"),
        ("generation", "nan"),
        ("generation", "9999999999999999999999"),
        ("state", "ajar"),
        ("state", "forced_open"),
        ("since", ""),
        ("trips", "2.5"),
        ("retry_at", "soon"),
    ] {
        let mut damage = redis::cmd("HSET");
        damage.arg(&breaker).arg(field).arg(value);
        damages.push((format!("{field}={value}"), damage));
    }
    for field in ["layout", "generation", "state", "since", "trips", "retry_at"] {
        let mut damage = redis::cmd("HDEL");
        damage.arg(&breaker).arg(field);
        damages.push((format!("no {field}"), damage));
    }
    let mut string = redis::cmd("SET");
    string.arg(&breaker).arg("a string");
    damages.push(("a string".into(), string));
    let mut binary = redis::cmd("HSET");
    binary.arg(&breaker).arg("state").arg(&b"\xff\xfe\0"[..]);
    damages.push(("no text".into(), binary));

    for (what, damage) in damages {
        let () = raw.del(&breaker).expect("deleted");
        let open = snapshot(9, Held::Open { until: Tick(1_060_000) });
        assert_eq!(store.save("rag", &open, None).await, Ok(Saved::Stored), "{what}");
        assert!(store.save("vms", &open, None).await.is_ok());
        let () = damage.query(&mut raw).expect("damaged");
        let loaded = load(&store, &names(&["rag", "vms"])).await.expect("no error");
        assert_eq!(loaded[0].state, None, "{what}");
        assert!(loaded[1].state.is_some(), "the others are read all the same");
        // An older generation than the damaged one: what cannot be read does not fence.
        assert_eq!(store.save("rag", &snapshot(1, Held::HalfOpen), None).await, Ok(Saved::Stored), "{what}");
        let loaded = state_of(&store, "rag").await.expect("no error");
        assert_eq!(loaded.as_ref().map(|got| (got.generation, got.held.clone())), Some((Generation(1), Held::HalfOpen)), "{what}");
    }

    // A history of another type: refused in words, and replaced by the next transition.
    let () = raw.del(&history).and_then(|()| raw.set(&history, "a string")).expect("set");
    assert_eq!(store.history("rag", None, 1).await.expect_err("not a stream").0, "Redis answered WRONGTYPE");
    assert_eq!(store.save("rag", &snapshot(2, Held::HalfOpen), Some(&transition(2))).await, Ok(Saved::Stored));
    assert_eq!(store.history("rag", None, 1).await.expect("read").entries.len(), 1);
}

#[tokio::test]
async fn fields_of_a_state_that_has_gone_go_and_other_fields_stay() {
    let fixture = Fixture::new();
    let (store, mut raw) = (fixture.store("a"), fixture.raw());
    let key = fixture.key("rag", "breaker");
    assert_eq!(store.save("rag", &snapshot(1, lock(LockKind::ForcedOpen, Some(Tick(1_060_000)))), None).await, Ok(Saved::Stored));
    let () = raw.hset(&key, "settings_revision", 3).expect("set");
    assert_eq!(store.save("rag", &snapshot(2, Held::Closed), None).await, Ok(Saved::Stored));
    let fields: BTreeSet<String> = raw.hkeys(&key).expect("a hash");
    let expect = ["generation", "instance", "layout", "settings_revision", "since", "state", "trips"];
    assert_eq!(fields, expect.map(str::to_owned).into());
}

fn tuning(revision: u64, fail_max: u32, instance: &str) -> Tuning {
    let policy = PolicySettings::Consecutive { fail_max: fail_max.try_into().expect("not zero") };
    // Without a lease, which is each reader's own and is not sent.
    let settings = Settings::new(policy, Duration::from_millis(1_500), Duration::from_secs(1));
    Tuning {
        revision,
        chosen: Chosen::Given(Arc::new(settings)),
        actor: "ann".into(),
        reason: "noisy — λ \"quoted\"\n".into(),
        at: UnixMillis(0),
        instance: instance.into(),
    }
}

#[tokio::test]
async fn a_change_of_settings_is_stored_over_the_revision_that_it_was_laid_over_alone() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.store("a"), fixture.store("b"));
    let mut heard = fixture.store("c").watch();
    assert_eq!(next(&mut heard).await, Heard::Connected);
    assert_eq!(tuning_of(&a, "rag").await, Ok(None));
    assert_eq!(a.save_tuning("rag", &tuning(1, 7, "a"), 0).await, Ok(SavedTuning::Stored));
    // Laid over what has gone meanwhile, or never was: what is there is answered.
    let is_first = |saved: &SavedTuning| matches!(saved, SavedTuning::Superseded(Some(stored)) if stored.is(&tuning(1, 7, "a")));
    for (revision, over) in [(1, 0), (2, 0), (3, 2), (9, 8)] {
        let saved = b.save_tuning("rag", &tuning(revision, 8, "b"), over).await.expect("answered");
        assert!(is_first(&saved), "{revision} over {over}: {saved:?}");
    }
    assert_eq!(b.save_tuning("vms", &tuning(3, 8, "b"), 2).await, Ok(SavedTuning::Superseded(None)));
    let reset = Tuning { chosen: Chosen::Configured, ..tuning(2, 8, "b") };
    assert_eq!(b.save_tuning("rag", &reset, 1).await, Ok(SavedTuning::Stored));

    // Redis' clock says how long ago it was; the reader's clock stands at zero.
    let loaded = load(&a, &names(&["vms", "rag"])).await.expect("loaded");
    assert_eq!(loaded[0], Kept::default());
    let stored = loaded[1].tuning.clone().expect("stored");
    assert!((-20_000..=0).contains(&stored.at.0), "{stored:?}");
    assert_eq!(Tuning { at: UnixMillis(0), ..stored }, reset);
    for expect in [tuning(1, 7, "a"), reset] {
        let Heard::Tuned { service, tuning } = next(&mut heard).await else { panic!("something else is heard") };
        assert_eq!((service.as_str(), Tuning { at: UnixMillis(0), ..tuning }), ("rag", expect), "only what is stored is told");
    }
    assert!(a.save_tuning("rag", &tuning(u64::MAX, 7, "a"), 2).await.is_err(), "more digits than the scripts read");
}

#[tokio::test]
async fn of_concurrent_changes_of_settings_exactly_one_is_stored_and_none_is_lost_unsaid() {
    let fixture = Fixture::new();
    let stores: Vec<_> = (0..8).map(|number| fixture.store(&format!("i-{number}"))).collect();
    for over in 0..20 {
        let saves = stores.iter().enumerate().map(|(number, store)| async move {
            store.save_tuning("rag", &tuning(over + 1, 7, &format!("i-{number}")), over).await.expect("answered")
        });
        let saved = futures_util::future::join_all(saves).await;
        let winner = saved.iter().position(|saved| *saved == SavedTuning::Stored).expect("one stores");
        for (number, saved) in saved.iter().enumerate() {
            let SavedTuning::Superseded(Some(stored)) = saved else {
                assert_eq!(number, winner, "two have stored revision {}", over + 1);
                continue;
            };
            assert_eq!((stored.revision, stored.instance.as_str()), (over + 1, format!("i-{winner}").as_str()));
        }
    }
}

#[tokio::test]
async fn state_and_settings_of_one_hash_leave_each_other_alone() {
    let fixture = Fixture::new();
    let (store, mut raw) = (fixture.store("a"), fixture.raw());
    let key = fixture.key("rag", "breaker");
    assert_eq!(store.save_tuning("rag", &tuning(1, 7, "a"), 0).await, Ok(SavedTuning::Stored));
    assert_eq!(state_of(&store, "rag").await, Ok(None), "settings make no state");
    assert_eq!(store.save("rag", &snapshot(1, Held::HalfOpen), None).await, Ok(Saved::Stored));
    assert_eq!(store.save_tuning("rag", &tuning(2, 8, "a"), 1).await, Ok(SavedTuning::Stored));
    let loaded = state_of(&store, "rag").await.expect("loaded");
    assert_eq!(loaded.as_ref().map(|state| state.held.clone()), Some(Held::HalfOpen));
    let revision = |loaded: Result<Option<Tuning>, _>| loaded.expect("loaded").map(|tuning| tuning.revision);
    assert_eq!(revision(tuning_of(&store, "rag").await), Some(2));

    // What cannot be read as a change counts as none, and is written over; what is a change that this version cannot read keeps its revision.
    for (what, damage) in [
        ("no revision", redis::cmd("HDEL").arg(&key).arg("settings_revision").to_owned()),
        ("a revision that is no number", redis::cmd("HSET").arg(&key).arg("settings_revision").arg("0x10").to_owned()),
        ("no time", redis::cmd("HDEL").arg(&key).arg("settings_at").to_owned()),
        ("another layout", redis::cmd("HSET").arg(&key).arg("layout").arg("2").to_owned()),
        ("a string", redis::cmd("SET").arg(&key).arg("a string").to_owned()),
    ] {
        let () = damage.query(&mut raw).expect("damaged");
        assert_eq!(revision(tuning_of(&store, "rag").await), None, "{what}");
        assert_eq!(store.save_tuning("rag", &tuning(2, 8, "a"), 0).await, Ok(SavedTuning::Stored), "{what}");
        assert_eq!(revision(tuning_of(&store, "rag").await), Some(2), "{what}");
    }
    let () = raw.hset(&key, "settings", r#"{"policy": "clairvoyant"}"#).expect("set");
    let loaded = tuning_of(&store, "rag").await.expect("loaded");
    assert!(matches!(&loaded, Some(Tuning { revision: 2, chosen: Chosen::Unreadable(why), .. }) if why.contains("policy")), "{loaded:?}");
    assert_eq!(store.save_tuning("rag", &tuning(3, 9, "a"), 2).await, Ok(SavedTuning::Stored));
}

#[tokio::test]
async fn every_key_has_the_prefix_and_its_services_hash_tag() {
    let server = Server::start(&[]);
    let config = config(&server.url(), "deep:er");
    let store = store_at(&config, "a", Tick(1_000_000));
    for service in ["rag", "vms"] {
        assert_eq!(store.save(service, &snapshot(1, Held::HalfOpen), Some(&transition(1))).await, Ok(Saved::Stored));
        assert_eq!(store.save_tuning(service, &tuning(1, 7, "a"), 0).await, Ok(SavedTuning::Stored));
    }
    let layout = RedisLayout::open(&config).expect("a config that can work");
    layout.apply(LAYOUT_SCRIPT).await.expect("applied");
    let keys: BTreeSet<String> = raw(&server.url()).keys("*").expect("listed");
    let expect = ["deep:er:layout", "deep:er:{rag}:breaker", "deep:er:{rag}:history", "deep:er:{vms}:breaker", "deep:er:{vms}:history"];
    assert_eq!(keys, expect.map(str::to_owned).into());
}

const LAYOUT_SCRIPT: &str = include_str!("../migrations/0002_write_redis_layout.lua");

#[tokio::test]
async fn the_layouts_version_is_written_once_and_another_is_left_alone() {
    let fixture = Fixture::new();
    let layout = RedisLayout::open(&fixture.config()).expect("a config that can work");
    let key = format!("{}:layout", fixture.prefix);
    for (word, expect) in
        [("look", Found::Absent), ("look", Found::Absent), ("apply", Found::Absent), ("apply", Found::Same), ("look", Found::Same)]
    {
        let found = if word == "look" { layout.look(LAYOUT_SCRIPT).await } else { layout.apply(LAYOUT_SCRIPT).await };
        assert_eq!(found, Ok(expect), "{word}");
    }
    let () = fixture.raw().set(&key, "2").expect("set");
    assert_eq!(layout.apply(LAYOUT_SCRIPT).await, Ok(Found::Other { wanted: "1".into(), found: "2".into() }));
    assert_eq!(fixture.raw().get::<_, String>(&key).expect("read"), "2");
    let () = fixture.raw().del(&key).and_then(|()| fixture.raw().lpush(&key, "x")).expect("set");
    assert_eq!(layout.look(LAYOUT_SCRIPT).await, Ok(Found::Other { wanted: "1".into(), found: "a list".into() }));
}

#[tokio::test]
async fn a_wrong_password_is_named_without_it_and_mended_without_a_restart() {
    let server = Server::start(&["--requirepass", "right"]);
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}/0", server.port);
    let mut admin = raw(&url("right"));
    let wrong = store_at(&config(&url("hunter2"), "p"), "a", Tick(0));
    let none = store_at(&config(&server.url(), "p"), "b", Tick(0));
    let mut heard = wrong.watch();
    for store in [&wrong, &none] {
        let error = load(store, &names(&["rag"])).await.expect_err("refused").0;
        assert_eq!(error, "Redis refused the credentials");
        assert!(!format!("{store:?}").contains("hunter2"), "nor does its debug form");
    }
    let () = redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("hunter2").query(&mut admin).expect("changed");
    eventually("an answer", || async { load(&wrong, &names(&["rag"])).await.ok() }).await;
    assert_eq!(next(&mut heard).await, Heard::Connected);
}

#[tokio::test]
async fn a_user_who_may_not_publish_stores_all_the_same() {
    let server = Server::start(&[]);
    let () = redis::cmd("ACL")
        .arg(&["SETUSER", "ann", "on", ">pw", "~p:*", "resetchannels", "+@all"])
        .query(&mut raw(&server.url()))
        .expect("a user");
    let store = store_at(&config(&format!("redis://ann:pw@127.0.0.1:{}/0", server.port), "p"), "a", Tick(0));
    assert_eq!(store.save("rag", &snapshot(1, Held::HalfOpen), Some(&transition(1))).await, Ok(Saved::Stored));
    assert!(state_of(&store, "rag").await.expect("read").is_some());
    // Nor may they touch another's keys.
    let other = store_at(&config(&format!("redis://ann:pw@127.0.0.1:{}/0", server.port), "q"), "a", Tick(0));
    let error = load(&other, &names(&["rag"])).await.expect_err("not allowed").0;
    assert!(error.starts_with("the Redis user may not do this"), "{error}");
}

#[tokio::test]
async fn two_databases_of_one_server_do_not_hear_each_other() {
    let server = Server::start(&[]);
    let at = |database: u8, instance: &str| {
        let url = format!("redis://127.0.0.1:{}/{database}", server.port);
        store_at(&config(&url, "p"), instance, Tick(1_000_000))
    };
    let mut heard = at(1, "listener").watch();
    assert_eq!(next(&mut heard).await, Heard::Connected);
    assert_eq!(at(0, "a").save("rag", &snapshot(8, Held::HalfOpen), None).await, Ok(Saved::Stored));
    assert_eq!(at(1, "b").save("rag", &snapshot(2, Held::HalfOpen), None).await, Ok(Saved::Stored));
    assert!(matches!(next(&mut heard).await, Heard::Changed { snapshot, .. } if snapshot.generation == Generation(2)));
}
