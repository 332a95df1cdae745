//! Redis is away, at the start or later: events go on, and what happened meanwhile is stored when it is back.

use fusebox::edge::embedded::stub::Act;
use http::StatusCode;
use serde_json::json;

use crate::harness::{Event, Instance, RedisServer, World, until};

/// Waits until readiness says this; events are processed all the while, so it is 200 all the while.
fn wait_for(instance: &Instance, status: &str) {
    until(&format!("readiness is {status}"), || {
        let answer = instance.get("/readyz");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["status"] == status
    });
}

#[test]
fn redis_comes_and_goes() {
    let mut server = RedisServer::down();
    let world = World::new("redis").redis(&server.url()).start();

    // Away at the start.
    let mut instance = world.spawn(&[]);
    until("Kafka is connected", || instance.get("/readyz").status == 200);
    wait_for(&instance, "degraded");
    let (state, detail) = instance.part("redis");
    assert_eq!(state, "degraded");
    assert!(detail.starts_with("Redis refused the connection") && !detail.contains("127.0.0.1"), "{detail:?}");
    assert_eq!(world.outcome_of(&Event::of("cam-1").notifying())["status"], "ok");

    // It comes: transitions are stored.
    server.start();
    wait_for(&instance, "ok");
    world.stub("notifier").set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    world.publish(&(0..8).map(|number| Event::of(&format!("cam-{number}")).notifying()).collect::<Vec<_>>());
    world.outcomes(9);
    until("the trip is stored", || world.redis().state("notifier") == "open");
    let generation = |world: &World| world.redis().breaker("notifier")["generation"].parse::<u64>().expect("a number");
    let at_trip = generation(&world);

    // It goes, with everything that it knew: the breaker goes on deciding, and recovers without it.
    server.kill();
    wait_for(&instance, "degraded");
    let outcome = world.outcome_of(&Event::of("cam-9"));
    assert_eq!(outcome["status"], "ok", "nothing is refused because Redis is away: {outcome}");
    world.stub("notifier").set(Act::Ok);
    until("the backlog is delivered", || world.stub("notifier").counts().answered.get(&200) == Some(&9));
    instance.wait_for_state("notifier", "closed");
    assert_eq!(instance.get("/api/v1/circuit-breakers/notifier/history").json()["source"], "memory");

    // It is back, empty: it is told how things are.
    server.start();
    wait_for(&instance, "ok");
    until("the state is stored", || world.redis().state("notifier") == "closed");
    assert!(generation(&world) > at_trip, "a newer state");
    assert_eq!(instance.force("vms", &json!({ "state": "forced_open" })).status, 200);
    until("later transitions are stored too", || world.redis().state("vms") == "forced_open");
    assert_eq!(instance.stop(), 0);
}
