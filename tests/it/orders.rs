//! Orders for parked calls: counted, heard by every instance, carried out by whoever drains them, also after a restart.

use std::collections::BTreeSet;

use fusebox::edge::embedded::stub::Act;
use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Event, Instance, World, until};

const CONFIG: &str = r#"
[services.notifier.breaker]
fail_max = 1
recovery_timeout = "1h"
[services.notifier.retry]
initial = "1h"
max = "1h"
max_age = "20h"
"#;

/// Parks a call for each camera, and gives their events' ids.
fn park(world: &World, cameras: std::ops::Range<usize>) -> Vec<String> {
    world.stub("notifier").set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    let before = world.count(world.topics()[1]);
    let events: Vec<Event> = cameras.map(|number| Event::of(&format!("cam-{number}")).notifying()).collect();
    world.publish(&events);
    world.outcomes(before + events.len());
    events.iter().map(|event| event.field("id").as_str().expect("an id").to_owned()).collect()
}

fn order(world: &World, instance: &Instance, act: &str, body: &Value) -> Value {
    let answer = instance.post(&format!("/api/v1/retry/{act}"), Some(&world.operator), body);
    assert!(answer.status == 200 || answer.status == 202, "{answer:?}");
    answer.json()
}

fn done(instance: &Instance, order: &Value) -> u64 {
    let id = order["order"].as_str().expect("an order was given");
    instance.get(&format!("/api/v1/retry/orders/{id}")).json()["done"].as_u64().expect("a number")
}

fn open_the_road(world: &World, instance: &Instance) {
    world.stub("notifier").set(Act::Ok);
    assert_eq!(instance.force("notifier", &json!({ "state": "closed" })).status, 200);
}

/// Events that were notified of.
fn notified(world: &World) -> BTreeSet<String> {
    let answered =
        world.calls("notifier").into_iter().filter(|call| call.ended == Some(fusebox::edge::embedded::stub::Ended::Answered(200)));
    answered.filter_map(|call| call.idempotency_key.map(|key| key.split('/').next().unwrap_or_default().to_owned())).collect()
}

#[test]
fn what_is_discarded_by_filter_or_id_is_never_made_and_the_rest_is() {
    let world = World::new("discarded").partitions(3).config(CONFIG).start();
    let mut fleet = [world.run(), world.run()];
    let ids = park(&world, 0..12);
    until("all are parked", || world.count(world.topics()[3]) == 12);

    let by_camera = json!({ "filter": { "service": "notifier", "camera": "cam-3" }, "dry_run": true });
    let counted = order(&world, &fleet[0], "discard", &by_camera);
    assert_eq!((counted["calls"].as_u64(), &counted["order"], &counted["counted_all"]), (Some(1), &Value::Null, &json!(true)));
    let nothing = order(&world, &fleet[0], "discard", &json!({ "filter": { "camera": "cam-99" } }));
    assert_eq!((nothing["calls"].as_u64(), &nothing["order"]), (Some(0), &Value::Null));

    let given = order(&world, &fleet[0], "discard", &json!({ "ids": [ids[0], ids[1], ids[2]], "reason": "a drill" }));
    assert_eq!(given["calls"], 3);
    let another = order(&world, &fleet[1], "discard", &json!({ "filter": { "camera": "cam-3" }, "reason": "a drill" }));
    assert_eq!(another["calls"], 1);
    let letters = world.wait_for(world.topics()[2], 4);
    assert!(letters.iter().all(|letter| letter.header("fusebox-error-code") == "discarded"), "{letters:?}");
    let discarded: BTreeSet<&str> = letters.iter().map(|letter| letter.header("fusebox-event-id")).collect();
    assert_eq!(discarded, ids[..4].iter().map(String::as_str).collect());
    assert!(letters[0].header("fusebox-error").contains("discarded by ops: a drill"));
    until("both instances know how far it is", || fleet.iter().all(|one| done(one, &given) == 3 && done(one, &another) == 1));

    // Due now, and they wait for their breaker all the same.
    let all = order(&world, &fleet[1], "release", &json!({ "filter": {} }));
    assert_eq!(all["calls"], 8);
    assert!(notified(&world).is_empty());
    // A call that went before its instance had heard of the order would not be counted as done by it.
    let heard = format!("/api/v1/retry/orders/{}", all["order"].as_str().expect("an id"));
    until("both have heard", || fleet.iter().all(|one| one.get(&heard).status == 200));
    open_the_road(&world, &fleet[0]);
    until("all others are notified", || notified(&world).len() == 8);
    assert_eq!(notified(&world), ids[4..].iter().cloned().collect());
    until("the order is done", || done(&fleet[0], &all) == 8);
    assert_eq!(world.count(world.topics()[2]), 4, "exactly those, once");
    for instance in &mut fleet {
        assert_eq!(instance.stop(), 0, "{}", instance.log());
    }
}

#[test]
fn an_order_outlives_the_instance_that_it_was_given_to_and_can_be_taken_back() {
    let world = World::new("outlives").partitions(2).config(CONFIG).start();
    let mut first = world.run();
    let ids = park(&world, 0..6);
    until("all are parked", || world.count(world.topics()[3]) == 6);
    // So slow that most is still to be done when it dies.
    let slow = order(&world, &first, "discard", &json!({ "filter": {}, "rate": 1 }));
    assert_eq!(slow["calls"], 6);
    world.wait_for(world.topics()[2], 1);
    first.kill();
    let second = world.run();
    let before = world.count(world.topics()[2]);
    until("it goes on", || world.count(world.topics()[2]) > before);
    let id = slow["order"].as_str().expect("an id");
    let taken_back = second.post(&format!("/api/v1/retry/orders/{id}/cancel"), Some(&world.operator), &json!({}));
    assert_eq!(taken_back.json()["cancelled_by"], "ops", "{taken_back:?}");
    open_the_road(&world, &second);
    order(&world, &second, "release", &json!({ "filter": {} }));
    until("what is left is made", || {
        let discarded: BTreeSet<String> =
            world.read(world.topics()[2]).iter().map(|letter| letter.header("fusebox-event-id").to_owned()).collect();
        !notified(&world).is_empty() && notified(&world).len() + discarded.len() == ids.len()
    });
}

#[test]
fn a_pause_holds_the_backlog_in_every_instance_and_live_calls_go_on() {
    let world = World::new("paused").partitions(2).config(CONFIG).start();
    let mut fleet = [world.run(), world.run()];
    park(&world, 0..6);
    until("all are parked", || world.count(world.topics()[3]) == 6);
    let path = "/api/v1/retry/services/notifier";
    let paused = fleet[0].post(&format!("{path}/pause"), Some(&world.operator), &json!({ "reason": "a drill" }));
    assert_eq!(paused.json()["actor"], "ops", "{paused:?}");
    until("the other one knows", || fleet[1].get("/api/v1/retry/orders").json()["pauses"][0]["reason"] == "a drill");
    open_the_road(&world, &fleet[0]);
    until("both are closed", || fleet.iter().all(|one| one.breaker("notifier")["state"] == "closed"));
    order(&world, &fleet[0], "release", &json!({ "filter": {} }));
    let live = Event::of("cam-live").notifying();
    assert_eq!(world.outcome_of(&live)["status"], "ok", "live calls are made");
    assert_eq!(notified(&world).len(), 1);
    // Also after a restart.
    assert_eq!(fleet[1].stop(), 0);
    fleet[1] = world.run();
    until("it has read of it", || fleet[1].get("/api/v1/retry/orders").json()["pauses"][0]["service"] == "notifier");
    assert_eq!(notified(&world).len(), 1);
    let resumed = world.cli(&["retry", "resume", "notifier", "--api", &fleet[1].url(), "--token", &world.operator]);
    assert!(resumed.exits(0).out.contains("go on"));
    until("the backlog is gone", || notified(&world).len() == 7);
}

#[test]
fn what_cannot_be_meant_is_refused_with_a_word() {
    let world = World::new("refused-orders").config(CONFIG).start();
    let instance = world.run();
    for (act, body, word) in [
        ("discard", json!({}), "say which calls"),
        ("discard", json!({ "ids": [] }), "say which calls"),
        ("discard", json!({ "ids": ["seven"] }), "UUID"),
        ("discard", json!({ "filter": { "service": "rag" } }), "no service `rag` parks"),
        ("discard", json!({ "filter": { "reason": "boredom" } }), "circuit_open"),
        ("discard", json!({ "filter": { "older_than": "soon" } }), "no duration"),
        ("discard", json!({ "filter": { "colour": "red" } }), "colour"),
        ("release", json!({ "filter": {}, "rate": 0 }), "at least 1"),
        ("release", json!({ "filter": {}, "for": "1h" }), "goes with a delay"),
        ("delay", json!({ "filter": {} }), "needs `for`"),
        ("delay", json!({ "filter": {}, "for": "21h" }), "max_age"),
        ("delay", json!({ "filter": {}, "for": "1h", "rate": 3 }), "no rate"),
        ("services/rag/pause", json!({}), "no service `rag` parks"),
    ] {
        let answer = instance.post(&format!("/api/v1/retry/{act}"), Some(&world.operator), &body);
        assert!(answer.status == 400 || answer.status == 404, "{act} {body}: {answer:?}");
        assert!(answer.problem(answer.status).contains(word), "{act} {body}: {answer:?}");
    }
    assert_eq!(instance.post("/api/v1/retry/discard", Some(&world.viewer), &json!({ "filter": {} })).status, 403);
    assert_eq!(instance.post("/api/v1/retry/discard", None, &json!({ "filter": {} })).status, 401);
}

#[test]
fn what_another_fleet_orders_on_the_same_topic_is_left_alone() {
    let world = World::new("two-fleets").partitions(2).config(CONFIG).start();
    let ours = world.run();
    park(&world, 0..4);
    until("all are parked", || world.count(world.topics()[3]) == 4);
    let given = order(&world, &ours, "delay", &json!({ "filter": {}, "for": "2h" }));
    let id = given["order"].as_str().expect("an order was given");
    let pause = "/api/v1/retry/services/notifier/pause";
    assert_eq!(ours.post(pause, Some(&world.operator), &json!({})).status, 200);

    // Theirs lets calls wait for two seconds only, and has an order of its own that is older than that.
    let (orders, old) = (format!("{}.orders", world.group), "00000000-0000-4000-8000-000000000001");
    let told = world.read(&orders);
    let mut theirs = told.iter().find(|record| record.key() == format!("order/{id}")).expect("it was written").json();
    (theirs["id"], theirs["group"], theirs["at"]) = (json!(old), json!(format!("{}-2", world.group)), json!(1));
    let mut record = Event::raw(Some(theirs.to_string().as_bytes()));
    record.key = Some(format!("order/{old}").into());
    world.publish_to(&orders, &[record]);
    let settings = [
        format!("kafka.group={}-2", world.group),
        format!("topics.events={}-2", world.topics()[0]),
        format!("services.notifier.retry.topic={}-2", world.topics()[3]),
        "services.notifier.retry.initial=100ms".to_owned(),
        "services.notifier.retry.max=1s".to_owned(),
        "services.notifier.retry.max_age=2s".to_owned(),
    ];
    let flags: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let other = world.spawn(&flags);
    let forgotten = |id: &str| {
        let told = world.read(&orders);
        told.iter().any(|record| record.key() == format!("order/{id}") && record.value.is_none())
    };
    until("theirs is forgotten", || forgotten(old));
    assert!(!forgotten(id), "ours is not theirs to forget");
    let known = other.get("/api/v1/retry/orders").json();
    assert_eq!((&known["orders"], &known["pauses"]), (&json!([]), &json!([])));
    let known = ours.get("/api/v1/retry/orders").json();
    assert_eq!((&known["orders"][0]["id"], known["orders"].as_array().map(Vec::len)), (&given["order"], Some(1)));
    assert_eq!(known["pauses"][0]["service"], "notifier");
}

#[test]
fn a_rate_bounds_the_whole_fleet() {
    let world = World::new("rate").partitions(2).config(CONFIG).start();
    let fleet = [world.run(), world.run()];
    park(&world, 0..16);
    until("all are parked", || world.count(world.topics()[3]) == 16);
    until("each has a partition", || world.drain_shares() == [1, 1]);
    order(&world, &fleet[0], "discard", &json!({ "filter": { "service": "notifier" }, "rate": 4 }));
    let letters = world.wait_for(world.topics()[2], 16);
    let times: Vec<i64> = letters.iter().map(|letter| letter.number("fusebox-dead-lettered-at")).collect();
    let took = times.iter().max().zip(times.iter().min()).map(|(last, first)| last - first).expect("letters");
    // Sixteen at four a second, but one of each instance, and a timer's grain.
    assert!(took >= (16 - 2) * 250 - 50, "{took} ms");
}
