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
    if store.lease(service, wish).await? == Leasing::Granted {
        store.give_back(service, &[generation]).await?;
    }
    Ok(saved.max(from.elapsed()))
}

/// What came of using the others' services while one node is away.
#[derive(Debug, Default)]
struct Course {
    served: usize,
    failed: Vec<StoreError>,
    slowest: Duration,
}

/// Uses the services of the others all the time, and those of the one that is away, whose answers must come in time.
async fn watch(store: &RedisStore<Still>, away: &[String], others: &[String], mut generation: u64) -> Course {
    let mut course = Course::default();
    let from = Instant::now();
    while from.elapsed() < WATCHED {
        generation += 1;
        let of_away = async {
            let asked = Instant::now();
            let answer = store.save(&away[0], &half_open(generation), None).await;
            assert!(asked.elapsed() < TIMEOUT + SLACK, "{:?}", asked.elapsed());
            answer.expect_err("its node is away").0
        };
        let of_others = async {
            let mut answers = Vec::new();
            for service in others {
                answers.push(used(store, service, generation).await);
            }
            answers
        };
        let together = async {
            let asked = Instant::now();
            let loaded = store.load(&[away, others].concat()).await;
            assert!(asked.elapsed() < TIMEOUT + SLACK, "{:?}", asked.elapsed());
            assert!(loaded[..away.len()].iter().all(Result::is_err), "its node is away: {loaded:?}");
            loaded.into_iter().skip(away.len()).filter_map(Result::err).collect::<Vec<_>>()
        };
        let (error, answers, unread) = tokio::join!(of_away, of_others, together);
        assert!(!error.contains("127.0.0.1"), "{error}");
        course.failed.extend(unread);
        for answer in answers {
            match answer {
                Ok(took) => {
                    course.served += 1;
                    course.slowest = course.slowest.max(took);
                }
                Err(error) => course.failed.push(error),
            }
        }
    }
    println!("of the others {} were served, the slowest after {:?}; not served: {:?}", course.served, course.slowest, course.failed);
    course
}

#[tokio::test]
async fn a_node_that_is_killed_takes_the_services_of_no_other_with_it() {
    // The nodes are known by their name, as certificates may want it.
    let named = ["--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname"];
    let mut nodes = cluster(&[PARTLY, &named].concat()).await;
    until_says(nodes[0].port, &["CLUSTER", "SLOTS"], "localhost").await;
    let store = store_at(&config(&url(&nodes), "cluster"), "a", Tick(1_000_000));
    let homes = homes(&nodes);
    let all = homes.concat();
    eventually("a connection", async || load(&store, &all).await.ok()).await;
    nodes[2].kill();
    // No node knows the script of a save yet, and the one that is gone cannot be told it.
    let course = watch(&store, &homes[2], &homes[..2].concat(), 10).await;
    assert_eq!(course.failed, [], "served {}", course.served);
    // Who comes later finds the others too.
    let late = store_at(&config(&url(&nodes), "cluster"), "b", Tick(1_000_000));
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
    let store = store_at(&config(&url(&nodes), "cluster"), "a", Tick(1_000_000));
    let homes = homes(&nodes);
    let all = homes.concat();
    eventually("a connection", async || load(&store, &all).await.ok()).await;
    nodes[2].signal("-STOP");
    let course = watch(&store, &homes[2], &homes[..2].concat(), 10).await;
    assert_eq!(course.failed, [], "served {}", course.served);
    let late = store_at(&config(&url(&nodes), "cluster"), "b", Tick(1_000_000));
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
fn pretender<A: Fn(&[String]) -> String + Send + 'static>(connection: impl Fn() -> A + Send + 'static) -> u16 {
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

#[tokio::test]
async fn a_seed_that_says_nothing_takes_no_more_than_its_share_of_the_time() {
    let nodes = cluster(&[]).await;
    // Its kernel takes the connections, and nobody answers.
    let silent: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let seeds: Vec<_> = silent.iter().map(|silent| silent.local_addr().expect("bound").to_string()).collect();
    let url = format!("{},{}", url(&nodes[..1]).replace("://", &format!("://{},", seeds[0])), seeds[1]);
    let store = store_at(&config(&url, "cluster"), "a", Tick(1_000_000));
    let (from, mut heard) = (Instant::now(), store.watch());
    assert_eq!(next(&mut heard).await, Heard::Connected);
    let subscribed = from.elapsed();
    let services: Vec<String> = (0..30).map(|number| format!("s{number}")).collect();
    eventually("a connection", async || load(&store, &services).await.ok()).await;
    println!("subscribed after {subscribed:?}, connected after {:?}", from.elapsed());
    // An attempt has a second: what is late may not have come with the first one.
    assert!(subscribed < Duration::from_secs(1) && from.elapsed() < 2 * Duration::from_secs(1) + SLACK);
    // From now on the one that has answered is asked first.
    let (from, mut again) = (Instant::now(), store.watch());
    assert_eq!(next(&mut again).await, Heard::Connected);
    assert!(from.elapsed() < Duration::from_millis(300), "{:?}", from.elapsed());
    everything_works(&store, &services, 3).await;
}

/// `CLUSTER SLOTS` of a cluster whose slots are all at one port.
fn all_at(port: u64) -> String {
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
