//! A node of a cluster that is killed, frozen, or replaced by its replica, while the services of the others are used; and nodes that say nothing,
//! or send on for ever.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use fusebox::pipeline::ports::{LeaseStore, LeaseWish, Leasing};

use super::several::{ask, cluster, everything_works, half_open, home, id, node, until_heard, until_says, url};
use super::*;

/// Where a node that is gone takes no other's slots with it.
const PARTLY: &[&str] = &["--cluster-require-full-coverage", "no"];

/// How long the others are watched: longer than the cluster takes to find that one of them is gone.
const WATCHED: Duration = Duration::from_secs(5);

/// How long a command may take while they are watched: a few of them, and it is over.
const PATIENT: Duration = Duration::from_secs(2);

/// Between two rounds, for whatever else the machine does.
const PAUSE: Duration = Duration::from_millis(10);

/// The services of each of three nodes.
fn homes(nodes: &[Server; 3]) -> [Vec<String>; 3] {
    let mut homes = [const { Vec::new() }; 3];
    for service in (0..30).map(|number| format!("s{number}")) {
        homes[home(nodes, &format!("cluster:{{{service}}}:breaker")).0].push(service);
    }
    homes
}

/// Saves a newer state of a service and asks for a lease; gives how long both took at most.
async fn used(store: &RedisStore<Still>, service: &str, generation: u64) -> Result<Duration, StoreError> {
    let from = Instant::now();
    store.save(service, &half_open(generation), Some(&transition(generation))).await?;
    let saved = from.elapsed();
    let wish = LeaseWish { lease: generation, generation: Generation(generation), permits: 1, duration: TIMEOUT, urgent: false };
    let from = Instant::now();
    assert_eq!(store.lease(service, wish).await?, Leasing::Granted, "{service}");
    store.give_back(service, &[generation]).await?;
    Ok(saved.max(from.elapsed()))
}

/// What came of using the others' services while one node is away.
#[derive(Debug, Default)]
struct Course {
    served: usize,
    failed: Vec<StoreError>,
    slowest: Duration,
}

/// A config whose store gives an answer much time, so that none of a node that serves is late on a machine that is busy.
fn patient(nodes: &[Server; 3]) -> config::Redis {
    config::Redis { timeout: PATIENT, ..config(&url(nodes), "cluster") }
}

/// Uses the services of the others all the time, and those of the one that is away, whose answers must come in time. They do not wait for it.
async fn watch(store: &RedisStore<Still>, away: &[String], others: &[String], from_generation: u64) {
    let from = Instant::now();
    let generations = || (from_generation + 1..).take_while(|_| from.elapsed() < WATCHED);
    let of_away = async {
        for generation in generations() {
            let asked = Instant::now();
            let error = store.save(&away[0], &half_open(generation), None).await.expect_err("its node is away").0;
            assert!(asked.elapsed() < PATIENT + SLACK, "{:?}", asked.elapsed());
            assert!(!error.contains("127.0.0.1"), "{error}");
            tokio::time::sleep(PAUSE).await;
        }
    };
    let of_others = async {
        let mut course = Course::default();
        for generation in generations() {
            for service in others {
                match used(store, service, generation).await {
                    Ok(took) => {
                        course.served += 1;
                        course.slowest = course.slowest.max(took);
                    }
                    Err(error) => course.failed.push(error),
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        course
    };
    let together = async {
        let mut unread = Vec::new();
        for _ in generations() {
            let asked = Instant::now();
            let loaded = store.load(&[away, others].concat()).await;
            assert!(asked.elapsed() < PATIENT + SLACK, "{:?}", asked.elapsed());
            assert!(loaded[..away.len()].iter().all(Result::is_err), "its node is away: {loaded:?}");
            unread.extend(loaded.into_iter().skip(away.len()).filter_map(Result::err));
            tokio::time::sleep(PAUSE).await;
        }
        unread
    };
    let ((), mut course, unread) = tokio::join!(of_away, of_others, together);
    course.failed.extend(unread);
    assert_eq!(course.failed, [], "served {}", course.served);
    // A few rounds: had one waited for the node that is away, there would be no second.
    assert!(course.served >= 3 * others.len(), "served {} of {}, the slowest after {:?}", course.served, others.len(), course.slowest);
    println!("of the others {} were served, the slowest after {:?}", course.served, course.slowest);
}

#[tokio::test]
async fn a_node_that_is_killed_takes_the_services_of_no_other_with_it() {
    // The nodes are known by their name, as certificates may want it.
    let named = ["--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname"];
    let mut nodes = cluster(&[PARTLY, &named].concat()).await;
    until_says(nodes[0].port, &["CLUSTER", "SLOTS"], "localhost").await;
    let store = store_at(&patient(&nodes), "a", Tick(1_000_000));
    let homes = homes(&nodes);
    let all = homes.concat();
    eventually("a connection", async || load(&store, &all).await.ok()).await;
    nodes[2].kill();
    // No node knows the script of a save yet, and the one that is gone cannot be told it.
    watch(&store, &homes[2], &homes[..2].concat(), 10).await;
    // Who comes later finds the others too.
    let late = store_at(&patient(&nodes), "b", Tick(1_000_000));
    eventually("the others' states", async || load(&late, &homes[0]).await.ok()).await;
    nodes[2].restart();
    for store in [&store, &late] {
        eventually("all of it", async || load(store, &all).await.ok()).await;
    }
    everything_works(&store, &all, 100_000).await;
}

#[tokio::test]
async fn a_node_that_is_frozen_takes_the_services_of_no_other_with_it() {
    let nodes = cluster(PARTLY).await;
    let store = store_at(&patient(&nodes), "a", Tick(1_000_000));
    let homes = homes(&nodes);
    let all = homes.concat();
    eventually("a connection", async || load(&store, &all).await.ok()).await;
    nodes[2].signal("-STOP");
    watch(&store, &homes[2], &homes[..2].concat(), 10).await;
    let late = store_at(&patient(&nodes), "b", Tick(1_000_000));
    eventually("the others' states", async || load(&late, &homes[0]).await.ok()).await;
    nodes[2].signal("-CONT");
    for store in [&store, &late] {
        eventually("all of it", async || load(store, &all).await.ok()).await;
    }
    everything_works(&store, &all, 100_000).await;
}

#[tokio::test]
async fn a_replica_takes_the_place_of_its_node_with_what_was_stored() {
    let nodes = cluster(&[]).await;
    let replica = node(&[]);
    ask(replica.port, &["CLUSTER", "MEET", "127.0.0.1", &nodes[0].port.to_string()]);
    until_says(replica.port, &["CLUSTER", "INFO"], "cluster_known_nodes:4").await;
    let master = id(&nodes[0]);
    until_says(replica.port, &["CLUSTER", "NODES"], &master).await;
    ask(replica.port, &["CLUSTER", "REPLICATE", &master]);
    until_says(nodes[0].port, &["INFO", "replication"], "state=online").await;
    for node in &nodes {
        // Who does not know it gives it no vote.
        until_says(node.port, &["CLUSTER", "NODES"], &format!("slave {master}")).await;
    }

    let config = config(&url(&nodes), "cluster");
    let (store, other) = (store_at(&config, "a", Tick(1_000_000)), store_at(&config, "b", Tick(1_000_000)));
    let mut heard = other.watch();
    let homes = homes(&nodes);
    let all = homes.concat();
    eventually("a connection", async || load(&store, &all).await.ok()).await;
    everything_works(&store, &all, 3).await;
    let service = &homes[0][0];
    let offset = |port| {
        let info: String = redis::from_redis_value(ask(port, &["INFO", "replication"])).expect("text");
        info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")?.parse::<u64>().ok()).expect("an offset")
    };
    let written = offset(nodes[0].port);
    eventually("all is replicated", async || (offset(replica.port) >= written).then_some(())).await;

    nodes[0].signal("-STOP");
    let from = Instant::now();
    let stored = eventually("the replica serves", async || state_of(&store, service).await.ok()).await;
    println!("its services were had again after {:?}", from.elapsed());
    assert_eq!(stored.map(|stored| stored.generation), Some(Generation(3)), "with what was stored");
    until_says(replica.port, &["ROLE"], "master").await;
    eventually("all of it", async || load(&store, &all).await.ok()).await;
    everything_works(&store, &all, 4).await;
    // The subscription was at the node that is frozen.
    until_heard(&mut heard, &store).await;

    nodes[0].signal("-CONT");
    until_says(nodes[0].port, &["ROLE"], "slave").await;
    everything_works(&store, &all, 2_000).await;
    everything_works(&other, &all, 3_000).await;
}

/// A node of the test's own, which answers each command of a connection as it is told to, by the command's words.
pub(super) fn pretender<A: Fn(&[String]) -> String + Send + 'static>(connection: impl Fn() -> A + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let serve = |stream: TcpStream, answer: &dyn Fn(&[String]) -> String| -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        loop {
            let count: usize = lines.next()?.ok()?.strip_prefix('*')?.parse().ok()?;
            let mut words = Vec::new();
            for _ in 0..count {
                lines.next()?.ok()?;
                words.push(lines.next()?.ok()?);
            }
            (&stream).write_all(answer(&words).as_bytes()).ok()?;
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = connection();
            std::thread::spawn(move || stream.ok().and_then(|stream| serve(stream, &answer)));
        }
    });
    port
}

/// A port that takes connections and says nothing, and how many it has taken.
fn silent() -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (port, taken) = (listener.local_addr().expect("bound").port(), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&taken);
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            held.push(stream);
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (port, taken)
}

#[tokio::test]
async fn a_seed_that_says_nothing_takes_no_more_than_its_share_of_the_time() {
    let nodes = cluster(&[]).await;
    let [(before, asked_before), (behind, asked_behind)] = [silent(), silent()];
    let url = format!("{},127.0.0.1:{behind}", url(&nodes[..1]).replace("://", &format!("://127.0.0.1:{before},")));
    // Whoever has much time gives each seed much: one attempt is enough.
    let patient = config::Redis { timeout: DEADLINE / 2, ..config(&url, "cluster") };
    let store = store_at(&patient, "a", Tick(1_000_000));
    let (from, mut heard) = (Instant::now(), store.watch());
    assert_eq!(next(&mut heard).await, Heard::Connected);
    let services: Vec<String> = (0..30).map(|number| format!("s{number}")).collect();
    eventually("a connection", async || load(&store, &services).await.ok()).await;
    println!("connected after {:?}", from.elapsed());
    let asked = || (asked_before.load(Ordering::Relaxed), asked_behind.load(Ordering::Relaxed));
    // The first seed by the one attempt for commands, and by the one to subscribe; the last by none, since the second has answered.
    eventually("the first is asked", async || (asked().0 > 0).then_some(())).await;
    assert!(asked().0 <= 2 && asked().1 == 0, "{:?}", asked());
    // From now on the one that has answered is asked first.
    let (asked_until_now, mut again) = (asked(), store.watch());
    assert_eq!(next(&mut again).await, Heard::Connected);
    everything_works(&store, &services, 3).await;
    assert_eq!(asked(), asked_until_now);
}

/// `CLUSTER SLOTS` of a cluster whose slots are all at one port.
pub(super) fn all_at(port: u64) -> String {
    format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n")
}

#[tokio::test]
async fn a_node_that_has_no_slots_any_more_is_let_go() {
    let (stays, goes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let connected = Arc::new(());
    let port = {
        let (stays, connected) = (Arc::clone(&stays), Arc::downgrade(&connected));
        pretender(move || {
            let (stays, held) = (Arc::clone(&stays), connected.upgrade());
            move |words| match words[0].as_str() {
                "PING" => "+PONG\r\n".to_owned(),
                "EVALSHA" if held.is_some() => format!("-MOVED 7 127.0.0.1:{}\r\n", stays.load(Ordering::Relaxed)),
                _ => "+OK\r\n".to_owned(),
            }
        })
    };
    goes.store(port.into(), Ordering::Relaxed);
    let moved = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let port = {
        let (stays, goes, moved) = (Arc::clone(&stays), Arc::clone(&goes), Arc::clone(&moved));
        pretender(move || {
            let (stays, goes, moved) = (Arc::clone(&stays), Arc::clone(&goes), Arc::clone(&moved));
            move |words| match words[0].as_str() {
                "PING" => "+PONG\r\n".to_owned(),
                "CLUSTER" => all_at(if moved.load(Ordering::Relaxed) { &stays } else { &goes }.load(Ordering::Relaxed)),
                "EVALSHA" => {
                    moved.store(true, Ordering::Relaxed);
                    "*1\r\n*0\r\n".to_owned()
                }
                _ => "+OK\r\n".to_owned(),
            }
        })
    };
    stays.store(port.into(), Ordering::Relaxed);
    let store = store_at(&config(&format!("redis+cluster://127.0.0.1:{port}"), "cluster"), "a", Tick(1_000_000));
    eventually("an answer", async || load(&store, &names(&["rag"])).await.ok()).await;
    assert!(Arc::strong_count(&connected) > 1, "it was asked first");
    eventually("it is let go", async || (Arc::strong_count(&connected) == 1).then_some(())).await;
    assert_eq!(load(&store, &names(&["rag"])).await, Ok(vec![Kept::default()]));
}

#[tokio::test]
async fn nodes_that_send_on_to_each_other_are_asked_a_few_times() {
    let asked = Arc::new(AtomicU64::new(0));
    let ports = [0, 1].map(|_| Arc::new(AtomicU64::new(0)));
    for place in [0, 1] {
        let (asked, ports) = (Arc::clone(&asked), ports.clone());
        let own = Arc::clone(&ports[place]);
        let port = pretender(move || {
            let (asked, ports) = (Arc::clone(&asked), ports.clone());
            move |words| match words[0].as_str() {
                "PING" => "+PONG\r\n".to_owned(),
                "CLUSTER" => all_at(ports[0].load(Ordering::Relaxed)),
                "EVALSHA" => {
                    asked.fetch_add(1, Ordering::Relaxed);
                    format!("-MOVED 7 127.0.0.1:{}\r\n", ports[1 - place].load(Ordering::Relaxed))
                }
                _ => "+OK\r\n".to_owned(),
            }
        });
        own.store(port.into(), Ordering::Relaxed);
    }
    let url = format!("redis+cluster://127.0.0.1:{}", ports[0].load(Ordering::Relaxed));
    let store = store_at(&config(&url, "cluster"), "a", Tick(1_000_000));
    let error = eventually("an answer", async || {
        asked.store(0, Ordering::Relaxed);
        let error = load(&store, &names(&["rag"])).await.expect_err("nobody has it").0;
        error.starts_with("a slot").then_some(error)
    })
    .await;
    assert_eq!(error, "a slot of the Redis cluster is on its way from one node to another");
    assert_eq!(asked.load(Ordering::Relaxed), 7);
}
