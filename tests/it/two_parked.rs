//! Two services' calls are parked, and one of them recovers: its backlog goes as fast as it may, and the other's stays where it is.

use std::collections::BTreeSet;

use fusebox::edge::embedded::stub::{Act, Ended, Entry};
use http::StatusCode;

use crate::harness::{Event, World, until};

/// Calls parked for each.
const EACH: usize = 400;

/// Drained calls of a service at once.
const AT_ONCE: usize = 8;

/// Far fewer records fit than are parked for either.
const CONFIG: &str = r#"
[processing]
max_in_flight = 150
concurrency = 64
[services.notifier.breaker]
fail_max = 1
recovery_timeout = "500ms"
[services.notifier.retry]
drain_concurrency = 8
max_attempts = 10000
[services.vms.breaker]
fail_max = 1
recovery_timeout = "500ms"
"#;

/// Parked as the notifier's are.
const VMS: [&str; 5] = [
    "services.vms.fallback={kind=\"park\"}",
    "services.vms.retry.drain_concurrency=8",
    "services.vms.retry.max_attempts=10000",
    "services.vms.retry.initial=\"100ms\"",
    "services.vms.retry.max=\"1s\"",
];

fn delivered(calls: &[Entry]) -> BTreeSet<&str> {
    calls.iter().filter(|call| call.ended == Some(Ended::Answered(200))).filter_map(|call| call.idempotency_key.as_deref()).collect()
}

#[test]
fn the_one_that_recovers_is_drained_at_full_speed_beside_the_one_that_does_not() {
    let world = World::new("two-parked").config(CONFIG).start();
    let topic = format!("services.vms.retry.topic={}.vms.retry", world.group);
    let flags: Vec<&str> = VMS.into_iter().chain([topic.as_str()]).flat_map(|setting| ["--set", setting]).collect();
    world.cli(&[&["migrate"], &flags[..]].concat()).exits(0);
    let (notifier, vms) = (world.stub("notifier"), world.stub("vms"));
    for stub in [notifier, vms] {
        stub.set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    }
    let mut instance = world.spawn(&flags);
    instance.wait_ready();
    world.publish(&(0..EACH).map(|number| Event::of(&format!("cam-{number}")).notifying()).collect::<Vec<_>>());
    let outcomes = world.outcomes(EACH);
    assert!(outcomes.iter().all(|outcome| ["notifier", "vms"].iter().all(|service| outcome.json()["stages"][service]["parked"] == true)));
    // Both backlogs fill what may be in flight, as far as they are let.
    until("both are probed", || [notifier, vms].iter().all(|stub| stub.counts().requests >= 4));

    let before = world.call_count("vms");
    vms.set(Act::Slow { ms: 100 });
    until("its backlog is delivered", || delivered(&world.calls("vms")).len() == EACH);
    let calls = world.calls("vms");
    let drained: Vec<_> = calls[before..].iter().filter(|call| call.ended == Some(Ended::Answered(200))).collect();
    assert_eq!(drained.len(), EACH, "none is delivered twice");
    assert_eq!(drained.iter().map(|call| call.in_flight_at_start).max(), Some(AT_ONCE));
    // How many were at the service at a time, on the average: with places left empty the others' calls would be in the way.
    let ended = |call: &Entry| call.ended_at.expect("it was answered").0;
    let busy: i64 = drained.iter().map(|call| ended(call) - call.started_at.0).sum();
    let took = drained.iter().map(|call| ended(call)).max().expect("some") - drained[0].started_at.0;
    assert!(busy * 10 >= took * AT_ONCE as i64 * 6, "{busy} ms of calls in {took} ms");
    assert_eq!(delivered(&world.calls("notifier")).len(), 0);
    assert!(world.retries_left() >= EACH, "the other's stays where it is");
    assert_eq!(world.count(&world.dead_letters), 0);

    notifier.set(Act::Ok);
    until("the other's is delivered", || delivered(&world.calls("notifier")).len() == EACH);
    world.wait_for_commits();
    assert_eq!(instance.stop(), 0, "{}", instance.log());
    let twice = world.calls("notifier").iter().filter(|call| call.ended == Some(Ended::Answered(200))).count();
    assert_eq!((twice, world.count(&world.dead_letters)), (EACH, 0), "nothing is lost, and none delivered twice");
}
