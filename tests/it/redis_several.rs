//! Redis on several servers: behind a sentinel, with a failover, and as a cluster, of which a slot moves and a node freezes and dies. Two instances go on under
//! load: none is less ready for it, no call is refused, each says once that the store is away and once that it is back, and in the end they share
//! their breakers as before.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Event, Instance, RedisServer, World, until};

const SERVICES: [&str; 4] = ["rag", "rulegen", "notifier", "vms"];

/// Two instances that share breakers.
struct Pair {
    world: World,
    one: Instance,
    other: Instance,
}

impl Pair {
    /// At a Redis of this URL, which is more than a plain one.
    fn start(name: &str, url: &str, onlooker: &RedisServer) -> Self {
        let world = World::new(name).redis(&onlooker.url()).config(&format!("[redis]\nurl = \"{url}\"")).start();
        let (one, other) = (world.run(), world.run());
        let pair = Self { world, one, other };
        pair.until("all is well", |one| one.part("redis").0 == "ok");
        pair
    }

    fn both(&self) -> [&Instance; 2] {
        [&self.one, &self.other]
    }

    /// Waits until this holds of both, who are ready all the while.
    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&Instance) -> bool) {
        until(what, || {
            let mut answers = self.both().into_iter().map(|one| {
                let answer = one.get("/readyz");
                assert_eq!(answer.status, 200, "{what}: {answer:?}");
                holds(one)
            });
            answers.by_ref().fold(true, |all, one| all & one)
        });
    }

    /// An order to one is heard by the other.
    #[track_caller]
    fn share(&self, service: &str, reason: &str) {
        assert_eq!(self.one.force(service, &json!({ "state": "metrics_only", "reason": reason })).status, 200);
        self.until(&format!("{service}: {reason}"), |one| one.breaker(service)["lock"]["reason"] == reason);
        let [ours, theirs] = self.both().map(|one| one.breaker(service)["generation"].clone());
        assert_eq!(ours, theirs, "{service}");
    }

    /// How often each has said that the store is away, and that it is there.
    fn said(&self) -> [(usize, usize); 2] {
        self.both().map(|one| {
            let log = one.log();
            let count = |what: &str| log.lines().filter(|line| line.contains(what)).count();
            assert!(log.lines().filter(|line| line.contains("the store is")).all(|line| !line.contains("127.0.0.1")), "{log}");
            (count("the store is away"), count("the store is there"))
        })
    }

    /// Runs a course under load. Every event of it goes through all of its calls.
    fn under_load(mut self, course: impl FnOnce(&Self)) {
        let (ending, published) = (AtomicBool::new(false), Mutex::new(0));
        std::thread::scope(|scope| {
            let _ending = Ending(&ending);
            scope.spawn(|| {
                while !ending.load(Ordering::Relaxed) {
                    self.world.publish(&(0..4).map(|camera| Event::of(&format!("cam-{camera}")).notifying()).collect::<Vec<_>>());
                    *published.lock().expect("whole") += 4;
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            course(&self);
        });
        let published = published.into_inner().expect("whole");
        let outcomes = self.world.outcomes(published);
        assert_eq!(outcomes.len(), published);
        for outcome in outcomes {
            let outcome = outcome.json();
            assert!(SERVICES.iter().all(|service| outcome["stages"][service]["success"] == true), "{outcome}");
        }
        assert_eq!((self.one.stop(), self.other.stop()), (0, 0));
    }
}

/// Ends the load when it is dropped, by a panic too: its thread is waited for.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn stored_reason(server: &RedisServer, world: &World, service: &str) -> Option<String> {
    let value = server.ask(&["HGET", &format!("{}:{{{service}}}:breaker", world.group), "lock_reason"])?;
    redis::from_redis_value(value).ok()
}

#[test]
fn a_failover_by_a_sentinel() {
    let mut master = RedisServer::with(&["--repl-diskless-sync-delay", "0"]);
    let replica = RedisServer::with(&["--replicaof", "127.0.0.1", &master.port().to_string()]);
    master.wait_to_say(&["INFO", "replication"], "state=online");
    let monitor = format!("sentinel monitor events 127.0.0.1 {} 1\nsentinel down-after-milliseconds events 1000\n", master.port());
    let sentinel = RedisServer::sentinel(&monitor);
    sentinel.wait_to_say(&["SENTINEL", "REPLICAS", "events"], &replica.port().to_string());

    let pair = Pair::start("redis-sentinel", &format!("redis+sentinel://127.0.0.1:{}/events", sentinel.port()), &master);
    pair.share("vms", "before");
    until("it is replicated", || stored_reason(&replica, &pair.world, "vms").as_deref() == Some("before"));
    let before = pair.said();
    pair.under_load(|pair| {
        master.kill();
        pair.until("the store is away", |one| one.part("redis").0 == "degraded");
        // Of that one hears nothing until the store is there.
        assert_eq!(pair.other.force("rulegen", &json!({ "state": "metrics_only", "reason": "meanwhile" })).status, 200);
        pair.until("the store is there", |one| one.part("redis").0 == "ok");
        pair.until("what was decided meanwhile", |one| one.breaker("rulegen")["lock"]["reason"] == "meanwhile");
        pair.until("what was decided before", |one| one.breaker("vms")["lock"]["reason"] == "before");
        pair.share("rag", "after");
        assert_eq!(stored_reason(&replica, &pair.world, "rag").as_deref(), Some("after"));
        assert_eq!(pair.said(), before.map(|(away, there)| (away + 1, there + 1)));
    });
}

/// The first and the last slot of each of three nodes: the services lie on all of them.
const SLOTS: [(usize, usize); 3] = [(0, 5_461), (5_462, 10_923), (10_924, 16_383)];
/// A way to be away, and the way back.
type Way = (&'static str, fn(&mut RedisServer), fn(&mut RedisServer));

const WAYS: [Way; 2] =
    [("frozen", |node| node.signal("STOP"), |node| node.signal("CONT")), ("killed", RedisServer::kill, RedisServer::start)];

/// The slot of the notifier's breaker.
const NOTIFIER: &str = "2428";

#[test]
fn a_cluster_of_which_a_slot_moves_and_a_node_freezes_and_dies() {
    let args = ["--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no"];
    let mut nodes = [0, 1, 2].map(|_| RedisServer::node(&args));
    for (node, (first, last)) in nodes.iter().zip(SLOTS) {
        node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).expect("taken");
        nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string()]).expect("met");
    }
    for node in &nodes {
        node.wait_to_say(&["CLUSTER", "INFO"], "cluster_state:ok");
        node.wait_to_say(&["CLUSTER", "INFO"], "cluster_slots_assigned:16384");
        node.wait_to_say(&["CLUSTER", "INFO"], "cluster_known_nodes:3");
    }
    let hosts = [0, 1].map(|node| format!("127.0.0.1:{}", nodes[node].port()));
    let pair = Pair::start("redis-cluster", &format!("redis+cluster://{}", hosts.join(",")), &nodes[0]);
    for service in SERVICES {
        pair.share(service, "before");
    }
    let before = pair.said();
    pair.under_load(|pair| {
        move_slot(&nodes[0], &nodes[2], NOTIFIER);
        pair.share("notifier", "it has moved");
        until("the new node has it", || stored_reason(&nodes[2], &pair.world, "notifier").as_deref() == Some("it has moved"));
        assert_eq!(pair.said(), before, "that is nothing to speak of");

        for (number, (name, strike, mend)) in WAYS.into_iter().enumerate() {
            strike(&mut nodes[1]);
            pair.until(name, |one| {
                let (state, detail) = one.part("redis");
                state == "degraded" && detail.starts_with("1 of 3 nodes: Redis ")
            });
            // It has the vms' breaker. Those of the others are shared as before, over several polls.
            let last = format!("the last, {name}");
            for reason in ["soon over", &last] {
                assert_eq!(pair.one.force("vms", &json!({ "state": "metrics_only", "reason": reason })).status, 200);
            }
            for reason in ["at once", "again", "still"].map(|when| format!("{name}, {when}")) {
                let from = Instant::now();
                for service in ["rag", "rulegen", "notifier"] {
                    pair.share(service, &reason);
                }
                println!("{reason}: three orders were shared within {:?}", from.elapsed());
            }
            assert_ne!(pair.other.breaker("vms")["lock"]["reason"], last, "nobody can tell it of that");
            mend(&mut nodes[1]);
            pair.until("the store is there", |one| one.part("redis").0 == "ok");
            pair.until("what was decided meanwhile", |one| one.breaker("vms")["lock"]["reason"] == last);
            until("it is stored", || stored_reason(&nodes[1], &pair.world, "vms").as_ref() == Some(&last));
            pair.share("vms", "after");
            assert_eq!(pair.said(), before.map(|(away, there)| (away + 1 + number, there + 1 + number)), "{name}");
        }
    });
}

fn move_slot(from: &RedisServer, to: &RedisServer, slot: &str) {
    let id = |node: &RedisServer| redis::from_redis_value::<String>(node.ask(&["CLUSTER", "MYID"]).expect("an id")).expect("text");
    let (giver, taker) = (id(from), id(to));
    to.ask(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &giver]).expect("set");
    from.ask(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &taker]).expect("set");
    let keys = from.ask(&["CLUSTER", "GETKEYSINSLOT", slot, "100"]).expect("keys");
    let keys: Vec<String> = redis::from_redis_value(keys).expect("keys");
    assert!(!keys.is_empty());
    for key in keys {
        from.ask(&["MIGRATE", "127.0.0.1", &to.port().to_string(), &key, "0", "1000"]).expect("moved");
    }
    for node in [to, from] {
        node.ask(&["CLUSTER", "SETSLOT", slot, "NODE", &taker]).expect("set");
    }
}
