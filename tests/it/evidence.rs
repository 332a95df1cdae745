//! Whose failures open a breaker in a fleet: one instance that cannot reach a service is told from a service that is down, and what each of
//! several has seen too little of is seen by all together.

use fusebox::edge::embedded::stub::Act;
use http::StatusCode;
use serde_json::Value;

use crate::harness::{Event, Instance, World, free_port, until};

/// Three instances, each with a partition of the events; the first one by these flags.
fn fleet(world: &World, first: &[&str]) -> [Instance; 3] {
    let fleet = [world.spawn(first), world.spawn(&[]), world.spawn(&[])];
    until("every instance has its share", || fleet.iter().all(|one| one.get("/readyz").status == 200 && one.part("events").0 == "ok"));
    fleet
}

/// Events for every partition, and their outcomes' number so far.
fn publish(world: &World, round: usize, events: usize) {
    let before = world.count(world.topics()[1]);
    world.publish(&(0..events).map(|number| Event::of(&format!("cam-{round}-{number}"))).collect::<Vec<_>>());
    world.outcomes(before + events);
}

fn seen(instance: &Instance, service: &str) -> Value {
    instance.breaker(service)["fleet"].clone()
}

#[test]
fn who_alone_cannot_reach_a_service_opens_alone_and_says_so() {
    let config = r#"
[services.rag.breaker]
fail_max = 2
quorum = 2
recovery_timeout = "1h"
[redis]
poll_interval = "500ms"
"#;
    let world = World::new("alone").partitions(6).config(config).start();
    // The first one's way to the service is broken: nobody listens there.
    let unreachable = format!("services.rag.url=http://127.0.0.1:{}", free_port());
    let mut fleet = fleet(&world, &["--set", &unreachable]);
    let mut round = 0;
    until("it has opened", || {
        round += 1;
        publish(&world, round, 12);
        fleet[0].breaker("rag")["state"] == "open"
    });
    assert_eq!(seen(&fleet[0], "rag")["alone"], true, "{}", fleet[0].breaker("rag"));
    until("the others know that one sees failures", || {
        fleet[1..].iter().all(|one| {
            let seen = seen(one, "rag");
            seen["seen"]["failing"] == 1 && seen["seen"]["alone"] == 1 && seen["alone"] == false
        })
    });
    publish(&world, 0, 12);
    for other in &fleet[1..] {
        assert_eq!(other.breaker("rag")["state"], "closed", "they can reach it");
    }
    assert!(world.stub("rag").counts().answered.get(&200).is_some_and(|calls| *calls >= 8), "and they do");
    assert!(fleet[0].log().contains("open here alone"), "{}", fleet[0].log());
    assert!(fleet[0].get("/metrics").body.contains("fusebox_breaker_alone{service=\"rag\"} 1"));
    assert!(world.redis().breaker("rag").is_empty(), "the fleet's breaker has never changed");
    let history = world.redis().history("rag");
    assert_eq!(history.len(), 1, "but it is in the history: {history:?}");
    assert_eq!((history[0]["to"].as_str(), history[0]["alone"].as_str()), ("open", "1"));

    // The service itself breaks: a second instance sees it, and that is the quorum.
    world.stub("rag").set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    until("all have opened", || {
        round += 1;
        publish(&world, round, 12);
        fleet.iter().all(|one| one.breaker("rag")["state"] == "open" && one.breaker("rag")["fleet"]["alone"] == false)
    });
    assert_eq!(world.redis().state("rag"), "open");
    let history = world.redis().history("rag");
    let of_fleet = history.iter().find(|entry| entry["cause"] == "fleet").expect("the fleet's own entry");
    let evidence: Value = serde_json::from_str(&of_fleet["fleet"]).expect("JSON");
    assert!(evidence["failing"].as_u64() >= Some(2), "{evidence}");
    let told = fleet[1].get("/api/v1/circuit-breakers/rag/history").json();
    assert!(told["entries"].as_array().is_some_and(|all| all.iter().any(|entry| entry["fleet"] == evidence)), "{told}");
    for instance in &mut fleet {
        assert_eq!(instance.stop(), 0, "{}", instance.log());
    }
}

const TOGETHER: &str = r#"
[services.rag.breaker]
policy = "count"
minimum_calls = 12
failure_rate = 0.5
evidence = "fleet"
recovery_timeout = "1h"
"#;

#[test]
fn too_few_failures_for_each_are_enough_for_all() {
    let world = World::new("together").partitions(6).config(TOGETHER).start();
    let mut fleet = fleet(&world, &[]);
    world.stub("rag").set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    // Keys are spread, so that none of the three gets all of them.
    world.publish(&(0..14).map(|number| Event::of(&format!("cam-{number}"))).collect::<Vec<_>>());
    until("all know that it is down", || fleet.iter().all(|one| one.breaker("rag")["state"] == "open"));
    let history = world.redis().history("rag");
    let opened = history.iter().find(|entry| entry["to"] == "open" && entry["from"] == "closed").expect("it opened");
    assert_eq!(opened["cause"], "fleet", "{history:?}");
    let evidence: Value = serde_json::from_str(&opened["fleet"]).expect("JSON");
    assert!(evidence["counts"]["calls"].as_u64() >= Some(12) && evidence["instances"].as_u64() >= Some(2), "{evidence}");
    for instance in &mut fleet {
        assert_eq!(instance.stop(), 0, "{}", instance.log());
    }
}

#[test]
fn a_new_instance_goes_on_from_what_the_last_one_saw() {
    let world = World::new("inherited").partitions(1).config(TOGETHER).start();
    world.stub("rag").set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    let mut first = world.run();
    publish(&world, 0, 8);
    until("it has told", || world.redis().window("rag").values().any(|said| said.contains(" 8/8/")));
    first.kill();
    let second = world.run();
    publish(&world, 1, 4);
    second.wait_for_state("rag", "open");
    let history = world.redis().history("rag");
    assert_eq!(history.last().map(|entry| entry["cause"].as_str()), Some("fleet"), "{history:?}");
}
