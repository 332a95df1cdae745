//! Nodes of a cluster whose view of it is wrong, or is not to be had for a while.

use std::sync::atomic::AtomicBool;

use super::nodes::{all_at, pretender};
use super::several::{ask, cluster, node, says, until_heard, until_says, url};
use super::*;

/// What a load of one service answers where nothing is stored.
const NOTHING: &str = "*1\r\n*0\r\n";

fn of_state(state: &str) -> String {
    let info = format!("cluster_state:{state}\r\ncluster_known_nodes:6\r\n");
    format!("${}\r\n{info}\r\n", info.len())
}

/// A node that claims all slots, says this of its state, and answers a script so.
fn claiming(info: &str, script: &'static str) -> u16 {
    let own = Arc::new(AtomicU64::new(0));
    let (info, its) = (info.to_owned(), Arc::clone(&own));
    let port = pretender(move || {
        let (info, own) = (info.clone(), Arc::clone(&its));
        move |words| match (words[0].as_str(), words.get(1).map(String::as_str)) {
            ("PING", _) => "+PONG\r\n".to_owned(),
            ("CLUSTER", Some("INFO")) => info.clone(),
            ("CLUSTER", _) => all_at(own.load(Ordering::Relaxed)),
            ("EVALSHA", _) => script.to_owned(),
            _ => "+OK\r\n".to_owned(),
        }
    });
    own.store(port.into(), Ordering::Relaxed);
    port
}

fn url_of(ports: &[u16]) -> String {
    let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!("redis+cluster://{}", hosts.join(","))
}

#[tokio::test]
async fn a_node_that_is_cut_off_and_claims_what_it_had_is_not_believed() {
    const REFUSED: &str = "-NOPERM this user has no permissions to run the 'cluster|info' command\r\n";
    const DOWN: &str = "-CLUSTERDOWN The cluster is down\r\n";
    // Where the state may not be asked for, the next is asked once it has proved wrong.
    for info in [&of_state("fail"), REFUSED] {
        let (cut_off, whole) = (claiming(info, DOWN), claiming(&of_state("ok"), NOTHING));
        let store = store_at(&config(&url_of(&[cut_off, whole]), "cluster"), "a", Tick(1_000_000));
        eventually("what the other has", async || load(&store, &names(&["rag"])).await.ok()).await;
    }
}

#[tokio::test]
async fn what_cut_off_nodes_say_is_taken_where_there_is_no_other() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent = silent.local_addr().expect("bound").port();
    let cut_off = claiming(&of_state("fail"), NOTHING);
    for seeds in [&[cut_off][..], &[silent, cut_off], &[cut_off, silent]] {
        let store = store_at(&config(&url_of(seeds), "cluster"), "a", Tick(1_000_000));
        eventually("what there is", async || load(&store, &names(&["rag"])).await.ok()).await;
        assert_eq!(next(&mut store.watch()).await, Heard::Connected);
    }
}

#[tokio::test]
async fn a_subscription_does_not_begin_at_a_node_that_hears_nobody() {
    let nodes = cluster(&[]).await;
    let (without_slots, of_one) = (node(&[]), node(&[]));
    ask(of_one.port, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    until_says(of_one.port, &["CLUSTER", "INFO"], "cluster_state:ok").await;
    let store = store_at(&config(&url(&nodes), "cluster"), "a", Tick(1_000_000));
    for lonely in [without_slots, of_one] {
        let seeds = url(&nodes).replace("//", &format!("//127.0.0.1:{},", lonely.port));
        let mut heard = store_at(&config(&seeds, "cluster"), "b", Tick(1_000_000)).watch();
        until_heard(&mut heard, &store).await;
    }
}

#[tokio::test]
async fn a_subscription_leaves_a_node_that_hears_nobody_any_more() {
    let nodes = cluster(&[]).await;
    let store = store_at(&config(&url(&nodes), "cluster"), "a", Tick(1_000_000));
    let hard: &[&[&str]] = &[&["CLUSTER", "RESET", "HARD"]];
    // With slots or without, it is a cluster of its own; by another name, lest the others believe that it has theirs.
    let alone: &[&[&str]] = &[&["CLUSTER", "RESET", "HARD"], &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]];
    for leaving in [hard, alone] {
        let guest = node(&[]);
        ask(guest.port, &["CLUSTER", "MEET", "127.0.0.1", &nodes[0].port.to_string()]);
        until_says(guest.port, &["CLUSTER", "INFO"], "cluster_state:ok").await;
        until_says(guest.port, &["CLUSTER", "SLOTS"], &nodes[2].port.to_string()).await;
        let seeds = url(&nodes).replace("//", &format!("//127.0.0.1:{},", guest.port));
        let mut heard = store_at(&config(&seeds, "cluster"), "b", Tick(1_000_000)).watch();
        assert_eq!(next(&mut heard).await, Heard::Connected);
        assert!(says(guest.port, &["PUBSUB", "CHANNELS"], "cluster:transitions"), "it stands there");
        for command in leaving {
            ask(guest.port, command);
        }
        while next(&mut heard).await != Heard::Connected {}
        until_heard(&mut heard, &store).await;
        for node in &nodes {
            // Its place is left to the next.
            for id in known_without_slots(node) {
                ask(node.port, &["CLUSTER", "FORGET", &id]);
            }
        }
    }
}

/// The ids of other nodes that have no slots, as this one knows them.
fn known_without_slots(node: &Server) -> Vec<String> {
    let known: String = redis::from_redis_value(ask(node.port, &["CLUSTER", "NODES"])).expect("text");
    let others = known.lines().filter(|line| !line.contains("myself") && line.split(' ').count() <= 8);
    others.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// `CLUSTER SLOTS` where one slot, that of `vms`, lies elsewhere than all others.
fn all_but_one_at(port: u64, other: u16) -> String {
    let range = |first: u16, last: u16, port: u64| format!("*3\r\n:{first}\r\n:{last}\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n");
    format!("*3\r\n{}{}{}", range(0, 6_441, port), range(6_442, 6_442, other.into()), range(6_443, 16_383, port))
}

#[tokio::test]
async fn what_is_known_of_the_nodes_serves_while_it_cannot_be_read_anew() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let other = silent.local_addr().expect("bound").port();
    let (own, refused, refusing) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let port = {
        let (own, refused, refusing) = (Arc::clone(&own), Arc::clone(&refused), Arc::clone(&refusing));
        pretender(move || {
            let (own, refused, refusing) = (Arc::clone(&own), Arc::clone(&refused), Arc::clone(&refusing));
            move |words| match words[0].as_str() {
                "PING" => "+PONG\r\n".to_owned(),
                "CLUSTER" if refusing.load(Ordering::Relaxed) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    "-ERR not now\r\n".to_owned()
                }
                "CLUSTER" => all_but_one_at(own.load(Ordering::Relaxed), other),
                "EVALSHA" => NOTHING.to_owned(),
                _ => "+OK\r\n".to_owned(),
            }
        })
    };
    own.store(port.into(), Ordering::Relaxed);
    let store = store_at(&config(&url_of(&[port]), "cluster"), "a", Tick(1_000_000));
    eventually("a connection", async || load(&store, &names(&["rag"])).await.ok()).await;
    refusing.store(true, Ordering::Relaxed);
    eventually("it cannot be read anew, again and again", async || {
        let asked = Instant::now();
        load(&store, &names(&["vms"])).await.expect_err("its node is silent");
        assert!(asked.elapsed() < TIMEOUT + SLACK, "{:?}", asked.elapsed());
        assert_eq!(load(&store, &names(&["rag"])).await, Ok(vec![Kept::default()]));
        (refused.load(Ordering::Relaxed) >= 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_is_about_to_get_a_slot_is_kept() {
    let (connections, read, moving) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let importing = {
        let connections = Arc::clone(&connections);
        pretender(move || {
            connections.fetch_add(1, Ordering::Relaxed);
            |words| match words[0].as_str() {
                "PING" => "+PONG\r\n".to_owned(),
                "EVALSHA" => NOTHING.to_owned(),
                _ => "+OK\r\n".to_owned(),
            }
        })
    };
    let own = Arc::new(AtomicU64::new(0));
    let port = {
        let (own, read, moving) = (Arc::clone(&own), Arc::clone(&read), Arc::clone(&moving));
        pretender(move || {
            let (own, read, moving) = (Arc::clone(&own), Arc::clone(&read), Arc::clone(&moving));
            move |words| match words[0].as_str() {
                "PING" => "+PONG\r\n".to_owned(),
                "CLUSTER" if words[1] == "INFO" => of_state("ok"),
                "CLUSTER" => {
                    read.fetch_add(1, Ordering::Relaxed);
                    all_at(own.load(Ordering::Relaxed))
                }
                "EVALSHA" if words.iter().any(|word| word.contains("{vms}")) => format!("-ASK 6442 127.0.0.1:{importing}\r\n"),
                "EVALSHA" if moving.swap(false, Ordering::Relaxed) => format!("-MOVED 7 127.0.0.1:{}\r\n", own.load(Ordering::Relaxed)),
                "EVALSHA" => NOTHING.to_owned(),
                _ => "+OK\r\n".to_owned(),
            }
        })
    };
    own.store(port.into(), Ordering::Relaxed);
    let store = store_at(&config(&url_of(&[port]), "cluster"), "a", Tick(1_000_000));
    for _ in 0..3 {
        eventually("what is on its way", async || load(&store, &names(&["vms"])).await.ok()).await;
        let before = read.load(Ordering::Relaxed);
        // Another slot has moved, for which all are read anew.
        moving.store(true, Ordering::Relaxed);
        assert_eq!(load(&store, &names(&["rag"])).await, Ok(vec![Kept::default()]));
        eventually("all are read", async || (read.load(Ordering::Relaxed) > before).then_some(())).await;
    }
    eventually("what is on its way", async || load(&store, &names(&["vms"])).await.ok()).await;
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}
