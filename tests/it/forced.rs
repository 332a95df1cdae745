//! Breakers that somebody forces: what a lock does to calls, how it ends, who may set one.

use fusebox::edge::embedded::stub::Act;
use http::StatusCode;
use serde_json::json;

use crate::harness::{Event, World, until};

fn notifying(count: usize) -> Vec<Event> {
    (0..count).map(|number| Event::of(&format!("cam-{number}")).notifying()).collect()
}

#[test]
fn forced_open_refuses_until_its_time_is_over() {
    let world = World::new("forced-open").start();
    let mut instance = world.run();
    let answer = instance.force("notifier", &json!({ "state": "forced_open", "reason": "maintenance" }));
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("forced_open")), "{answer:?}");
    until("Redis has it", || world.redis().state("notifier") == "forced_open");
    let stored = world.redis().breaker("notifier");
    assert_eq!((stored["lock_actor"].as_str(), stored["lock_reason"].as_str()), ("ops", "maintenance"));

    world.publish(&notifying(20));
    for outcome in world.outcomes(20) {
        let stage = outcome.json()["stages"]["notifier"].clone();
        assert_eq!((&stage["parked"], &stage["error_type"]), (&json!(true), &json!("circuit_open")), "{stage}");
        assert_eq!(stage["circuit_breaker_state"], "forced_open");
    }
    assert_eq!(world.call_count("notifier"), 0);

    // With a time to live it ends by itself: a probe goes, the breaker closes, the backlog is delivered.
    assert_eq!(instance.force("notifier", &json!({ "state": "forced_open", "reason": "nearly done", "ttl": "500ms" })).status, 200);
    until("everything is delivered", || world.stub("notifier").counts().answered.get(&200) == Some(&20));
    until("Redis has it", || world.redis().state("notifier") == "closed");
    let expected =
        ["closed→forced_open forced", "forced_open→forced_open forced", "forced_open→half_open lock_expired", "half_open→closed recovered"];
    assert_eq!(world.redis().transitions("notifier"), expected);
    let history = world.redis().history("notifier");
    assert_eq!((history[1]["actor"].as_str(), history[1]["reason"].as_str()), ("ops", "nearly done"));

    // Released, it goes on from half-open: what comes next is a probe.
    assert_eq!(instance.force("notifier", &json!({ "state": "forced_open" })).status, 200);
    assert_eq!(instance.force("notifier", &json!({ "state": "auto", "reason": "done" })).json()["state"], "half_open");
    assert_eq!(world.outcome_of(&notifying(1)[0])["status"], "ok");
    instance.wait_for_state("notifier", "closed");
    assert_eq!(instance.stop(), 0);
}

#[test]
fn forced_closed_lets_all_through_and_outlives_a_restart() {
    let world = World::new("forced-closed").config("[services.rulegen.breaker]\nfail_max = 2\nrecovery_timeout = \"1h\"").start();
    let mut first = world.run();
    assert_eq!(first.force("rulegen", &json!({ "state": "forced_closed", "reason": "we know" })).status, 200);
    world.stub("rulegen").set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    let all_fail = || {
        for event in notifying(5) {
            let stage = world.outcome_of(&event)["stages"]["rulegen"].clone();
            assert_eq!((&stage["error_type"], &stage["circuit_breaker_state"]), (&json!("http_5xx"), &json!("forced_closed")), "{stage}");
        }
    };
    all_fail();
    assert_eq!(world.call_count("rulegen"), 5, "nothing is refused");
    until("Redis has it", || world.redis().state("rulegen") == "forced_closed");
    assert_eq!(first.stop(), 0);

    let mut second = world.run();
    let breaker = second.breaker("rulegen");
    assert_eq!(
        (&breaker["state"], &breaker["lock"]["actor"], &breaker["lock"]["reason"]),
        (&json!("forced_closed"), &json!("ops"), &json!("we know"))
    );
    all_fail();
    assert_eq!(world.call_count("rulegen"), 10);

    // Released, it goes on from closed, and what was recorded under the lock is forgotten.
    assert_eq!(second.force("rulegen", &json!({ "state": "auto" })).json()["state"], "closed");
    let errors = notifying(3).iter().map(|event| world.outcome_of(event)["stages"]["rulegen"]["error_type"].clone()).collect::<Vec<_>>();
    assert_eq!(errors, ["http_5xx", "http_5xx", "circuit_open"]);
    assert_eq!(second.stop(), 0);
}

#[test]
fn only_who_may_changes_a_breaker() {
    let world = World::new("roles").start();
    let mut instance = world.run();
    let force = |service: &str, token: Option<&str>, body: serde_json::Value| {
        instance.post(&format!("/api/v1/circuit-breakers/{service}/force-state"), token, &body)
    };
    let (operator, viewer) = (Some(world.operator.as_str()), Some(world.viewer.as_str()));
    let open = json!({ "state": "forced_open" });
    for (service, token, body, status, word) in [
        ("rag", None, open.clone(), 401, "Bearer"),
        ("rag", Some("fbx_guessed"), open.clone(), 401, "not known"),
        ("rag", viewer, open.clone(), 403, "operator"),
        ("nobody", operator, open.clone(), 404, "rulegen"),
        ("rag", operator, json!({ "state": "ajar" }), 400, "forced_open"),
        ("rag", operator, json!({ "state": "auto", "ttl": "5m" }), 400, "ttl"),
        ("rag", operator, json!({ "state": "forced_open", "ttl": "soon" }), 400, "soon"),
        ("rag", operator, json!({ "state": "forced_open", "for": "5m" }), 400, "`for`"),
        ("rag", operator, json!([]), 400, "an object with state"),
        ("rag", operator, json!({ "reason": "why" }), 400, "`state`"),
    ] {
        let answer = force(service, token, body);
        let detail = answer.problem(status);
        assert!(detail.contains(word), "{word} is not in {detail:?}");
        assert!(!answer.body.contains("fbx_"), "{answer:?}");
    }
    assert!(instance.get("/api/v1/circuit-breakers/nobody").problem(404).contains("nobody"));
    assert!(instance.get("/api/v1/circuit-breakers/nobody/history").problem(404).contains("nobody"));
    assert_eq!(instance.breaker("rag")["state"], "closed", "nothing has changed");
    assert!(world.redis().history("rag").is_empty());
    assert_eq!(force("rag", operator, open).status, 200);
    until("the change is audited", || instance.log().contains("a breaker was ordered to change"));
    assert!(!instance.log().contains("fbx_"), "no token is logged");
    assert_eq!(instance.stop(), 0);
}
