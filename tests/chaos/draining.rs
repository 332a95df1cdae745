//! A backlog is drained while instances come, go and are killed: nothing is lost, and nothing is delivered twice but what the killed one had begun or
//! delivered and not committed.

use std::collections::BTreeMap;

use fusebox::edge::embedded::stub::{Act, Ended, Entry};
use http::StatusCode;

use crate::fleet::Fleet;
use crate::harness::{Event, World, until};

const EVENTS: usize = 3_000;

/// Drained calls at once, in the whole fleet: two for each partition.
const AT_ONCE: usize = 12;

/// How long each takes, ms.
const WORK_MS: u64 = 50;

/// From one commit to the next, ms: as the harness has it.
const COMMIT_MS: u64 = 100;

/// What an instance with a third of the partitions has out, and delivers until a commit of it has arrived: one interval, and three more on a machine that
/// is busy. A commit that waited for a second after a rebalance would let it be some eighty.
const REPEATS: usize = AT_ONCE / 3 * (1 + 4 * (COMMIT_MS / WORK_MS) as usize);

const CONFIG: &str = r#"
[kafka.properties]
"session.timeout.ms" = "2000"
"heartbeat.interval.ms" = "300"
[services.notifier.breaker]
recovery_timeout = "500ms"
[services.notifier.retry]
drain_concurrency = 12
max_attempts = 10000
[[pipeline]]
service = "notifier"
body = "{ 'camera': event.camera_id }"
"#;

fn delivered(world: &World) -> usize {
    usize::try_from(world.stub("notifier").counts().answered.get(&200).copied().unwrap_or(0)).expect("few")
}

/// When each call was delivered, by its key.
fn deliveries(calls: &[Entry]) -> BTreeMap<&str, Vec<i64>> {
    let mut all: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.ended == Some(Ended::Answered(200))) {
        all.entry(call.idempotency_key.as_deref().expect("a key")).or_default().push(call.started_at.0);
    }
    all
}

#[test]
fn draining_goes_on_over_rebalances_and_a_kill() {
    let world = World::new("draining").partitions(6).config(CONFIG).start();
    let notifier = world.stub("notifier");
    notifier.set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    let mut fleet = Fleet::start(&world, 3, |_| Vec::new());
    until("each has two partitions", || world.drain_shares() == [2, 2, 2]);
    world.publish(&(0..EVENTS).map(|number| Event::of(&format!("cam-{number}"))).collect::<Vec<_>>());
    world.outcomes(EVENTS);
    let parked = world.count(&world.retries);
    assert!(parked >= EVENTS, "{parked} of {EVENTS} are parked");

    notifier.set(Act::Slow { ms: WORK_MS });
    until("it is drained", || delivered(&world) >= EVENTS / 20);
    let place = fleet.another_place();
    fleet.join(place);
    until("the fourth has a partition", || world.drain_shares() == [1, 1, 2, 2]);
    fleet.stop(0);
    until("three have two each", || world.drain_shares() == [2, 2, 2]);
    // Commits that waited for the group have arrived when each has gone on for a while.
    let settled = delivered(&world);
    until("it is drained on", || delivered(&world) >= settled + EVENTS / 20);
    let killed_at = fusebox::edge::clock::wall_of(std::time::SystemTime::now()).0;
    assert!(delivered(&world) < EVENTS * 9 / 10, "it is killed while it drains");
    fleet.kill(1);
    until("two have three each", || world.drain_shares() == [3, 3]);
    until("all is delivered and committed", || delivered(&world) >= EVENTS && world.is_committed());
    fleet.stop_together(&fleet.running());

    let calls = world.calls("notifier");
    let deliveries = deliveries(&calls);
    assert_eq!((deliveries.len(), world.count(&world.dead_letters), world.count(&world.outcomes)), (EVENTS, 0, EVENTS), "nothing is lost");
    let repeats = |from: i64, to: i64| deliveries.values().flat_map(|times| &times[1..]).filter(|at| (from..to).contains(*at)).count();
    let (before, after) = (repeats(0, killed_at), repeats(killed_at, i64::MAX));
    println!("draining: {before} delivered again over rebalances, {after} after a kill, of {EVENTS}");
    assert_eq!(before, 0, "a rebalance repeats nothing");
    assert!(after <= REPEATS, "{after} are delivered again after one kill; it had at most {REPEATS} out or not committed");
}
