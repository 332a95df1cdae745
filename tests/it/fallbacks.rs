//! Services that are down one at a time: what stands in for their answers, and how it is explained.

use fusebox::edge::embedded::stub::Act;
use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Event, World};

const SECRET: &str = "Bearer s3cret-of-the-service";

/// Checks a stage that fell back, and gives its data without the explanation.
fn stand_in(world: &World, outcome: &Value, service: &str, kind: &str, why: &str) -> Value {
    assert_eq!(outcome["status"], "partial_success", "{outcome}");
    let stage = &outcome["stages"][service];
    let flags = ["success", "fallback_used", "parked"].map(|flag| stage[flag].as_bool().expect("a flag"));
    assert_eq!((flags, &stage["error_type"]), ([false, true, false], &json!(why)), "{outcome}");
    let fallback = &stage["data"]["fallback"];
    assert_eq!((&fallback["kind"], &fallback["reason"]), (&json!(kind), &json!(why)), "{outcome}");
    let explanation = fallback["explanation"].as_str().unwrap_or_default();
    assert!(explanation.contains(service) && explanation.ends_with('.'), "no sentence about {service}: {explanation:?}");
    // Others read outcomes: they learn of no host, port or credential.
    let text = outcome.to_string();
    let address = world.stub(service).addr();
    for inner in ["127.0.0.1", "localhost", "http://", &format!(":{}", address.port()), "s3cret", "os error"] {
        assert!(!text.contains(inner), "{inner} in {text}");
    }
    for (other, stage) in outcome["stages"].as_object().expect("an object") {
        assert!(other == service || stage["success"] == true, "{other}: {outcome}");
    }
    let mut data = stage["data"].clone();
    data.as_object_mut().expect("an object").remove("fallback");
    data
}

#[test]
fn without_rag_the_last_good_answer_stands_in_else_an_empty_analysis() {
    let config = format!("[services.rag]\nheaders = {{ authorization = \"{SECRET}\" }}\nbreaker.recovery_timeout = \"60s\"");
    let world = World::new("rag-down").config(&config).start();
    let mut instance = world.run();
    let of = |camera: &str, label: &str| Event::of(camera).with("label", json!(label));
    let good = world.outcome_of(&of("cam-1", "car"));
    assert_eq!(good["status"], "ok");
    assert_eq!(world.calls("rag")[0].headers["authorization"], SECRET);

    world.stub("rag").set(Act::fail(StatusCode::INTERNAL_SERVER_ERROR));
    let empty = json!({ "similar_events": [], "analysis": "The analysis is not available at the moment.", "confidence": 0.0 });
    for (camera, label, kind, expect) in [
        ("cam-1", "car", "cached", &good["stages"]["rag"]["data"]),
        ("cam-1", "dog", "default", &empty),
        ("cam-2", "car", "default", &empty),
        ("cam-1", "car", "cached", &good["stages"]["rag"]["data"]),
        ("cam-1", "car", "cached", &good["stages"]["rag"]["data"]),
    ] {
        let outcome = world.outcome_of(&of(camera, label));
        assert_eq!(&stand_in(&world, &outcome, "rag", kind, "http_5xx"), expect, "{camera} {label}");
        // The next stage works with what stands in.
        let asked: Value = serde_json::from_slice(&world.calls("rulegen").last().expect("asked").body).expect("JSON");
        assert_eq!(asked["context"], outcome["stages"]["rag"]["data"]);
    }

    // Five failures in a row have opened its circuit: nobody is asked, and it is said until when.
    let calls = world.call_count("rag");
    let outcome = world.outcome_of(&of("cam-1", "car"));
    assert_eq!(stand_in(&world, &outcome, "rag", "cached", "circuit_open"), good["stages"]["rag"]["data"]);
    assert_eq!(outcome["stages"]["rag"]["circuit_breaker_state"], "open");
    let until: jiff::Timestamp = outcome["stages"]["rag"]["data"]["fallback"]["until"].as_str().expect("a time").parse().expect("RFC 3339");
    let retry_at: i64 = world.redis().breaker("rag")["retry_at"].parse().expect("a time");
    assert!((until.as_millisecond() - retry_at).abs() < 1_000, "{until} is not {retry_at}");
    assert_eq!((calls, world.call_count("rag")), (6, 6));
    assert!(!instance.log().contains("s3cret"));
    assert_eq!(instance.stop(), 0);
}

#[test]
fn without_rulegen_severity_is_medium() {
    let world = World::new("rulegen-down").config("[services.rulegen.breaker]\nrecovery_timeout = \"60s\"").start();
    let mut instance = world.run();
    world.stub("rulegen").set(Act::Reset);
    for (number, why) in ["connect", "connect", "connect", "circuit_open", "circuit_open"].into_iter().enumerate() {
        let outcome = world.outcome_of(&Event::of("cam-1").notifying());
        let data = stand_in(&world, &outcome, "rulegen", "default", why);
        assert_eq!((&data["severity"], &data["confidence"], &data["triggered_rules"]), (&json!("medium"), &json!(0.5), &json!([])));
        assert!(data["explanation"].is_string(), "{data}");
        let asked: Value = serde_json::from_slice(&world.calls("notifier")[number].body).expect("JSON");
        assert_eq!(asked["rule_evaluation"]["severity"], "medium", "the notification goes out with what stands in");
    }
    assert_eq!(world.call_count("rulegen"), 3);
    assert_eq!(instance.stop(), 0);
}

#[test]
fn without_vms_the_clip_is_not_available() {
    let world = World::new("vms-down").config("[services.vms]\ntimeout = \"200ms\"\nbreaker.recovery_timeout = \"60s\"").start();
    let mut instance = world.run();
    world.stub("vms").set(Act::Hang);
    for number in 0..7 {
        let outcome = world.outcome_of(&Event::of("cam-1"));
        let data = stand_in(&world, &outcome, "vms", "default", if number < 6 { "timeout" } else { "circuit_open" });
        assert_eq!(data["available"], false, "{data}");
        assert!(data["message"].is_string(), "{data}");
    }
    assert_eq!(world.call_count("vms"), 6);
    assert_eq!(instance.stop(), 0);
}

#[test]
fn with_everything_down_the_outcome_is_all_fallback() {
    let world = World::new("all-down").start();
    let mut instance = world.run();
    for service in ["rag", "rulegen", "notifier", "vms"] {
        world.stub(service).set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    }
    let outcome = world.outcome_of(&Event::of("cam-1").notifying());
    assert_eq!(outcome["status"], "fallback", "{outcome}");
    assert_eq!(outcome["stages"]["notifier"]["parked"], true, "{outcome}");
    assert_eq!(instance.stop(), 0);
}

#[test]
fn a_stage_whose_fallback_is_fail_ends_the_event() {
    let world = World::new("fail").config("[services.rulegen]\nfallback = { kind = \"fail\" }").start();
    let mut instance = world.run();
    world.stub("rulegen").set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    let event = Event::of("cam-1").header("x-mine", "kept");
    let outcome = world.outcome_of(&event);
    assert_eq!((&outcome["status"], outcome["stages"].get("vms")), (&json!("error"), None), "{outcome}");
    let letters = world.wait_for(&world.dead_letters, 1);
    assert_eq!(letters[0].value, event.value, "the original bytes, untouched");
    assert_eq!((letters[0].header("x-mine"), letters[0].header("fusebox-error-code")), ("kept", "stage_failed"));
    assert_eq!(instance.stop(), 0);
}
