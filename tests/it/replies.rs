//! What services answer when they do not answer well, and how each is judged: of the service, and of the call.

use std::time::Duration;

use fusebox::edge::embedded::stub::{Act, Behaviour, RetryAfter};
use http::StatusCode;
use serde_json::json;

use crate::harness::{Event, World, until};

/// Short enough to wait for, long enough for a loaded machine to answer within.
const TIMEOUT: &str =
    "[services.rag]\ntimeout = \"1s\"\nmax_reply_bytes = \"64KiB\"\n[services.notifier]\ntimeout = \"1s\"\nmax_reply_bytes = \"64KiB\"";

/// How a reply of rag is judged: the stage's error, and whether the breaker counts it as a failure.
#[test]
fn each_reply_of_a_service_with_a_fallback_has_its_judgement() {
    let world = World::new("replies").config(TIMEOUT).config("[services.rag.breaker]\nfail_max = 1000").start();
    let mut instance = world.run();
    let redirect = |status| Act::Redirect { status, location: Some("http://127.0.0.1:9/elsewhere".to_owned()) };
    let mut streak = 0;
    for (name, act, error, fails) in [
        ("a body that is not JSON", Act::NotJson, Some("bad_body"), true),
        ("a body without an end", Act::Endless { chunk_bytes: 1 << 14, every_ms: 1 }, Some("bad_body"), true),
        ("a body that is too large", Act::TooLarge { bytes: 1 << 17 }, Some("bad_body"), true),
        ("a body that trickles", Act::Endless { chunk_bytes: 1, every_ms: 100 }, Some("timeout"), true),
        ("a body cut off", Act::CutOff, Some("connect"), true),
        ("a reset", Act::Reset, Some("connect"), true),
        ("no answer", Act::Hang, Some("timeout"), true),
        ("a 408", Act::fail(StatusCode::REQUEST_TIMEOUT), Some("timeout"), true),
        ("a 429", Act::fail(StatusCode::TOO_MANY_REQUESTS), Some("http_429"), true),
        ("a 500", Act::fail(StatusCode::INTERNAL_SERVER_ERROR), Some("http_5xx"), true),
        ("a redirect", redirect(StatusCode::TEMPORARY_REDIRECT), Some("rejected"), false),
        ("a redirect of a kind that becomes a GET", redirect(StatusCode::FOUND), Some("rejected"), false),
        ("a 400", Act::Reject, Some("rejected"), false),
        ("a 404", Act::fail(StatusCode::NOT_FOUND), Some("rejected"), false),
        ("a 204", Act::NoContent, None, false),
        ("a 200 without a body", Act::Empty, None, false),
    ] {
        world.stub("rag").set(act);
        let asked = world.call_count("rag");
        let outcome = world.outcome_of(&Event::of("cam-1").with("label", json!(name)));
        let stage = &outcome["stages"]["rag"];
        assert_eq!(stage["error_type"], json!(error), "{name}: {outcome}");
        assert_eq!(stage["success"], json!(error.is_none()), "{name}: {outcome}");
        assert_eq!(world.call_count("rag"), asked + 1, "{name}: asked once, and no redirect is followed");
        streak = if fails { streak + 1 } else { 0 };
        let breaker = instance.breaker("rag");
        assert_eq!(breaker["counts"]["consecutive_failures"], streak, "{name}: {breaker}");
    }
    assert_eq!(instance.stop(), 0);
}

/// What expressions say of rag's replies: to the breaker, and to nobody else.
#[test]
fn expressions_judge_the_service_and_leave_the_call_alone() {
    let failure = "status == 0 || 'retry-after' in headers || (body != null && has(body.similar_events))";
    let rules =
        format!("[services.rag.breaker]\nfail_max = 1000\nfailure = \"{failure}\"\nignore = \"status == 404 || outcome == 'timeout'\"");
    let world = World::new("verdicts").config(TIMEOUT).config(&rules).start();
    let mut instance = world.run();
    let busy = Act::Fail { status: StatusCode::SERVICE_UNAVAILABLE, retry_after: Some(RetryAfter::seconds(1)) };
    for (name, act, error, streak) in [
        ("a body that it does not like", Act::Ok, None, 1),
        ("a reset", Act::Reset, Some("connect"), 2),
        ("a 404, which is ignored", Act::fail(StatusCode::NOT_FOUND), Some("rejected"), 2),
        ("no answer, which is ignored", Act::Hang, Some("timeout"), 2),
        ("a 503 with a header that says so", busy, Some("http_5xx"), 3),
        ("a 500, which is none", Act::fail(StatusCode::INTERNAL_SERVER_ERROR), Some("http_5xx"), 0),
        ("a body that it does not like, again", Act::Ok, None, 1),
        ("a body that is not JSON", Act::NotJson, Some("bad_body"), 0),
    ] {
        world.stub("rag").set(act);
        let outcome = world.outcome_of(&Event::of("cam-1").with("label", json!(name)));
        let stage = &outcome["stages"]["rag"];
        assert_eq!((&stage["error_type"], &stage["success"]), (&json!(error), &json!(error.is_none())), "{name}: {outcome}");
        let breaker = instance.breaker("rag");
        assert_eq!(breaker["counts"]["consecutive_failures"], streak, "{name}: {breaker}");
    }
    assert_eq!(instance.stop(), 0);
}

/// What the reply to a notification means: delivered, parked, or refused for good.
#[test]
fn each_reply_of_a_service_that_parks_has_its_judgement() {
    let world = World::new("notices").config(TIMEOUT).config("[services.notifier.breaker]\nfail_max = 1000").start();
    let mut instance = world.run();
    for (name, act, parked) in [
        ("a 503", Act::fail(StatusCode::SERVICE_UNAVAILABLE), Some("http_5xx")),
        ("a 429", Act::fail(StatusCode::TOO_MANY_REQUESTS), Some("http_429")),
        ("no answer", Act::Hang, Some("timeout")),
        ("a reset", Act::Reset, Some("connect")),
        ("a body cut off", Act::CutOff, Some("connect")),
        ("a 204", Act::NoContent, None),
        // It said 200: whoever is to be notified has been, and must not be a second time.
        ("a body that is not JSON", Act::NotJson, None),
    ] {
        let (before, there) = (world.count(&world.retries), world.call_count("notifier"));
        world.stub("notifier").set(Behaviour::script([act], Act::Ok));
        let event = Event::of("cam-1").notifying();
        let outcome = world.outcome_of(&event);
        let stage = &outcome["stages"]["notifier"];
        assert_eq!(stage["parked"], json!(parked.is_some()), "{name}: {outcome}");
        assert_eq!(stage["success"], json!(parked.is_none()), "{name}: {outcome}");
        if let Some(reason) = parked {
            let records = world.wait_for(&world.retries, before + 1);
            let record = records.iter().find(|record| record.header("fusebox-event-id") == event.id).expect("parked");
            assert_eq!((record.header("fusebox-reason"), record.number("fusebox-attempt")), (reason, 1), "{name}");
            until("it is delivered", || world.call_count("notifier") == there + 2);
        }
        world.wait_for_commits();
        let calls = &world.calls("notifier")[there..];
        assert_eq!(calls.len(), 1 + usize::from(parked.is_some()), "{name}: {calls:?}");
        assert!(calls.iter().all(|call| call.idempotency_key == calls[0].idempotency_key), "{name}");
    }
    assert_eq!(world.count(&world.dead_letters), 0);
    assert_eq!(instance.stop(), 0);
}

#[test]
fn a_call_refused_for_good_is_a_dead_letter_with_its_envelope() {
    let world = World::new("rejected").start();
    let mut instance = world.run();
    // Refused live.
    world.stub("notifier").set(Act::Reject);
    let live = Event::of("cam-1").notifying();
    let outcome = world.outcome_of(&live);
    let stage = &outcome["stages"]["notifier"];
    assert_eq!(
        (&stage["error_type"], &stage["parked"], &stage["success"]),
        (&json!("rejected"), &json!(false), &json!(false)),
        "{outcome}"
    );
    // Refused when it is drained.
    world.stub("notifier").set(Behaviour::script([Act::fail(StatusCode::SERVICE_UNAVAILABLE)], Act::Reject));
    let parked = Event::of("cam-2").notifying();
    assert_eq!(world.outcome_of(&parked)["stages"]["notifier"]["parked"], true);
    let letters = world.wait_for(&world.dead_letters, 2);
    world.wait_for_commits();
    for event in [&live, &parked] {
        let letter = letters.iter().find(|letter| letter.header("fusebox-event-id") == event.id).expect("a dead letter");
        assert_eq!((letter.header("fusebox-error-code"), letter.header("fusebox-service")), ("rejected_by_service", "notifier"));
        assert_eq!(letter.header("fusebox-origin-topic"), world.events);
        let envelope = letter.json();
        assert_eq!(envelope["event_id"], event.id);
        assert_eq!(envelope["request"]["body"]["recipients"], *event.field("recipients"), "{envelope}");
        assert!(envelope["results"]["rag"].is_object(), "{envelope}");
    }
    assert_eq!(letters.len(), 2);
    assert_eq!(instance.stop(), 0);
}

#[test]
fn expressions_say_what_becomes_of_a_call_live_and_drained() {
    let config =
        "[services.notifier]\nbreaker.fail_max = 2\nretry_if = 'status == 423'\ndone_if = 'status == 409'\nreject_if = 'status == 501'";
    let world = World::new("judged").config(config).start();
    let mut instance = world.run();
    let notifier = world.stub("notifier");
    let (locked, told) = (|| Act::fail(StatusCode::LOCKED), || Act::fail(StatusCode::CONFLICT));
    let unable = || Act::fail(StatusCode::NOT_IMPLEMENTED);
    // Drained, it has been told already.
    notifier.set(Behaviour::script([locked()], told()));
    let parked = Event::of("cam-1").notifying();
    let outcome = world.outcome_of(&parked);
    let stage = &outcome["stages"]["notifier"];
    assert_eq!((&stage["parked"], &stage["error_type"]), (&json!(true), &json!("retryable")), "{outcome}");
    until("it is drained", || world.call_count("notifier") == 2);
    let records = world.read(&world.retries);
    assert_eq!((records[0].header("fusebox-reason"), records[0].number("fusebox-attempt")), ("retryable", 1));
    let outcome = world.outcome_of(&Event::of("cam-2").notifying());
    assert_eq!(outcome["stages"]["notifier"]["success"], true, "told live: {outcome}");
    // Refused live, and when it is drained.
    notifier.set(unable());
    world.outcome_of(&Event::of("cam-3").notifying());
    notifier.set(Behaviour::script([locked()], unable()));
    world.outcome_of(&Event::of("cam-4").notifying());
    let letters = world.wait_for(&world.dead_letters, 2);
    world.wait_for_commits();
    assert!(letters.iter().all(|letter| letter.header("fusebox-error-code") == "rejected_by_service"), "{letters:?}");
    assert_eq!((letters.len(), world.count(&world.retries), world.call_count("notifier")), (2, 2, 6));
    assert_eq!(instance.breaker("notifier")["state"], "closed", "the breaker has heard of two failures, with a success in between");
    assert_eq!(instance.stop(), 0);
}

#[test]
fn retry_after_is_honoured_by_the_call_and_by_the_breaker() {
    let world = World::new("retry-after").config("[services.notifier.breaker]\nfail_max = 1").start();
    let mut instance = world.run();
    let wait = Duration::from_secs(3);
    let act = Act::Fail { status: StatusCode::TOO_MANY_REQUESTS, retry_after: Some(RetryAfter::seconds(wait.as_secs())) };
    world.stub("notifier").set(Behaviour::script([act], Act::Ok));
    world.outcome_of(&Event::of("cam-1").notifying());
    let records = world.wait_for(&world.retries, 1);
    let refused_at = world.calls("notifier")[0].ended_at.expect("answered").0;
    assert_eq!(records[0].header("fusebox-reason"), "http_429");
    // `retry.max` is a second here, and bounds what a service may ask for; the breaker's own bound is ten minutes.
    let not_before = records[0].number("fusebox-not-before");
    assert!((900..1_500).contains(&(not_before - refused_at)), "not before {} ms after the refusal", not_before - refused_at);
    until("it is delivered", || world.call_count("notifier") == 2);
    let waited = world.calls("notifier")[1].started_at.0 - refused_at;
    assert!(waited >= 2_900, "tried again after {waited} ms, though the service asked for {wait:?} and its breaker was open");
    world.wait_for_commits();
    assert_eq!(instance.stop(), 0);
}

#[test]
fn a_call_is_given_up_after_its_attempts_or_its_age() {
    let config = "[services.notifier]\nbreaker.fail_max = 1000\nretry.max_attempts = 3\nretry.initial = \"10ms\"\nretry.max = \"50ms\"";
    let world = World::new("given-up").config(config).start();
    let mut instance = world.run();
    world.stub("notifier").set(Act::fail(StatusCode::BAD_GATEWAY));
    let event = Event::of("cam-1").notifying();
    world.outcome_of(&event);
    let letters = world.wait_for(&world.dead_letters, 1);
    world.wait_for_commits();
    assert_eq!((letters[0].header("fusebox-error-code"), letters[0].number("fusebox-attempt")), ("attempts_exhausted", 3));
    assert_eq!(world.call_count("notifier"), 3, "calls made, the live one included");
    assert_eq!(letters[0].json()["event_id"], event.id);
    assert_eq!(instance.stop(), 0);
}

#[test]
fn a_call_that_cannot_go_expires() {
    let config = "[topics]\ndeliveries = \"DELIVERIES\"\n[services.notifier]\nbreaker.fail_max = 1\nbreaker.recovery_timeout = \"60s\"\nretry.max_age = \"2s\"";
    let deliveries = format!("it-deliveries-{}", uuid::Uuid::new_v4().simple());
    let world = World::new("expired").config(&config.replace("DELIVERIES", &deliveries)).start();
    let mut instance = world.run();
    world.stub("notifier").set(Act::fail(StatusCode::BAD_GATEWAY));
    let events: Vec<_> = (0..3).map(|_| Event::of("cam-1").notifying()).collect();
    for event in &events {
        world.outcome_of(event);
    }
    let letters = world.wait_for(&world.dead_letters, 3);
    world.wait_for_commits();
    for letter in &letters {
        assert_eq!(letter.header("fusebox-error-code"), "expired");
        let age = letter.number("fusebox-dead-lettered-at") - letter.number("fusebox-first-parked-at");
        assert!((2_000..10_000).contains(&age), "given up after {age} ms");
    }
    assert_eq!(world.call_count("notifier"), 1, "its circuit was open all the time");
    let said = world.wait_for(&deliveries, 3);
    for delivery in said.iter().map(crate::harness::Message::json) {
        assert_eq!(
            (&delivery["service"], &delivery["result"], &delivery["error_code"]),
            (&json!("notifier"), &json!("dead_lettered"), &json!("expired"))
        );
        assert!(events.iter().any(|event| delivery["event_id"] == *event.id), "{delivery}");
    }
    assert_eq!(instance.stop(), 0);
}
