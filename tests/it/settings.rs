//! Settings that are changed while instances run: for all of them, by revision, whole or not at all.

use std::time::{Duration, Instant};

use fusebox::edge::embedded::stub::Act;
use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Event, Instance, RedisServer, World, fusebox, until};

/// What a breaker goes by, at which revision.
fn goes_by(instance: &Instance, service: &str) -> (Value, Value) {
    let breaker = instance.breaker(service);
    (breaker["settings"]["fail_max"].clone(), breaker["settings_revision"].clone())
}

fn failing(world: &World, name: &str, count: usize) -> Vec<Value> {
    let events = (0..count).map(|number| Event::of(&format!("{name}-{number}")));
    events.map(|event| world.outcome_of(&event)["stages"]["rulegen"]["error_type"].clone()).collect()
}

#[test]
fn a_change_at_one_instance_is_the_fleets_and_outlives_it() {
    // What is published is heard at once, or in an hour.
    let world = World::new("settings").config("[redis]\npoll_interval = \"1h\"").start();
    let (mut one, mut other) = (world.run(), world.run());
    let shown = one.get("/api/v1/circuit-breakers/rulegen");
    assert_eq!((shown.etag.as_str(), &shown.json()["settings_changed"]), ("\"0\"", &Value::Null));

    let from = Instant::now();
    let changed = one.change_settings("rulegen", Some(&shown.etag), &json!({ "fail_max": 2, "recovery_timeout": "1h", "reason": "noisy" }));
    let answer = changed.json();
    let tag = format!("\"1-{}\"", answer["settings_changed"]["instance"].as_str().expect("an instance"));
    assert_eq!((changed.status, &changed.etag, answer["settings_revision"].as_u64()), (200, &tag, Some(1)), "{changed:?}");
    assert_eq!((&answer["settings"]["fail_max"], &answer["settings"]["recovery_timeout"]), (&json!(2), &json!("1h")));
    let by = &answer["settings_changed"];
    assert_eq!((&by["actor"], &by["reason"], &by["to"], &by["shared"]), (&json!("ops"), &json!("noisy"), &json!("given"), &json!(true)));
    until("the other has it", || goes_by(&other, "rulegen") == (json!(2), json!(1)));
    // Published, and not found by the poll behind it.
    assert!(from.elapsed() < Duration::from_secs(2), "it took {:?}", from.elapsed());
    assert_eq!(other.breaker("rulegen")["settings_changed"]["reason"], "noisy");
    assert_eq!(other.get("/api/v1/circuit-breakers/rulegen").etag, tag);
    assert_eq!(one.stop(), 0);

    // It decides by it, alone now.
    world.stub("rulegen").set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(failing(&world, "first", 4), ["http_5xx", "http_5xx", "circuit_open", "circuit_open"]);
    assert_eq!(other.stop(), 0);

    // So does the next life, from its first call on.
    let mut next = world.run();
    assert_eq!((goes_by(&next, "rulegen"), &next.breaker("rulegen")["state"]), ((json!(2), json!(1)), &json!("open")));
    assert_eq!(next.reset_settings("rulegen", Some("\"0\"")).problem(412).split_once("revision 1").map(|_| ()), Some(()));
    assert_eq!(next.reset_settings("rulegen", Some("\"1-fusebox-0\"")).problem(412).split_once("revision 1").map(|_| ()), Some(()));
    let reset = next.reset_settings("rulegen", Some(&tag));
    assert_eq!((reset.status, &reset.json()["settings"]["fail_max"]), (200, &json!(3)), "{reset:?}");
    assert_eq!(goes_by(&next, "rulegen"), (json!(3), json!(2)));
    assert_eq!(next.stop(), 0);
}

#[test]
fn of_two_who_change_the_same_revision_one_is_refused() {
    let world = World::new("lost-update").start();
    let (mut one, mut other) = (world.run(), world.run());
    let tag = one.get("/api/v1/circuit-breakers/rag").etag;
    assert_eq!(one.change_settings("rag", Some(&tag), &json!({ "fail_max": 7 })).status, 200);
    // At once: whether the other one has heard of it or not.
    let detail = other.change_settings("rag", Some(&tag), &json!({ "permits": 3 })).problem(412);
    assert!(detail.contains("revision 1"), "{detail}");
    let read = other.get("/api/v1/circuit-breakers/rag");
    assert!(read.etag.starts_with("\"1-"), "{read:?}");
    assert_eq!(read.json()["settings"]["fail_max"], 7, "{read:?}");
    // A number by itself is the stored change's.
    assert_eq!(other.change_settings("rag", Some("\"1\""), &json!({ "fail_max": 7 })).status, 200);
    // Without a revision each is laid over the other, and none is lost.
    for (instance, key) in [(&one, "permits"), (&other, "success_threshold"), (&one, "fail_max")] {
        assert_eq!(instance.change_settings("rag", None, &json!({ key: 4 })).status, 200);
    }
    let settings = |instance: &Instance| {
        let breaker = instance.breaker("rag");
        let of = |key: &str| breaker["settings"][key].clone();
        [of("permits"), of("success_threshold"), of("fail_max"), breaker["settings_revision"].clone()]
    };
    until("both have all of it", || [&one, &other].iter().all(|instance| settings(instance) == [4, 4, 4, 4].map(|four| json!(four))));
    assert_eq!((one.stop(), other.stop()), (0, 0));
}

#[test]
fn what_makes_no_sense_is_refused_whole_and_only_who_may_changes() {
    let world = World::new("settings-refused").start();
    let mut instance = world.run();
    let (operator, viewer) = (Some(world.operator.as_str()), Some(world.viewer.as_str()));
    let sound = json!({ "fail_max": 9 });
    for (service, token, tag, body, status, words) in [
        ("rag", None, None, sound.clone(), 401, &["Bearer"][..]),
        ("rag", viewer, None, sound.clone(), 403, &["operator"]),
        ("nobody", operator, None, sound.clone(), 404, &["rulegen"]),
        ("rag", operator, Some("3"), sound.clone(), 400, &["If-Match"]),
        ("rag", operator, Some("\"3\""), sound, 412, &["revision 0"]),
        ("rag", operator, None, json!({ "fail_max": 0, "jitter": 7, "permits": 3 }), 400, &["fail_max", "jitter"]),
        ("rag", operator, None, json!({ "fail_mx": 4 }), 400, &["fail_mx", "fail_max"]),
        ("rag", operator, None, json!({ "failure": "status == 500" }), 400, &["failure", "config"]),
        ("rag", operator, None, json!({ "fail_max": 9, "reason": 7 }), 400, &["reason"]),
        ("rag", operator, None, json!({ "fail_max": 9, "reason": "x".repeat(1_001) }), 400, &["1000"]),
        ("rag", operator, None, json!([]), 400, &["an object of the keys"]),
    ] {
        let answer = instance.settings("PATCH", service, token, tag, Some(&body));
        let detail = answer.problem(status);
        assert!(words.iter().all(|word| detail.contains(word)), "{words:?} are not in {detail:?}");
    }
    let faults = instance.settings("PATCH", "rag", operator, None, Some(&json!({ "fail_max": 0, "jitter": 7 }))).json();
    let mut keys: Vec<_> = faults["errors"].as_array().expect("a list").iter().map(|fault| fault["key"].to_string()).collect();
    keys.sort();
    assert_eq!(keys, ["\"fail_max\"", "\"jitter\""]);
    assert!(instance.settings("DELETE", "rag", viewer, None, None).problem(403).contains("operator"));

    // Nothing has changed by all that, nor does it by what is in force already.
    let shown = instance.get("/api/v1/circuit-breakers/rag");
    for body in [json!({}), json!({ "reason": "none" }), json!({ "fail_max": 5, "recovery_timeout": "1000ms" })] {
        let answer = instance.change_settings("rag", None, &body);
        assert_eq!((answer.status, answer.etag.as_str()), (200, "\"0\""), "{answer:?}");
        assert_eq!(answer.json()["settings"], shown.json()["settings"]);
    }
    assert_eq!((instance.reset_settings("rag", None).etag.as_str(), world.redis().breaker("rag").len()), ("\"0\"", 0));
    assert!(!instance.log().contains("settings were changed"));

    assert_eq!(instance.change_settings("rag", None, &json!({ "fail_max": 9, "reason": "deploy" })).status, 200);
    until("the change is audited", || instance.log().contains("a breaker's settings were changed"));
    assert_eq!(world.redis().breaker("rag")["settings_revision"], "1");
    assert_eq!(instance.stop(), 0);
}

#[test]
fn without_redis_a_change_is_made_here_and_shared_on_its_return() {
    let mut server = RedisServer::down();
    server.start();
    let world = World::new("settings-away").redis(&server.url()).start();
    let (mut one, mut other) = (world.run(), world.run());
    server.kill();
    until("they know", || [&one, &other].iter().all(|instance| instance.get("/readyz").json()["status"] == "degraded"));
    let answer = one.change_settings("vms", Some("\"0\""), &json!({ "fail_max": 2 }));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(other.change_settings("vms", Some(&answer.etag), &json!({ "fail_max": 9 })).status, 412);
    assert!(one.change_settings("vms", Some("\"1\""), &json!({ "fail_max": 9 })).problem(412).contains("revision 1-fusebox"));
    assert_eq!((&answer.json()["settings"]["fail_max"], &answer.json()["settings_changed"]["shared"]), (&json!(2), &json!(false)));
    assert_eq!(goes_by(&other, "vms"), (json!(6), json!(0)));
    server.start();
    until("the other has it", || goes_by(&other, "vms") == (json!(2), json!(1)));
    until("it is shared", || one.breaker("vms")["settings_changed"]["shared"] == true);
    assert_eq!((one.stop(), other.stop()), (0, 0));
}

#[test]
fn the_command_line_changes_settings() {
    let world = World::new("settings-cli").start();
    let mut instance = world.run();
    let url = instance.url();
    let ask = |arguments: &[&str]| fusebox(&[arguments, &["--api", &url, "--token", &world.operator, "--output", "json"]].concat(), "");
    let set =
        ask(&["breakers", "set", "rag", "fail_max=8", "half_open_timeout=20s", "--reason", "a drill", "--if-match", "0"]).exits(0).json();
    assert_eq!(
        (&set["settings_revision"], &set["settings"]["fail_max"], &set["settings"]["half_open_timeout"]),
        (&json!(1), &json!(8), &json!("20s"))
    );
    let stale = ask(&["breakers", "set", "rag", "fail_max=9", "--if-match", "0"]).exits(1);
    assert!(stale.err.contains("412") && stale.err.contains("revision 1"), "{stale:?}");
    let wrong = ask(&["breakers", "set", "rag", "fail_max=0", "jitter=high"]).exits(1);
    assert!(wrong.err.contains("fail_max") && wrong.err.contains("jitter"), "{wrong:?}");
    ask(&["breakers", "set", "rag", "fail_max"]).exits(2);
    ask(&["breakers", "set", "rag"]).exits(2);
    assert_eq!(ask(&["breakers", "set", "rag", "half_open_timeout=null"]).exits(0).json()["settings"]["half_open_timeout"], Value::Null);
    let shown = fusebox(&["breakers", "show", "rag", "--api", &url], "").exits(0).out;
    assert!(shown.contains("settings_tag") && shown.contains("settings_changed.actor"), "{shown}");
    let tag = ask(&["breakers", "show", "rag"]).exits(0).json()["settings_tag"].as_str().expect("a tag").to_owned();
    let reset = ask(&["breakers", "reset-settings", "rag", "--reason", "done with it", "--if-match", &tag]).exits(0).json();
    assert_eq!((&reset["settings"]["fail_max"], &reset["settings_changed"]["reason"]), (&json!(5), &json!("done with it")));
    assert_eq!(instance.stop(), 0);
}
