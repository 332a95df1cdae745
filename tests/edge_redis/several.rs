//! More than one server: a master that sentinels name, before and after a failover, and a cluster whose slots move.

use std::fmt::Write as _;

use fusebox::machine::breaker::Testimony;
use fusebox::pipeline::ports::{EvidenceStore, LeaseStore, LeaseWish, Leasing, Telling};

use secrecy::ExposeSecret;

use super::*;

pub(super) fn half_open(generation: u64) -> Snapshot {
    snapshot(generation, Held::HalfOpen)
}

/// Everything that a store does, on each of these services.
pub(super) async fn everything_works(store: &RedisStore<Still>, services: &[String], generation: u64) {
    let wish = LeaseWish { lease: 1, generation: Generation(generation), permits: 1, duration: TIMEOUT, urgent: false };
    for service in services {
        assert_eq!(store.save(service, &half_open(generation), Some(&transition(generation))).await, Ok(Saved::Stored), "{service}");
        assert_eq!(store.lease(service, wish).await, Ok(Leasing::Granted), "{service}");
        assert_eq!(store.give_back(service, &[1]).await, Ok(()), "{service}");
        let newest = store.history(service, None, 1).await.expect("a page").entries.remove(0);
        assert_eq!(newest.generation, Generation(generation), "{service}");
    }
    let loaded = load(store, services).await.expect("answered");
    assert!(loaded.iter().all(|kept| kept.state.as_ref().is_some_and(|state| state.generation == Generation(generation))), "{loaded:?}");
    let figures = vec![Counts { calls: 1, failures: 1, slow: 0, consecutive_failures: 1 }];
    let testimony = Testimony { generation: Generation(generation), alone: false, kind: 0, figures, retry_after: None };
    let tellings: Vec<_> =
        services.iter().map(|service| Telling { service: service.clone(), testimony: testimony.clone(), lasts: TIMEOUT }).collect();
    let told = store.tell(&tellings).await;
    assert!(told.len() == services.len() && told.iter().all(Result::is_ok), "{told:?}");
}

fn try_ask(port: u16, command: &[&str]) -> redis::RedisResult<redis::Value> {
    let mut connection = redis::Client::open(format!("redis://127.0.0.1:{port}/0"))?.get_connection()?;
    redis::cmd(command[0]).arg(&command[1..]).query(&mut connection)
}

pub(super) fn ask(port: u16, command: &[&str]) -> redis::Value {
    try_ask(port, command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Whether it answers with this word in it; a refusal is no answer.
pub(super) fn says(port: u16, command: &[&str], word: &str) -> bool {
    try_ask(port, command).is_ok_and(|answer| format!("{answer:?}").contains(word))
}

pub(super) async fn until_says(port: u16, command: &[&str], word: &str) {
    eventually(word, async || says(port, command, word).then_some(())).await;
}

/// Sentinels of a master, which take it for gone after a fifth of a second.
pub(super) fn sentinels<const N: usize>(master: u16, directory: &std::path::Path, more: &str) -> [Server; N] {
    std::array::from_fn(|number| {
        let file = directory.join(format!("sentinel-{number}.conf"));
        let mut text = format!("{more}\n");
        let _ = writeln!(text, "sentinel monitor events 127.0.0.1 {master} {}", N / 2 + 1);
        text.push_str("sentinel down-after-milliseconds events 200\nsentinel failover-timeout events 2000\n");
        std::fs::write(&file, text).expect("written");
        Server::start(&[file.to_str().expect("text"), "--sentinel"])
    })
}

#[tokio::test]
async fn sentinels_name_the_master_and_after_a_failover_the_next_one() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let master = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let replica = Server::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    until_says(master.port, &["INFO", "replication"], "state=online").await;
    let watchers: [Server; 3] = sentinels(master.port, directory.path(), "");
    for sentinel in &watchers {
        until_says(sentinel.port, &["SENTINEL", "CKQUORUM", "events"], "usable").await;
        until_says(sentinel.port, &["SENTINEL", "REPLICAS", "events"], &replica.port.to_string()).await;
    }
    // One of them is silent: the others are asked instead.
    watchers[0].signal("-STOP");
    let hosts: Vec<_> = watchers.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
    let config = config(&format!("redis+sentinel://{}/events", hosts.join(",")), "sentinels");
    let (store, other) = (store_at(&config, "a", Tick(1_000_000)), store_at(&config, "b", Tick(1_000_000)));
    let mut heard = other.watch();
    let services = ["rag".to_owned(), "vms".to_owned()];
    eventually("a connection", async || load(&store, &services).await.ok()).await;
    everything_works(&store, &services, 3).await;
    until_says(replica.port, &["HGET", "sentinels:{vms}:breaker", "generation"], "3").await;

    watchers[0].signal("-CONT");
    master.signal("-STOP");
    // Nothing waits for longer than its time; then the new master is found, with all that was stored.
    let from = Instant::now();
    eventually("the new master", async || {
        let asked = Instant::now();
        let saved = store.save("rag", &half_open(4), None).await;
        assert!(asked.elapsed() < 4 * TIMEOUT, "{:?}", asked.elapsed());
        saved.ok()
    })
    .await;
    println!("a write again after {:?}", from.elapsed());
    assert!(says(replica.port, &["ROLE"], "master"));
    assert!(says(replica.port, &["HGET", "sentinels:{vms}:breaker", "generation"], "3"));
    until_heard(&mut heard, &store).await;
    everything_works(&store, &services, 2_000).await;
    // The old one comes back, and is made a replica of the new one.
    master.signal("-CONT");
    until_says(master.port, &["ROLE"], "slave").await;
    everything_works(&store, &services, 3_000).await;
    drop(watchers);
}

/// The sentinels' credentials are others than the servers'.
#[tokio::test]
async fn sentinels_may_want_credentials_of_their_own() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let master = Server::start(&["--requirepass", "of-servers"]);
    let wanted = "requirepass of-sentinels\nuser ann on >of-ann -@all +role +sentinel|masters\nsentinel sentinel-pass of-sentinels";
    let [watcher] = sentinels(master.port, directory.path(), wanted);
    let mut admin = raw(&format!("redis://:of-sentinels@127.0.0.1:{}", watcher.port));
    let () = redis::cmd("SENTINEL").arg(&["SET", "events", "auth-pass", "of-servers"]).query(&mut admin).expect("set");
    eventually("the sentinel sees it", || {
        let seen = redis::cmd("SENTINEL").arg(&["CKQUORUM", "events"]).query::<String>(&mut admin);
        std::future::ready(seen.ok().filter(|seen| seen.contains("usable")))
    })
    .await;
    let with = |of_servers: &str, of_sentinels: Option<(Option<&str>, &str)>| {
        let credentials =
            |(user, password): (Option<&str>, &str)| config::Credentials { user: user.map(str::to_owned), password: password.into() };
        let url = format!("redis+sentinel://:{of_servers}@127.0.0.1:{}/events", watcher.port);
        config::Redis { sentinels: of_sentinels.map(credentials), ..config(&url, "p") }
    };
    add_user(&mut raw(&format!("redis://:of-servers@127.0.0.1:{}/0", master.port)), &["+role", "+info"]);
    let by_ann = |config: config::Redis| config::Redis {
        url: config.url.expose_secret().replace("//:of-servers@", "//ann:pw@").into(),
        prefix: "fusebox".into(),
        ..config
    };
    for given in [
        with("of-servers", Some((None, "of-sentinels"))),
        with("of-servers", Some((Some("ann"), "of-ann"))),
        by_ann(with("of-servers", Some((Some("ann"), "of-ann")))),
    ] {
        let store = store_at(&given, "a", Tick(1_000_000));
        let mut heard = store.watch();
        assert_eq!(next(&mut heard).await, Heard::Connected);
        eventually("an answer", async || state_of(&store, "rag").await.ok()).await;
        assert!(!format!("{store:?}").contains("of-"));
    }
    for (config, expect) in [
        (with("of-servers", None), "a sentinel refused the credentials"),
        (with("of-servers", Some((None, "of-servers"))), "a sentinel refused the credentials"),
        (with("of-servers", Some((Some("bob"), "of-ann"))), "a sentinel refused the credentials"),
        (with("of-sentinels", Some((None, "of-sentinels"))), "Redis refused the credentials"),
    ] {
        let store = store_at(&config, "b", Tick(0));
        assert_eq!(state_of(&store, "rag").await.expect_err("refused").0, expect);
    }
}

/// Publishes until it is heard: a subscription takes a moment to find its server.
pub(super) async fn until_heard(heard: &mut mpsc::Receiver<Heard>, store: &RedisStore<Still>) {
    for generation in 10.. {
        while let Ok(news) = heard.try_recv() {
            if matches!(news, Heard::Changed { snapshot, .. } if snapshot.generation >= Generation(10)) {
                return;
            }
        }
        assert!(generation < 1_000, "nothing is heard of the new master");
        let _ = store.save("vms", &half_open(generation), Some(&transition(generation))).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Slots of each of three nodes; the last has what is left.
const SLOTS: usize = 5_462;

/// A node that has joined no others.
pub(super) fn node(more: &[&str]) -> Server {
    let args = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--repl-diskless-sync-delay", "0"];
    Server::start(&[&args, more].concat())
}

/// Three nodes with a third of the slots each.
pub(super) async fn cluster(more: &[&str]) -> [Server; 3] {
    joined([0, 1, 2].map(|_| node(more)), |node| node.port).await
}

/// Nodes, each of which is met by the others at a port, with a third of the slots each.
pub(super) async fn joined(nodes: [Server; 3], port: impl Fn(&Server) -> u16) -> [Server; 3] {
    for (place, node) in nodes.iter().enumerate() {
        let (from, to) = (place * SLOTS, (place * SLOTS + SLOTS - 1).min(16_383));
        ask(node.port, &["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
        for other in &nodes {
            ask(node.port, &["CLUSTER", "MEET", "127.0.0.1", &port(other).to_string()]);
        }
    }
    for node in &nodes {
        until_says(node.port, &["CLUSTER", "INFO"], "cluster_state:ok").await;
        until_says(node.port, &["CLUSTER", "INFO"], "cluster_known_nodes:3").await;
    }
    nodes
}

/// Where it is, as a config says it.
pub(super) fn url(nodes: &[Server]) -> String {
    let hosts: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    format!("redis+cluster://{}", hosts.join(","))
}

/// Which of three nodes has a key, and in which slot.
pub(super) fn home(nodes: &[Server; 3], key: &str) -> (usize, i64) {
    let redis::Value::Int(slot) = ask(nodes[0].port, &["CLUSTER", "KEYSLOT", key]) else { panic!("no slot") };
    (usize::try_from(slot).expect("a slot") / SLOTS, slot)
}

pub(super) fn id(node: &Server) -> String {
    let redis::Value::BulkString(id) = ask(node.port, &["CLUSTER", "MYID"]) else { panic!("no id") };
    String::from_utf8(id).expect("text")
}

#[tokio::test]
async fn a_cluster_keeps_each_service_on_one_node_and_its_slots_may_move() {
    let nodes = cluster(&[]).await;
    let config = config(&url(&nodes), "cluster");
    let (store, other) = (store_at(&config, "a", Tick(1_000_000)), store_at(&config, "b", Tick(1_000_000)));
    let mut heard = other.watch();
    assert_eq!(next(&mut heard).await, Heard::Connected);
    let services: Vec<String> = (0..30).map(|number| format!("s{number}")).collect();
    eventually("a connection", async || load(&store, &services).await.ok()).await;
    everything_works(&store, &services, 3).await;
    // What was published on any node.
    let mut changed = std::collections::BTreeSet::new();
    while changed.len() < services.len() {
        if let Heard::Changed { service, .. } = next(&mut heard).await {
            changed.insert(service);
        }
    }

    // A service's slot moves, with all of its keys, while it is used.
    let (from, slot) = home(&nodes, "cluster:{s7}:breaker");
    let to = (from + 1) % 3;
    let slot = slot.to_string();
    ask(nodes[to].port, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(&nodes[from])]);
    ask(nodes[from].port, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(&nodes[to])]);
    let redis::Value::Array(keys) = ask(nodes[from].port, &["CLUSTER", "GETKEYSINSLOT", &slot, "100"]) else { panic!("no keys") };
    assert!(keys.len() >= 2, "one slot for all keys of a service");
    let mut keys: Vec<_> = keys.into_iter().map(|key| redis::from_redis_value::<String>(key).expect("text")).collect();
    // The breaker itself first.
    keys.sort();
    for (moved, key) in keys.into_iter().enumerate() {
        if moved == 1 {
            // A script of two keys, which lie on two nodes: it is tried for a moment, in case the other follows.
            let asked = Instant::now();
            let error = store.save("s7", &half_open(4), None).await.expect_err("half of it is elsewhere").0;
            assert_eq!(error, "a slot of the Redis cluster is on its way from one node to another");
            assert!(asked.elapsed() < TIMEOUT, "{:?}", asked.elapsed());
        }
        ask(nodes[from].port, &["MIGRATE", "127.0.0.1", &nodes[to].port.to_string(), &key, "0", "1000"]);
    }
    // Halfway: the keys are there, and the slot is not yet.
    eventually("asked of the other node", async || store.save("s7", &half_open(4), None).await.ok()).await;
    for node in [to, from, 3 - to - from] {
        ask(nodes[node].port, &["CLUSTER", "SETSLOT", &slot, "NODE", &id(&nodes[to])]);
    }
    eventually("followed", async || store.save("s7", &half_open(5), None).await.ok()).await;
    assert!(says(nodes[to].port, &["HGET", "cluster:{s7}:breaker", "generation"], "5"));
    eventually("all of it", async || load(&store, &services).await.ok()).await;
    everything_works(&store, &services, 6).await;

    let layout = RedisLayout::open(&config).expect("a config that can work");
    for expect in [Found::Absent, Found::Same] {
        assert_eq!(layout.apply(LAYOUT_SCRIPT).await, Ok(expect));
    }
    for node in &nodes {
        add_user(&mut raw(&node.url()), &["+cluster|slots", "+cluster|info"]);
    }
    let by_ann = config::Redis { url: url(&nodes).replace("//", "//ann:pw@").into(), prefix: "fusebox".into(), ..config };
    let store = store_at(&by_ann, "a", Tick(1_000_000));
    assert_eq!(next(&mut store.watch()).await, Heard::Connected);
    eventually("a connection", async || load(&store, &services).await.ok()).await;
    everything_works(&store, &services, 3).await;
}
