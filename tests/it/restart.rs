//! A process is killed while a circuit is open: the next one takes up the state that it finds in Redis.

use std::collections::HashSet;

use fusebox::edge::embedded::stub::{Act, Ended};
use http::StatusCode;
use serde_json::Value;

use crate::harness::{Event, Message, World, until};

#[test]
fn a_killed_instance_leaves_its_open_circuit_to_the_next() {
    // Open for longer than the group takes to notice the death and let the next one in.
    let config = "[services.notifier.breaker]\nrecovery_timeout = \"14s\"\n[kafka.properties]\n\"session.timeout.ms\" = \"4000\"";
    let world = World::new("restart").config(config).start();
    world.stub("notifier").set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    let mut first = world.run();
    let before: Vec<Event> = (0..20).map(|number| Event::of(&format!("cam-{number}")).notifying()).collect();
    world.publish(&before);
    world.outcomes(before.len());
    until("the breaker is open", || world.redis().state("notifier") == "open");
    until("everything so far is committed", || {
        world.committed().values().filter_map(|committed| committed.offset).sum::<i64>() == i64::try_from(before.len()).expect("few")
    });
    let stored = world.redis().breaker("notifier");
    let number = |stored: &std::collections::HashMap<String, String>, field: &str| stored[field].parse::<i64>().expect("a number");
    let (generation, retry_at) = (number(&stored, "generation"), number(&stored, "retry_at"));
    let calls = world.call_count("notifier");
    first.kill();

    let second = world.run();
    assert_eq!(second.breaker("notifier")["state"], "open", "before its first event");
    assert_eq!(second.breaker("notifier")["generation"], generation);
    world.stub("notifier").set(Act::Ok);
    let after: Vec<Event> = (0..20).map(|number| Event::of(&format!("cam-{number}")).notifying()).collect();
    world.publish(&after);
    let outcomes = world.outcomes(before.len() + after.len());

    // The new process refused them at once, on the word of the one that is dead.
    let ids: HashSet<&str> = after.iter().map(|event| event.id.as_str()).collect();
    let outcomes: Vec<Value> = outcomes.iter().map(Message::json).collect();
    assert_eq!(outcomes.len(), before.len() + after.len(), "finished events are not run again");
    for outcome in outcomes.iter().filter(|outcome| ids.contains(outcome["event_id"].as_str().expect("an id"))) {
        let stage = &outcome["stages"]["notifier"];
        assert_eq!((&stage["error_type"], &stage["circuit_breaker_state"]), (&"circuit_open".into(), &"open".into()), "{outcome}");
    }

    // Everything is delivered in the end, and nothing before its time.
    until("everybody is notified", || {
        let calls = world.calls("notifier");
        let good = calls.iter().filter(|call| call.ended == Some(Ended::Answered(200)));
        good.filter_map(|call| call.idempotency_key.clone()).collect::<HashSet<_>>().len() == before.len() + after.len()
    });
    let early = retry_at - world.calls("notifier")[calls].started_at.0;
    assert!(early <= 25, "the first probe came {early} ms before its time");
    world.wait_for_commits();
    until("the breaker is closed", || world.redis().state("notifier") == "closed");

    assert_eq!(world.redis().transitions("notifier"), ["closed→open policy", "open→half_open timer", "half_open→closed recovered"]);
    let history = world.redis().history("notifier");
    assert_eq!(number(&history[0], "generation"), generation);
    assert!(history.windows(2).all(|pair| number(&pair[0], "generation") < number(&pair[1], "generation")), "{history:?}");
    assert_ne!(history[0]["instance"], history[1]["instance"]);
    // The API tells the same, newest first.
    let told = second.get("/api/v1/circuit-breakers/notifier/history").json();
    assert_eq!(told["source"], "store");
    let causes: Vec<&Value> = told["entries"].as_array().expect("a list").iter().map(|entry| &entry["cause"]).collect();
    assert_eq!(causes, ["recovered", "timer", "policy"]);
}
